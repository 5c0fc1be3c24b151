"""Tiles cover a film, overlap, and leave no seam."""

from itertools import pairwise

import pytest
import torch

from mammovae.models.tiling import sample_patches, sliding_window_inference, window_starts


@pytest.mark.parametrize(("size", "tile"), [(512, 128), (512, 512), (500, 128), (256, 192)])
def test_windows_cover_the_film_and_overlap_by_half(size: int, tile: int) -> None:
    begins = window_starts(size, tile)
    assert begins[0] == 0 and begins[-1] + tile == size
    assert all(b - a <= tile / 2 + 1 for a, b in pairwise(begins))


def test_a_map_computed_pixel_by_pixel_is_the_same_in_tiles_and_whole() -> None:
    image, mask = torch.rand(2, 3, 96, 96), torch.ones(2, 1, 96, 96)
    torch.testing.assert_close(
        sliding_window_inference(image, mask, 32, lambda part: part[:, :1] * 2), image[:, :1] * 2
    )


def test_windows_without_breast_are_not_computed_and_every_pixel_of_breast_is() -> None:
    image, mask = torch.rand(2, 1, 96, 96), torch.zeros(2, 1, 96, 96)
    mask[0, :, 40:50, 3:20] = 1
    counted = []
    found = sliding_window_inference(image, mask, 32, lambda part: counted.append(len(part)) or part + 1)
    assert sum(counted) < 2 * len(window_starts(96, 32)) ** 2 / 4
    torch.testing.assert_close(found * mask, (image + 1) * mask)
    assert not found[1].any()


def test_the_first_window_lies_over_a_planted_lesion_and_all_lie_inside_the_film() -> None:
    torch.manual_seed(0)
    mask, lesion = torch.zeros(2, 1, 128, 128), torch.zeros(2, 1, 128, 128)
    mask[:, :, 10:110, :60] = 1
    lesion[1, :, 90:94, 20:24] = 1
    windows = sample_patches(mask, lesion, 32, 3)
    assert len(windows) == 6 and all(0 <= y <= 96 and 0 <= x <= 96 for _, y, x in windows)
    first = next((y, x) for film, y, x in windows if film == 1)
    assert first[0] <= 93 and first[0] + 32 > 90 and first[1] <= 23 and first[1] + 32 > 20
