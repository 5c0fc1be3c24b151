"""The radiomic vector: known values, what moves it, and what must not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mammovae.auditing.radiomics import FEATURES, measure, measure_all
from mammovae.config import InputError
from mammovae.phantoms.anatomy import make_phantom


def named(image, mask):
    return dict(zip(FEATURES, measure(image, mask), strict=True))


def test_one_value_a_name_at_most_24():
    assert len(set(FEATURES)) == len(FEATURES) <= 24


def test_a_square_of_two_greys_has_the_values_worked_out_by_hand():
    image = np.zeros((64, 64))
    image[16:48, :16], image[16:48, 16:32] = 8.5 / 32, 12.5 / 32
    mask = (image > 0).astype(np.uint8)
    found = named(image, mask)
    assert found["area"] == 0.25
    assert found["height_to_width"] == 1
    assert found["compactness"] == pytest.approx(4 * np.pi * 32**2 / (np.pi / 4 * 4 * 32) ** 2)
    assert found["mean"] == pytest.approx(10.5 / 32)
    assert found["deviation"] == pytest.approx(2 / 32)
    assert found["skewness"] == pytest.approx(0, abs=1e-9)
    assert found["kurtosis"] == pytest.approx(np.log(1 / 3))
    assert found["dense_share"] == 0.5
    assert (found["p10"], found["p90"]) == (8.5 / 32, 12.5 / 32)
    # At 64 px the near pairs are 1 pixel apart: level, upright, and two diagonals; those across the middle differ by 4.
    level, upright, diagonal = 32 * 31, 31 * 32, 31 * 31
    across = (32 + 2 * 31) / (level + upright + 2 * diagonal)
    assert found["contrast_1"] == pytest.approx(16 * across)
    assert found["homogeneity_1"] == pytest.approx(1 - across + across / 17)
    same = (1 - across) / 2
    assert found["entropy_1"] == pytest.approx(-2 * same * np.log(same) - across * np.log(across / 2))
    assert found["correlation_1"] == pytest.approx(1 - 2 * across)


def test_percentiles_of_a_ramp():
    ramp = np.repeat(np.linspace(0, 1, 101)[None, :], 101, axis=0)
    found = named(ramp, np.ones_like(ramp, np.uint8))
    assert (found["p10"], found["p90"]) == (pytest.approx(0.1), pytest.approx(0.9))
    assert found["dense_share"] == pytest.approx(0.5, abs=0.01)


def test_a_disc_is_compact():
    rows, columns = np.mgrid[:128, :128]
    disc = (np.hypot(rows - 64, columns - 64) < 50).astype(np.uint8)
    assert named(disc * 0.5, disc)["compactness"] == pytest.approx(1, abs=0.02)


def test_kurtosis_of_normal_grey_is_zero_and_of_specks_is_high(breast_images):
    rng = np.random.default_rng(0)
    mask = np.ones((128, 128), np.uint8)
    image = rng.normal(0.5, 0.05, mask.shape)
    found = named(image, mask)
    assert abs(found["kurtosis"]) < 0.05
    assert abs(found["blob_peaks"]) < 0.05
    image[rng.random(mask.shape) < 0.002] = 1.0
    assert named(image, mask)["blob_peaks"] > 0.5


def test_blobs_answer_most_at_their_own_size():
    mask = np.ones((128, 128), np.uint8)
    rng = np.random.default_rng(0)
    for scale in (1, 2, 4, 8):
        # Noise smoothed by s answers with sigma^4 / (sigma^2 + s^2)^3, which is highest at sigma = s times root 2.
        field = ndimage.gaussian_filter(rng.normal(size=(256, 256)), scale / np.sqrt(2))[64:192, 64:192]
        found = named(0.5 + 0.1 * field / field.std(), mask)
        answers = {other: found[f"blobs_{other}"] for other in (1, 2, 4, 8)}
        assert max(answers, key=answers.__getitem__) == scale


def test_the_background_changes_nothing(breast_images):
    images, masks = breast_images(2)
    labelled = np.where(masks > 0, images, np.random.default_rng(0).random(images.shape))
    assert np.array_equal(measure_all(images, masks), measure_all(labelled, masks))


def test_the_breast_edge_is_no_blob():
    rows, columns = np.mgrid[:128, :128]
    mask = (np.hypot(rows - 64, columns) < 55).astype(np.uint8)
    assert named(mask * 0.7, mask)["blobs_8"] == pytest.approx(np.log(1e-5), abs=1e-3)


def test_the_rim_is_darker_than_the_core_and_the_chest_wall_is_no_rim():
    rows, columns = np.mgrid[:128, :128]
    radius = np.hypot(rows - 64, columns)
    mask = (radius < 50).astype(np.uint8)
    image = np.where(radius < 40, 0.6, 0.2) * mask
    assert named(image, mask)["rim_to_core"] < -0.3
    at_wall = np.where(columns < 6, 0.2, 0.6) * mask
    assert named(at_wall, mask)["rim_to_core"] > 0


def test_stored_integers_and_floats_give_the_same(breast_images):
    images, masks = breast_images(1)
    stored = np.rint(images * 65535).astype(np.uint16)
    assert np.allclose(measure_all(stored, masks), measure_all(stored / 65535, masks))


def test_a_blurred_image_is_smoother_by_every_name_that_says_so(breast_images):
    images, masks = breast_images(5, size=128, beta=2.5)
    blurred = np.stack([ndimage.gaussian_filter(image, 1.5) for image in images])
    before, after = measure_all(images, masks).mean(axis=0), measure_all(blurred, masks).mean(axis=0)
    change = dict(zip(FEATURES, after - before, strict=True))
    assert change["contrast_1"] < 0 and change["entropy_1"] < 0 and change["blobs_1"] < -0.5
    assert change["homogeneity_1"] > 0 and change["correlation_1"] > 0
    assert change["area"] == 0 and abs(change["blobs_8"]) < abs(change["blobs_1"]) / 5


def test_a_image_has_about_the_same_values_at_twice_the_size():
    phantom = make_phantom(1, 0, "L", "MLO", size=256)
    big = phantom.image[:256, :128].astype(float).repeat(2, axis=1)[:, :256] / 65535
    mask = np.ones((256, 256), np.uint8)
    small = big.reshape(128, 2, 128, 2).mean(axis=(1, 3))
    first, second = named(big, mask), named(small, mask[::2, ::2])
    for name in ("area", "mean", "deviation", "skewness", "rim_to_core", "contrast_4", "blobs_4", "blobs_8"):
        assert first[name] == pytest.approx(second[name], rel=0.1, abs=0.02), name


@settings(deadline=None, max_examples=60)
@given(
    st.integers(32, 80),
    st.integers(64, 400),
    st.sampled_from(["constant", "noise", "black", "white", "two"]),
    st.integers(0, 99),
)
def test_never_nan_whatever_the_mask(size, pixels, kind, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros(size * size, np.uint8)
    mask[rng.permutation(mask.size)[:pixels] if seed % 2 else np.arange(pixels)] = 1
    mask = mask.reshape(size, size)
    image = {
        "constant": np.full(mask.shape, 0.3),
        "noise": rng.random(mask.shape),
        "black": np.zeros(mask.shape),
        "white": np.full(mask.shape, 65535, np.uint16),
        "two": rng.integers(0, 2, mask.shape).astype(float),
    }[kind]
    assert np.isfinite(measure(image, mask)).all()


@pytest.mark.parametrize(
    ("image", "mask", "said"),
    [
        (np.zeros((32, 32)), np.eye(32, dtype=np.uint8), "32 pixels"),
        (np.zeros((32, 32)), np.ones((32, 31), np.uint8), "do not fit"),
        (np.zeros((32, 32), np.uint8), np.ones((32, 32), np.uint8), "uint8"),
        (np.full((32, 32), np.nan), np.ones((32, 32), np.uint8), "not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(image, mask, said):
    with pytest.raises(InputError, match=said):
        measure(image, mask)


def test_as_many_masks_as_images_and_none_is_none(breast_images):
    images, masks = breast_images(2, size=32)
    with pytest.raises(InputError, match="2 images and 1 masks"):
        measure_all(images, masks[:1])
    assert measure_all(images[:0], masks[:0]).shape == (0, len(FEATURES))
