"""Widths of breasts are read from outlines, and cutting an outline is cutting its widths."""

import numpy as np
import pytest

from mammovae.detection.cut_off import HEIGHTS, cut_above, cut_value, learn_cuts, widths


def triangle(size: int, first: int, base: float) -> np.ndarray:
    """Return the outline of a breast from a row to the lower edge, base rows wide there, as shares of pixels."""
    down = np.clip((np.arange(size) + 0.5 - first) / (size - first), 0, 1)
    return np.clip(base * down[:, None] - np.arange(size), 0, 1)


def test_widths_are_shares_of_the_height_wherever_and_however_large_the_breast_lies() -> None:
    expected = 0.5 * (np.arange(HEIGHTS) + 0.5) / HEIGHTS
    outlines = np.stack([triangle(64, 0, 32), np.roll(triangle(64, 20, 22), -5, axis=0), triangle(64, 0, 32)[:, ::-1]])
    for found in widths(outlines):
        assert found == pytest.approx(expected, abs=0.03)
    assert widths(np.zeros((1, 32, 32))).tolist() == [[0.0] * HEIGHTS]


def test_widths_cut_are_the_widths_of_what_is_left() -> None:
    whole = triangle(64, 0, 32)
    left = whole.copy()
    left[:16] = 0
    assert cut_above(widths(whole[None]), 0.25) == pytest.approx(widths(left[None]), abs=0.03)


def test_what_is_learnt_distinguishes_cuts_and_does_not_flatter_the_healthy() -> None:
    rng = np.random.default_rng(0)
    bend = rng.uniform(0.6, 1.4, (200, 1))
    breasts = 0.5 * np.sin(np.pi * ((np.arange(HEIGHTS) + 0.5) / HEIGHTS) ** bend) + rng.normal(0, 0.02, (200, HEIGHTS))
    direction, own = learn_cuts(breasts[:80])
    new, cut = cut_value(breasts[80:], direction), cut_value(cut_above(breasts[80:], 0.25), direction)
    assert (cut[:, None] > new).mean() > 0.95
    assert own.mean() == pytest.approx(new.mean(), abs=0.5 * new.std())
    assert own.std() == pytest.approx(new.std(), rel=0.3)


def test_two_healthy_breasts_are_enough_to_begin() -> None:
    direction, own = learn_cuts(np.abs(np.random.default_rng(1).normal(0.5, 0.1, (2, HEIGHTS))))
    assert np.isfinite(direction).all() and np.isfinite(own).all()
