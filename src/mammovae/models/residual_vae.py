"""The detecting VAE: residual convolutions, a coarse latent grid, and a likelihood that knows where it is unsure."""

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from mammovae.config import ResidualVaeSettings
from mammovae.data.dataset import Batch
from mammovae.models import anomaly_maps
from mammovae.models.anomaly_maps import masked_max, masked_mean, smooth_inside, standardise_in_mask
from mammovae.models.base import ELBO_PARTS, Autoencoder
from mammovae.models.layers import GridCoder, downsampled_size
from mammovae.models.losses import epoch_nll, gaussian_nll, kl_standard_normal, reparameterise, sigma_vae_variance
from mammovae.models.noise import ImageNoise, StepContext


class ResidualVae(GridCoder, Autoencoder):
    """Maps an image's grey (mean 0, standard deviation 1 inside the breast) to its mean and log-variance in each pixel.

    The log-variance head learns the squared residual by its own Gaussian likelihood with the mean held fixed: trained
    together, pixels of high variance would hardly teach the mean anything (Seitzer et al., ICLR 2022).
    """

    name, augmented = "residual_vae", True
    scores: ClassVar = {
        "normalised_peak": "a place brighter than the VAE expects, given how sure it is there",
        "residual_peak": "a place brighter than the VAE expects",
        "local_peak": "a place brighter than the VAE expects, given what it misses nearby",
        "mean_absolute_error": "the VAE reconstructs it badly",
        "normalised_error": "the VAE reconstructs it badly, given how sure it is",
        "structural_error": "the VAE misses its structure",
        "kl_divergence": "the VAE needs more to describe it than healthy images",
        "mahalanobis": "its latent vector is far from those of the training images",
    }
    maps = ("local", "normalised")
    curve: ClassVar = {"negative_elbo": "negative ELBO (nats)"} | ELBO_PARTS

    def __init__(self, settings: ResidualVaeSettings) -> None:
        super().__init__(1, settings.widths, settings.latent)
        self.settings, self.size = settings, settings.size
        self.side = downsampled_size(settings.size, len(settings.widths), self.name)
        dimensions = settings.latent * self.side**2
        self.latent_mean, self.latent_axes = nn.Buffer(torch.zeros(dimensions)), nn.Buffer(torch.eye(dimensions))

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of each pixel's grey, (n, 1, S, S) each."""
        mean, log_variance = self.decode_grid(z, "nearest")
        return mean, log_variance.clamp(-8, 4)

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return grey, its reconstruction at z = mean, and the log-variance, (n, 1, S, S) each, 0 outside the mask."""
        grey = standardise_in_mask(batch.image, batch.mask)
        mean, log_variance = self.decode(self.encode_grid(grey)[0])
        return grey, mean * batch.mask, log_variance * batch.mask

    def reconstruct(self, batch: Batch) -> Tensor:
        """Return the mean at z = mean in the image's own grey values, (n, 1, S, S), 0 outside the mask."""
        return anomaly_maps.undo_standardisation(self.predict(batch)[1], batch.image, batch.mask)

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return the negative ELBO with the batch's variance plus the head's likelihood, and their terms, in nats."""
        grey = standardise_in_mask(batch.image, batch.mask)
        z_mean, z_log_variance = self.encode_grid(grey)
        mean, log_variance = self.decode(reparameterise(z_mean, z_log_variance, context.noise))
        square, pixels = (grey - mean).square() * batch.mask, batch.mask.sum(dim=(1, 2, 3)).clamp(min=1)
        errors = square.sum(dim=(1, 2, 3))
        reconstruction = gaussian_nll(errors, pixels, sigma_vae_variance(errors, pixels, context))
        head = square.detach() * torch.exp(-log_variance) + log_variance
        local = 0.5 * ((head * batch.mask).sum(dim=(1, 2, 3)) + pixels * math.log(2 * math.pi))
        divergence = kl_standard_normal(z_mean, z_log_variance).flatten(1)
        kl = divergence.sum(dim=1)
        terms = {"squares": errors, "counts": pixels, "kl": kl, "local": local, "kl_dimensions": divergence}
        return {"loss": reconstruction + kl + local} | terms

    def epoch_losses(self, means: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the negative ELBO with the epoch's variance, its parts, and the head's likelihood, in nats."""
        elbo = (reconstruction := epoch_nll(means)) + means["kl"]
        terms = {name: means[name] for name in ("kl", "local", "kl_dimensions")}
        return {"loss": elbo + terms["local"], "negative_elbo": elbo, "reconstruction": reconstruction} | terms

    def finalize_fit(self, batches: Iterable[tuple[Batch, ImageNoise]]) -> None:
        """Keep mean and whitening axes of the posterior means of the training images, for the Mahalanobis distance."""
        # Sums over batches, of what is left when the first batch's mean is taken off, so that nothing cancels.
        count, origin = 0, torch.zeros_like(self.latent_mean, dtype=torch.float64)
        sums, products = torch.zeros_like(origin), origin.new_zeros(len(origin), len(origin))
        with torch.no_grad():
            for batch, _ in batches:
                z = self.encode_grid(standardise_in_mask(batch.image, batch.mask))[0].flatten(1).double()
                if not count:
                    origin = z.mean(dim=0)
                z -= origin
                sums += z.sum(dim=0)
                products.addmm_(z.T, z)
                count += len(z)
        mean = sums / count
        covariance = (products - count * torch.outer(mean, mean)) / max(count - 1, 1)
        # Fewer images than dimensions leave directions without any spread: shrink towards the mean variance.
        shrinkage = min(0.9, len(mean) / (len(mean) + count))
        target = covariance.diagonal().mean().clamp(min=1e-6)
        covariance = (1 - shrinkage) * covariance + shrinkage * target * torch.eye(len(covariance)).to(covariance)
        values, vectors = torch.linalg.eigh(covariance)
        self.latent_mean.copy_(origin + mean)
        self.latent_axes.copy_(vectors / values.sqrt())

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return its scores and maps at z = mean, from r = grey - reconstruction and s, the head's log-variance.

        normalised_error is the mean of r^2 exp(-s) (AE-U: Mao et al., MICCAI 2020), mahalanobis the distance of the
        posterior mean from the training images' (Denouden et al., 2018). Peaks are maxima, without a rim of 3 pixels of
        128, of r, of r exp(-s / 2) (both smoothed by 2 pixels), and of r over the root of r^2 smoothed by 10.
        """
        grey = standardise_in_mask(batch.image, batch.mask)
        z_mean, z_log_variance = self.encode_grid(grey)
        mean, log_variance = self.decode(z_mean)
        residual, mask = (grey - mean) * batch.mask, batch.mask
        inner, scale = anomaly_maps.erode(mask, 3), grey.shape[-1] / 128
        normalised = residual * torch.exp(-0.5 * log_variance)
        local = anomaly_maps.local_contrast_normalise(residual, mask, 2, 10)
        dissimilarity = anomaly_maps.structural_dissimilarity(grey, mean * mask, mask)
        scores = {
            "mean_absolute_error": masked_mean(residual.abs(), mask),
            "normalised_error": masked_mean(normalised.square(), mask),
            "structural_error": masked_mean(dissimilarity, mask),
            "kl_divergence": kl_standard_normal(z_mean, z_log_variance).sum(dim=(1, 2, 3)),
            "mahalanobis": ((z_mean.flatten(1) - self.latent_mean) @ self.latent_axes).norm(dim=1),
            "residual_peak": masked_max(smooth_inside(residual, mask, 2 * scale), inner),
            "normalised_peak": masked_max(smooth_inside(normalised, mask, 2 * scale), inner),
            "local_peak": masked_max(local, inner),
        }
        maps = {"local": local, "normalised": smooth_inside(normalised, mask, scale)}
        return scores, {name: anomaly_map.clamp(min=0) * inner for name, anomaly_map in maps.items()}
