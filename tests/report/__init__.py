"""Tests of figures and reports, a package so that they can share fake_study.py."""
