"""Spectra inside the breast: flat for white noise, steep for image, low where an image is blurred."""

import numpy as np
import pytest
from scipy import ndimage

from mammovae.auditing.spectrum import BINS, frequencies, radial_spectrum, spectrum_error
from mammovae.config import InputError


def spectra(images, masks):
    return np.array([radial_spectrum(image, mask) for image, mask in zip(images, masks, strict=True)])


@pytest.mark.parametrize("size", [32, 64, 100, 128, 256])
def test_white_noise_is_flat_at_zero_decibels_at_every_size(size, breast_images):
    rng = np.random.default_rng(0)
    masks = breast_images(40, size=size)[1]
    found = 10 * np.log10((10 ** (spectra(rng.normal(0.5, 0.1, masks.shape), masks) / 10)).mean(axis=0))
    assert found.shape == (BINS,)
    assert np.abs(found).max() < 1.3
    assert abs(found.mean()) < 0.3


def test_frequencies_go_from_two_cycles_to_the_finest():
    middle = frequencies(64)
    step = middle[1] - middle[0]
    assert middle[0] - step / 2 == pytest.approx(2)
    assert middle[-1] + step / 2 == pytest.approx(32)


def test_a_grating_is_found_in_its_bin():
    columns = np.arange(128)
    image = 0.5 + 0.1 * np.sin(2 * np.pi * 20 * columns / 128) * np.ones((128, 1))
    found = radial_spectrum(image, np.ones((128, 128), np.uint8))
    assert abs(frequencies(128)[found.argmax()] - 20) < 62 / BINS


@pytest.mark.parametrize("beta", [2.0, 3.0])
def test_the_power_law_of_the_images_is_recovered_whatever_their_edge(beta, breast_images):
    found = spectra(*breast_images(30, size=128, beta=beta)).mean(axis=0)[2:]
    slope = np.polyfit(np.log10(frequencies(128)[2:]), found / 10, 1)[0]
    assert slope == pytest.approx(-beta, abs=0.25)


def test_brightness_contrast_and_background_change_nothing(breast_images):
    images, masks = breast_images(3)
    changed = np.where(masks > 0, 0.2 + 0.5 * images, 1.0)
    assert np.allclose(spectra(images, masks), spectra(changed, masks), atol=0.05)


def test_blur_takes_high_frequencies_away_and_noise_adds_them(breast_images):
    images, masks = breast_images(10)
    blurred = np.stack([ndimage.gaussian_filter(image, 1) for image in images])
    noisy = images + np.random.default_rng(0).normal(0, 0.05, images.shape)
    usual = spectra(images, masks).mean(axis=0)
    assert (spectra(blurred, masks).mean(axis=0) - usual)[-6:].max() < -10
    assert (spectra(noisy, masks).mean(axis=0) - usual)[-6:].min() > 3


def test_nothing_at_all_is_finite_and_very_low(breast_images):
    mask = breast_images(1)[1][0]
    for image in (np.full((64, 64), 0.5), np.zeros((64, 64), np.uint16)):
        assert np.allclose(radial_spectrum(image, mask), -60)


def test_the_error_is_the_root_mean_square_of_the_difference_of_means():
    first = np.array([[0.0, 0.0], [2.0, 4.0]])
    second = np.array([[4.0, 2.0]])
    assert spectrum_error(first, second) == pytest.approx(np.sqrt((9 + 0) / 2))
    assert spectrum_error(first, first[::-1]) == 0


def test_blur_is_farther_than_other_images(breast_images):
    first, second = spectra(*breast_images(20, seed=1)), spectra(*breast_images(20, seed=2))
    images, masks = breast_images(20, seed=2)
    blurred = spectra(np.stack([ndimage.gaussian_filter(image, 0.7) for image in images]), masks)
    assert spectrum_error(first, blurred) > 4 * spectrum_error(first, second)


def test_a_small_breast_has_a_spectrum_and_too_small_ones_are_refused():
    mask = np.zeros((64, 64), np.uint8)
    mask[:8, :8] = 1
    image = np.random.default_rng(0).random((64, 64))
    assert np.isfinite(radial_spectrum(image, mask)).all()
    with pytest.raises(InputError, match="at least 32"):
        radial_spectrum(np.zeros((16, 16)), np.ones((16, 16), np.uint8))
    with pytest.raises(InputError, match="at least one image"):
        spectrum_error(np.empty((0, BINS)), np.zeros((1, BINS)))
