"""The Laplacian pyramid of images and masks."""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from mammovae.models.layers import upsample


def laplacian(image: Tensor, levels: int) -> list[Tensor]:
    """Split images (n, c, S, S) into levels bands of detail, finest first, and the rest, S / 2^levels.

    Burt & Adelson, "The Laplacian pyramid as a compact image code" (IEEE Trans. Commun. 31, 1983).
    """
    bands = []
    for _ in range(levels):
        coarse = _halved(image)
        bands.append(image - upsample(coarse))
        image = coarse
    return [*bands, image]


def mask_pyramid(mask: Tensor, levels: int) -> list[Tensor]:
    """Return a mask (n, 1, S, S) at the resolutions of laplacian's bands: the share of each pixel that is inside."""
    return [mask, *mask_pyramid(avg_pool2d(mask, 2), levels - 1)] if levels else [mask]


def _halved(image: Tensor) -> Tensor:
    kernel = _binomial(image.device, image.dtype).expand(image.shape[1], 1, 5, 5)
    # Reflected by slices: the library's own reflection has no deterministic gradient on a GPU.
    for axis in (2, 3):
        after, near, far, before = (image.narrow(axis, place % image.shape[axis], 1) for place in (2, 1, -2, -3))
        image = torch.cat([after, near, image, far, before], dim=axis)
    return conv2d(image, kernel, stride=2, groups=image.shape[1])


@cache
def _binomial(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the filter, (5, 5): held on its device, for a GPU waits for numbers that come from Python."""
    with torch.inference_mode(False):  # what inference made, no training may use
        weights = torch.tensor((1, 4, 6, 4, 1), dtype=dtype, device=device) / 16
        return torch.outer(weights, weights)
