"""Square patches of an image: drawn at random to learn from, or covering it, with one map put together from all."""

from collections.abc import Callable

import torch
from torch import Tensor

from mammovae.models.noise import ImageNoise

_PATCHES_AT_ONCE = 16  # memory stays flat whatever the batch


def window_starts(size: int, side: int) -> list[int]:
    """Return where patches of side pixels begin so that they cover size pixels and overlap by half or more."""
    count = 1 if size <= side else -(-2 * (size - side) // side) + 1
    return [round(k * (size - side) / max(count - 1, 1)) for k in range(count)]


def sliding_window_inference(image: Tensor, mask: Tensor, side: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Return compute's map of an image (n, c, S, S) put together from the patches that hold breast, else 0.

    Where patches overlap, the mean weighted by the distance from the patch's edge is taken, so that no seam shows.
    """
    size = image.shape[-1]
    ramp = torch.minimum(torch.arange(side) + 1, side - torch.arange(side)).to(image)
    weight = ramp[:, None] * ramp[None, :]
    total, weights = (image.new_zeros(len(image), 1, size, size) for _ in range(2))
    corners = [(y, x) for y in window_starts(size, side) for x in window_starts(size, side)]
    windows = [
        (number, slice(None), slice(y, y + side), slice(x, x + side))
        for number in range(len(image))
        for y, x in corners
        if mask[number, 0, y : y + side, x : x + side].any()
    ]
    for start in range(0, len(windows), _PATCHES_AT_ONCE):
        part = windows[start : start + _PATCHES_AT_ONCE]
        for window, values in zip(part, compute(torch.stack([image[window] for window in part])), strict=True):
            total[window] += values * weight
            weights[window] += weight
    return total / weights.clamp(min=1)


def sample_patches(mask: Tensor, lesion: Tensor, side: int, count: int, noise: ImageNoise) -> Tensor:
    """Draw the corners (row, column) of count patches of each image, int64 (n, count, 2), centred inside the breast.

    The first patch lies over an inserted lesion where there is one.
    """
    size, lesion, mask = mask.shape[-1], lesion.flatten(1) > 0.5, mask.flatten(1) > 0.5
    first = torch.where(lesion.any(dim=1, keepdim=True), lesion, mask)
    centres = []
    for region, number in ((first, 1), (mask, count - 1)):
        # The k-th pixel of a region is where the running count of its pixels reaches k.
        running = region.cumsum(dim=1)
        kth = (noise.uniform(number) * running[:, -1:]).long() + 1
        centres.append(torch.searchsorted(running, kth) * (running[:, -1:] > 0))
    place = torch.cat(centres, dim=1)
    jitter = noise.integers(2 * (side // 4) + 1, count, 2) - side // 4
    corner = torch.stack([place // size, place % size], dim=2) + jitter - side // 2
    return corner.clamp(0, size - side)


def cut_patches(image: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return the patches (n * count, c, side, side) of images (n, c, S, S) at corners (n, count, 2)."""
    offsets = torch.arange(side, device=image.device)
    rows, columns = (corners[..., axis].flatten()[:, None] + offsets for axis in range(2))
    numbers = torch.arange(len(image), device=image.device).repeat_interleave(corners.shape[1])
    return image[numbers[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
