"""Fitting networks to healthy images: the loop, its processes, calibration, and what a run has seen."""
