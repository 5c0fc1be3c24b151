"""What is inserted into healthy images on purpose: lesions, technical faults, foreign objects."""
