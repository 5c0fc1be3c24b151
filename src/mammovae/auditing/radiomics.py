"""What a mammogram looks like in 24 numbers: shape, grey, co-occurrence and texture, inside the breast alone.

Grey is 0..1 (uint16 / 65535) and 0 outside the mask; lengths are pixels of an image of 128, and grow with the image.
Logarithms are natural. What is not defined for a constant image is what ever smoother images tend to.

Shape
    area               pixels of the breast over pixels of the image
    height_to_width    of the bounding box
    compactness        4 pi A / P^2, P = pi/4 times the pixel edges along the outline (Crofton); 1 for a disc
Grey (first-order)
    mean, deviation, p10, p90
    skewness           third standardised moment; 0 where constant
    kurtosis           log of (fourth standardised moment / 3): 0 for a normal distribution, and where constant
    dense_share        share of the breast brighter than the middle between its 5th and its 95th percentile
    rim_to_core        mean grey within 6 pixels of the skin less mean grey of the rest: the breast thins to its edge
Co-occurrence (Haralick et al., "Textural Features for Image Classification", IEEE Trans. SMC 3:610, 1973) of 32 levels
of 0..1, p(i, j) symmetric, from pairs with both pixels inside, pooled over four directions; at 1 and at 4 pixels
    contrast           sum p (i - j)^2
    correlation        (sum p i j - m^2) / s^2, m and s of the marginal; 1 where constant
    homogeneity        sum p / (1 + (i - j)^2)
    entropy            -sum p log p
Blobs (Laplacian of Gaussian, Lindeberg, IJCV 30:79, 1998), r = sigma^2 Laplace(G_sigma * grey), G normalised inside
the mask so that the skin line is no blob, at least 6 pixels from the skin
    blobs_1 .. blobs_8 log(SD of r + 1e-5) at sigma 1, 2, 4, 8
    blob_peaks         log of (kurtosis of r at sigma 1 / 3): specks and vessels raise it
"""

from typing import Literal

import numpy as np
from scipy import ndimage

from mammovae.config import InputError
from mammovae.generation.samplers import MIN_BREAST_PIXELS
from mammovae.statistics import Bools, Floats

REFERENCE_SIZE = 128
"""Lengths are given in pixels of an image of this size."""
_LEVELS = 32
_DISTANCES = (1, 4)
_SCALES = (1, 2, 4, 8)
_RIM = 6
_FLOOR = 1e-5
_LEAST_VARIANCE = 1e-12  # below, the image is constant but for rounding

FEATURES: tuple[str, ...] = (
    *("area", "height_to_width", "compactness"),
    *("mean", "deviation", "skewness", "kurtosis", "p10", "p90", "dense_share", "rim_to_core"),
    *(f"{name}_{d}" for d in _DISTANCES for name in ("contrast", "correlation", "homogeneity", "entropy")),
    *(f"blobs_{scale}" for scale in _SCALES),
    "blob_peaks",
)
"""The names of what measure returns, in its order."""


def inside_breast(image: np.ndarray, mask: np.ndarray) -> tuple[Floats, Bools]:
    """Return grey (S, S), 0..1 in and 0 outside the breast, and the breast as bool.

    image: uint16, or float in 0..1; mask: not 0 inside. InputError for other types, shapes that differ, a value inside
    that is not finite, and a breast of fewer than 64 pixels.
    """
    inside = np.asarray(mask) > 0
    if image.shape != inside.shape or image.ndim != 2:
        raise InputError(f"an image {image.shape} and a mask {inside.shape} do not fit: give both as (rows, columns)")
    if image.dtype != np.uint16 and image.dtype.kind != "f":
        raise InputError(f"an image is {image.dtype}: give uint16, or float in 0..1")
    if (count := int(inside.sum())) < MIN_BREAST_PIXELS:
        raise InputError(f"a mask has {count} pixels inside, fewer than {MIN_BREAST_PIXELS}: leave the image out")
    grey = np.where(inside, image, 0).astype(np.float64)
    if not np.isfinite(grey).all():
        raise InputError("an image is not finite (NaN or infinite) inside the breast: leave it out")
    return grey / 65535 if image.dtype == np.uint16 else grey, inside


def measure_all(images: np.ndarray, masks: np.ndarray) -> Floats:
    """Return the features (N, F) of images and masks (N, S, S)."""
    return np.array([measure(*pair) for pair in pairs(images, masks)]).reshape(len(images), len(FEATURES))


def pairs(images: np.ndarray, masks: np.ndarray) -> "zip[tuple[np.ndarray, np.ndarray]]":
    """Return each image with its mask; InputError where their numbers differ."""
    if len(images) != len(masks):
        raise InputError(f"{len(images)} images and {len(masks)} masks: give one mask an image")
    return zip(images, masks, strict=True)


