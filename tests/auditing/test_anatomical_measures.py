"""Strands and nipples are found where they were drawn, at every size, and grain has none."""

import numpy as np
import pytest
from scipy import ndimage

from mammovae.auditing.anatomical_measures import ANATOMY, compare_anatomy, measure_anatomy
from mammovae.config import InputError


def breast(size: int, nipple: float = 0.0) -> np.ndarray:
    """Return a half disc with its chest wall on the left, and a nipple that stands out by some 128ths of the side."""
    rows, columns = np.indices((size, size)) + 0.5
    skin = np.sqrt(np.clip((0.45 * size) ** 2 - (rows - 0.5 * size) ** 2, 0, None))
    bump = nipple * size / 128 * np.exp(-0.5 * ((rows - 0.5 * size) / (0.02 * size)) ** 2)
    return columns < skin + bump


def measured(image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    return dict(zip(ANATOMY, measure_anatomy(np.clip(image, 0, 1), mask).tolist(), strict=True))


def lines(size: int, to_nipple: bool) -> np.ndarray:
    """Return lines that leave the foremost point, or arcs around it."""
    rows, columns = np.indices((size, size)) + 0.5
    y, x = rows - 0.5 * size, columns - 0.45 * size
    along = 40 * np.arctan2(y, -x) if to_nipple else 2 * np.pi * np.hypot(y, x) / (0.05 * size)
    return 0.5 + 0.2 * np.sin(along)


@pytest.mark.parametrize("size", [128, 256])
def test_strands_that_lead_to_the_nipple_are_distinguished_from_those_across_and_from_grain(size: int) -> None:
    mask, rng = breast(size), np.random.default_rng(0)
    towards, across = (measured(lines(size, to_nipple), mask) for to_nipple in (True, False))
    grain = ndimage.gaussian_filter(rng.standard_normal((size, size)), size / 128)
    none = measured(0.5 + 0.1 * grain / grain.std(), mask)
    assert towards["strand_coherence"] > 0.8 and towards["strands_to_nipple"] > 0.7
    assert across["strand_coherence"] > 0.8 and across["strands_to_nipple"] < -0.7
    assert none["strand_coherence"] < 0.6 and abs(none["strands_to_nipple"]) < 0.15


@pytest.mark.parametrize("size", [128, 256])
def test_a_nipple_is_a_bulge_of_the_skin_line(size: int) -> None:
    image = np.full((size, size), 0.5)
    assert measured(image, breast(size))["nipple"] == 0
    assert measured(image, breast(size, nipple=4))["nipple"] == 1


def test_a_breast_that_fills_the_image_and_a_constant_one_have_measures() -> None:
    for mask in (np.ones((64, 64), bool), breast(64)):
        found = measure_anatomy(np.full((64, 64), 0.5), mask)
        assert np.isfinite(found).all() and found[0] < 0.05
    with pytest.raises(InputError, match="a mask has 0 pixels inside"):
        measure_anatomy(np.zeros((64, 64)), np.zeros((64, 64), bool))


def test_sets_are_compared_by_their_means() -> None:
    real, other = np.array([[0.5, 0.1, 1], [0.7, 0.3, 0]]), np.array([[0.3, 0.0, 0]])
    differences = compare_anatomy(real, other)
    assert differences == pytest.approx({"strand_coherence": -0.5, "strands_to_nipple": -0.2, "nipple": -0.5})
    assert set(compare_anatomy(real, real).values()) == {0.0}
