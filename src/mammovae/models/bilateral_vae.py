"""The bilateral VAE: what this breast looks like, given the patient's other one."""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from mammovae.config import BilateralVaeSettings
from mammovae.data.dataset import Batch
from mammovae.models.anomaly_maps import erode, local_contrast_normalise, masked_max, masked_mean, standardise_in_mask
from mammovae.models.base import ELBO_PARTS, Member
from mammovae.models.layers import DoubleConv, UNet, downsampled_size
from mammovae.models.losses import epoch_nll, gaussian_nll, kl_standard_normal, reparameterise, sigma_vae_variance
from mammovae.models.noise import StepContext


class BilateralVae(Member):
    """A conditional VAE, q(z | x, other) and p(x | z, other), with a small latent vector.

    Sohn, Lee & Yan, "Learning structured output representation using deep conditional generative models" (NeurIPS
    2015). Both breasts lie with the chest wall at column 0, so the other one needs no mirroring.
    """

    name, augmented, bilateral = "bilateral_vae", True, True
    scores: ClassVar = {
        "pair_peak_bilateral": "a place that the other breast does not explain, given what it misses nearby",
        "pair_error_bilateral": "the other breast explains it badly",
    }
    maps = ("bilateral",)
    curve: ClassVar = {"loss": "negative ELBO (nats)"} | ELBO_PARTS

    def __init__(self, settings: BilateralVaeSettings) -> None:
        super().__init__()
        self.settings, self.size = settings, settings.size
        widths = settings.widths
        downsampled_size(self.size, len(widths) - 1, self.name)
        self.encoder = nn.ModuleList(DoubleConv(a, b) for a, b in pairwise((3, *widths)))
        self.to_latent = nn.Linear(widths[-1], 2 * settings.latent)
        self.decoder = UNet(2, widths, 1, deep=settings.latent)

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
        """Return the negative ELBO with the batch's variance, and its terms, in nats."""
        mask, (grey, other) = batch.mask, self._grey(batch)
        z_mean, z_log_variance = self._encode(grey, other, mask)
        z = reparameterise(z_mean, z_log_variance, context.noise)
        error = ((grey - self.decoder(torch.cat([other, mask], dim=1), z)).square() * mask).sum(dim=(1, 2, 3))
        pixels = mask.sum(dim=(1, 2, 3)).clamp(min=1)
        reconstruction = gaussian_nll(error, pixels, sigma_vae_variance(error, pixels, context))
        divergence = kl_standard_normal(z_mean, z_log_variance)
        kl = divergence.sum(dim=1)
        terms = {"squares": error, "counts": pixels, "kl": kl, "kl_dimensions": divergence}
        return {"loss": reconstruction + kl} | terms

    def epoch_losses(self, means: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the negative ELBO with the epoch's variance, and its parts, in nats."""
        reconstruction, kl = epoch_nll(means), means["kl"]
        parts = {"reconstruction": reconstruction, "kl": kl, "kl_dimensions": means["kl_dimensions"]}
        return {"loss": reconstruction + kl} | parts

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return mean |r| and the peak and map of r, NaN and 0 without the other breast; r = grey - reconstruction.

        Peak and map are of r smoothed by 2 pixels of 128 over the root of r^2 smoothed by 10, a rim of 3 left out.
        """
        mask, (grey, other) = batch.mask, self._grey(batch)
        has_other = other.abs().amax(dim=(1, 2, 3)) > 0
        z_mean, _ = self._encode(grey, other, mask)
        residual = (grey - self.decoder(torch.cat([other, mask], dim=1), z_mean)) * mask
        inner, local = erode(mask, 3), local_contrast_normalise(residual, mask, 2, 10)
        error, peak = masked_mean(residual.abs(), mask), masked_max(local, inner)
        scores = {"pair_error_bilateral": error, "pair_peak_bilateral": peak}
        scores = {name: torch.where(has_other, value, torch.nan) for name, value in scores.items()}
        return scores, {"bilateral": local.clamp(min=0) * inner * has_other.view(-1, 1, 1, 1)}
