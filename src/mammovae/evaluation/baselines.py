"""Scores that a detector has to beat: mean grey, breast area, the residual of a PCA, and a filter for blobs."""

import numpy as np
from scipy import ndimage

from mammovae.data.dataset import Data

PCA_COMPONENTS = 64
PCA_SIZE = 128
PCA_IMAGES = 2000
BLOB_SIZE = 512


def image_statistics(data: Data, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean grey inside the breast (0..1) and breast area (share of the prepared image) of images, (n,) each."""
    grey, area = np.empty((2, len(positions)))
    for number, position in enumerate(positions):
        mask = data.masks[position] > 0
        area[number] = mask.mean()
        grey[number] = data.images[position][mask].mean() / 65535 if mask.any() else 0.0
    return {"mean_grey": grey, "breast_area": area}


def blob_map(data: Data, position: int) -> np.ndarray:
    """Return the responses of a filter for bright blobs in an image, float32 (s, s); their maximum is the score.

    Laplacian of Gaussian of 4 pixels in images of 512 (Lindeberg, "Feature detection with automatic scale selection",
    IJCV 30:79, 1998), sign turned, over the root of its own mean square in a Gaussian of 32 pixels; without a rim of 12
    pixels. In smaller DATA folders every width shrinks with the image. Nothing is fitted.
    """
    size = divisor_at_most(BLOB_SIZE, data.size)
    unit, batch = size / BLOB_SIZE, data.batch(np.array([position]), size)
    image, mask = batch.image[0, 0].numpy().astype(np.float64), batch.mask[0, 0].numpy() > 0
    # The breast's mean outside it, so that the skin line is not the brightest blob of all.
    filled = np.where(mask, image, image[mask].mean() if mask.any() else 0.0)
    response = -ndimage.gaussian_laplace(filled, 4 * unit) * mask
    share = ndimage.gaussian_filter(mask.astype(np.float64), 32 * unit)
    energy = ndimage.gaussian_filter(response**2, 32 * unit) / np.maximum(share, 1e-3)
    inner = ndimage.binary_erosion(mask, iterations=max(1, round(12 * unit)))
    return np.where(inner, np.maximum(response, 0) / np.sqrt(energy + 1e-12), 0).astype(np.float32)


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
        centred = pixels - self.mean_
        # The small Gram matrix has the spectrum of the covariance of 16,384 pixels, twenty times faster than its SVD.
        values, vectors = np.linalg.eigh(centred @ centred.T)
        order = np.argsort(values)[::-1][: min(PCA_COMPONENTS, len(pixels) - 1)]
        order = order[values[order] > 1e-9 * max(values.max(), 1e-12)]
        self.components_ = (centred.T @ vectors[:, order] / np.sqrt(values[order])).T
        return self

    def score_samples(self, data: Data, positions: np.ndarray) -> np.ndarray:
        """Return the mean squared residual over all pixels of each image, (n,), grey values in 0..1."""
        scores = np.empty(len(positions))
        for start in range(0, len(positions), 256):
            part = slice(start, start + 256)
            centred = self._pixels(data, positions[part]) - self.mean_
            scores[part] = np.square(centred - centred @ self.components_.T @ self.components_).mean(axis=1)
        return scores

    def _pixels(self, data: Data, positions: np.ndarray) -> np.ndarray:
        size = divisor_at_most(PCA_SIZE, data.size)
        return data.batch(positions, size).image.flatten(1).numpy().astype(np.float64)


def divisor_at_most(size: int, whole: int) -> int:
    """Return the largest size up to the given one to which images of whole pixels a side can be averaged."""
    return next(number for number in range(min(size, whole), 0, -1) if whole % number == 0)
