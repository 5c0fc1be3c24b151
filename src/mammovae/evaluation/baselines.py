"""Scores that a detector has to beat: mean grey, breast area, the residual of a PCA, and a filter for blobs."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import pad

from mammovae.data.dataset import Data
from mammovae.models.run import device as network_device

PCA_COMPONENTS = 64
PCA_SIZE = 128
PCA_IMAGES = 2000
BLOB_SIZE = 512
_BATCH = 64  # images held at once
_BLOB_BATCH = 8  # of up to 512 px in float64


def image_statistics(data: Data, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean grey inside the breast (0..1) and breast area (share of the prepared image) of images, (n,) each."""
    pixels, total = np.empty((2, len(positions)))
    for part in _slices(len(positions), _BATCH):
        masks = data.masks[positions[part]] > 0
        pixels[part] = masks.sum(axis=(1, 2))
        total[part] = np.where(masks, data.images[positions[part]], 0).sum(axis=(1, 2))
    return {"mean_grey": total / np.maximum(pixels, 1) / 65535, "breast_area": pixels / data.size**2}


def blob_maps(data: Data, positions: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the responses of a filter for bright blobs in images, float32 (s, s) each; their maximum is the score.

    Laplacian of Gaussian of 4 pixels in images of 512 (Lindeberg, "Feature detection with automatic scale selection",
    IJCV 30:79, 1998), sign turned, over the root of its own mean square in a Gaussian of 32 pixels; without a rim of 12
    pixels. In smaller DATA folders every width shrinks with the image. Nothing is fitted. Computed where networks are.
    """
    size = divisor_at_most(BLOB_SIZE, data.size)
    for _, batch in data.batches(positions, size, _BLOB_BATCH):
        inputs = batch.to(network_device())
        yield from _blob_responses(inputs.image[:, 0].double(), inputs.mask[:, 0] > 0).float().cpu().numpy()


def _blob_responses(images: Tensor, masks: Tensor) -> Tensor:
    """Return blob_maps of images, float64 (n, s, s), and masks, bool."""
    unit, inside = images.shape[-1] / BLOB_SIZE, masks.double()
    # The breast's mean outside it, so that the skin line is not the brightest blob of all.
    means = (images * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)
    filled = torch.where(masks, images, means[:, None, None])
    narrow, second, wide = _gaussians(images.shape[-1], images.device)
    response = -(second @ filled @ narrow.T + narrow @ filled @ second.T) * inside
    energy = (wide @ response.square() @ wide.T) / (wide @ inside @ wide.T).clamp(min=1e-3)
    inner = masks
    for _ in range(max(1, round(12 * unit))):
        around = pad(inner, (1, 1, 1, 1))
        inner = inner & around[:, 2:, 1:-1] & around[:, :-2, 1:-1] & around[:, 1:-1, 2:] & around[:, 1:-1, :-2]
    return response.clamp(min=0) / (energy + 1e-12).sqrt() * inner


@cache
def _gaussians(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the blob filter's Gaussian, its second derivative and the wide Gaussian as matrices (size, size).

    Each is SciPy's filter along an axis, its edges included: at these widths a product is faster than a convolution.
    """
    unit, axes = size / BLOB_SIZE, np.eye(size)
    filters = ((4, 0), (4, 2), (32, 0))
    narrow, second, wide = (
        torch.from_numpy(ndimage.gaussian_filter1d(axes, width * unit, axis=0, order=order)).to(device)
        for width, order in filters
    )
    return narrow, second, wide


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


class PcaResidual:
    """Principal components of healthy training images; the score is what they leave unexplained.

    Turk & Pentland, "Eigenfaces for Recognition" (J. Cogn. Neurosci. 3:71, 1991): distance from the space that the
    components span. At most 64 components of images of at most 128 px, from at most 2,000 evenly spaced images.
    """

    def fit(self, data: Data, positions: np.ndarray) -> "PcaResidual":
        """Learn mean_ and components_ from images of data; fewer components where there are fewer images."""
        chosen = np.unique(np.linspace(0, len(positions) - 1, PCA_IMAGES).round().astype(int))
        pixels = self._pixels(data, positions[chosen])
        self.mean_ = pixels.mean(axis=0)
        centred = np.subtract(pixels, self.mean_, out=pixels)
        # The small Gram matrix has the spectrum of the covariance of 16,384 pixels, twenty times faster than its SVD.
        values, vectors = np.linalg.eigh(centred @ centred.T)
        order = np.argsort(values)[::-1][: min(PCA_COMPONENTS, len(pixels) - 1)]
        order = order[values[order] > 1e-9 * max(values.max(), 1e-12)]
        self.components_ = (centred.T @ vectors[:, order] / np.sqrt(values[order])).T
        return self

    def score_samples(self, data: Data, positions: np.ndarray) -> np.ndarray:
        """Return the mean squared residual over all pixels of each image, (n,), grey values in 0..1."""
        scores = np.empty(len(positions))
        for part in _slices(len(positions), _BATCH):
            centred = self._pixels(data, positions[part]) - self.mean_
            scores[part] = np.square(centred - centred @ self.components_.T @ self.components_).mean(axis=1)
        return scores

    def _pixels(self, data: Data, positions: np.ndarray) -> np.ndarray:
        size = divisor_at_most(PCA_SIZE, data.size)
        return data.batch(positions, size).image.flatten(1).numpy().astype(np.float64)


def divisor_at_most(size: int, whole: int) -> int:
    """Return the largest size up to the given one to which images of whole pixels a side can be averaged."""
    return next(number for number in range(min(size, whole), 0, -1) if whole % number == 0)
