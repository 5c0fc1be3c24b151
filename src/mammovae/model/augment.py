"""Small random changes of a batch under which a healthy breast stays a healthy breast."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from mammovae.data.dataset import Batch

SHIFT, SCALE, ROTATION, GAMMA = 0.04, 0.08, math.radians(8), 0.2
"""Largest shift (share of the side), change of scale, rotation (radians) and log of the grey values' exponent."""


def augment(batch: Batch) -> Batch:
    """Shift, scale, rotate and re-expose each film at random; mask, lesion and film move together.

    Draws from torch's generator. The other breast is moved on its own, as another exposure would be.
    """
    theta = _affine(batch.image)
    image = _moved(batch.image, theta, "bilinear").clamp(0, 1)
    gamma = torch.exp(GAMMA * (2 * torch.rand(len(image), 1, 1, 1, device=image.device) - 1))
    moved = batch._replace(image=image**gamma, mask=_moved(batch.mask, theta, "nearest"))
    if batch.lesion is not None:
        moved = moved._replace(lesion=_moved(batch.lesion, theta, "bilinear"))
    if batch.other is not None and batch.other_mask is not None:
        theta = _affine(batch.other)
        other = _moved(batch.other, theta, "bilinear").clamp(0, 1) ** gamma
        moved = moved._replace(other=other, other_mask=_moved(batch.other_mask, theta, "nearest"))
    return moved


def _affine(image: Tensor) -> Tensor:
    """Draw an affine map for each image, (n, 2, 3), in the coordinates of grid_sample."""
    draws = 2 * torch.rand(4, len(image), device=image.device) - 1
    angle, scale = ROTATION * draws[0], 1 + SCALE * draws[1]
    cos, sin, shift = torch.cos(angle) * scale, torch.sin(angle) * scale, 2 * SHIFT * draws[2:]
    return torch.stack([torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)


def _moved(image: Tensor, theta: Tensor, mode: str) -> Tensor:
    grid = affine_grid(theta, list(image.shape), align_corners=False)
    return grid_sample(image, grid, mode=mode, padding_mode="zeros", align_corners=False)
