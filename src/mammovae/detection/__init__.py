"""From images to calibrated scores."""
