"""The lesion segmenters, on whole images or on patches: they learn to mark what was inserted into healthy images."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, max_pool2d

from mammovae.config import LesionSegmenterSettings, UsageError
from mammovae.data.dataset import Batch
from mammovae.models.anomaly_maps import (
    REFERENCE_SIZE,
    erode,
    masked_max,
    masked_mean,
    smooth_inside,
    standardise_in_mask,
)
from mammovae.models.base import Member
from mammovae.models.layers import UNet, downsampled_size, enlarge
from mammovae.models.noise import ImageNoise, StepContext, uniform_places
from mammovae.models.training_lesions import insert_lesions

_STRIDE = 2  # pixels of the image in one of the map: its finest convolutions are most of what a finer map would cost
_PATCHES_AT_ONCE = 16  # memory stays flat whatever the batch
_TOP_PIXELS = 60  # of a map of the reference size
_LOWEST = -20.0  # log-odds that stand for pixels outside a breast that has fewer than are looked for


class LesionSegmenter(Member):
    """A U-Net from an image's grey, standardised inside the breast, to the log-odds of a lesion in each 2 x 2 pixels.

    It learns from lesions that are drawn anew each time that it sees an image. Learning from inserted anomalies:
    Zavrtanik, Kristan & Skocaj, "DRAEM" (ICCV 2021); Tan et al., "Detecting outliers with foreign patch interpolation"
    (MELBA 2022).
    """

    name, augmented, mirrored = "lesion_segmenter", True, True
    scores: ClassVar = {
        "lesion_segmenter_peak": "a place that looks like an inserted lesion",
        "lesion_segmenter_top": "a region that looks like an inserted lesion",
        "lesion_segmenter_area": "much of it looks like an inserted lesion",
    }
    maps = ("lesion_segmenter",)
    curve: ClassVar = {"loss": "10 × cross-entropy + 1 − Dice", "entropy": "cross-entropy (nats a pixel)"}

    def __init__(self, settings: LesionSegmenterSettings) -> None:
        super().__init__()
        self.settings, self.size = settings, settings.size
        if settings.patch_size is not None and settings.patch_size > settings.size:
            raise UsageError(f"{self.name}.patch_size is larger than its size: choose at most {settings.size}")
        # As often as the U-Net halves, once more for the stem, and a map's pixel is whole in every window.
        downsampled_size(settings.patch_size or settings.size, len(settings.widths), self.name)
        first = settings.widths[0]
        self.stem = nn.Conv2d(1, first, 2 * _STRIDE, stride=_STRIDE, padding=_STRIDE // 2)
        self.net = UNet(first, settings.widths, 1)
        nn.init.constant_(self.net.last.bias, -4.0)  # pyrefly: ignore[bad-argument-type]
        self.inserted_kinds = settings.kinds

    def logits(self, grey: Tensor) -> Tensor:
        """Return the log-odds of a lesion, (n, 1, S / 2, S / 2), for standardised grey (n, 1, S, S)."""
        return self.net(self.stem(grey))

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return ten times the cross-entropy a pixel plus 1 - the soft Dice overlap (Milletari et al., 3DV 2016)."""
        batch, lesion = insert_lesions(batch, context.noise, self.settings.kinds)
        grey, mask = standardise_in_mask(batch.image, batch.mask), batch.mask
        if (side := self.settings.patch_size) is not None:
            corners = sample_patches(mask, lesion, side, context.noise)
            numbers = torch.arange(len(corners), device=mask.device)
            grey, lesion, mask = (cut_patches(part, numbers, corners, side) for part in (grey, lesion, mask))
        logits = self.logits(grey).float()
        # A pixel that a lesion touches counts, so that small things do not vanish.
        lesion, mask = max_pool2d(lesion, _STRIDE), avg_pool2d(mask, _STRIDE)
        entropy = masked_mean(binary_cross_entropy_with_logits(logits, lesion, reduction="none"), mask)
        probability = torch.sigmoid(logits) * mask
        shared, total = (part.sum(dim=(1, 2, 3)) for part in (probability * lesion, probability + lesion))
        overlap = 1 - (2 * shared + 1) / (total + 1)
        return {"loss": 10 * entropy + overlap * (lesion.amax(dim=(1, 2, 3)) > 0.5), "entropy": entropy}

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the map of the probability, without a rim of 2 pixels of 128, and its scores.

        The log-odds are smoothed by 1 pixel of 128. The peak is their maximum, top the mean of the 60 largest of
        128 x 128, area the log of the sum of the probabilities.
        """
        found = self._log_odds(standardise_in_mask(batch.image, batch.mask), batch.mask)
        mask = (avg_pool2d(batch.mask, _STRIDE) >= 0.5).float()
        inner, scale = erode(mask, 2), mask.shape[-1] / REFERENCE_SIZE
        log_odds = smooth_inside(found, mask, scale)
        probability = torch.sigmoid(log_odds) * inner
        lowest = torch.where(inner > 0, log_odds, torch.full_like(log_odds, _LOWEST)).flatten(1)
        top = lowest.topk(min(lowest.shape[1], round(_TOP_PIXELS * scale**2)), dim=1).values.mean(dim=1)
        area = probability.sum(dim=(1, 2, 3)) / scale**2
        scores = {"peak": masked_max(log_odds, inner), "top": top, "area": torch.log(area + 1e-3)}
        shown = enlarge(probability, batch.mask.shape[-1]) * batch.mask
        return {f"{self.name}_{name}": values for name, values in scores.items()}, {self.name: shown}

    def _log_odds(self, grey: Tensor, mask: Tensor) -> Tensor:
        """Return the mean log-odds over all that is looked at: the image and it upside down, or overlapping patches."""
        if self.settings.patch_size is not None:
            return sliding_window_inference(grey, mask, self.settings.patch_size, self.logits)
        upright, turned = self.logits(torch.cat([grey, grey.flip(2)])).chunk(2)
        return (upright + turned.flip(2)) / 2


class PatchSegmenter(LesionSegmenter):
    """A segmenter with settings of its own, by default for small lesions: patches of a larger image."""

    name = "patch_segmenter"
    scores: ClassVar = {
        "patch_segmenter_peak": "a place that looks like an inserted lesion, seen closely",
        "patch_segmenter_top": "a region that looks like an inserted lesion, seen closely",
        "patch_segmenter_area": "much of it looks like an inserted lesion, seen closely",
    }
    maps = ("patch_segmenter",)


def window_starts(size: int, side: int) -> list[int]:
    """Return where patches of side pixels begin so that they cover size pixels and overlap by half or more."""
    count = 1 if size <= side else -(-2 * (size - side) // side) + 1
    return [round(k * (size - side) / max(count - 1, 1) / _STRIDE) * _STRIDE for k in range(count)]


def sliding_window_inference(image: Tensor, mask: Tensor, side: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Return compute's map of an image (n, c, S, S) put together from the patches that hold breast, else 0.

    compute halves the rows and columns of patches. Where these overlap, the mean weighted by the distance from the
    patch's edge is taken, so that no seam shows.
    """
    starts = window_starts(image.shape[-1], side)
    corners = torch.tensor(starts, device=image.device)
    lines = corners[:, None] + torch.arange(side, device=image.device)  # rows, or columns, of each place
    by_rows = mask[:, 0, lines].amax(dim=2)
    # Which windows hold breast is asked once for all images: a GPU is waited for here alone.
    windows = by_rows[:, :, lines].amax(dim=3).nonzero()  # image, place in its rows, place in its columns
    small = side // _STRIDE
    ramp = torch.minimum(torch.arange(small) + 1, small - torch.arange(small)).to(image)
    values, weights = (image.new_zeros(len(image), len(starts), len(starts), small, small) for _ in range(2))
    for begin in range(0, len(windows), _PATCHES_AT_ONCE):
        part = windows[begin : begin + _PATCHES_AT_ONCE]
        computed = compute(cut_patches(image, part[:, 0], corners[part[:, 1:]], side))[:, 0]
        weights[tuple(part.T)] = ramp[:, None] * ramp
        values[tuple(part.T)] = computed * ramp[:, None] * ramp
    starts = [start // _STRIDE for start in starts]
    return _overlap_add(values, starts) / _overlap_add(weights, starts).clamp(min=1)


def _overlap_add(windows: Tensor, starts: list[int]) -> Tensor:
    """Add up windows (n, k, k, side, side) that begin at starts, in rows and columns, to images (n, 1, S, S)."""
    side = windows.shape[-1]
    size = starts[-1] + side
    strips = windows.new_zeros(*windows.shape[:2], side, size)
    total = windows.new_zeros(len(windows), 1, size, size)
    for place, start in enumerate(starts):
        strips[..., start : start + side] += windows[:, :, place]
    for place, start in enumerate(starts):
        total[:, 0, start : start + side] += strips[:, place]
    return total


def sample_patches(mask: Tensor, lesion: Tensor, side: int, noise: ImageNoise) -> Tensor:
    """Draw the corner (row, column) of a patch of each image, int64 (n, 2): over a lesion, or else in the breast."""
    size, lesion, mask = mask.shape[-1], lesion.flatten(1) > 0.5, mask.flatten(1) > 0.5
    place = uniform_places(torch.where(lesion.any(dim=1, keepdim=True), lesion, mask), noise.uniform(1))
    jitter = noise.integers(2 * (side // 4) + 1, 2) - side // 4
    corner = torch.cat([place // size, place % size], dim=1) + jitter - side // 2
    return corner.clamp(0, size - side)


def cut_patches(image: Tensor, numbers: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return patches (m, c, side, side) of the images (n, c, S, S) at numbers (m,), at corners (m, 2)."""
    offsets = torch.arange(side, device=image.device)
    rows, columns = (corners[:, axis, None] + offsets for axis in range(2))
    return image[numbers[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
