"""A diffusion model that draws, given what a VAE makes of a latent vector, what is missing in it of an image."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_shuffle, pixel_unshuffle, silu

from mammovae.models.layers import group_norm
from mammovae.models.noise import ImageNoise

_PATCH = 2  # rows and columns of pixels that are one place for the network
_FREQUENCIES = 16
STEPS = 16
SMALLEST, LARGEST = 0.015, 20.0
"""Standard deviations of the noise that sampling ends and begins with, in units of the data's."""
_MEDIAN, _SPREAD = -0.8, 1.4  # of the logarithm of the noise's standard deviation in training


class ModulatedBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, the second one scaled and shifted by a context (n, c)."""

    def __init__(self, before: int, after: int, context: int) -> None:
        super().__init__()
        # One normalisation a block: on a CPU they take as long as the convolutions.
        self.first = nn.Sequential(nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.norm, self.modulate = group_norm(after), nn.Linear(context, 2 * after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        for part in (self.second, self.modulate):
            nn.init.zeros_(part.weight)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Add what the convolutions make of x to the shortcut."""
        scale, shift = self.modulate(context)[:, :, None, None].chunk(2, dim=1)
        return self.shortcut(x) + self.second(silu(self.norm(self.first(x)) * (1 + scale) + shift))


class DiffusionRefiner(nn.Module):
    """A U-Net over patches of 2 x 2 pixels that takes noise of any strength out of detail, given a guide.

    Preconditioned as in Karras et al., "Elucidating the design space of diffusion-based generative models" (NeurIPS
    2022), for data of a standard deviation of 1.
    """

    def __init__(self, channels: int, guides: int, widths: tuple[int, ...], conditions: int) -> None:
        super().__init__()
        area, context = _PATCH**2, 4 * widths[0]
        self.stem = nn.Conv2d((channels + guides) * area, widths[0], 3, padding=1)
        self.embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES + conditions, context), nn.SiLU(), nn.Linear(context, context), nn.SiLU()
        )
        self.down = nn.ModuleList(ModulatedBlock(a, b, context) for a, b in pairwise((widths[0], *widths)))
        self.middle = ModulatedBlock(widths[-1], widths[-1], context)
        self.up = nn.ModuleList(ModulatedBlock(a + b, b, context) for a, b in pairwise((widths[-1], *widths[::-1])))
        self.last = nn.Sequential(group_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], channels * area, 3, padding=1))
        # At first it says of all noise what it would be among detail without any structure.
        for weights in self.last[-1].parameters():
            nn.init.zeros_(weights)

    def _network(self, x: Tensor, log_noise: Tensor, guide: Tensor, condition: Tensor) -> Tensor:
        angles = log_noise[:, None] * math.pi / 8 * torch.arange(1, _FREQUENCIES + 1, device=x.device)
        context = self.embed(torch.cat([angles.cos(), angles.sin(), condition], dim=1))
        x = self.stem(pixel_unshuffle(torch.cat([x, guide], dim=1), _PATCH))
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(avg_pool2d(x, 2) if level else x, context)
            skips.append(x)
        x = self.middle(x, context)
        for level, block in enumerate(self.up):
            x = interpolate(x, scale_factor=2.0, mode="nearest") if level else x
            x = block(torch.cat([x, skips.pop()], dim=1), context)
        return pixel_shuffle(self.last(x), _PATCH)

    def forward(self, noisy: Tensor, noise_sd: Tensor, guide: Tensor, condition: Tensor) -> Tensor:
        """Return the expected detail (n, c, S, S) under noise of standard deviations (n,)."""
        sd = noise_sd[:, None, None, None]
        root = (1 + sd.square()).sqrt()
        return noisy / root.square() + sd / root * self._network(noisy / root, noise_sd.log(), guide, condition).float()

    def losses(self, detail: Tensor, guide: Tensor, condition: Tensor, noise: ImageNoise) -> Tensor:
        """Return what detail costs to draw, in nats a number, (n, c, S, S), from one strength of noise an image.

        The squared error is weighted so that the network learns alike from all strengths; at the median one it is what
        the likelihood has there (Song et al., "Maximum likelihood training of score-based diffusion models", NeurIPS
        2021).
        """
        noise_sd = torch.exp(_MEDIAN + _SPREAD * noise.normal(1)[:, 0])
        noisy = detail + noise_sd[:, None, None, None] * noise.normal(*detail.shape[1:])
        weight = _SPREAD * math.sqrt(2 * math.pi) * (1 + noise_sd.square()) / noise_sd.square()
        return weight[:, None, None, None] * (self(noisy, noise_sd, guide, condition) - detail).square()

    def sample(self, white: Tensor, guide: Tensor, condition: Tensor) -> Tensor:
        """Draw detail from white noise (n, c, S, S), in steps that all divide the noise by the same.

        DPM-Solver++ (2M): Lu et al. (arXiv 2211.01095). So divided, 16 steps keep the standard deviation of independent
        numbers to 2 % where it is 0.1 or more; Heun's method needs twice as many.
        """
        kept = (SMALLEST / LARGEST) ** (1 / (STEPS - 1))
        noisy, before, noise_sd = white * LARGEST, None, white.new_full((len(white),), LARGEST)
        for _ in range(STEPS - 1):
            found = self(noisy, noise_sd, guide, condition)
            ahead = found if before is None else 1.5 * found - 0.5 * before
            noisy, before, noise_sd = kept * noisy + (1 - kept) * ahead, found, kept * noise_sd
        return self(noisy, noise_sd, guide, condition)
