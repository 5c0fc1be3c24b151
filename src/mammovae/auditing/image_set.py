"""A set of films, real or generated, with what the measures of an audit need of them."""

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
"""Standard deviation of the yardstick's blur, in pixels of a square of 128."""


@dataclass(frozen=True)
class ImageSet:
    """A set of images with what the measures need of them; row i of each part belongs to image i.

    images uint16 (n, S, S), 0 outside the breast; masks uint8 (n, S, S); groups: patients, or the name of a generated
    image; fold (n,): which run it is judged beside; features (n, F), spectra (n, B), coarse (n, 1024): see the modules
    of generation; latents (n, d): where the run of its fold encodes it, or none.
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
        cls,
        images: np.ndarray,
        masks: np.ndarray,
        groups: Sequence[str],
        encoder: Generator | None,
        fold: int = 0,
    ) -> "ImageSet":
        """Measure images (n, S, S) of one fold."""
        inside = images * (masks > 0).astype(images.dtype)
        spectra = np.array([radial_spectrum(*pair) for pair in zip(inside, masks, strict=True)])
        latents = None if encoder is None else _encoded(encoder, inside, masks)
        features, coarse = measure_all(inside, masks), descriptor(inside, masks)
        return cls(
            inside, masks, np.asarray(groups, dtype=str), np.full(len(images), fold), features, spectra, coarse, latents
        )

    def __getitem__(self, rows: np.ndarray) -> "ImageSet":
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {name: None if part is None else part[rows] for name, part in parts.items()}
        return ImageSet(**chosen)

    def __len__(self) -> int:
        return len(self.images)

    def blurred(self, encoder_by_fold: Mapping[int, Generator | None]) -> "ImageSet":
        """Return the same films blurred inside their masks: a set that anyone can tell from real."""
        sigma = BLUR * self.images.shape[-1] / 128
        made = []
        for image, mask in zip(self.images, self.masks, strict=True):
            share = ndimage.gaussian_filter((mask > 0).astype(np.float64), sigma)
            made.append(ndimage.gaussian_filter(image.astype(np.float64), sigma) / np.maximum(share, 1e-3) * (mask > 0))
        images = np.rint(np.clip(made, 0, 65535)).astype(np.uint16)
        parts = [
            ImageSet.of(images[rows], self.masks[rows], self.groups[rows].tolist(), encoder_by_fold[fold], fold)
            for fold in np.unique(self.fold)
            for rows in [np.flatnonzero(self.fold == fold)]
        ]
        return concatenate(parts)


def concatenate(parts: Sequence[ImageSet]) -> ImageSet:
    """Return the folds' sets as one."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(ImageSet)}
    there = {name: column for name, column in columns.items() if not any(part is None for part in column)}
    whole: dict[str, Any] = {name: np.concatenate(there[name]) if name in there else None for name in columns}
    return ImageSet(**whole)


@torch.inference_mode()
def _encoded(encoder: Generator, images: np.ndarray, masks: np.ndarray) -> Floats:
    device, found = next(encoder.parameters()).device, []
    for start in range(0, len(images), 64):
        part = slice(start, start + 64)
        image, mask = to_tensors(images[part], masks[part], encoder.size)
        found.append(encoder.posterior(Batch(image, mask).to(device))[0].cpu())
    return torch.cat(found).double().numpy()
