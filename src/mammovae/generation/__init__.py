"""New images from a run."""
