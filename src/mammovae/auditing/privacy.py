"""Whether generated images disclose patients: copies of training images, and membership inference."""

import functools
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import hypergeom

from mammovae.auditing.distances import common_codes
from mammovae.auditing.radiomics import inside_breast, pairs
from mammovae.config import InputError
from mammovae.statistics import Bools, Floats, Integers
from mammovae.statistics.bootstrap import auroc

GRID = 32
"""Rows and columns of what is compared: coarse enough that a shift of a few pixels hardly counts."""
_BLOCK = 2**24  # distances that are held at a time


class Copies(NamedTuple):
    """Of each generated image, distance and row of its nearest training and held-out image; the threshold of a copy."""

    train_distance: Floats
    train_row: Integers
    held_distance: Floats
    held_row: Integers
    threshold: float


def descriptor(images: np.ndarray, masks: np.ndarray) -> Floats:
    """Return what images look like from afar, (N, 1024): standardised grey, averaged in a grid of 32 x 32 cells.

    images (N, S, S): uint16, or float in 0..1. Grey has mean 0 and standard deviation 1 inside the mask and is 0
    outside, so that brightness and contrast do not hide a copy. The Euclidean distance of two is the root mean square
    difference of their cells. InputError for a breast of fewer than 64 pixels or an image of fewer than 32.
    """
    return np.array([_coarse(*pair) / GRID for pair in pairs(images, masks)]).reshape(len(images), GRID * GRID)


def nearest_neighbours(
    x: np.ndarray, reference: np.ndarray, exclude_same: tuple[ArrayLike, ArrayLike] | None = None
) -> tuple[Floats, Integers]:
    """Return the distance to, and the row of, the nearest row of reference (M, D) for each row of x (N, D).

    exclude_same: names (N,) and (M,), patients say; rows of the same name are passed over. Where none is left the
    distance is infinite and the row -1. Takes time by N times M, and memory by their sum.
    """
    distance, index = np.full(len(x), np.inf), np.full(len(x), -1)
    if not len(reference):
        return distance, index
    groups = None if exclude_same is None else common_codes(*exclude_same)
    squares = _squares(reference)
    step = max(1, _BLOCK // len(reference))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        order = _order(x[part], reference, squares)
        if groups is not None:
            order[groups[0][part, None] == groups[1]] = np.inf
        distance[part], index[part] = _nearest(order, x[part], reference)
    return distance, index


class Neighbours:
    """The distances of images x (N, D) to images of reference (M, D), to be asked for subsets of both again and again.

    Takes memory by N times M.
    """

    def __init__(self, x: np.ndarray, reference: np.ndarray) -> None:
        self._x, self._reference = x, reference
        self._orders = _order(x, reference, _squares(reference))

    def distances(self, rows: Integers, columns: Integers) -> Floats:
        """Return the distance of each image at rows to the nearest of the reference's at columns, not empty."""
        return _nearest(self._orders[np.ix_(rows, columns)], self._x[rows], self._reference[columns])[0]


def pixel_hashes(images: np.ndarray, masks: np.ndarray) -> list[tuple[bytes, bytes]]:
    """Return SHA-256 of each image's pixels (N, S, S), of the whole image and of the breast in its mask alone.

    As stored, in uint16; floats in 0..1 are rounded to it.
    """
    return [_hashes(*pair) for pair in pairs(images, masks)]


def exact_copies(hashes: Iterable[tuple[bytes, bytes]], reference: Iterable[tuple[bytes, bytes]]) -> Bools:
    """Say of each image's pixel_hashes whether a reference has the same pixels, in all or in the breast: bool (N,)."""
    known = {key for pair in reference for key in pair}
    return np.array([not known.isdisjoint(pair) for pair in hashes], bool)


def perceptual_copies(
    generated: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    train_patients: ArrayLike | None = None,
    held_out_patients: ArrayLike | None = None,
) -> Copies:
    """Return how near generated images lie to real ones, and how near real images of different patients ever lie.

    All are descriptors, (N, D). The threshold is the smallest distance from any held-out image to any training image
    (of another patient, where patients are named). A copy lies below it, but so may a plain image that resembles many
    others: it lies below it to held-out images as well, which cannot have been copied. copied_by_chance weighs one
    against the other. InputError where no held-out image has a training image to be compared with.
    """
    named = train_patients is not None and held_out_patients is not None
    distance, _ = nearest_neighbours(held_out, train, (held_out_patients, train_patients) if named else None)
    if not np.isfinite(distance).any():
        raise InputError("there is no held-out and training image of different patients: no distance to compare with")
    nearest = (*nearest_neighbours(generated, train), *nearest_neighbours(generated, held_out))
    return Copies(*nearest, threshold=float(distance.min()))


def copied_by_chance(reached_train: int, reached_held_out: int, n_train: int, n_held_out: int) -> float:
    """Return the probability that so many training patients, or more, are reached if none was copied, 0 to 1.

    A patient is reached when a generated image is near to one of the patient's images. Patients who were not copied are
    reached by chance, in training as held out: of all that are reached, the number in training is hypergeometric.
    n_train, n_held_out: all patients of either kind.
    """
    return float(hypergeom.sf(reached_train - 1, n_train + n_held_out, n_train, reached_train + reached_held_out))


def membership_auroc(train_distance: ArrayLike, held_out_distance: ArrayLike) -> float | None:
    """Return how well the distance to generated images distinguishes training (n,) from held-out images (m,).

    0.5: not at all; 1: every member is recognised. The attack on published images alone of Chen et al., "GAN-Leaks"
    (CCS 2020), after Shokri et al., "Membership Inference Attacks" (IEEE S&P 2017). None when either is empty.
    """
    return auroc(-np.asarray(held_out_distance, float), -np.asarray(train_distance, float))


def _coarse(image: np.ndarray, mask: np.ndarray) -> Floats:
    grey, inside = inside_breast(image, mask)
    if min(grey.shape) < GRID:
        raise InputError(f"an image is {grey.shape[0]} x {grey.shape[1]}: give at least {GRID} pixels a side")
    standard = np.where(inside, grey - grey[inside].mean(), 0) / max(float(grey[inside].std()), 1e-4)
    return _area_means(len(grey)) @ standard @ _area_means(grey.shape[1]).T


@functools.lru_cache(maxsize=8)
def _area_means(size: int) -> Floats:
    """Return the matrix (32, size) that averages a column over 32 equal lengths, parts of pixels by their share."""
    edges, pixel = np.linspace(0, size, GRID + 1), np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.maximum(overlap, 0) * GRID / size


def _hashes(image: np.ndarray, mask: np.ndarray) -> tuple[bytes, bytes]:
    stored = image if image.dtype == np.uint16 else np.rint(np.clip(image, 0, 1) * 65535).astype(np.uint16)
    whole, inside = (
        hashlib.sha256(pixels.tobytes()).digest()
        for pixels in (stored, np.where(np.asarray(mask) > 0, stored, np.uint16(0)))
    )
    return whole, inside


def _squares(x: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", x, x)


def _order(x: np.ndarray, reference: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return |a - b|^2 without |a|^2, which changes no order, for each row a of x and b of reference."""
    order = x @ reference.T
    order *= -2
    order += squares
    return order


def _nearest(order: np.ndarray, x: np.ndarray, reference: np.ndarray) -> tuple[Floats, Integers]:
    best = order.argmin(axis=1)
    exists = np.isfinite(order[np.arange(len(best)), best])
    # Computed anew, as the shortened form rounds small distances away.
    distance = np.linalg.norm(x - reference[best], axis=1)
    return np.where(exists, distance, np.inf), np.where(exists, best, -1)
