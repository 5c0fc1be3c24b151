"""The crop is the box of the mask's rows and columns that hold enough of it, and a little noise does not move it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mammovae.data.geometry import ChestWall, Geometry
from mammovae.data.segmentation import find_breast

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def crop(mask: np.ndarray, wall: ChestWall = "left") -> tuple[int, int, int, int]:
    geometry = Geometry.fit(mask, wall, 64)
    return geometry.crop_x0, geometry.crop_y0, geometry.crop_x1, geometry.crop_y1


def a_mask():
    mask = np.zeros((600, 400), bool)
    mask[100:500, 0:200] = True
    return mask


# the box of the mask


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (slice(60, 100), slice(50, 51)),
        (slice(500, 590), slice(10, 11)),
        (slice(300, 301), slice(200, 380)),
        (slice(300, 303), slice(200, 399)),
    ],
    ids=["a hair above", "a hair below", "a pixel's row in front", "three pixels' rows in front"],
)
def test_stray_pixels_on_the_mask_do_not_move_the_crop(rows, columns):
    mask = a_mask()
    assert crop(mask) == (0, 92, 208, 508)
    mask[rows, columns] = True
    assert crop(mask) == (0, 92, 208, 508)


def test_single_pixels_anywhere_do_not_move_the_crop():
    mask = a_mask()
    mask[np.random.default_rng(0).integers(0, 600, 30), np.random.default_rng(1).integers(200, 400, 30)] = True
    assert crop(mask) == (0, 92, 208, 508)


def test_a_tip_and_a_tail_of_more_than_a_hundredth_stay_in_the_crop():
    mask = a_mask()
    mask[298:303, 200:230] = True  # 5 rows of 460
    mask[40:100, 0:3] = True  # 3 columns of 230
    assert crop(mask) == (0, 31, 239, 509)
    mask[298, 200:230] = False
    assert crop(mask) == (0, 31, 209, 509)


def test_of_a_breast_that_thins_to_a_point_less_than_the_margin_is_cut():
    y, x = np.mgrid[:1000, :600]
    ellipse = (x / 500) ** 2 + ((y - 500) / 450) ** 2 < 1
    triangle = x < 500 - np.abs(y - 500) * 500 / 450
    for mask in (ellipse, triangle):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x0, y0, x1, y1 = crop(mask)
        assert x0 == 0 and x1 > columns[-1] and y0 <= rows[0] and y1 > rows[-1]


def test_a_mask_of_one_pixel_or_one_row_has_a_crop():
    mask = np.zeros((50, 40), bool)
    mask[7, 9] = True
    assert crop(mask) == (9, 7, 10, 8)
    mask[7, :] = True
    assert crop(mask) == (0, 6, 40, 9)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["left", "right"]))
@settings(max_examples=50, deadline=None)
def test_the_crop_never_leaves_the_image_nor_holds_less_than_nearly_all_of_the_mask(seed, wall):
    rng = np.random.default_rng(seed)
    mask = np.zeros(tuple(rng.integers(20, 200, 2)), bool)
    for _ in range(rng.integers(1, 5)):
        y, x = (np.sort(rng.integers(0, length + 1, 2)) for length in mask.shape)
        mask[y[0] : y[1], x[0] : x[1]] = True
    mask[rng.integers(0, len(mask)), rng.integers(0, mask.shape[1])] = True
    x0, y0, x1, y1 = crop(mask, wall)
    assert 0 <= x0 < x1 <= mask.shape[1] and 0 <= y0 < y1 <= len(mask)
    # What is left out lies in rows and columns with less than a hundredth of the fullest one's pixels.
    outside = mask.copy()
    outside[y0:y1, x0:x1] = False
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    thin = (rows < 0.01 * rows.max())[:, None] | (columns < 0.01 * columns.max())[None]
    assert not (outside & ~thin).any()


# noise


def moved(image, seed, amplitude=16):
    """Return how far noise moves a side of the crop, as a share of the breast's height."""
    noise = np.random.default_rng(seed).integers(-amplitude, amplitude + 1, image.shape)
    noisy = np.clip(image.astype(np.int32) + noise, 0, 65535).astype(np.uint16)
    mask, wall = find_breast(image)
    noisy_mask, noisy_wall = find_breast(noisy)
    assert noisy_wall == wall
    height = mask.any(axis=1).sum()
    return np.abs(np.subtract(crop(noisy_mask, wall), crop(mask, wall))).max() / height


def padded_film(seed):
    """Return a film of 8 bits with grey air, beside it black padding."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:500, :350]
    depth = 1 - (x / rng.uniform(180, 250)) ** 2 - ((y - 250) / rng.uniform(170, 230)) ** 2
    tissue = np.sqrt(np.clip(depth, 0, None)) * rng.uniform(100, 220)
    fog = rng.uniform(2, 8) * (1 + rng.uniform(0, 0.6) * np.exp(-np.clip(-depth, 0, None)))  # greyer near the skin
    film = np.clip(np.rint(fog + tissue + rng.normal(0, 0.7, depth.shape)), 0, 255)
    return np.pad(film.astype(np.uint16) * 257, ((0, 0), (0, int(rng.integers(0, 180)))))


@pytest.mark.slow
def test_a_little_noise_does_not_move_the_crop_of_a_film_padded_with_black():
    assert max(moved(padded_film(seed), seed) for seed in range(40)) <= 0.01


@pytest.mark.slow
def test_a_little_noise_does_not_move_the_crop_of_real_films():
    films = sorted((SHARED / "mias").glob("mdb*.pgm"))
    if not films:
        pytest.skip("the MIAS films are not beside this checkout (../shared/data/mias)")
    # Every fifth, and those whose padding once passed for air.
    chosen = films[::5] + [film for film in films if film.stem in ("mdb062", "mdb092", "mdb252")]
    images = {film.stem: np.asarray(Image.open(film)).astype(np.uint16) * 257 for film in chosen}
    assert {name for name, image in images.items() if moved(image, 3) > 0.01} == set()
