"""Patches cover an image, overlap, and leave no seam."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import avg_pool2d

from mammovae.models.lesion_segmenter import cut_patches, sample_patches, sliding_window_inference, window_starts
from mammovae.models.noise import ImageNoise, image_keys


@pytest.mark.parametrize(("size", "side"), [(512, 128), (512, 512), (500, 128), (256, 192)])
def test_patches_cover_the_image_and_overlap_by_half(size: int, side: int) -> None:
    begins = window_starts(size, side)
    assert begins[0] == 0 and begins[-1] + side == size
    assert all(b - a <= side / 2 + 1 for a, b in pairwise(begins))


def halved(image: torch.Tensor) -> torch.Tensor:
    return avg_pool2d(image[:, :1], 2)


def test_a_map_computed_pixel_by_pixel_is_the_same_in_patches_and_whole() -> None:
    image, mask = torch.rand(2, 3, 96, 96), torch.ones(2, 1, 96, 96)
    found = sliding_window_inference(image, mask, 32, lambda part: halved(part) * 2)
    torch.testing.assert_close(found, halved(image) * 2)


def test_patches_without_breast_are_not_computed_and_every_pixel_of_breast_is() -> None:
    image, mask = torch.rand(2, 1, 96, 96), torch.zeros(2, 1, 96, 96)
    mask[0, :, 40:50, 4:20] = 1
    counted = []
    found = sliding_window_inference(image, mask, 32, lambda part: counted.append(len(part)) or halved(part) + 1)
    assert sum(counted) < 2 * len(window_starts(96, 32)) ** 2 / 4
    torch.testing.assert_close(found * halved(mask), (halved(image) + 1) * halved(mask))
    assert not found[1].any()


def test_a_patch_lies_over_a_lesion_where_there_is_one_and_inside_the_image() -> None:
    mask, lesion = torch.zeros(2, 1, 128, 128), torch.zeros(2, 1, 128, 128)
    mask[:, :, 10:110, :60] = 1
    lesion[1, :, 90:94, 20:24] = 1
    for seed in range(20):
        corners = sample_patches(mask, lesion, 32, ImageNoise(image_keys(seed, 0, [0, 1])))
        assert corners.shape == (2, 2) and corners.min() >= 0 and corners.max() <= 96
        y, x = corners[1].tolist()
        assert y <= 93 and y + 32 > 90 and x <= 23 and x + 32 > 20
        patches = cut_patches(mask, torch.arange(2), corners, 32)
        assert patches.shape == (2, 1, 32, 32) and (patches.sum(dim=(1, 2, 3)) > 0).all()
        y, x = corners[0].tolist()
        torch.testing.assert_close(patches[0], mask[0, :, y : y + 32, x : x + 32])


def test_centres_of_patches_are_uniform_over_the_breast_and_an_empty_mask_is_no_error() -> None:
    mask, nothing = torch.zeros(4000, 1, 64, 64), torch.zeros(4000, 1, 64, 64)
    mask[:, :, 20:40, 20:30] = 1
    noise = ImageNoise(image_keys(0, 0, list(range(4000))))
    centres = sample_patches(mask, nothing, 4, noise).double() + 2
    # A uniform pixel of the region plus a jitter of -1, 0 or 1.
    torch.testing.assert_close(centres.mean(dim=0), torch.tensor([29.5, 24.5]).double(), atol=0.5, rtol=0)
    assert centres[:, 0].std().item() == pytest.approx((20**2 / 12 + 2 / 3) ** 0.5, rel=0.05)
    assert not sample_patches(nothing, nothing, 4, noise).any()
