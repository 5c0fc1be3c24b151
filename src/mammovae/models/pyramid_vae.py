"""The generating VAE: a film as mean, breast mask and texture, with a likelihood over the bands of a pyramid."""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Generator as TorchGenerator
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate, silu

from mammovae.config import PyramidVaeSettings
from mammovae.data.dataset import Batch
from mammovae.models.anomaly_maps import erode, masked_mean, smooth, smooth_inside
from mammovae.models.augmentation import N_PARAMETERS, augment_with_parameters
from mammovae.models.base import Generator
from mammovae.models.laplacian import collapse, laplacian, mask_pyramid, patch_distance, upsample
from mammovae.models.layers import ResidualBlock, downsampled_size, group_norm
from mammovae.models.losses import kl_standard_normal, reparameterise

_CONDITIONS, _UNKNOWN_SHARE = 6, 0.1
_NOISES = 4
_DARK = 0.02


class PyramidVae(Generator):
    """Maps a film's grey and mask to a latent grid, and back to a mean, a mask, and a texture drawn at random.

    The mean is trained by the residual in each band of a Laplacian pyramid, with one analytic variance a band
    (sigma-VAE: Rybkin, Daniilidis & Levine, ICML 2021). The bands overlap, so that their sum is a composite likelihood
    (Varin, Reid & Firth, Stat. Sinica 21, 2011), counts the same evidence more than once, and is weighed down against
    the divergence by kl_weight; "negative_elbo" is no bound on the films' own probability. What the mean cannot know
    is not left as blur: a second decoder draws it from noise, trained to match the film's patches as a distribution and
    not pixel by pixel (see patch_distance).

    Side, view and density, where they are known, are given to the decoder, and left out at random one time in ten.
    """

    conditional = True

    def __init__(self, settings: PyramidVaeSettings) -> None:
        super().__init__()
        self.settings, self.size = settings, settings.size
        widths = settings.widths
        self.side = downsampled_size(settings.size, len(widths), "pyramid_vae")
        self.dimensions = settings.latent * self.side**2
        self.stem = nn.Conv2d(2, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise((widths[0], *widths)))
        self.to_latent = nn.Sequential(group_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 2 * settings.latent, 1))
        self.from_latent = nn.Conv2d(settings.latent + N_PARAMETERS + _CONDITIONS, widths[-1], 3, padding=1)
        self.decoder = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise((*widths[::-1], widths[0])))
        self.last = nn.Sequential(group_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 2, 3, padding=1))
        self.texture = Texture((widths[0], *widths)[: len(settings.texture)], settings.texture)
        self.variance: Tensor
        self.gain: Tensor
        self.register_buffer("variance", torch.ones(settings.bands + 1))
        self.register_buffer("gain", torch.ones(settings.bands + 1))

    def encode(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | film), (n, latent, s, s) each."""
        x = self.stem(torch.cat([(4 * image - 2) * mask, mask], dim=1))
        for block in self.encoder:
            x = avg_pool2d(block(x), 2)
        mean, log_variance = self.to_latent(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)

    def decode(self, z: Tensor, told: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the mean grey and the mask's logits, (n, 1, S, S), and the decoder's features, finest first.

        z: (n, latent, s, s); told: (n, 11), what was done to the film and what is known of it.
        """
        x = self.from_latent(torch.cat([z, told[:, :, None, None].expand(-1, -1, *z.shape[2:])], dim=1))
        levels: list[Tensor] = []
        for block in self.decoder:
            x = block(upsample(x))
            levels.append(x)
        mean, logits = self.last(x).chunk(2, dim=1)
        return 0.25 * mean + 0.5, logits, levels[::-1]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms to train by, (n,) each, in nats, "patches" aside: see patch_distance."""
        done = batch.image.new_zeros(len(batch.image), N_PARAMETERS)
        known = self._known(batch)
        if self.training:
            batch, done = augment_with_parameters(batch)
            known = known * (torch.rand(len(known), 1, device=known.device) > _UNKNOWN_SHARE)
        z_mean, z_log_variance = self.encode(batch.image * batch.mask, batch.mask)
        z = reparameterise(z_mean, z_log_variance) if self.training else z_mean
        mean, logits, levels = self.decode(z, torch.cat([done, known], dim=1))
        bands, insides = self._bands(batch, mean)
        squares = [(band.square() * inside).sum(dim=(1, 2, 3)) for band, inside in zip(bands, insides, strict=True)]
        counts = [inside.sum(dim=(1, 2, 3)).clamp(min=1) for inside in insides]
        now = self.variance
        if self.training:
            now = torch.stack([a.sum() / b.sum() for a, b in zip(squares, counts, strict=True)])
            self.variance.lerp_(now.detach(), 0.02)
        pixels = torch.zeros_like(squares[0])
        for square, count, variance in zip(squares, counts, now, strict=True):
            # Every band counts as much as the finest: its terms stand for more pixels each.
            pixels = pixels + counts[0] / count * 0.5 * (square / variance + count * (2 * math.pi * variance).log())
        outline = binary_cross_entropy_with_logits(logits, batch.mask, reduction="none").sum(dim=(1, 2, 3))
        whites = [torch.randn(len(z), _NOISES, *level.shape[2:], device=z.device) for level in self._textured(levels)]
        made = (mean.detach() + self.texture(levels, batch.mask, whites)) * batch.mask
        patches = patch_distance(made.contiguous(), (batch.image * batch.mask).contiguous(), batch.mask)
        divergence = kl_standard_normal(z_mean, z_log_variance).flatten(1)
        kl = divergence.sum(dim=1)
        settings = self.settings
        return {
            "loss": pixels + outline + settings.kl_weight * kl + settings.patch_weight * patches,
            "negative_elbo": pixels + outline + kl,
            "reconstruction": pixels + outline,
            "kl": kl,
            "outline": outline,
            "patches": patches,
            "kl_dimensions": divergence,
        }

    def _known(self, batch: Batch) -> Tensor:
        return batch.image.new_zeros(len(batch.image), _CONDITIONS) if batch.condition is None else batch.condition

    def _textured(self, levels: list[Tensor]) -> list[Tensor]:
        return levels[: len(self.settings.texture)]

    def _bands(self, batch: Batch, mean: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the bands of what the mean lacks inside the mask, and where each of their pixels is inside."""
        residual = ((batch.image - mean) * batch.mask).contiguous()
        insides = [(share >= 0.5).float() for share in mask_pyramid(batch.mask, self.settings.bands)]
        return laplacian(residual, self.settings.bands), insides

    def finalize_fit(self, batches: Iterable[Batch]) -> None:
        """Set how loud each band of the texture is, so that films made hold the energy of the training films in it.

        Matching patches leaves a texture a little too faint. With m, t and x the bands of mean, texture and film,
        the gain g solves the sum of (m + g t)^2 = the sum of x^2 over the training films; it is kept between 0.5 and 2,
        for in the coarsest band, where mean and film are nearly all there is, the equation says little of the texture.
        The variances of the bands are taken anew from all training films.
        """
        generator, bands = TorchGenerator().manual_seed(0), self.settings.bands
        sums = torch.zeros(6, bands + 1, dtype=torch.float64)
        with torch.no_grad():
            for batch in batches:
                z_mean, z_log_variance = self.encode(batch.image * batch.mask, batch.mask)
                # Not from torch's own source of random numbers: a continued training would find it elsewhere.
                noise = torch.randn(z_mean.shape, generator=generator).to(z_mean.device)
                told = _untouched(self._known(batch))
                mean, _, levels = self.decode(z_mean + torch.exp(0.5 * z_log_variance) * noise, told)
                whites = _whites(self._textured(levels), [generator] * len(noise))
                texture = self.texture(levels, batch.mask, whites) * batch.mask
                parts = [laplacian(part, bands) for part in (mean * batch.mask, texture, batch.image * batch.mask)]
                insides = [(share >= 0.999).float() for share in mask_pyramid(batch.mask, bands)]
                for band, (m, t, x, inside) in enumerate(zip(*parts, insides, strict=True)):
                    for row, product in enumerate((t * t, m * t, m * m, x * x)):
                        sums[row, band] += float((product * inside).sum())
                for band, (left, inside) in enumerate(zip(*self._bands(batch, mean), strict=True)):
                    sums[4, band] += float((left.square() * inside).sum())
                    sums[5, band] += float(inside.sum())
        tt, mt, mm, xx, squares, counts = sums
        self.variance.copy_(squares / counts.clamp(min=1))
        gain = (-mt + (mt.square() + tt * (xx - mm)).clamp(min=0).sqrt()) / tt.clamp(min=1e-12)
        self.gain.copy_(gain.clamp(0.5, 2))

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(z | film), (n, dimensions) each."""
        mean, log_variance = self.encode(batch.image * batch.mask, batch.mask)
        return mean.flatten(1), log_variance.flatten(1).exp()

    def picture(self, z: Tensor, condition: Tensor, noise: list[TorchGenerator]) -> tuple[Tensor, Tensor]:
        """Return films with their texture drawn, in [0, 1] and 0 outside their masks, and the masks."""
        told = _untouched(condition)
        mean, logits, levels = self.decode(z.unflatten(1, (self.settings.latent, self.side, self.side)), told)
        # A mask is drawn with a steady hand: the logits of neighbouring pixels differ by chance.
        mask = (smooth(logits, self.size / 128) > 0).float()
        texture = self.texture(levels, mask, _whites(self._textured(levels), noise))
        bands = [
            gain * band for gain, band in zip(self.gain, laplacian(texture * mask, len(self.gain) - 1), strict=True)
        ]
        grey = mean + collapse(bands)
        # No grey inside a real breast is quite black: what would fall below nears 0 and never is 0.
        grey = torch.where(grey < _DARK, _DARK * torch.exp((grey / _DARK - 1).clamp(max=0)), grey)
        return grey.clamp(max=1) * mask, mask

    def reconstruct(self, batch: Batch) -> Tensor:
        """Return the mean at z = mean inside the film's own mask, (n, 1, S, S) in [0, 1], without texture."""
        z_mean, _ = self.encode(batch.image * batch.mask, batch.mask)
        told = _untouched(self._known(batch))
        return self.decode(z_mean, told)[0].clamp(0, 1) * batch.mask

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Map a batch to band_error and kl_divergence, and the map of the bands over their variances, at z = mean.

        band_error: mean over bands of the mean squared residual over its healthy variance, inside the mask.
        """
        z_mean, z_log_variance = self.encode(batch.image * batch.mask, batch.mask)
        told = _untouched(self._known(batch))
        bands, insides = self._bands(batch, self.decode(z_mean, told)[0])
        ratios = [band.square() / variance for band, variance in zip(bands, self.variance, strict=True)]
        errors = [masked_mean(ratio, inside) for ratio, inside in zip(ratios, insides, strict=True)]
        whole = torch.stack([interpolate(ratio, size=batch.image.shape[2:]) for ratio in ratios]).mean(dim=0)
        map = smooth_inside(whole, batch.mask, 2 * self.size / 128) * erode(batch.mask, 3)
        scores = {
            "band_error": torch.stack(errors).mean(dim=0),
            "kl_divergence": kl_standard_normal(z_mean, z_log_variance).sum(dim=(1, 2, 3)),
        }
        return scores, {"band": map}


class Texture(nn.Module):
    """Draws texture from white noise at several resolutions, guided by the decoder's features and the breast mask."""

    def __init__(self, features: tuple[int, ...], widths: tuple[int, ...]) -> None:
        """features, widths: channels of the decoder and of this network at each resolution, finest first."""
        super().__init__()
        coarser = (*widths[1:], 0)
        self.enter = nn.ModuleList(
            nn.Conv2d(feature + _NOISES + 1 + before, width, 3, padding=1)
            for feature, width, before in zip(features, widths, coarser, strict=True)
        )
        self.blocks = nn.ModuleList(ResidualBlock(width, width) for width in widths)
        self.leave = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for width in widths)

    def forward(self, levels: list[Tensor], mask: Tensor, whites: list[Tensor]) -> Tensor:
        """Return texture (n, 1, S, S) in grey values; levels and whites (n, c, s, s) finest first."""
        masks = mask_pyramid(mask, len(whites) - 1)
        x, texture = None, None
        for place in reversed(range(len(whites))):
            parts = [levels[place], whites[place], masks[place]]
            x = self.blocks[place](self.enter[place](torch.cat(parts if x is None else [*parts, upsample(x)], dim=1)))
            own = 0.05 * self.leave[place](silu(x))
            texture = own if texture is None else own + upsample(texture)
        assert texture is not None
        return texture


def _untouched(known: Tensor) -> Tensor:
    """Return what the decoder is told of films (n, 11) to which nothing was done, by what is known of them (n, 6)."""
    return torch.cat([known.new_zeros(len(known), N_PARAMETERS), known], dim=1)


def _whites(levels: list[Tensor], noise: list[TorchGenerator]) -> list[Tensor]:
    """Draw white noise (n, 4, s, s) for each resolution, each image's from its own source."""
    rows = [[torch.randn(1, _NOISES, *level.shape[2:], generator=each) for level in levels] for each in noise]
    return [torch.cat(parts).to(levels[0].device) for parts in zip(*rows, strict=True)]
