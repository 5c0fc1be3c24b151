"""Convolutional building blocks that the members share."""

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, silu

from mammovae.config import UsageError


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalise groups of 8 channels of each image alone: Wu & He, "Group Normalization" (ECCV 2018)."""
    return nn.GroupNorm(max(1, channels // 8), channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Sequential(group_norm(before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.second = nn.Sequential(group_norm(after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1))
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolutions make of x to the shortcut."""
        return self.shortcut(x) + self.second(self.first(x))


class GridCoder(nn.Module):
    """Residual blocks down to a coarse grid of Gaussian latent vectors, and back up to two channels of an image."""

    def __init__(self, inputs: int, widths: tuple[int, ...], latent: int, conditions: int = 0) -> None:
        super().__init__()
        first, last = widths[0], widths[-1]
        self.stem = nn.Conv2d(inputs, first, 3, padding=1)
        self.encoder = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise((first, *widths)))
        self.to_latent = nn.Sequential(group_norm(last), nn.SiLU(), nn.Conv2d(last, 2 * latent, 1))
        self.from_latent = nn.Conv2d(latent + conditions, last, 3, padding=1)
        self.decoder = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise((*widths[::-1], first)))
        self.last = nn.Sequential(group_norm(first), nn.SiLU(), nn.Conv2d(first, 2, 3, padding=1))

    def encode_grid(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latent grid, (n, latent, s, s) each."""
        x = self.stem(x)
        for block in self.encoder:
            x = avg_pool2d(block(x), 2)
        mean, log_variance = self.to_latent(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)

    def decode_grid(self, z: Tensor, mode: Literal["nearest", "bilinear"]) -> tuple[Tensor, Tensor]:
        """Return two channels, (n, 1, S, S) each."""
        x = self.from_latent(z)
        for block in self.decoder:
            x = block(upsample(x) if mode == "bilinear" else interpolate(x, scale_factor=2.0, mode=mode))
        first, second = self.last(x).chunk(2, dim=1)
        return first, second


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each normalised and followed by SiLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(before, after, 3, padding=1), group_norm(after)
        self.second, self.second_norm = nn.Conv2d(after, after, 3, padding=1), group_norm(after)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both convolutions."""
        return silu(self.second_norm(self.second(silu(self.first_norm(self.first(x))))))


class UNet(nn.Module):
    """An encoder and a decoder with skip connections: Ronneberger, Fischer & Brox, "U-Net" (MICCAI 2015).

    deep is the length of forward's second argument, (n, deep), added to the smallest level, the same in all places.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], outputs: int, deep: int = 0) -> None:
        super().__init__()
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in pairwise((inputs, *widths)))
        self.inject = nn.Linear(deep, widths[-1]) if deep else None
        self.up = nn.ModuleList(DoubleConv(a + b, b) for a, b in pairwise(widths[::-1]))
        self.last = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, x: Tensor, deep: Tensor | None = None) -> Tensor:
        """Return (n, outputs, S, S) for x (n, inputs, S, S)."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(avg_pool2d(x, 2) if level else x)
            skips.append(x)
        if self.inject is not None and deep is not None:
            x = x + self.inject(deep)[:, :, None, None]
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        return self.last(x)


class UpsampleConv(nn.ConvTranspose2d):
    """A 3x3 transposed convolution of stride 2, whose gradients use a CPU's faster channels-last kernels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, stride=2, padding=1, output_padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002 - its parent's name
        """Apply the transposed convolution."""
        # Under autocast input and weights are of two types, which torch's own operation alone brings together.
        if input.device.type == "cpu" and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            return _UpsampleConvFunction.apply(input, self.weight, self.bias)
        return super().forward(input, output_size)


class _UpsampleConvFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (grad,) = ctx.saved_tensors, grads
        convolution = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)
        _, to_weight, _ = torch.ops.aten.convolution_backward(x, grad, weight, None, *convolution, [False, True, False])
        to_x = conv2d(grad, weight, stride=2, padding=1) if ctx.needs_input_grad[0] else None
        return to_x, to_weight, grad.sum(dim=(0, 2, 3))


def enlarge(image: Tensor, size: int) -> Tensor:
    """Enlarge images (n, c, s, s) to (n, c, size, size) bilinearly; no gradients pass on a GPU: see upsample.

    The operation itself, for torch.nn.functional.interpolate takes it to pieces where results must be repeatable on a
    GPU, for the sake of gradients.
    """
    return torch.ops.aten.upsample_bilinear2d(image, [size, size], False)


def upsample(image: Tensor) -> Tensor:
    """Enlarge (n, c, s, s) to twice the rows and columns, bilinearly, with gradients that are the same every time."""
    return _UpsampleFunction.apply(image)


class _UpsampleFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        return enlarge(image, 2 * image.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        # A pixel is 3/4 of the two made of it, and 1/4 of each one beside them; at the edge, of the same ones again.
        grad = _collect(grad[:, :, ::2], grad[:, :, 1::2], 2)
        return _collect(grad[..., ::2], grad[..., 1::2], 3)


def _collect(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    count = even.shape[axis] - 1
    left = torch.cat([even.narrow(axis, 0, 1), odd.narrow(axis, 0, count)], dim=axis)
    right = torch.cat([even.narrow(axis, 1, count), odd.narrow(axis, count, 1)], dim=axis)
    return torch.lerp(left + right, even + odd, 0.75)


def downsampled_size(size: int, times: int, member: str) -> int:
    """Return the side of an image halved so often; UsageError where that is no whole number."""
    side, rest = divmod(size, 2**times)
    if rest or not side:
        problem = f"a network of {size} px cannot be halved {times} times"
        raise UsageError(f"{problem}: choose {member}.size as a multiple of {2**times}")
    return side
