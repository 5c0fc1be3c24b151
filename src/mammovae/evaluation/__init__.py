"""Figures of a run on test images, on inserted lesions and on technical faults."""
