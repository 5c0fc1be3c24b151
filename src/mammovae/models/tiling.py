"""Overlapping windows of a film, and one map stitched from what was computed in each."""

from collections.abc import Callable

import torch
from torch import Tensor

_TOGETHER = 16
"""Windows computed at once: memory stays flat whatever the batch."""


def window_starts(size: int, tile: int) -> list[int]:
    """Return where windows of tile pixels begin so that they cover size pixels and overlap by half or more."""
    count = 1 if size <= tile else -(-2 * (size - tile) // tile) + 1
    return [round(k * (size - tile) / max(count - 1, 1)) for k in range(count)]


def sliding_window_inference(image: Tensor, mask: Tensor, tile: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Return compute's map of an image (n, c, S, S) put together from the windows that hold breast, (n, 1, S, S).

    Where windows overlap, the mean weighted by the distance from the window's edge is taken, so that no seam shows.
    Where none was computed, outside the mask (n, 1, S, S), the map is 0.
    """
    size = image.shape[-1]
    ramp = torch.minimum(torch.arange(tile) + 1, tile - torch.arange(tile)).to(image)
    weight = ramp[:, None] * ramp[None, :]
    total, weights = (image.new_zeros(len(image), 1, size, size) for _ in range(2))
    corners = [(y, x) for y in window_starts(size, tile) for x in window_starts(size, tile)]
    windows = [
        (film, slice(None), slice(y, y + tile), slice(x, x + tile))
        for film in range(len(image))
        for y, x in corners
        if mask[film, 0, y : y + tile, x : x + tile].any()
    ]
    for start in range(0, len(windows), _TOGETHER):
        part = windows[start : start + _TOGETHER]
        for window, found in zip(part, compute(torch.stack([image[window] for window in part])), strict=True):
            total[window] += found * weight
            weights[window] += weight
    return total / weights.clamp(min=1)


def sample_patches(mask: Tensor, lesion: Tensor, tile: int, count: int) -> list[tuple[int, int, int]]:
    """Draw count windows of each film as (film, row, column), their centres inside the breast.

    Where a lesion is planted the first window lies over it. Draws from torch's generator.
    """
    windows: list[tuple[int, int, int]] = []
    for film in range(len(mask)):
        for number in range(count):
            region = lesion[film, 0] > 0.5
            places = torch.nonzero(region if number == 0 and region.any() else mask[film, 0] > 0.5)
            centre = places[torch.randint(len(places), ())] if len(places) else torch.zeros(2, dtype=torch.long)
            jitter = torch.randint(-tile // 4, tile // 4 + 1, (2,)).to(centre)
            corner = (centre + jitter - tile // 2).clamp(0, mask.shape[-1] - tile)
            windows.append((film, int(corner[0]), int(corner[1])))
    return windows
