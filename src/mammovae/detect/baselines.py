"""Trivial scores that a detector has to beat: mean grey, breast area, and the residual of a PCA."""

import numpy as np

from mammovae.data.dataset import Data

PCA_COMPONENTS = 64
PCA_SIZE = 128
PCA_IMAGES = 2000


def trivial(data: Data, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean grey inside the breast (0..1) and breast area (share of the square) of images, (n,) each."""
    grey, area = np.empty(len(positions)), np.empty(len(positions))
    for number, position in enumerate(positions):
        mask = data.masks[position] > 0
        area[number] = mask.mean()
        grey[number] = data.images[position][mask].mean() / 65535 if mask.any() else 0.0
    return {"mean_grey": grey, "breast_area": area}


class PcaResidual:
    """Principal components of healthy training images; the score is what they leave unexplained.

    Turk & Pentland, "Eigenfaces for Recognition" (J. Cogn. Neurosci. 3:71, 1991): distance from the space that the
    components span. At most 64 components of images of at most 128 px, from at most 2,000 evenly spaced images.
    """

    def fit(self, data: Data, positions: np.ndarray) -> "PcaResidual":
        """Learn mean_ and components_ from images of data; fewer components where there are fewer images."""
        chosen = np.unique(np.linspace(0, len(positions) - 1, PCA_IMAGES).round().astype(int))
        flat = self._flat(data, positions[chosen])
        self.mean_ = flat.mean(axis=0)
        count = min(PCA_COMPONENTS, len(flat) - 1)
        # The small Gram matrix has the same spectrum as the covariance of 16,384 pixels.
        centred = flat - self.mean_
        values, vectors = np.linalg.eigh(centred @ centred.T)
        order = np.argsort(values)[::-1][:count]
        order = order[values[order] > 1e-9 * max(values.max(), 1e-12)]
        self.components_ = (centred.T @ vectors[:, order] / np.sqrt(values[order])).T
        return self

    def score_samples(self, data: Data, positions: np.ndarray) -> np.ndarray:
        """Return the mean squared residual over all pixels of each image, (n,), grey values in 0..1."""
        scores = np.empty(len(positions))
        for start in range(0, len(positions), 256):
            part = slice(start, start + 256)
            centred = self._flat(data, positions[part]) - self.mean_
            residual = centred - centred @ self.components_.T @ self.components_
            scores[part] = np.square(residual).mean(axis=1)
        return scores

    def _flat(self, data: Data, positions: np.ndarray) -> np.ndarray:
        size = min(PCA_SIZE, data.size)
        while data.size % size:
            size -= 1
        image, _ = data.batch(positions, size)
        return image.flatten(1).numpy().astype(np.float64)
