"""The bilateral VAE: what this breast looks like, given the patient's other one."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from mammovae.config import BilateralVaeSettings
from mammovae.data.dataset import Batch
from mammovae.models.anomaly_maps import erode, local_contrast_normalise, masked_max, masked_mean, standardise_in_mask
from mammovae.models.base import Member
from mammovae.models.layers import DoubleConv, UNet, downsampled_size
from mammovae.models.losses import batch_variance, gaussian_nll, kl_standard_normal, reparameterise
from mammovae.models.noise import StepContext


class BilateralVae(Member):
    """A conditional VAE, q(z | x, other) and p(x | z, other), with a small latent vector.

    Sohn, Lee & Yan, "Learning structured output representation using deep conditional generative models" (NeurIPS
    2015). Both breasts lie with the chest wall at column 0, so the other one needs no mirroring.
    """

    name = "bilateral_vae"
    augmented = True
    bilateral = True
    scores: ClassVar[Mapping[str, str]] = {
        "pair_peak_bilateral": "a place that the other breast does not explain, given what it misses nearby",
        "pair_error_bilateral": "the other breast explains it badly",
    }
    maps = ("bilateral",)

    def __init__(self, settings: BilateralVaeSettings) -> None:
        super().__init__()
        self.settings, self.size = settings, settings.size
        widths = settings.widths
        downsampled_size(settings.size, len(widths) - 1, self.name)
        self.encoder = nn.ModuleList(DoubleConv(a, b) for a, b in zip((3, *widths), widths, strict=False))
        self.to_latent = nn.Linear(widths[-1], 2 * settings.latent)
        self.decoder = UNet(2, widths, 1, deep=settings.latent)
        self.variance: Tensor
        self.register_buffer("variance", torch.ones(()))

    def _grey(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the standardised grey of this breast and of the other, (n, 1, S, S) each."""
        assert batch.other is not None and batch.other_mask is not None
        return standardise_in_mask(batch.image, batch.mask), standardise_in_mask(batch.other, batch.other_mask)

    def _encode(self, grey: Tensor, other: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([grey, other, mask], dim=1)
        for level, block in enumerate(self.encoder):
            x = block(avg_pool2d(x, 2) if level else x)
        mean, log_variance = self.to_latent(x.mean(dim=(2, 3))).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return the negative ELBO with the batch's variance and its parts, (n,) each, in nats."""
        mask, (grey, other) = batch.mask, self._grey(batch)
        z_mean, z_log_variance = self._encode(grey, other, mask)
        z = reparameterise(z_mean, z_log_variance, context.noise) if self.training else z_mean
        error = ((grey - self.decoder(torch.cat([other, mask], dim=1), z)).square() * mask).sum(dim=(1, 2, 3))
        pixels = mask.sum(dim=(1, 2, 3)).clamp(min=1)
        variance = batch_variance(error, pixels, self.variance, context) if self.training else self.variance
        reconstruction = gaussian_nll(error, pixels, variance)
        divergence = kl_standard_normal(z_mean, z_log_variance)
        kl = divergence.sum(dim=1)
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl, "kl_dimensions": divergence}

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return pair_error_bilateral (mean |r|) and pair_peak_bilateral, NaN where there is no other breast.

        r = grey - reconstruction at z = mean; the peak is that of r smoothed by 2 pixels of 128 over the root of r^2
        smoothed by 10, without a rim of 3 pixels. The map is 0 where there is no other breast.
        """
        mask, (grey, other) = batch.mask, self._grey(batch)
        has_other = other.abs().amax(dim=(1, 2, 3)) > 0
        z_mean, _ = self._encode(grey, other, mask)
        residual = (grey - self.decoder(torch.cat([other, mask], dim=1), z_mean)) * mask
        inner, local = erode(mask, 3), local_contrast_normalise(residual, mask, 2, 10)
        scores = {
            "pair_error_bilateral": masked_mean(residual.abs(), mask),
            "pair_peak_bilateral": masked_max(local, inner),
        }
        scores = {name: torch.where(has_other, value, torch.nan) for name, value in scores.items()}
        return scores, {"bilateral": local.clamp(min=0) * inner * has_other.view(-1, 1, 1, 1)}
