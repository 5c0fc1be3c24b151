"""The generating VAE: an image as mean, breast mask and texture, with a likelihood over the bands of a pyramid."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Generator as TorchGenerator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, silu

from mammovae.config import PyramidVaeSettings, UsageError
from mammovae.data.dataset import Batch
from mammovae.models.anomaly_maps import erode, masked_mean, smooth, smooth_inside
from mammovae.models.augmentation import N_PARAMETERS, augment_with_parameters
from mammovae.models.base import Generator
from mammovae.models.laplacian import collapse, laplacian, mask_pyramid, patch_distance
from mammovae.models.layers import GridCoder, ResidualBlock, downsampled_size, upsample
from mammovae.models.losses import gaussian_nll, kl_standard_normal, reparameterise, sigma_vae_variance
from mammovae.models.noise import ImageNoise, StepContext

_CONDITIONS, _UNKNOWN_SHARE, _NOISE_CHANNELS, _DARK = 6, 0.1, 4, 0.02


class PyramidVae(GridCoder, Generator):
    """Maps an image's grey and mask to a latent grid, and back to a mean, a mask, and a texture drawn at random.

    The mean is trained by the residual in each band of a Laplacian pyramid, each with the variance that is best for
    the batch. The bands overlap, so that their sum is a composite likelihood (Varin, Reid & Firth, Stat. Sinica 21,
    2011), counts the same evidence more than once, and is weighed down against the divergence by kl_weight; with the
    divergence as it is, "composite" is no bound on the images' own probability. What the mean cannot know a second
    decoder draws from noise, trained to match the image's patches as a distribution (see patch_distance). The decoder
    is given side, view and density where they are known, nine times in ten.
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
    }

    def __init__(self, settings: PyramidVaeSettings) -> None:
        widths = settings.widths
        for name, levels in (("bands", settings.bands), ("texture", len(settings.texture))):
            if levels > len(widths):
                raise UsageError(f"pyramid_vae.{name} has more levels than pyramid_vae.widths: give a width for each")
        if settings.size >> settings.bands < 4:
            raise UsageError("pyramid_vae.bands leaves fewer than 4 pixels of pyramid_vae.size: choose fewer bands")
        super().__init__(2, widths, settings.latent, N_PARAMETERS + _CONDITIONS)
        self.settings, self.size = settings, settings.size
        self.side = downsampled_size(settings.size, len(widths), self.name)
        self.dimensions = settings.latent * self.side**2
        self.texture = Texture((widths[0], *widths)[: len(settings.texture)], settings.texture)
        self.variance, self.gain = (nn.Buffer(torch.ones(settings.bands + 1)) for _ in range(2))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | image), (n, latent, s, s) each."""
        return self.encode_grid(torch.cat([(4 * batch.image * batch.mask - 2) * batch.mask, batch.mask], dim=1))

    def decode(self, z: Tensor, condition: Tensor, done: Tensor | None = None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the mean grey and the mask's logits, (n, 1, S, S), and the features that guide the texture.

        z: (n, latent, s, s); condition: (n, 6); done: (n, 5), what augmentation did to the image, if anything.
        """
        parameters = condition.new_zeros(len(condition), N_PARAMETERS) if done is None else done
        conditioning = torch.cat([parameters, condition], dim=1)[:, :, None, None].expand(-1, -1, *z.shape[2:])
        mean, logits, levels = self.decode_grid(torch.cat([z, conditioning], dim=1), "bilinear")
        return 0.25 * mean + 0.5, logits, levels[: len(self.settings.texture)]

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return the weighted sum to train by and its terms, in nats, "patches" aside: see patch_distance."""
        parameters, condition, noise = None, _condition(batch), context.noise
        if self.training:
            batch, parameters = augment_with_parameters(batch, noise)
            condition = condition * (noise.uniform(1) > _UNKNOWN_SHARE)
        z_mean, z_log_variance = self.encode(batch)
        mean, logits, levels = self.decode(reparameterise(z_mean, z_log_variance, noise), condition, parameters)
        squares, counts = self._band_errors(batch, mean)
        nll = gaussian_nll(squares, counts, sigma_vae_variance(squares, counts, context))
        # Every band counts as much as the finest: its terms stand for more pixels each.
        weights = counts[:, :1] / counts
        outline = binary_cross_entropy_with_logits(logits, batch.mask, reduction="none").sum(dim=(1, 2, 3))
        white = [noise.normal(_NOISE_CHANNELS, *level.shape[2:]) for level in levels]
        generated = (mean.detach() + self.texture(levels, batch.mask, white)) * batch.mask
        real = (batch.image * batch.mask).contiguous()
        patches = patch_distance(generated.contiguous(), real, batch.mask, context.batch_noise)
        divergence = kl_standard_normal(z_mean, z_log_variance).flatten(1)
        kl = divergence.sum(dim=1)
        terms = {"kl": kl, "outline": outline, "patches": patches, "kl_dimensions": divergence}
        sums = {"squares": squares, "counts": counts, "weighted_squares": weights * squares}
        return {"loss": self._weighted((weights * nll).sum(dim=1) + outline, terms)} | terms | sums

    def epoch_losses(self, means: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what was minimised, with the epoch's variance in each band, and its terms as losses has them."""
        variance = means["squares"] / means["counts"]
        nll = gaussian_nll(means["weighted_squares"], means["counts"][:1], variance)
        terms = {name: means[name] for name in ("kl", "outline", "patches", "kl_dimensions")}
        reconstruction = nll.sum() + terms["outline"]
        parts = {"composite": reconstruction + terms["kl"], "reconstruction": reconstruction}
        return {"loss": self._weighted(reconstruction, terms)} | parts | terms

    def _weighted(self, reconstruction: Tensor, terms: Mapping[str, Tensor]) -> Tensor:
        """Return what training minimises."""
        return reconstruction + self.settings.kl_weight * terms["kl"] + self.settings.patch_weight * terms["patches"]

    def _bands(self, batch: Batch, mean: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the bands of what the mean lacks, and which of their pixels are inside the mask."""
        residual = ((batch.image - mean) * batch.mask).contiguous()
        insides = [(share >= 0.5).float() for share in mask_pyramid(batch.mask, self.settings.bands)]
        return laplacian(residual, self.settings.bands), insides

    def _band_errors(self, batch: Batch, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the squared residual in each band inside the mask, and its pixels there, (n, bands + 1)."""
        bands, insides = self._bands(batch, mean)
        squares = [(band.square() * inside).sum(dim=(1, 2, 3)) for band, inside in zip(bands, insides, strict=True)]
        counts = [inside.sum(dim=(1, 2, 3)).clamp(min=1) for inside in insides]
        return torch.stack(squares, dim=1), torch.stack(counts, dim=1)

    def finalize_fit(self, batches: Iterable[tuple[Batch, ImageNoise]]) -> None:
        """Set how loud each band of the texture is, so that generated images hold the training images' energy in it.

        Matching patches leaves a texture a little too faint. With m, t and x the bands of mean, texture and image, the
        gain g solves the sum of (m + g t)^2 = the sum of x^2; it is kept between 0.5 and 2, for in the coarsest band
        the equation says little of the texture. The bands' variances are taken anew from all training images.
        """
        bands = self.settings.bands
        products, errors = (self.gain.new_zeros(rows, bands + 1, dtype=torch.float64) for rows in (4, 2))
        with torch.no_grad():
            for batch, noise in batches:
                mean, _, levels = self.decode(reparameterise(*self.encode(batch), noise), _condition(batch))
                white = [noise.normal(_NOISE_CHANNELS, *level.shape[2:]) for level in levels]
                texture = self.texture(levels, batch.mask, white) * batch.mask
                parts = [laplacian(part, bands) for part in (mean * batch.mask, texture, batch.image * batch.mask)]
                insides = [(share >= 0.999).float() for share in mask_pyramid(batch.mask, bands)]
                for band, (m, t, x, inside) in enumerate(zip(*parts, insides, strict=True)):
                    products[:, band] += torch.stack([(a * inside).sum() for a in (t * t, m * t, m * m, x * x)])
                errors += torch.stack(self._band_errors(batch, mean)).double().sum(dim=1)
        tt, mt, mm, xx = products
        self.variance.copy_(errors[0] / errors[1])
        gain = (-mt + (mt.square() + tt * (xx - mm)).clamp(min=0).sqrt()) / tt.clamp(min=1e-12)
        self.gain.copy_(gain.clamp(0.5, 2))

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(z | image), (n, dimensions) each."""
        mean, log_variance = self.encode(batch)
        return mean.flatten(1), log_variance.flatten(1).exp()

    def generate_images(self, z: Tensor, condition: Tensor, generators: list[TorchGenerator]) -> tuple[Tensor, Tensor]:
        """Return images with their texture drawn, in [0, 1] and 0 outside their masks, and the masks."""
        mean, logits, levels = self.decode(z.unflatten(1, (self.settings.latent, self.side, self.side)), condition)
        # The logits of neighbouring pixels differ by chance: smoothed, they give a mask with an even edge.
        mask = (smooth(logits, self.size / 128) > 0).float()
        shapes = [(1, _NOISE_CHANNELS, *level.shape[2:]) for level in levels]
        white = [
            torch.cat([torch.randn(shape, generator=each) for each in generators]).to(z.device) for shape in shapes
        ]
        bands = laplacian(self.texture(levels, mask, white) * mask, self.settings.bands)
        grey = mean + collapse([gain * band for gain, band in zip(self.gain, bands, strict=True)])
        # No grey inside a real breast is quite black: what would fall below nears 0 and never is 0.
        grey = torch.where(grey < _DARK, _DARK * torch.exp((grey / _DARK - 1).clamp(max=0)), grey)
        return grey.clamp(max=1) * mask, mask

    def reconstruct(self, batch: Batch) -> Tensor:
        """Return the mean at z = mean inside the image's own mask, (n, 1, S, S) in [0, 1], without texture."""
        return self.decode(self.encode(batch)[0], _condition(batch))[0].clamp(0, 1) * batch.mask

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the mean and the map of the bands' squared residuals over their healthy variances, at z = mean."""
        z_mean, z_log_variance = self.encode(batch)
        bands, insides = self._bands(batch, self.decode(z_mean, _condition(batch))[0])
        ratios = [band.square() / variance for band, variance in zip(bands, self.variance, strict=True)]
        errors = [masked_mean(ratio, inside) for ratio, inside in zip(ratios, insides, strict=True)]
        mean_ratio = torch.stack([interpolate(ratio, size=batch.image.shape[2:]) for ratio in ratios]).mean(dim=0)
        anomaly_map = smooth_inside(mean_ratio, batch.mask, 2 * self.size / 128) * erode(batch.mask, 3)
        kl = kl_standard_normal(z_mean, z_log_variance).sum(dim=(1, 2, 3))
        return {"band_error": torch.stack(errors).mean(dim=0), "kl_divergence": kl}, {"band": anomaly_map}


class Texture(nn.Module):
    """Draws texture from white noise at several resolutions, guided by the decoder's features and the breast mask."""

    def __init__(self, features: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        inputs = [a + _NOISE_CHANNELS + 1 + b for a, b in zip(features, (*widths[1:], 0), strict=True)]
        self.enter = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(inputs, widths, strict=True))
        self.blocks = nn.ModuleList(ResidualBlock(width, width) for width in widths)
        self.leave = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for width in widths)

    def forward(self, levels: list[Tensor], mask: Tensor, white: list[Tensor]) -> Tensor:
        """Return texture (n, 1, S, S) in grey values; levels and white noise (n, c, s, s) finest first."""
        masks, coarser, details = mask_pyramid(mask, len(white) - 1), list[Tensor](), list[Tensor]()
        for place in reversed(range(len(white))):
            parts = [levels[place], white[place], masks[place], *map(upsample, coarser)]
            coarser = [self.blocks[place](self.enter[place](torch.cat(parts, dim=1)))]
            details.append(0.05 * self.leave[place](silu(coarser[0])))
        return collapse(details[::-1])


def _condition(batch: Batch) -> Tensor:
    """Return what is known of each image, (n, 6), all 0 where nothing is."""
    return batch.image.new_zeros(len(batch.image), _CONDITIONS) if batch.condition is None else batch.condition
