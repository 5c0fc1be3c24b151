"""Inserted lesions: where and as strong as stated, in disjoint families, each with a sham twin without a lesion."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from mammovae.perturbations.lesion_shapes import PULLS, SHAPES
from mammovae.perturbations.lesions import (
    FAMILIES,
    LESION_KINDS,
    InsertedLesion,
    LesionSpec,
    contrast_unit,
    insert_lesion,
)
from mammovae.phantoms.anatomy import make_phantom

PHANTOM = make_phantom(0, 3, "L", "MLO", size=256)


def insert(
    kind: Any = "mass", family: Any = "validation", diameter_mm=16.0, contrast=0.5, seed=1, phantom=PHANTOM
) -> InsertedLesion:
    spec = LesionSpec(kind, family, diameter_mm, contrast, seed)
    return insert_lesion(phantom.image, phantom.mask, phantom.mm_per_pixel, spec)


@pytest.mark.parametrize(("kind", "family"), list(product(LESION_KINDS, FAMILIES)))
def test_a_lesion_changes_its_own_place_and_nothing_else(kind, family):
    for seed in range(4):
        inserted = insert(kind, family, seed=seed)
        xmin, ymin, xmax, ymax = inserted.box
        changed = inserted.image != PHANTOM.image
        assert changed[inserted.lesion].any()
        reach = int(np.ceil(8 / PHANTOM.mm_per_pixel)) + 2
        far = np.ones_like(changed)
        far[max(ymin - reach, 0) : ymax + reach, max(xmin - reach, 0) : xmax + reach] = False
        assert not changed[far].any()
        assert not inserted.lesion[~PHANTOM.mask].any() and inserted.lesion.any()
        assert inserted.lesion[ymin:ymax, xmin:xmax].sum() == inserted.lesion.sum()
        assert (xmax - xmin) * PHANTOM.mm_per_pixel <= 16.0 + 3 * PHANTOM.mm_per_pixel


@pytest.mark.parametrize(("kind", "family"), list(product(LESION_KINDS, FAMILIES)))
def test_a_sham_is_the_untouched_image_but_for_the_resampling_of_a_distortion(kind, family):
    sham, image = insert(kind, family).sham, PHANTOM.image
    assert np.array_equal(insert(kind, family, contrast=0.0).image, image)
    assert np.array_equal(sham, image) == (kind != "distortion")
    # Half a pixel: no value leaves what its neighbours hold, but for the overshoot of a cubic.
    low, high = (extreme(image, 3).astype(float) for extreme in (ndimage.minimum_filter, ndimage.maximum_filter))
    room = 0.25 * (high - low) + 1
    assert ((sham >= low - room) & (sham <= high + room)).all()


@pytest.mark.parametrize(
    ("kind", "family"), list(product(("mass", "spiculated", "calcification", "asymmetry"), FAMILIES))
)
def test_a_lesion_raises_the_grey_in_proportion_to_its_contrast(kind, family):
    rises = []
    for contrast in (0.1, 0.2):
        inserted = insert(kind, family, contrast=contrast)
        rises.append((inserted.image.astype(float) - inserted.sham)[inserted.lesion].mean())
    assert rises[0] > 0
    assert rises[1] / rises[0] == pytest.approx(2, rel=0.12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_contrast_of_one_half_is_half_the_breasts_grey_range_at_the_thickest_point(family):
    unit = contrast_unit(PHANTOM.image, PHANTOM.mask)
    peaks = []
    for seed in range(8):
        inserted = insert("mass", family, contrast=0.5, seed=seed)
        peaks.append((inserted.image.astype(float) - inserted.sham).max() / unit)
    assert 0.3 < np.median(peaks) < 0.75, peaks


@pytest.mark.parametrize("family", FAMILIES)
def test_a_distortion_moves_tissue_without_making_it_brighter(family):
    small, large = (insert("distortion", family, contrast=contrast) for contrast in (0.3, 0.9))
    change = [np.abs(one.image.astype(float) - one.sham)[one.lesion].mean() for one in (small, large)]
    assert 0 < change[0] < change[1]
    assert large.image[large.lesion].mean() == pytest.approx(float(large.sham[large.lesion].mean()), rel=0.2)


def test_families_share_no_shape_and_no_place():
    for kind in LESION_KINDS:
        makers = {PULLS[family] if kind == "distortion" else SHAPES[family][kind] for family in FAMILIES}
        assert len(makers) == len(FAMILIES)
        boxes = {insert(kind, family).box for family in FAMILIES}
        assert len(boxes) == len(FAMILIES)


def test_families_blend_differently_on_dark_and_bright_tissue():
    mask = np.ones((96, 96), bool)
    flat = np.full((96, 96), 20000, np.uint16)
    flat[::2] = 40000
    ratio = {}
    for family in FAMILIES:
        inserted = insert_lesion(flat, mask, 1.0, LesionSpec("asymmetry", family, 30, 0.2, 0))
        rise = inserted.image.astype(float) - inserted.sham
        ratio[family] = rise[::2][inserted.lesion[::2]].mean() / rise[1::2][inserted.lesion[1::2]].mean()
    assert ratio["validation"] > 1.6
    assert ratio["test"] < 0.75


def test_lesions_keep_out_of_the_pectoral_muscle_where_there_is_room():
    shares = [
        (inserted.lesion & PHANTOM.muscle).sum() / inserted.lesion.sum()
        for inserted in (insert(seed=seed, diameter_mm=10.0) for seed in range(12))
    ]
    assert np.mean(shares) < 0.1


def test_calcifications_are_sub_millimetre_and_fade_in_coarse_pixels():
    peaks = []
    for size in (1024, 128):
        phantom = make_phantom(0, 3, "L", "CC", size=size)
        inserted = insert("calcification", "validation", contrast=1.0, phantom=phantom)
        rise = inserted.image.astype(float) - inserted.sham
        peaks.append(rise.max() / contrast_unit(phantom.image, phantom.mask))
        if size == 1024:
            bright = (rise > 0.3 * rise.max()).sum() * phantom.mm_per_pixel**2
            assert bright < 12 * 0.6**2
    assert peaks[0] > 0.5
    assert peaks[1] < 0.3 * peaks[0]


def test_the_same_seed_inserts_the_same_lesion_and_another_seed_another():
    assert np.array_equal(insert(seed=3).image, insert(seed=3).image)
    assert not np.array_equal(insert(seed=3).image, insert(seed=4).image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "cyst"}, "no such lesion"),
        ({"family": "final"}, "no such lesion"),
        ({"diameter_mm": 1.0}, "2 to 40"),
        ({"diameter_mm": 50.0}, "2 to 40"),
        ({"contrast": -0.1}, "not negative"),
        ({"kind": "distortion", "contrast": 1.5}, "at most 1"),
    ],
)
def test_impossible_lesions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        insert(**change)


def test_a_breast_too_small_for_the_lesion_is_refused_with_the_width_that_fits():
    mask = np.zeros_like(PHANTOM.mask)
    mask[100:110, 40:50] = True
    with pytest.raises(ValueError, match="at most"):
        insert_lesion(PHANTOM.image, mask, PHANTOM.mm_per_pixel, LesionSpec("mass", "validation", 20, 1, 0))
