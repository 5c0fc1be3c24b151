"""The refiner: what it takes for noise, and what it draws."""

import pytest
import torch
from torch import Tensor

from mammovae.models.diffusion_refiner import LARGEST, DiffusionRefiner
from mammovae.models.noise import ImageNoise, image_keys


def refiner(*widths: int, channels: int = 1) -> DiffusionRefiner:
    torch.manual_seed(0)
    return DiffusionRefiner(channels, 1, widths, 2)


def noise(count: int, step: int = 0) -> ImageNoise:
    return ImageNoise(image_keys(0, step, range(count)))


def test_before_training_it_takes_detail_for_white_noise_which_costs_the_same_whatever_noise_is_added() -> None:
    white = noise(64).normal(2, 16, 16)
    guide, known = torch.zeros(64, 1, 16, 16), torch.zeros(64, 2)
    with torch.no_grad():
        losses = refiner(8, 8, channels=2).losses(white, guide, known, noise(64, 1))
    assert losses.shape == white.shape
    torch.testing.assert_close(losses.mean(dim=(1, 2, 3)), losses.mean().expand(64), atol=0, rtol=0.25)


def test_drawing_what_is_known_to_be_white_noise_ends_with_a_standard_deviation_of_1() -> None:
    white = noise(4).normal(2, 16, 16)
    with torch.no_grad():
        drawn = refiner(8, 8, channels=2).sample(white, torch.zeros(4, 1, 16, 16), torch.zeros(4, 2))
    # The exact solution scales what it began with.
    torch.testing.assert_close(drawn, white * LARGEST / (1 + LARGEST**2) ** 0.5, atol=1e-3, rtol=0.02)


@pytest.mark.slow
def test_it_learns_to_draw_either_of_two_details_and_never_what_lies_between_them() -> None:
    """Detail is the guide's stripes, light or dark: their mean, 0, is what a squared error alone would ask for."""
    net, generator = refiner(16), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)

    def stripes(count: int) -> Tensor:
        phases = torch.rand(count, 1, 1, 1, generator=generator)
        return torch.sign(torch.sin(2 * torch.pi * (torch.arange(4) / 4 + phases))).expand(-1, -1, 4, -1).clone()

    for step in range(400):
        guide = stripes(32)
        sign = torch.sign(torch.rand(32, 1, 1, 1, generator=generator) - 0.5)
        loss = net.losses(sign * guide, guide, torch.zeros(32, 2), noise(32, step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guide = stripes(64)
    with torch.no_grad():
        drawn = net.sample(noise(64, 1000).normal(1, 4, 4), guide, torch.zeros(64, 2))
    agreement = (drawn * guide).mean(dim=(1, 2, 3))
    assert (agreement.abs() > 0.6).float().mean() > 0.9  # of a normal distribution, 0.55
    assert 0.25 < (agreement > 0).float().mean() < 0.75
