"""The generating VAE: an image as mean, breast mask and detail, with a likelihood over the bands of a pyramid."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Generator as TorchGenerator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, pad

from mammovae.config import PyramidVaeSettings, UsageError
from mammovae.data.dataset import Batch
from mammovae.models.anomaly_maps import REFERENCE_SIZE, erode, masked_mean, smooth, smooth_inside
from mammovae.models.augmentation import N_PARAMETERS, augment_with_parameters
from mammovae.models.base import Generator
from mammovae.models.diffusion_refiner import DiffusionRefiner
from mammovae.models.laplacian import laplacian, mask_pyramid
from mammovae.models.layers import GridCoder, downsampled_size
from mammovae.models.losses import gaussian_nll, kl_standard_normal, reparameterise, sigma_vae_variance
from mammovae.models.noise import ImageNoise, StepContext

_CONDITIONS, _UNKNOWN_SHARE = 6, 0.1
_DARK = 0.02
_GREY, _SHARE = 0.06, 0.15  # about the standard deviation of what the VAE misses of an image's grey and mask


class PyramidVae(GridCoder, Generator):
    """Maps an image's grey and mask to a latent grid, and back to a mean, a mask, and a texture drawn at random.

    The mean is trained by the residual in each band of a Laplacian pyramid, each with the variance that is best for
    the batch. The bands overlap, so that their sum is a composite likelihood (Varin, Reid & Firth, Stat. Sinica 21,
    2011), counts the same evidence more than once, and is weighed down against the divergence by kl_weight; with the
    divergence as it is, "composite" is no bound on the images' own probability. What the mean cannot know, grey and
    outline, a diffusion model draws from noise, given the mean (Pandey et al., "DiffuseVAE", TMLR 2022). Both are given
    side, view and density where they are known, nine times in ten. The settings say what the networks are at 128 px and
    below; with each doubling of the size they get one level more, so that the latent grid stays as it is.
    """

    name, detects, conditional = "pyramid_vae", False, True
    scores: ClassVar = {
        "band_error": "the VAE reconstructs it badly, given what it misses in healthy images",
        "kl_divergence": "the VAE needs more to describe it than healthy images",
    }
    maps = ("band",)
    curve: ClassVar = {
        "composite": "composite NLL + KL (nats)",
        "reconstruction": "composite NLL (nats)",
        "kl": "KL divergence (nats)",
        "detail": "cost of detail (nats)",
    }

    def __init__(self, settings: PyramidVaeSettings) -> None:
        doublings = max(0, (settings.size // REFERENCE_SIZE).bit_length() - 1)
        widths, bands = (settings.widths[0],) * doublings + settings.widths, settings.bands + doublings
        first, *rest = settings.refiner
        refiner = (*(max(1, first >> number) for number in range(doublings, -1, -1)), *rest)
        if bands > len(widths):
            raise UsageError("pyramid_vae.bands has more levels than pyramid_vae.widths: give a width for each")
        if settings.size >> bands < 4:
            raise UsageError("pyramid_vae.bands leaves fewer than 4 pixels of pyramid_vae.size: choose fewer bands")
        super().__init__(2, widths, settings.latent, N_PARAMETERS + _CONDITIONS)
        self.settings, self.size, self.bands = settings, settings.size, bands
        self.side = downsampled_size(settings.size, len(widths), self.name)
        self.dimensions = settings.latent * self.side**2
        downsampled_size(settings.size, len(refiner), self.name)
        self.refiner = DiffusionRefiner(2, 2, refiner, N_PARAMETERS + _CONDITIONS + self.dimensions)
        self.variance = nn.Buffer(torch.ones(bands + 1))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | image), (n, latent, s, s) each."""
        return self.encode_grid(torch.cat([(4 * batch.image * batch.mask - 2) * batch.mask, batch.mask], dim=1))

    def decode(self, z: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean grey and the mask's logits, (n, 1, S, S) each.

        z: (n, latent, s, s); known: (n, 11), what augmentation did to the image, and its condition.
        """
        conditioning = known[:, :, None, None].expand(-1, -1, *z.shape[2:])
        mean, logits = self.decode_grid(torch.cat([z, conditioning], dim=1), "bilinear")
        return 0.25 * mean + 0.5, logits

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return the weighted sum to train by and its terms, in nats; "detail": see DiffusionRefiner.losses."""
        noise, known = context.noise, _known(batch)
        if self.training:
            batch, done = augment_with_parameters(batch, noise)
            is_known = noise.uniform(1) > _UNKNOWN_SHARE
            known = torch.cat([done, known[:, N_PARAMETERS:] * is_known], dim=1)
        z_mean, z_log_variance = self.encode(batch)
        z = reparameterise(z_mean, z_log_variance, noise)
        mean, logits = self.decode(z, known)
        squares, counts = self._band_errors(batch, mean)
        nll = gaussian_nll(squares, counts, sigma_vae_variance(squares, counts, context))
        # Every band counts as much as the finest: its terms stand for more pixels each.
        weights = counts[:, :1] / counts
        outline = binary_cross_entropy_with_logits(logits, batch.mask, reduction="none").sum(dim=(1, 2, 3))
        # The decoder learns from its own likelihood alone; the latent, to say of detail what it can.
        mean, share = mean.detach().float(), torch.sigmoid(logits.detach().float())
        edge = smooth(batch.mask, self.size / REFERENCE_SIZE) - share
        missing = torch.cat([(batch.image - mean) * batch.mask / _GREY, edge / _SHARE], dim=1)
        conditioning = torch.cat([known, z.flatten(1).float()], dim=1)
        detail = self.refiner.losses(missing, _guide(mean, share), conditioning, noise).sum(dim=(1, 2, 3))
        divergence = kl_standard_normal(z_mean, z_log_variance).flatten(1)
        kl = divergence.sum(dim=1)
        terms = {"kl": kl, "outline": outline, "detail": detail, "kl_dimensions": divergence}
        sums = {"squares": squares, "counts": counts, "weighted_squares": weights * squares}
        return {"loss": self._weighted((weights * nll).sum(dim=1) + outline, terms)} | terms | sums

    def epoch_losses(self, means: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what was minimised, with the epoch's variance in each band, and its terms as losses has them."""
        variance = means["squares"] / means["counts"]
        nll = gaussian_nll(means["weighted_squares"], means["counts"][:1], variance)
        terms = {name: means[name] for name in ("kl", "outline", "detail", "kl_dimensions")}
        reconstruction = nll.sum() + terms["outline"]
        parts = {"composite": reconstruction + terms["kl"], "reconstruction": reconstruction}
        return {"loss": self._weighted(reconstruction, terms)} | parts | terms

    def _weighted(self, reconstruction: Tensor, terms: Mapping[str, Tensor]) -> Tensor:
        """Return what training minimises."""
        return reconstruction + self.settings.kl_weight * terms["kl"] + terms["detail"]

    def _residual_bands(self, batch: Batch, mean: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the bands of what the mean lacks, and which of their pixels are inside the mask."""
        residual = ((batch.image - mean) * batch.mask).contiguous()
        insides = [(share >= 0.5).float() for share in mask_pyramid(batch.mask, self.bands)]
        return laplacian(residual, self.bands), insides

    def _band_errors(self, batch: Batch, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the squared residual in each band inside the mask, and its pixels there, (n, bands + 1)."""
        bands, insides = self._residual_bands(batch, mean)
        squares = [(band.square() * inside).sum(dim=(1, 2, 3)) for band, inside in zip(bands, insides, strict=True)]
        counts = [inside.sum(dim=(1, 2, 3)).clamp(min=1) for inside in insides]
        return torch.stack(squares, dim=1), torch.stack(counts, dim=1)

    def finalize_fit(self, batches: Iterable[tuple[Batch, ImageNoise]]) -> None:
        """Take the bands' variances anew from all training images."""
        errors = self.variance.new_zeros(2, self.bands + 1, dtype=torch.float64)
        with torch.no_grad():
            for batch, noise in batches:
                mean, _ = self.decode(reparameterise(*self.encode(batch), noise), _known(batch))
                errors += torch.stack(self._band_errors(batch, mean)).double().sum(dim=1)
        self.variance.copy_(errors[0] / errors[1])

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(z | image), (n, dimensions) each."""
        mean, log_variance = self.encode(batch)
        return mean.flatten(1), log_variance.flatten(1).exp()

    def generate_images(self, z: Tensor, condition: Tensor, generators: list[TorchGenerator]) -> tuple[Tensor, Tensor]:
        """Return images with their detail drawn, in [0, 1] and 0 outside their masks, and the masks."""
        known = pad(condition, (N_PARAMETERS, 0))
        mean, logits = self.decode(z.unflatten(1, (self.settings.latent, self.side, self.side)), known)
        share, shape = torch.sigmoid(logits), (1, 2, self.size, self.size)
        white = torch.cat([torch.randn(shape, generator=each) for each in generators]).to(z.device)
        conditioning = torch.cat([known, z], dim=1)
        detail, edge = self.refiner.sample(white, _guide(mean, share), conditioning).chunk(2, dim=1)
        grey, mask = mean + _GREY * detail, (share + _SHARE * edge > 0.5).float()
        # No grey inside a real breast is quite black: what would fall below nears 0 and never is 0.
        grey = torch.where(grey < _DARK, _DARK * torch.exp((grey / _DARK - 1).clamp(max=0)), grey)
        return grey.clamp(max=1) * mask, mask

    def reconstruct(self, batch: Batch) -> Tensor:
        """Return the mean at z = mean inside the image's own mask, (n, 1, S, S) in [0, 1], without detail."""
        return self.decode(self.encode(batch)[0], _known(batch))[0].clamp(0, 1) * batch.mask

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the mean and the map of the bands' squared residuals over their healthy variances, at z = mean."""
        z_mean, z_log_variance = self.encode(batch)
        bands, insides = self._residual_bands(batch, self.decode(z_mean, _known(batch))[0])
        ratios = [band.square() / variance for band, variance in zip(bands, self.variance, strict=True)]
        errors = [masked_mean(ratio, inside) for ratio, inside in zip(ratios, insides, strict=True)]
        mean_ratio = torch.stack([interpolate(ratio, size=batch.image.shape[2:]) for ratio in ratios]).mean(dim=0)
        anomaly_map = smooth_inside(mean_ratio, batch.mask, 2 * self.size / REFERENCE_SIZE) * erode(batch.mask, 3)
        kl = kl_standard_normal(z_mean, z_log_variance).sum(dim=(1, 2, 3))
        return {"band_error": torch.stack(errors).mean(dim=0), "kl_divergence": kl}, {"band": anomaly_map}


def _guide(mean: Tensor, share: Tensor) -> Tensor:
    """Return what the VAE says of images in the refiner's units, (n, 2, S, S)."""
    return torch.cat([4 * mean - 2, 2 * share - 1], dim=1)


def _known(batch: Batch) -> Tensor:
    """Return what is known of each image, (n, 11), all 0 where nothing is: augmentation did nothing to it."""
    condition = batch.condition
    return pad(
        batch.image.new_zeros(len(batch.image), _CONDITIONS) if condition is None else condition, (N_PARAMETERS, 0)
    )