def measure(image: np.ndarray, mask: np.ndarray) -> Floats:
    """Return the features (F,) of an image (S, S), in the order of FEATURES; never NaN. InputError as inside_breast."""
    grey, inside = inside_breast(image, mask)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    (height, width), size = inside[box].shape, len(inside)
    core = without_rim(inside)
    padded = np.pad(inside, 1)
    edges = (padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum()
    shape = (inside.mean(), height / width, 4 * np.pi * inside.sum() / (np.pi / 4 * edges) ** 2)
    haralick = [_haralick(grey[box], inside[box], scaled(d, size)) for d in _DISTANCES]
    blobs = _blobs(grey[box], inside[box], core[box], size)
    return np.concatenate([shape, _first_order(grey, inside, core), *haralick, blobs])


def without_rim(inside: Bools) -> Bools:
    """Return the breast without 6 pixels along the skin, which may leave nothing; the image's edge is no skin."""
    return np.asarray(ndimage.minimum_filter(inside, 2 * scaled(_RIM, len(inside)) + 1, mode="nearest"))


def scaled(pixels: float, size: int) -> int:
    """Return a length given in pixels of the reference size in whole pixels of an image of size, at least 1."""
    return max(1, round(pixels * size / REFERENCE_SIZE))


def _first_order(grey: Floats, inside: Bools, core: Bools) -> tuple[float, ...]:
    values = grey[inside]
    low, p10, p90, high = np.quantile(values, (0.05, 0.1, 0.9, 0.95))
    rim = inside & ~core
    thinning = grey[rim].mean() - grey[core].mean() if rim.any() and core.any() else 0.0
    dense = (values > (low + high) / 2).mean()
    return values.mean(), values.std(), _moment(values, 3), _kurtosis(values), p10, p90, dense, thinning


def _moment(values: Floats, order: Literal[3, 4]) -> float:
    """Return a standardised moment; 0 where the values are constant."""
    centred = values - values.mean()
    square = centred * centred
    variance = float(square.mean())
    power = square @ (centred if order == 3 else square) / len(values)  # much faster than centred**order
    return float(power / variance ** (order / 2)) if variance > _LEAST_VARIANCE else 0.0


def _kurtosis(values: Floats) -> float:
    kurtosis = _moment(values, 4)
    return float(np.log(kurtosis / 3)) if kurtosis else 0.0


def _haralick(grey: Floats, inside: Bools, distance: int) -> tuple[float, float, float, float]:
    # One more level for what lies outside: its row and column are dropped from the counts.
    level = np.where(inside, np.clip(grey * _LEVELS, 0, _LEVELS - 1).astype(np.int64), _LEVELS)
    near, far, full = slice(-distance), slice(distance, None), slice(None)
    directions = (
        ((full, near), (full, far)),
        ((near,), (far,)),
        ((near, near), (far, far)),
        ((near, far), (far, near)),
    )
    codes = [(level[first] * (_LEVELS + 1) + level[second]).ravel() for first, second in directions]
    counts = np.bincount(np.concatenate(codes), minlength=(_LEVELS + 1) ** 2).reshape(_LEVELS + 1, _LEVELS + 1)
    counts = counts[:_LEVELS, :_LEVELS]
    if not counts.any():
        return 0.0, 1.0, 1.0, 0.0
    p = (counts + counts.T) / (2 * counts.sum())
    steps, marginal = np.arange(_LEVELS), p.sum(axis=1)
    squared_step = np.square(steps[:, None] - steps)
    centred = steps - marginal @ steps
    variance = float(marginal @ centred**2)
    positive = p[p > 0]
    return (
        float((p * squared_step).sum()),
        float(centred @ p @ centred / variance) if variance > _LEAST_VARIANCE else 1.0,
        float((p / (1 + squared_step)).sum()),
        float(-(positive * np.log(positive)).sum()),
    )


def _blobs(grey: Floats, inside: Bools, core: Bools, size: int) -> list[float]:
    region = core if core.sum() >= MIN_BREAST_PIXELS // 4 else inside
    responses = []
    for sigma in np.array(_SCALES) * size / REFERENCE_SIZE:
        smooth, weight = (ndimage.gaussian_filter(x, sigma, mode="constant") for x in (grey, inside.astype(np.float64)))
        padded = np.pad(smooth / np.maximum(weight, 1e-9), 1, mode="edge")
        around = padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2]
        responses.append(sigma**2 * (around - 4 * padded[1:-1, 1:-1])[region])
    return [*(float(np.log(response.std() + _FLOOR)) for response in responses), _kurtosis(responses[0])]
