"""The power spectrum inside the breast, and how far the spectra of two sets of images lie apart.

Mammograms follow a power law, power ~ 1 / f^beta with beta near 3 (Burgess, Jacobson & Judy, "Human observer detection
experiments with mammograms and power-law noise", Med. Phys. 28:419, 2001); generators that blur or leave a grid do not.
"""

import functools

import numpy as np
from scipy import ndimage

from mammovae.auditing.radiomics import REFERENCE_SIZE, inside_breast
from mammovae.config import InputError
from mammovae.statistics import Bools, Floats, Integers

BINS = 24
LOWEST = 2.0
"""The lowest frequency, in cycles an image: below, only the shape of the breast is left."""
TAPER = 16
"""Width of the window's soft edge, in pixels of an image of 128."""
FLOOR = 1e-6
"""Power that is added in every bin, 1 is that of white noise: none is -60 dB."""


def frequencies(size: int) -> Floats:
    """Return the middle of each bin in cycles an image (B,): evenly spaced from 2 to size / 2 (Nyquist)."""
    edges = np.linspace(LOWEST, size / 2, BINS + 1)
    return (edges[1:] + edges[:-1]) / 2


def radial_spectrum(image: np.ndarray, mask: np.ndarray) -> Floats:
    """Return the power in each frequency bin, in dB (B,); white noise has 0 dB in all, a constant image -60.

    image (S, S): uint16, or float in 0..1; mask: not 0 inside. The grey has mean 0 and standard deviation 1 under a
    window that falls to 0 at the breast's edge, so that the edge makes no spectrum; the power is over the window's
    energy. InputError for a breast of fewer than 64 pixels or an image of fewer than 32.
    """
    grey, inside = inside_breast(image, mask)
    size = len(grey)
    if grey.shape != (size, size) or size < 32:
        raise InputError(f"an image is {grey.shape[0]} x {grey.shape[1]}: give a square of at least 32 pixels")
    window = _window(inside)
    centred = grey - np.average(grey, weights=window**2)
    deviation = np.sqrt(np.average(centred**2, weights=window**2))
    windowed = centred * window / max(float(deviation), 1e-6)
    power = np.square(np.abs(np.fft.fft2(windowed))) / np.square(window).sum()
    number = _bins(size)
    sums = np.bincount(number.ravel(), power.ravel(), minlength=BINS + 1)[:BINS]
    return 10 * np.log10(sums / np.bincount(number.ravel())[:BINS] + FLOOR)


def spectrum_error(first: np.ndarray, second: np.ndarray) -> float:
    """Return the root mean square, over bins, of the difference of two sets' mean spectra (n, B), (m, B), in dB."""
    if not len(first) or not len(second):
        raise InputError("a set of spectra is empty: give at least one image in each")
    return float(np.sqrt(np.square(np.mean(first, axis=0) - np.mean(second, axis=0)).mean()))


def _window(inside: Bools) -> Floats:
    """Return a raised cosine of the distance to the breast's edge, the image's own edges included: 0 to 1, (S, S)."""
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(inside, 1)))[1:-1, 1:-1]
    reach = min(TAPER * len(inside) / REFERENCE_SIZE, float(depth.max()))
    return np.square(np.sin(np.pi / 2 * np.minimum(depth / reach, 1)))


@functools.lru_cache(maxsize=8)
def _bins(size: int) -> Integers:
    """Return the bin of each place of a Fourier transform (size, size); BINS for what lies below or beyond."""
    axis = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(axis[:, None], axis)
    number = np.floor((radius - LOWEST) / (size / 2 - LOWEST) * BINS).astype(np.int64)
    return np.where((number < 0) | (number >= BINS), BINS, number)
