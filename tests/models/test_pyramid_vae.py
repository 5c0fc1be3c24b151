"""The generating VAE, its pyramid and its augmentation."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from mammovae.config import PyramidVaeSettings
from mammovae.data.dataset import Batch
from mammovae.models.augmentation import augment_with_parameters
from mammovae.models.laplacian import laplacian, mask_pyramid
from mammovae.models.layers import upsample
from mammovae.models.noise import ImageNoise, StepContext, image_keys, step_keys
from mammovae.models.pyramid_vae import PyramidVae

SMALL = PyramidVaeSettings(size=64, widths=(8, 16, 16), latent=2, bands=3, refiner=(8, 16))


def images(count: int, seed: int = 0, size: int = 64) -> Batch:
    """Half discs of smooth noise, as bright as breasts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    mask = ((x / (0.7 * size)) ** 2 + ((y - size / 2) / (0.45 * size)) ** 2 < 1).astype(np.float32)
    noise = np.stack([ndimage.gaussian_filter(rng.standard_normal((size, size)), 1.5) for _ in range(count)])
    image = (0.5 + 0.6 * noise).clip(0, 1) * mask
    return Batch(
        torch.from_numpy(image.astype(np.float32))[:, None], torch.from_numpy(mask).expand(count, 1, size, size).clone()
    )


def vae() -> PyramidVae:
    torch.manual_seed(0)
    return PyramidVae(SMALL)


def noise(count: int) -> ImageNoise:
    return ImageNoise(image_keys(0, 0, range(count)))


def sources(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_the_bands_of_a_pyramid_put_together_are_the_image() -> None:
    image = images(2).image
    *bands, together = laplacian(image, 3)
    assert [band.shape[-1] for band in bands] == [64, 32, 16] and together.shape[-1] == 8
    for band in reversed(bands):
        together = band + upsample(together)
    torch.testing.assert_close(together, image)


def test_a_smooth_ramp_has_no_detail_and_a_chequerboard_is_all_detail() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    inner = slice(8, -8)
    # What is enlarged lies half a pixel off, which is all that a ramp leaves.
    assert laplacian(ramp, 2)[0][..., inner, inner].std() < 1e-4
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 1, 64, 64) - 0.5
    fine, *coarse = laplacian(board, 2)
    assert fine[..., inner, inner].std() > 0.45 and all(band[..., 2:-2, 2:-2].abs().max() < 0.05 for band in coarse)


def test_the_loss_is_finite_falls_and_reaches_every_part_of_the_network() -> None:
    member, batch = vae().train(), images(4)
    optimizer = torch.optim.Adam(member.parameters(), lr=3e-3)
    seen = []
    for step in range(12):
        loss = member.losses(batch, StepContext.of(step_keys(0, step, np.arange(4), 0)))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    assert np.isfinite(seen).all() and seen[-1] < seen[0]
    idle = [name for name, part in member.named_parameters() if part.grad is None or not part.grad.any()]
    assert not idle


def test_a_picture_does_not_depend_on_its_neighbours_and_its_detail_only_on_its_noise() -> None:
    member = vae().eval()
    z, nothing = torch.randn(3, member.dimensions), torch.zeros(3, 6)
    with torch.no_grad():
        generated, masks = member.generate_images(z, nothing, sources(1, 2, 3))
        alone, _ = member.generate_images(z[1:2], nothing[:1], sources(2))
        other, other_masks = member.generate_images(z, nothing, sources(4, 5, 6))
    torch.testing.assert_close(alone[0], generated[1], atol=1e-5, rtol=1e-4)
    assert not torch.equal(other, generated) and masks.shape == other_masks.shape == generated.shape
    assert generated.min() >= 0 and generated.max() <= 1 and not (generated * (1 - masks)).any()


def test_the_likelihood_does_not_teach_the_refiner_nor_what_detail_costs_the_decoder() -> None:
    member, batch = vae().train(), images(2)
    losses = member.losses(batch, StepContext.of(step_keys(0, 0, np.arange(2), 0)))
    losses["detail"].sum().backward(retain_graph=True)
    taught = {name.split(".")[0] for name, part in member.named_parameters() if part.grad is not None}
    assert taught == {"refiner", "stem", "encoder", "to_latent"}
    member.zero_grad()
    (losses["loss"] - losses["detail"]).sum().backward()
    assert not any(part.grad.any() for part in member.refiner.parameters() if part.grad is not None)


def test_finalising_takes_the_variance_of_each_band_from_all_images() -> None:
    member, batch = vae().eval(), images(8)
    halves = [Batch(batch.image[rows], batch.mask[rows]) for rows in (slice(4), slice(4, 8))]
    keys = image_keys(0, 0, range(8))
    member.finalize_fit([(half, ImageNoise(part)) for half, part in zip(halves, keys.split(4), strict=True)])
    first = member.variance.clone()
    member.finalize_fit([(batch, ImageNoise(keys))])
    torch.testing.assert_close(member.variance, first)
    assert not torch.equal(first, torch.ones_like(first))


def test_an_image_that_is_moved_stays_as_sharp_as_it_was() -> None:
    rng = np.random.default_rng(0)
    grey = torch.from_numpy(0.5 + 0.1 * rng.standard_normal((16, 1, 64, 64))).float().clamp(0, 1)
    batch = Batch(grey, torch.ones_like(grey))
    moved, _ = augment_with_parameters(batch, noise(16))
    inner = slice(16, -16)

    def power(image: Tensor) -> Tensor:
        """Of the frequencies of a 32 x 32 part between 0.25 and 0.45 cycles a pixel."""
        part = image[..., inner, inner]
        spectrum = torch.fft.fft2(part - part.mean(dim=(2, 3), keepdim=True)).abs().square().mean(dim=(0, 1))
        radius = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(32), torch.fft.fftfreq(32), indexing="ij"))
        return spectrum[(radius > 0.25) & (radius < 0.45)].mean()

    assert 0.7 < power(moved.image) / power(grey) < 1.3  # read bilinearly, less than half of it is left


def test_what_was_done_to_a_image_is_told_and_keeps_the_chest_wall_where_it_is() -> None:
    batch = images(64)
    moved, done = augment_with_parameters(batch, noise(64))
    assert done.shape == (64, 5) and done.abs().max() <= 1
    assert not (moved.image * (1 - moved.mask)).any()
    taller = done[:, 2] < -0.5  # the grid reads a shorter stretch, so that the image is drawn taller
    heights = moved.mask.amax(dim=3).sum(dim=2)[:, 0]
    assert heights[taller].mean() > heights[done[:, 2] > 0.5].mean()
    untilted = done[:, 0].abs() < 0.2
    assert moved.mask[untilted, 0, 24:40, 0].mean() > 0.95


def test_the_condition_moves_the_picture_once_learnt_and_is_left_out_where_unknown() -> None:
    member = vae().eval()
    z = torch.randn(1, member.dimensions)
    with torch.no_grad():
        plain, _ = member.generate_images(z, torch.zeros(1, 6), sources(0))
        left, _ = member.generate_images(z, torch.tensor([[-1.0, 1, 0, 0, 0, 1]]), sources(0))
        scores, maps = member.score(images(2))
    assert not torch.equal(plain, left)
    assert set(scores) == {"band_error", "kl_divergence"} and maps["band"].shape == (2, 1, 64, 64)


def test_a_mask_at_the_bands_resolutions_keeps_its_share() -> None:
    mask = images(1).mask
    for share in mask_pyramid(mask, 3):
        assert float(share.mean()) == pytest.approx(float(mask.mean()), abs=1e-6)
