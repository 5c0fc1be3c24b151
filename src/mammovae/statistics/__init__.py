"""Resampling over patients, and the figures of detection with their intervals."""
