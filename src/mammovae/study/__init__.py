"""The verbs that join stages: train = fit then calibrate; evaluate = score, judge, report; demo = all of it."""
