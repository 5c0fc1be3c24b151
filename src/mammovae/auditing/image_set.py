"""A set of images, real or generated, with what the measures of an audit need of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from mammovae.auditing.privacy import descriptor
from mammovae.auditing.radiomics import measure_all
from mammovae.auditing.spectrum import radial_spectrum
from mammovae.data.dataset import Batch, to_tensors
from mammovae.models.base import Generator
from mammovae.statistics import Floats, Integers

BLUR = 1.0
"""Standard deviation of the blurred set's blur, in pixels of an image of 128."""


@dataclass(frozen=True)
class ImageSet:
    """A set of images with what the measures need of them; row i of each part belongs to image i.

    images: uint16 (n, S, S), 0 outside the breast; masks: uint8 (n, S, S); groups: patients, or the name of a generated
    image; fold: (n,) whose run made it or never saw it; features (n, F): see radiomics; spectra (n, B): see spectrum;
    coarse (n, 1024): see privacy.descriptor; latents (n, d): the means by the encoder of the fold's run, or None.
    """

    images: np.ndarray
    masks: np.ndarray
    groups: NDArray[np.str_]
    fold: Integers
    features: Floats
    spectra: Floats
    coarse: Floats
    latents: Floats | None

    @classmethod
    def of(
        cls, images: np.ndarray, masks: np.ndarray, groups: Sequence[str], encoder: Generator | None, fold: int = 0
    ) -> "ImageSet":
        """Measure images (n, S, S) of one fold."""
        inside, names = images * (masks > 0).astype(images.dtype), np.asarray(groups, dtype=str)
        spectra = np.array([radial_spectrum(*pair) for pair in zip(inside, masks, strict=True)])
        latents = None if encoder is None else _encoded(encoder, inside, masks)
        measured = (measure_all(inside, masks), spectra, descriptor(inside, masks), latents)
        return cls(inside, masks, names, np.full(len(images), fold), *measured)

    def __getitem__(self, rows: np.ndarray) -> "ImageSet":
        """Return the images at rows, positions or bool (n,)."""
        columns = [getattr(self, field.name) for field in fields(self)]
        chosen: list[Any] = [None if column is None else column[rows] for column in columns]
        return ImageSet(*chosen)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def blurred(self, encoder_by_fold: Mapping[int, Generator | None]) -> "ImageSet":
        """Return the same images blurred inside their masks: a set that is plainly not real."""
        inside, widths = (self.masks > 0).astype(np.float64), (0, *[BLUR * self.images.shape[-1] / 128] * 2)
        smooth, share = (ndimage.gaussian_filter(x, widths) for x in (self.images.astype(np.float64), inside))
        images = np.rint(np.clip(smooth / np.maximum(share, 1e-3) * inside, 0, 65535)).astype(np.uint16)
        folds = {fold: self.fold == fold for fold in np.unique(self.fold)}
        return concatenate(
            [
                ImageSet.of(images[rows], self.masks[rows], self.groups[rows].tolist(), encoder_by_fold[fold], fold)
                for fold, rows in folds.items()
            ]
        )


def concatenate(parts: Sequence[ImageSet]) -> ImageSet:
    """Return the folds' sets as one; without latents where a part has none."""
    columns = [[getattr(part, field.name) for part in parts] for field in fields(ImageSet)]
    joined: list[Any] = [None if any(x is None for x in column) else np.concatenate(column) for column in columns]
    return ImageSet(*joined)


@torch.inference_mode()
def _encoded(encoder: Generator, images: np.ndarray, masks: np.ndarray) -> Floats:
    device, means = next(encoder.parameters()).device, []
    for start in range(0, len(images), 64):
        part = slice(start, start + 64)
        image, mask = to_tensors(images[part], masks[part], encoder.size)
        means.append(encoder.posterior(Batch(image, mask).to(device))[0].cpu())
    return torch.cat(means).double().numpy()
