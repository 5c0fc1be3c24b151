"""Learns what healthy breasts look like: makes new mammograms, and says how far a given one is from healthy."""

__version__ = "0.1.0"
