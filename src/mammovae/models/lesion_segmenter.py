"""The lesion segmenters: networks that learnt on healthy images alone to mark what was inserted into them."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate

from mammovae.config import LesionSegmenterSettings, UsageError
from mammovae.data.dataset import Batch
from mammovae.models.anomaly_maps import erode, masked_max, masked_mean, smooth_inside, standardise_in_mask
from mammovae.models.base import Member
from mammovae.models.layers import UNet, downsampled_size
from mammovae.models.noise import StepContext
from mammovae.models.residual_vae import ResidualVae
from mammovae.models.tiling import cut_patches, sample_patches, sliding_window_inference

PATCHES_PER_IMAGE = 4
"""Patches of an image in an epoch, where a segmenter works on patches."""


class LesionSegmenter(Member):
    """A U-Net from image, reconstruction and log-variance to the log-odds of a lesion in each pixel.

    Two thirds of its training images carry one or two inserted lesions of family train. Learning from inserted
    anomalies: Zavrtanik, Kristan & Skocaj, "DRAEM" (ICCV 2021); Tan et al., "Detecting outliers with foreign patch
    interpolation" (MELBA 2022).
    """

    name = "lesion_segmenter"
    needs = ("residual_vae",)
    augmented = True
    scores: ClassVar = {
        "lesion_segmenter_peak": "a place that looks like an inserted lesion",
        "lesion_segmenter_area": "much of it looks like an inserted lesion",
    }
    maps = ("lesion_segmenter",)

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
        vae = self._vae[0].to(batch.image.device).eval()
        size, ratio = batch.image.shape[-1], batch.image.shape[-1] // vae.size
        with torch.no_grad():
            if ratio <= 1:
                return torch.cat(vae.predict(batch), dim=1)
            image, mask = (avg_pool2d(part, ratio) for part in (batch.image, batch.mask))
            _, *predicted = vae.predict(Batch(image, (mask >= 0.5).float()))
            enlarged = interpolate(torch.cat(predicted, dim=1), size=(size, size), mode="bilinear", align_corners=False)
            return torch.cat([standardise_in_mask(batch.image, batch.mask), enlarged * batch.mask], dim=1)

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return cross-entropy a pixel (ten times) plus one less the soft Dice overlap, inside the mask, (n,).

        Milletari, Navab & Ahmadi, "V-Net" (3DV 2016), for the overlap.
        """
        assert batch.lesion is not None
        inputs, lesion, mask = self.inputs(batch), batch.lesion, batch.mask
        if (side := self.settings.patch_size) is not None:
            corners = sample_patches(mask, lesion, side, PATCHES_PER_IMAGE, context.noise)
            inputs, lesion, mask = (cut_patches(part, corners, side) for part in (inputs, lesion, mask))
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
