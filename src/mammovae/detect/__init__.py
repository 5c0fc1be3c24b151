"""How far an image is from healthy: the detector, its calibration, trivial baselines, and applying it."""
