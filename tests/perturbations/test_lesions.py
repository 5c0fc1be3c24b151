"""Planted lesions: where and as strong as stated, in disjoint families, each with a calm sham twin."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from mammovae.perturbations.lesion_shapes import PULLS, SHAPES
from mammovae.perturbations.lesions import FAMILIES, LESION_KINDS, contrast_unit, insert_lesion
from mammovae.phantoms.anatomy import make_phantom

PHANTOM = make_phantom(0, 3, "L", "MLO", size=256)


def planted(kind: Any = "mass", family: Any = "train", diameter_mm=16.0, contrast=0.5, seed=1, phantom=PHANTOM):
    return insert_lesion(
        phantom.image,
        phantom.mask,
        phantom.mm_per_pixel,
        kind=kind,
        family=family,
        diameter_mm=diameter_mm,
        contrast=contrast,
        seed=seed,
    )


@pytest.mark.parametrize(("kind", "family"), list(product(LESION_KINDS, FAMILIES)))
def test_a_lesion_changes_its_own_place_and_nothing_else(kind, family):
    for seed in range(4):
        planting = planted(kind, family, seed=seed)
        xmin, ymin, xmax, ymax = planting.box
        changed = planting.image != PHANTOM.image
        assert changed[planting.lesion].any()
        reach = int(np.ceil(8 / PHANTOM.mm_per_pixel)) + 2
        far = np.ones_like(changed)
        far[max(ymin - reach, 0) : ymax + reach, max(xmin - reach, 0) : xmax + reach] = False
        assert not changed[far].any()
        assert not planting.lesion[~PHANTOM.mask].any() and planting.lesion.any()
        assert planting.lesion[ymin:ymax, xmin:xmax].sum() == planting.lesion.sum()
        assert (xmax - xmin) * PHANTOM.mm_per_pixel <= 16.0 + 3 * PHANTOM.mm_per_pixel


@pytest.mark.parametrize(("kind", "family"), list(product(LESION_KINDS, FAMILIES)))
def test_a_sham_is_the_untouched_image_but_for_the_resampling_of_a_distortion(kind, family):
    sham, image = planted(kind, family).sham, PHANTOM.image
    assert np.array_equal(planted(kind, family, contrast=0.0).image, image)
    assert np.array_equal(sham, image) == (kind != "distortion")
    # Half a pixel: no value leaves what its neighbours hold, but for the overshoot of a cubic.
    low, high = (filter(image, 3).astype(float) for filter in (ndimage.minimum_filter, ndimage.maximum_filter))
    room = 0.25 * (high - low) + 1
    assert ((sham >= low - room) & (sham <= high + room)).all()


@pytest.mark.parametrize(
    ("kind", "family"), list(product(("mass", "spiculated", "calcification", "asymmetry"), FAMILIES))
)
def test_a_lesion_raises_the_grey_in_proportion_to_its_contrast(kind, family):
    rises = []
    for contrast in (0.1, 0.2):
        planting = planted(kind, family, contrast=contrast)
        rises.append((planting.image.astype(float) - planting.sham)[planting.lesion].mean())
    assert rises[0] > 0
    assert rises[1] / rises[0] == pytest.approx(2, rel=0.12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_contrast_of_one_half_is_half_the_breasts_grey_range_at_the_thickest_point(family):
    unit = contrast_unit(PHANTOM.image, PHANTOM.mask)
    peaks = []
    for seed in range(8):
        planting = planted("mass", family, contrast=0.5, seed=seed)
        peaks.append((planting.image.astype(float) - planting.sham).max() / unit)
    assert 0.3 < np.median(peaks) < 0.75, peaks


@pytest.mark.parametrize("family", FAMILIES)
def test_a_distortion_moves_tissue_without_making_it_brighter(family):
    small, large = (planted("distortion", family, contrast=contrast) for contrast in (0.3, 0.9))
    change = [np.abs(one.image.astype(float) - one.sham)[one.lesion].mean() for one in (small, large)]
    assert 0 < change[0] < change[1]
    assert large.image[large.lesion].mean() == pytest.approx(float(large.sham[large.lesion].mean()), rel=0.2)


def test_families_share_no_shape_and_no_place():
    for kind in LESION_KINDS:
        makers = {PULLS[family] if kind == "distortion" else SHAPES[family][kind] for family in FAMILIES}
        assert len(makers) == len(FAMILIES)
        boxes = {planted(kind, family).box for family in FAMILIES}
        assert len(boxes) == len(FAMILIES)


def test_families_blend_differently_on_dark_and_bright_tissue():
    mask = np.ones((96, 96), bool)
    flat = np.full((96, 96), 20000, np.uint16)
    flat[::2] = 40000
    ratio = {}
    for family in FAMILIES:
        planting = insert_lesion(flat, mask, 1.0, kind="asymmetry", family=family, diameter_mm=30, contrast=0.2, seed=0)
        rise = planting.image.astype(float) - planting.sham
        ratio[family] = rise[::2][planting.lesion[::2]].mean() / rise[1::2][planting.lesion[1::2]].mean()
    assert ratio["train"] == pytest.approx(1, abs=0.1)
    assert ratio["validation"] > 1.6
    assert ratio["test"] < 0.75


def test_lesions_keep_out_of_the_pectoral_muscle_where_there_is_room():
    shares = [
        (planting.lesion & PHANTOM.muscle).sum() / planting.lesion.sum()
        for planting in (planted(seed=seed, diameter_mm=10.0) for seed in range(12))
    ]
    assert np.mean(shares) < 0.1


def test_calcifications_are_sub_millimetre_and_fade_in_coarse_pixels():
    peaks = []
    for size in (1024, 128):
        phantom = make_phantom(0, 3, "L", "CC", size=size)
        planting = planted("calcification", "train", contrast=1.0, phantom=phantom)
        rise = planting.image.astype(float) - planting.sham
        peaks.append(rise.max() / contrast_unit(phantom.image, phantom.mask))
        if size == 1024:
            bright = (rise > 0.3 * rise.max()).sum() * phantom.mm_per_pixel**2
            assert bright < 12 * 0.6**2
    assert peaks[0] > 0.5
    assert peaks[1] < 0.3 * peaks[0]


def test_the_same_seed_plants_the_same_lesion_and_another_seed_another():
    assert np.array_equal(planted(seed=3).image, planted(seed=3).image)
    assert not np.array_equal(planted(seed=3).image, planted(seed=4).image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "cyst"}, "no such lesion"),
        ({"family": "test"}, "no such lesion"),
        ({"diameter_mm": 1.0}, "2 to 40"),
        ({"diameter_mm": 50.0}, "2 to 40"),
        ({"contrast": -0.1}, "not negative"),
        ({"kind": "distortion", "contrast": 1.5}, "at most 1"),
    ],
)
def test_impossible_lesions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        planted(**change)


def test_a_breast_too_small_for_the_lesion_is_refused_with_the_width_that_fits():
    mask = np.zeros_like(PHANTOM.mask)
    mask[100:110, 40:50] = True
    with pytest.raises(ValueError, match="at most"):
        insert_lesion(
            PHANTOM.image, mask, PHANTOM.mm_per_pixel, kind="mass", family="train", diameter_mm=20, contrast=1, seed=0
        )
