"""Synthetic mammograms with known truth: healthy breasts, inserted lesions, raw trees in the form of real data sets."""
