"""The Laplacian pyramid, and how unlike two images are in the distribution of their small patches."""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from mammovae.models.layers import upsample
from mammovae.models.noise import ImageNoise

_FILTER, _FILTERS, _COARSEST, _OUTSIDE = 11, 8, 32, 1e3


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


def collapse(bands: list[Tensor]) -> Tensor:
    """Invert laplacian."""
    image = bands[-1]
    for band in bands[-2::-1]:
        image = band + upsample(image)
    return image


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


def patch_distance(generated: Tensor, real: Tensor, mask: Tensor, noise: ImageNoise) -> Tensor:
    """Return how the patches of generated and real images (n, 1, S, S) differ as distributions inside the mask, (n,).

    Both are filtered by the same random small filters at all scales down to a side of 32 pixels; the distance is
    that of Wasserstein between the two sets of responses of each filter, over the root mean square of the real ones,
    averaged. Where in the image a patch lies does not count. Sliced Wasserstein distance of patches: Rabin et al.,
    "Wasserstein barycenter and its application to texture mixing" (SSVM 2011); Elnekave & Weiss (ECCV 2022). Most
    filters are edges and ridges of random direction, width and length, for strands distinguish breast tissue from
    filtered noise of the same spectrum. noise, of one row, draws the filters.
    """
    total = torch.zeros(len(generated), device=generated.device)
    scales = max(1, int(math.log2(generated.shape[-1] / _COARSEST)) + 1)
    for scale in range(scales):
        if scale:
            generated, real = avg_pool2d(generated, 2), avg_pool2d(real, 2)
            mask = (avg_pool2d(mask, 2) > 0.999).float()
        filters = _filters(_FILTERS * (1 + scale), noise)
        # Apart, for only the generated ones need gradients.
        made, found = (conv2d(image, filters, padding=_FILTER // 2) * mask for image in (generated, real))
        # What lies outside is the same in both sets, and sorts to the end.
        outside = _OUTSIDE * (1 - mask)
        generated_sorted, real_sorted = ((part + outside).flatten(2).sort(dim=2).values for part in (made, found))
        count = mask.sum(dim=(1, 2, 3)).clamp(min=1)[:, None]
        deviation = (found.square().sum(dim=(2, 3)) / count).sqrt().clamp(min=1e-4)
        distance = (generated_sorted - real_sorted).abs().sum(dim=2) / count
        total = total + (distance / deviation).mean(dim=1)
    return total / scales


def _filters(count: int, noise: ImageNoise) -> Tensor:
    """Draw filters (count, 1, 11, 11) of unit norm and mean 0; the first is a small Gaussian, for the grey itself."""
    angle, size, odd, speckled, stretch = noise.uniform(5, count, 1, 1)[0]
    axis = torch.arange(_FILTER, device=angle.device) - float(_FILTER // 2)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    width, length = torch.exp(1.1 * size - 0.35), 1 + 2.5 * stretch
    across = (x * torch.cos(math.pi * angle) + y * torch.sin(math.pi * angle)) / width
    along = (y * torch.cos(math.pi * angle) - x * torch.sin(math.pi * angle)) / (width * length)
    bell = torch.exp(-0.5 * (across.square() + along.square()))
    shapes = torch.where(odd < 0.3, -across, across.square() - 1) * bell
    speckles = noise.normal(count, _FILTER, _FILTER)[0] * torch.exp(-(x.square() + y.square()) / 4.5)
    filters = torch.where(speckled < 0.25, speckles, shapes)
    filters = filters - filters.mean(dim=(1, 2), keepdim=True)
    filters = filters / filters.flatten(1).norm(dim=1)[:, None, None]
    grey = torch.exp(-0.5 * (x.square() + y.square()))
    filters[0] = grey / grey.sum()
    return filters[:, None]
