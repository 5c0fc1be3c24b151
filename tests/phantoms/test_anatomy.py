"""Phantoms: the same for the same arguments, alike where they should be, and statistically like mammograms."""

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from mammovae.phantoms.anatomy import image_shape, make_phantom
from mammovae.phantoms.patient import DENSITY_SHARES, SIDES, VIEWS, make_breast, make_patient


def spectrum_slope(phantom, points=128, low=0.06, high=0.7):
    """Slope of log power over log frequency (cycles per mm) in the window at the breast's widest place."""
    tissue = phantom.mask & ~phantom.muscle
    room = np.asarray(ndimage.distance_transform_edt(np.pad(tissue, 1)))[1:-1, 1:-1]
    half = points // 2
    row, column = np.unravel_index(np.argmax(room), room.shape)
    row = min(max(row, half), tissue.shape[0] - half)
    column = min(max(column, half), tissue.shape[1] - half)
    patch = phantom.image[row - half : row + half, column - half : column + half].astype(float)
    window = np.outer(np.hanning(points), np.hanning(points))
    patch = (patch - (patch * window).sum() / window.sum()) * window
    power = np.abs(np.fft.fft2(patch)) ** 2
    axis = np.fft.fftfreq(points, phantom.mm_per_pixel)
    frequency = np.hypot(axis[:, None], axis[None, :])
    edges = np.geomspace(low, high, 13)
    rings = [(frequency >= a) & (frequency < b) for a, b in pairwise(edges)]
    at = [np.log(frequency[ring]).mean() for ring in rings if ring.any()]
    level = [np.log(power[ring].mean()) for ring in rings if ring.any()]
    return np.polyfit(at, level, 1)[0]


def area_mean(image, factor):
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    cut = image[: rows * factor, : columns * factor].astype(float)
    return cut.reshape(rows, factor, columns, factor).mean((1, 3))


def test_the_same_arguments_give_the_same_pixels_in_any_order():
    first = make_phantom(5, 3, "L", "MLO", size=96)
    make_phantom(5, 2, "R", "CC", size=96)
    again = make_phantom(5, 3, "L", "MLO", size=96)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)


def test_another_process_makes_the_same_pixels():
    code = (
        "from mammovae.phantoms.anatomy import make_phantom as m; print(int(m(5, 3, 'L', 'MLO', size=64).image.sum()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(answer) == int(make_phantom(5, 3, "L", "MLO", size=64).image.sum())


@pytest.mark.parametrize("change", [{"seed": 6}, {"patient": 4}, {"side": "R"}, {"view": "CC"}])
def test_any_other_seed_patient_side_or_view_gives_another_image(change):
    arguments: dict[str, Any] = {"seed": 5, "patient": 3, "side": "L", "view": "MLO"}
    one, other = make_phantom(**arguments, size=64), make_phantom(**(arguments | change), size=64)
    assert not np.array_equal(one.image, other.image)
    assert not np.array_equal(one.image, other.image[:, ::-1])


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_the_chest_wall_is_on_the_left_for_the_left_breast_and_on_the_right_for_the_right(view):
    for patient in range(5):
        left, right = (make_phantom(1, patient, side, view, size=64).mask for side in SIDES)
        assert left[:, 0].sum() > 0.5 * 64 and not left[:, -1].any()
        assert right[:, -1].sum() > 0.5 * 64 and not right[:, 0].any()


def test_left_and_right_breast_of_a_patient_are_alike_but_not_equal():
    sides = [[make_breast(2, patient, side) for patient in range(40)] for side in SIDES]
    for name in ("depth", "width", "fat_layer", "cover", "fat_grey"):
        left, right = ([getattr(breast, name) for breast in side] for side in sides)
        assert 0.8 < np.corrcoef(left, right)[0, 1] < 1, name
    area = [[make_phantom(2, patient, side, "CC", size=64).mask.mean() for patient in range(12)] for side in SIDES]
    assert 0.8 < np.corrcoef(area)[0, 1] < 0.99999


def test_the_same_breast_at_another_size_is_the_same_breast():
    for view in VIEWS:
        large, small = make_phantom(0, 1, "L", view, size=512), make_phantom(0, 1, "L", view, size=128)
        coarse = area_mean(large.image, 4)[:, :100]
        assert np.corrcoef(coarse.ravel(), small.image[:, :100].ravel())[0, 1] > 0.99
        assert np.mean((area_mean(large.mask, 4)[:, :100] > 0.5) != small.mask[:, :100]) < 0.005
        assert large.nipple[0] / 512 == pytest.approx(small.nipple[0] / 128, abs=0.005)


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_the_power_spectrum_falls_with_an_exponent_near_three(view):
    slopes = [spectrum_slope(make_phantom(0, patient, "L", view, size=512)) for patient in range(5)]
    assert all(-3.6 < slope < -2.4 for slope in slopes), slopes
    assert -3.4 < np.mean(slopes) < -2.7


def test_denser_classes_have_more_gland_and_change_nothing_else():
    share = []
    for density in DENSITY_SHARES:
        phantoms = [make_phantom(0, patient, "L", "CC", size=96, density=density) for patient in range(5)]
        share.append(np.mean([phantom.gland[phantom.mask].mean() for phantom in phantoms]))
        assert {phantom.density for phantom in phantoms} == {density}
    assert all(a < 0.8 * b for a, b in pairwise(share)), share


def test_density_classes_come_in_the_shares_of_a_screened_population():
    count = Counter(make_patient(9, patient).density for patient in range(1500))
    shares = [count[density] / 1500 for density in DENSITY_SHARES]
    assert shares == pytest.approx([0.1, 0.4, 0.4, 0.1], abs=0.05)


def test_the_pectoral_muscle_is_a_bright_upper_corner_in_mlo_and_absent_in_cc():
    for patient in range(4):
        phantom = make_phantom(0, patient, "R", "MLO", size=96)
        rows, columns = np.nonzero(phantom.muscle)
        assert rows.max() < 0.9 * 96 and phantom.muscle[0, -1]
        assert columns.min() > 0.3 * phantom.image.shape[1]
        fat = phantom.mask & ~phantom.muscle & (phantom.gland < 0.02)
        assert phantom.image[phantom.muscle].mean() > 1.3 * phantom.image[fat].mean()
        assert not make_phantom(0, patient, "R", "CC", size=96).muscle.any()


def test_greys_are_those_of_a_digital_mammogram():
    phantom = make_phantom(0, 0, "L", "CC", size=256)
    white = 65535
    assert phantom.image.dtype == np.uint16 and phantom.image.shape == image_shape(256) == (256, 204)
    background = phantom.image[:, -20:]
    assert 0 < background.mean() < 0.02 * white and background.std() > 0
    fat = phantom.image[phantom.mask & (phantom.gland < 0.02)]
    gland = phantom.image[phantom.gland > 0.8]
    assert 0.15 < np.median(fat) / white < 0.42 < 0.5 < np.median(gland) / white < 0.9
    assert len(np.unique(phantom.image)) <= 4096


@pytest.mark.parametrize(
    "arguments",
    [{"side": "left"}, {"view": "LM"}, {"density": "E"}, {"size": 8}, {"size": 5000}],
)
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"no such|rows"):
        make_phantom(**({"seed": 0, "patient": 0, "side": "L", "view": "CC"} | arguments))
