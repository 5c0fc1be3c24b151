"""From a residual to scores and maps: every formula, inside the breast mask, for images (n, 1, S, S)."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

REFERENCE_SIZE = 128
"""Widths of filters are given in pixels of a network of this size, and grow with the network's."""


def standardise_in_mask(image: Tensor, mask: Tensor) -> Tensor:
    """Return grey values with mean 0 and standard deviation 1 inside the mask, and 0 outside it."""
    mean, deviation = moments(image, mask)
    return (image - mean) * mask / deviation


def undo_standardisation(grey: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return what standardise_in_mask turns into grey: in the image's own range, 0 outside the mask."""
    mean, deviation = moments(image, mask)
    return (grey * deviation + mean).clamp(0, 1) * mask


def moments(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation inside the mask, (n, 1, 1, 1) each."""
    count = mask.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    mean = (image * mask).sum(dim=(1, 2, 3), keepdim=True) / count
    variance = ((image - mean).square() * mask).sum(dim=(1, 2, 3), keepdim=True) / count
    return mean, variance.sqrt().clamp(min=1e-4)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean inside the mask, (n,)."""
    return (values * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp(min=1)


def smooth(values: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian of sigma pixels, cut off at three sigma; the edge pixels are repeated."""
    reach = max(1, int(3 * sigma + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = values.shape[1]
    values = pad(values, (reach, reach, reach, reach), mode="replicate")
    values = conv2d(values, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return conv2d(values, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def smooth_inside(values: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian inside the mask alone: pixels outside do not enter any mean."""
    return smooth(values * mask, sigma) / smooth(mask, sigma).clamp(min=1e-3) * mask


def erode(mask: Tensor, pixels: float) -> Tensor:
    """Return the mask without a rim of some pixels of the reference size, where reconstructions are never good."""
    reach = max(1, round(pixels * mask.shape[-1] / REFERENCE_SIZE))
    outside = pad(1 - mask, (reach, reach, reach, reach), value=1.0)
    return 1 - max_pool2d(outside, 2 * reach + 1, stride=1)


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Return the maximum inside the mask, (n,); 0 where the mask is empty."""
    inside = torch.where(mask > 0, values, torch.full_like(values, -torch.inf)).amax(dim=(1, 2, 3))
    return torch.where(torch.isfinite(inside), inside, torch.zeros_like(inside))


def local_contrast_normalise(residual: Tensor, mask: Tensor, sigma: float, wide: float) -> Tensor:
    """Return G(sigma) * r / sqrt(G(wide) * r^2) inside the mask: dense and fatty tissue become comparable.

    sigma and wide in pixels of the reference size. A local contrast normalisation: Jarrett et al., ICCV 2009.
    """
    scale = residual.shape[-1] / REFERENCE_SIZE
    energy = smooth_inside(residual.square(), mask, wide * scale)
    floor = 0.1 * masked_mean(residual.square(), mask).view(-1, 1, 1, 1)
    return smooth_inside(residual, mask, sigma * scale) / (energy + floor + 1e-8).sqrt() * mask


def structural_dissimilarity(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - SSIM in each pixel, 0 to 2, for standardised grey: window of 1.5 pixels, dynamic range 4.

    Wang et al., "Image quality assessment: from error visibility to structural similarity" (IEEE TIP 13:600, 2004).
    """
    window = 1.5 * first.shape[-1] / REFERENCE_SIZE
    c1, c2 = (0.01 * 4) ** 2, (0.03 * 4) ** 2
    a, b = (smooth_inside(x, mask, window) for x in (first, second))
    pairs = ((first**2, a**2), (second**2, b**2), (first * second, a * b))
    aa, bb, ab = (smooth_inside(x, mask, window) - y for x, y in pairs)
    similarity = (2 * a * b + c1) * (2 * ab + c2) / ((a**2 + b**2 + c1) * (aa + bb + c2))
    return (1 - similarity) * mask
