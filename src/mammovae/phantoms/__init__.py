"""Synthetic mammograms with known truth: healthy breasts, planted lesions, and raw trees in the form of real sets."""
