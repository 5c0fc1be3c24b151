"""Small random changes of a batch under which a healthy breast stays a healthy breast."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, pad

from mammovae.data.dataset import Batch
from mammovae.models.noise import ImageNoise

SHIFT, SCALE, ROTATION, GAMMA = 0.04, 0.08, math.radians(8), 0.2
"""Largest shift (share of the side), change of scale, rotation (radians) and log of the grey values' exponent."""
N_PARAMETERS = 5
"""How many numbers say what augment_with_parameters did to an image."""
_TILT, _ACROSS, _ALONG, _SLIDE, _EXPOSURE, _BEND = math.radians(6), 0.10, 0.08, 0.06, 0.2, 0.02
_LOBES = 4


def augment_with_parameters(batch: Batch, noise: ImageNoise) -> tuple[Batch, Tensor]:
    """Tilt, stretch, slide, re-expose and bend each image at random; return it and what was done, (n, 5), -1 to 1 each.

    A network that is given what was done can be asked for images to which nothing was done, so that changes that no
    real image shows do not leak into what it makes (Karras et al., "Elucidating the design space of diffusion-based
    generative models", NeurIPS 2022, appendix F). The slight bend, which leaves the chest wall, is not told.
    """
    parameters = 2 * noise.uniform(N_PARAMETERS) - 1
    tilt, across, along, slide, exposure = parameters.T
    angle, across, along = _TILT * tilt, 1 + _ACROSS * across, 1 + _ALONG * along
    cos, sin = torch.cos(angle), torch.sin(angle)
    # Turned about the middle of the chest wall, which is (-1, 0) in the coordinates of grid_sample.
    rows = (cos * across, -sin * along, cos * across - 1), (sin * across, cos * along, sin * across + _SLIDE * slide)
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = affine_grid(theta, list(batch.image.shape), align_corners=False)
    bend = _BEND * interpolate(noise.normal(2, 4, 4), size=batch.image.shape[2:], mode="bicubic").permute(0, 2, 3, 1)
    from_wall = torch.linspace(0, 1, grid.shape[2], device=grid.device)
    grid = grid + torch.stack([bend[..., 0] * from_wall, bend[..., 1]], 3)
    grey, share = _sharp_sample(torch.cat([batch.image * batch.mask, batch.mask], dim=1), grid).chunk(2, dim=1)
    # What lies outside the breast takes no part in the pixels of its rim.
    mask, image = (share >= 0.5).float(), (grey / share.clamp(min=0.5)).clamp(0, 1)
    image = image ** torch.exp(_EXPOSURE * exposure)[:, None, None, None]
    return batch._replace(image=image * mask, mask=mask), parameters


def _sharp_sample(image: Tensor, grid: Tensor) -> Tensor:
    """Read images (n, c, S, S) at the places of a grid, as grid_sample has them, without blurring them.

    A network that learns from blurred images draws blurred ones. Bilinear reading takes half of the power from 0.35
    cycles a pixel on. Here images are doubled by a windowed sinc (Lanczos, of 4 lobes) and then read bicubically.
    """
    (channels, size), taps = image.shape[1:3], 2 * _LOBES
    places = torch.arange(taps, device=image.device) - (_LOBES - 0.5)
    weights = torch.sinc(places) * torch.sinc(places / _LOBES)
    weights = weights / weights.sum()
    kernel = weights.expand(channels, 1, 1, taps)
    for _ in range(2):  # columns, then rows
        between = conv2d(pad(image, (_LOBES - 1, _LOBES, 0, 0), mode="replicate"), kernel, groups=channels)
        image = torch.stack([image, between], dim=4).flatten(3, 4).mT
    # A pixel's place in the doubled image is twice its own, which is half a doubled pixel off the middle of two.
    return grid_sample(image, grid - 0.5 / size, mode="bicubic", padding_mode="border", align_corners=False)


def augment(batch: Batch, noise: ImageNoise, mirrored: bool = False) -> Batch:
    """Shift, scale, rotate and re-expose each image at random; the other breast on its own, as another exposure.

    If mirrored, half of the images are turned upside down as well, the chest wall where it was.
    """
    grid = _affine_grid(batch.image, noise)
    if mirrored:
        turned = torch.where(noise.uniform(1, 1, 1) < 0.5, -grid[..., 1:], grid[..., 1:])
        grid = torch.cat([grid[..., :1], turned], dim=3)
    gamma = torch.exp(GAMMA * (2 * noise.uniform(1, 1, 1) - 1))
    image, mask = _moved(batch.image, grid).clamp(0, 1) ** gamma, _moved(batch.mask, grid, "nearest")
    moved = batch._replace(image=image, mask=mask)
    if batch.other is None or batch.other_mask is None:
        return moved
    grid = _affine_grid(batch.other, noise)
    other, other_mask = _moved(batch.other, grid).clamp(0, 1) ** gamma, _moved(batch.other_mask, grid, "nearest")
    return moved._replace(other=other, other_mask=other_mask)


def _affine_grid(image: Tensor, noise: ImageNoise) -> Tensor:
    """Draw an affine map for each image, as the places that grid_sample reads, (n, S, S, 2)."""
    turn, zoom, right, down = (2 * noise.uniform(4) - 1).T
    angle, scale = ROTATION * turn, 1 + SCALE * zoom
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (cos, -sin, 2 * SHIFT * right), (sin, cos, 2 * SHIFT * down)
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return affine_grid(theta, list(image.shape), align_corners=False)


def _moved(image: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    return grid_sample(image, grid, mode=mode, padding_mode="zeros", align_corners=False)
