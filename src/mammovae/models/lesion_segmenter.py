"""The lesion segmenters, on whole images or on patches: they learn to mark what was inserted into healthy images."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from mammovae.config import LesionSegmenterSettings, UsageError
from mammovae.data.dataset import Batch
from mammovae.models.anomaly_maps import erode, masked_max, masked_mean, smooth_inside, standardise_in_mask
from mammovae.models.base import Member
from mammovae.models.layers import UNet, downsampled_size, enlarge
from mammovae.models.noise import ImageNoise, StepContext
from mammovae.models.residual_vae import ResidualVae

_PATCHES_PER_IMAGE, _PATCHES_AT_ONCE = 4, 16  # memory stays flat whatever the batch


class LesionSegmenter(Member):
    """A U-Net from image, reconstruction and log-variance to the log-odds of a lesion in each pixel.

    Learning from inserted anomalies: Zavrtanik, Kristan & Skocaj, "DRAEM" (ICCV 2021); Tan et al., "Detecting outliers
    with foreign patch interpolation" (MELBA 2022).
    """

    name, needs, augmented = "lesion_segmenter", ("residual_vae",), True
    scores: ClassVar = {
        "lesion_segmenter_peak": "a place that looks like an inserted lesion",
        "lesion_segmenter_area": "much of it looks like an inserted lesion",
    }
    maps = ("lesion_segmenter",)
    curve: ClassVar = {"loss": "10 × cross-entropy + 1 − Dice", "entropy": "cross-entropy (nats a pixel)"}

    def __init__(self, settings: LesionSegmenterSettings, vae: ResidualVae) -> None:
        super().__init__()
        self.settings, self.size = settings, settings.size
        if settings.size % vae.size:
            raise UsageError(f"{self.name}.size must be a multiple of residual_vae.size, {vae.size}")
        if settings.patch_size is not None and settings.patch_size > settings.size:
            raise UsageError(f"{self.name}.patch_size is larger than its size: choose at most {settings.size}")
        downsampled_size(settings.patch_size or settings.size, len(settings.widths) - 1, self.name)
        self.net = UNet(3, settings.widths, 1)
        self.inserted_kinds = settings.kinds
        self._vae = (vae,)  # in a tuple: it is another member, with weights of its own

    def inputs(self, batch: Batch) -> Tensor:
        """Return grey, reconstruction and log-variance, (n, 3, S, S); the VAE sees the image at its own size."""
        vae = self._vae[0]
        if next(vae.parameters()).device != batch.image.device:  # asked first, for moving asks every weight
            vae.to(batch.image.device)
        size, ratio = batch.image.shape[-1], batch.image.shape[-1] // vae.size
        with torch.no_grad():
            if ratio <= 1:
                return torch.cat(vae.predict(batch), dim=1)
            image, mask = (avg_pool2d(part, ratio) for part in (batch.image, batch.mask))
            _, *predicted = vae.predict(Batch(image, (mask >= 0.5).float()))
            enlarged = enlarge(torch.cat(predicted, dim=1), size) * batch.mask
            return torch.cat([standardise_in_mask(batch.image, batch.mask), enlarged], dim=1)

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return ten times the cross-entropy a pixel plus 1 - the soft Dice overlap (Milletari et al., 3DV 2016)."""
        assert batch.lesion is not None
        inputs, lesion, mask = self.inputs(batch), batch.lesion, batch.mask
        if (side := self.settings.patch_size) is not None:
            corners = sample_patches(mask, lesion, side, _PATCHES_PER_IMAGE, context.noise).flatten(0, 1)
            numbers = torch.arange(len(corners), device=mask.device) // _PATCHES_PER_IMAGE
            inputs, lesion, mask = (cut_patches(part, numbers, corners, side) for part in (inputs, lesion, mask))
        logits = self.net(inputs)
        entropy = masked_mean(binary_cross_entropy_with_logits(logits, lesion, reduction="none"), mask)
        probability = torch.sigmoid(logits) * mask
        shared, total = (part.sum(dim=(1, 2, 3)) for part in (probability * lesion, probability + lesion))
        overlap = 1 - (2 * shared + 1) / (total + 1)
        loss = 10 * entropy + overlap * (lesion.amax(dim=(1, 2, 3)) > 0.5)
        terms = {"loss": loss, "entropy": entropy}
        return {name: part.view(len(batch.image), -1).mean(dim=1) for name, part in terms.items()}

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the map of the probability, without a rim of 2 pixels of 128, and its two scores.

        The peak is of the log-odds smoothed by 1 pixel; the area is the log of the sum of the probabilities, in pixels.
        """
        side, inputs = self.settings.patch_size, self.inputs(batch)
        logits = self.net(inputs) if side is None else sliding_window_inference(inputs, batch.mask, side, self.net)
        inner, scale = erode(batch.mask, 2), batch.mask.shape[-1] / 128
        log_odds = smooth_inside(logits, batch.mask, scale)
        probability = torch.sigmoid(log_odds) * inner
        area = probability.sum(dim=(1, 2, 3)) / scale**2
        scores = {f"{self.name}_peak": masked_max(log_odds, inner), f"{self.name}_area": torch.log(area + 1e-3)}
        return scores, {self.name: probability}


class PatchSegmenter(LesionSegmenter):
    """A segmenter with settings of its own, by default for small lesions: patches of a larger image."""

    name = "patch_segmenter"
    scores: ClassVar = {
        "patch_segmenter_peak": "a place that looks like an inserted lesion, seen closely",
        "patch_segmenter_area": "much of it looks like an inserted lesion, seen closely",
    }
    maps = ("patch_segmenter",)


def window_starts(size: int, side: int) -> list[int]:
    """Return where patches of side pixels begin so that they cover size pixels and overlap by half or more."""
    count = 1 if size <= side else -(-2 * (size - side) // side) + 1
    return [round(k * (size - side) / max(count - 1, 1)) for k in range(count)]


def sliding_window_inference(image: Tensor, mask: Tensor, side: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Return compute's map of an image (n, c, S, S) put together from the patches that hold breast, else 0.

    Where patches overlap, the mean weighted by the distance from the patch's edge is taken, so that no seam shows.
    """
    starts = window_starts(image.shape[-1], side)
    corners = torch.tensor(starts, device=image.device)
    lines = corners[:, None] + torch.arange(side, device=image.device)  # rows, or columns, of each place
    by_rows = mask[:, 0, lines].amax(dim=2)
    # Which windows hold breast is asked once for all images: a GPU is waited for here alone.
    windows = by_rows[:, :, lines].amax(dim=3).nonzero()  # image, place in its rows, place in its columns
    ramp = torch.minimum(torch.arange(side) + 1, side - torch.arange(side)).to(image)
    values, weights = (image.new_zeros(len(image), len(starts), len(starts), side, side) for _ in range(2))
    for begin in range(0, len(windows), _PATCHES_AT_ONCE):
        part = windows[begin : begin + _PATCHES_AT_ONCE]
        computed = compute(cut_patches(image, part[:, 0], corners[part[:, 1:]], side))[:, 0]
        weights[tuple(part.T)] = ramp[:, None] * ramp
        values[tuple(part.T)] = computed * ramp[:, None] * ramp
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


def cut_patches(image: Tensor, numbers: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return patches (m, c, side, side) of the images (n, c, S, S) at numbers (m,), at corners (m, 2)."""
    offsets = torch.arange(side, device=image.device)
    rows, columns = (corners[:, axis, None] + offsets for axis in range(2))
    return image[numbers[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
