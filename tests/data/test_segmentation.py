from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from mammovae.data.geometry import Geometry, NoBreast
from mammovae.data.segmentation import find_breast

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def breast_image(rows=500, columns=400, *, air=0.0, noise=0.0, top=45000.0, seed=0):
    """A breast with its chest wall at the left edge and the mask that it should get: half an ellipse, thin at the skin."""
    y, x = np.mgrid[:rows, :columns]
    depth = 1 - (x / (0.62 * columns)) ** 2 - ((y - 0.5 * rows) / (0.42 * rows)) ** 2
    random = np.random.default_rng(seed)
    texture = 1 + 0.15 * ndimage.gaussian_filter(random.standard_normal((rows, columns)), 4) * 14
    tissue = np.clip(depth, 0, None) ** 0.5 * texture * (top - air)
    image = air + np.where(depth > 0, tissue, 0) + noise * random.standard_normal((rows, columns))
    return np.clip(image, 0, 65535).astype(np.uint16), depth > 0


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def assert_one_region_without_holes(mask):
    assert ndimage.label(mask)[1] == 1
    assert (ndimage.binary_fill_holes(mask) == mask).all()


geometries = st.builds(
    lambda x0, y0, width, height, wall, size, stretch: Geometry.fit(
        np.pad(np.ones((height, width), bool), ((y0, 3), (x0, 5))), wall, size, stretch=stretch
    ),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["left", "right"]),
    st.integers(1, 200),
    st.booleans(),
)


# finding the breast


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"air": 3000, "noise": 150},
        {"noise": 400},
        {"top": 4095, "noise": 10},
        {"top": 3600, "air": 2000, "noise": 20},
        {"rows": 64, "columns": 48},
        {"rows": 64, "columns": 64, "noise": 300},
        {"rows": 300, "columns": 900},
        {"rows": 1501, "columns": 677},
        {"rows": 2294, "columns": 1914},
    ],
    ids=str,
)
def test_the_mask_follows_the_skin_line_on_any_background_contrast_and_size(made):
    image, truth = breast_image(**made)
    breast = find_breast(image)
    assert breast.mask.shape == image.shape
    assert breast.mask.dtype == bool
    assert breast.chest_wall == "left"
    assert overlap(breast.mask, truth) > 0.95
    assert_one_region_without_holes(breast.mask)


def draw_letters(image):
    for k in range(4):
        image[30:60, 290 + 25 * k : 305 + 25 * k] = 65535
        image[38:44, 293 + 25 * k : 302 + 25 * k] = 0


def draw_film_marker(image):
    image[0:70, 300:360] = 60000


def draw_scanner_border(image):
    image[:4], image[-5:], image[:, -6:], image[:, :3] = 65535, 65535, 65535, 65535


def draw_tape_wider_than_the_breast(image):
    image[:, 310:] = 65535


def draw_one_bright_line_through_the_film(image):
    image[:, 330:332] = 50000


@pytest.mark.parametrize(
    "draw",
    [
        draw_letters,
        draw_film_marker,
        draw_scanner_border,
        draw_tape_wider_than_the_breast,
        draw_one_bright_line_through_the_film,
    ],
)
def test_what_lies_beside_the_breast_hardly_changes_the_mask(draw):
    image, _ = breast_image(noise=150)
    plain = find_breast(image).mask
    draw(image)
    breast = find_breast(image)
    assert overlap(breast.mask, plain) > 0.97
    assert breast.chest_wall == "left"


def test_an_implant_that_saturates_the_detector_stays_in_the_mask():
    image, truth = breast_image()
    image[150:350, 0:170] = 65535
    assert overlap(find_breast(image).mask, truth) > 0.95


def test_a_film_padded_with_black_has_its_chest_wall_where_the_film_ends():
    image, _ = breast_image(air=2000, noise=100)
    breast = find_breast(np.pad(image, ((0, 0), (300, 250))))
    assert breast.chest_wall == "left"
    assert abs(int(np.flatnonzero(breast.mask.any(axis=0))[0]) - 300) <= 4


def test_flipping_the_image_flips_the_chest_wall_and_gives_the_same_square():
    image, _ = breast_image(rows=900, columns=600, air=1500, noise=100)
    squares = []
    for pose, wall in ((image, "left"), (image[:, ::-1], "right")):
        breast = find_breast(pose)
        assert breast.chest_wall == wall
        squares.append(Geometry.fit(breast.mask, breast.chest_wall, 64).apply(pose).astype(float))
    assert np.abs(squares[0] - squares[1]).mean() < 0.002 * 65535


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((400, 300), np.uint16),
        np.full((400, 300), 65535, np.uint16),
        np.full((400, 300), 1234, np.uint16),
        np.random.default_rng(0).integers(990, 1010, (400, 300)).astype(np.uint16),
        np.random.default_rng(0).integers(0, 65535, (400, 300)).astype(np.uint16),
        65535 - breast_image()[0],
        65535 - breast_image(air=3000, noise=150)[0],
        np.zeros((4000, 20), np.uint16),
        np.zeros((3, 3), np.uint16),
    ],
    ids=["black", "white", "grey", "faint noise", "noise", "inverted", "inverted, noisy", "a strip", "tiny"],
)
def test_an_image_without_a_breast_is_refused_in_one_sentence(image):
    with pytest.raises(NoBreast) as refused:
        find_breast(image)
    message = str(refused.value)
    assert message.endswith(".") and message.count(". ") == 0 and ": " in message


def test_only_16_bit_grey_images_are_taken():
    with pytest.raises(ValueError, match="uint16"):
        find_breast(np.zeros((100, 100), np.uint8))


def test_on_all_mias_films_the_chest_wall_and_a_plausible_mask_are_found():
    films = sorted((SHARED / "mias").glob("mdb*.pgm"))
    if not films:
        pytest.skip("the MIAS films are not beside this checkout (../shared/data/mias)")
    wrong: dict[str, str] = {}
    for film in films:
        image = np.asarray(Image.open(film))[::2, ::2].astype(np.uint16) * 257
        breast = find_breast(image)
        assert_one_region_without_holes(breast.mask[::2, ::2])
        # odd-numbered films have the chest wall on the image's right
        if breast.chest_wall != ("right" if int(film.stem[3:]) % 2 else "left"):
            wrong[film.stem] = breast.chest_wall
        if not 0.08 < breast.mask.mean() < 0.95:
            wrong[film.stem] = f"area {breast.mask.mean():.2f}"
    assert wrong == {}


def test_on_digital_mammograms_the_chest_wall_agrees_with_the_side():
    files = sorted((SHARED / "cesm" / "images").glob("P*"))
    if not files:
        pytest.skip("the CDD-CESM images are not beside this checkout (../shared/data/cesm)")
    for file in files[::2]:
        breast = find_breast(np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 257)
        assert breast.chest_wall == {"L": "left", "R": "right"}[file.stem.split("_")[1]], file.stem


# the geometry


@given(geometries, st.floats(-50, 400), st.floats(-50, 400))
def test_coordinates_come_back_exactly(geometry, x, y):
    assert geometry.to_source(*geometry.to_prepared(x, y)) == pytest.approx((x, y), abs=1e-6)
    assert geometry.to_prepared(*geometry.to_source(x, y)) == pytest.approx((x, y), abs=1e-6)


@given(geometries)
def test_the_chest_wall_edge_of_the_crop_is_the_left_edge_of_the_square(geometry):
    wall = geometry.crop_x1 - 0.5 if geometry.mirrored else geometry.crop_x0 - 0.5
    x, y = geometry.to_prepared(wall, np.array([geometry.crop_y0, geometry.crop_y1]) - 0.5)
    assert x == pytest.approx(-0.5)
    assert y.sum() == pytest.approx(geometry.size - 1)  # as much padding above as below


@given(geometries)
def test_boxes_keep_their_corners_in_order_and_come_back(geometry):
    box = (10.0, 20.0, 60.0, 35.0)
    square = geometry.box_to_prepared(*box)
    assert square[0] < square[2] and square[1] < square[3]
    assert geometry.box_to_source(*square) == pytest.approx(box, abs=1e-6)


def test_the_crop_is_the_box_of_the_mask_and_two_percent_of_its_longer_side_but_for_the_chest_wall():
    mask = np.zeros((300, 200), bool)
    mask[50:250, 40:140] = True
    left, right = Geometry.fit(mask, "left", 64), Geometry.fit(mask, "right", 64)
    assert (left.crop_x0, left.crop_y0, left.crop_x1, left.crop_y1) == (40, 46, 144, 254)
    assert (right.crop_x0, right.crop_y0, right.crop_x1, right.crop_y1) == (36, 46, 140, 254)
    assert right.mirrored and not left.mirrored
    mask[:, :] = True
    whole = Geometry.fit(mask, "left", 64)
    assert (whole.crop_x0, whole.crop_y0, whole.crop_x1, whole.crop_y1) == (0, 0, 200, 300)


def test_an_empty_mask_has_no_geometry():
    with pytest.raises(NoBreast, match="empty"):
        Geometry.fit(np.zeros((9, 9), bool), "left", 64)


def test_padding_is_zero_and_stretching_leaves_none():
    image, mask = np.full((300, 100), 777, np.uint16), np.ones((300, 100), bool)
    square = Geometry.fit(mask, "left", 60).apply(image)
    assert (square[:, :20] == 777).all() and (square[:, 20:] == 0).all()
    assert (Geometry.fit(mask, "left", 60, stretch=True).apply(image) == 777).all()
    lying = Geometry.fit(mask.T, "left", 60).apply(image.T)
    assert (lying[20:40] == 777).all() and (lying[:20] == 0).all() and (lying[40:] == 0).all()


@given(geometries, st.integers(0, 65535))
@settings(deadline=None)
def test_a_constant_image_keeps_its_16_bit_value_wherever_it_lands(geometry, value):
    image = np.full((geometry.crop_y1, geometry.crop_x1), value, np.uint16)
    inside = geometry.apply_mask(np.ones_like(image, bool)) == 1
    square = geometry.apply(image)
    assert square.dtype == np.uint16 and square.shape == (geometry.size, geometry.size)
    assert (square[inside] == value).all() and (square[~inside] == 0).all()


@pytest.mark.parametrize("rows, columns", [(333, 217), (450, 128), (1000, 999)])
def test_the_area_mean_conserves_the_mean_intensity(rows, columns):
    image = np.random.default_rng(1).integers(0, 65536, (rows, columns)).astype(np.uint16)
    square = Geometry.fit(np.ones(image.shape, bool), "right", 64, stretch=True).apply(image)
    assert square.mean() == pytest.approx(image.mean(), abs=1)


def test_a_whole_ratio_gives_block_means():
    image = np.random.default_rng(2).integers(0, 65536, (256, 256)).astype(np.uint16)
    square = Geometry.fit(np.ones(image.shape, bool), "left", 64).apply(image)
    blocks = image.reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.abs(square - blocks).max() <= 0.51


@given(geometries, st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_a_bright_pixel_lands_where_the_coordinates_say(geometry, across, down):
    x = geometry.crop_x0 + round(across * (geometry.crop_x1 - geometry.crop_x0 - 1))
    y = geometry.crop_y0 + round(down * (geometry.crop_y1 - geometry.crop_y0 - 1))
    image = np.zeros((geometry.crop_y1, geometry.crop_x1), np.uint16)
    image[y, x] = 65535
    square = geometry.apply(image).astype(float)
    if square.sum() < 100:  # a pixel that fades among thousands, or in a sliver left out at the padding
        return
    rows, columns = np.mgrid[: geometry.size, : geometry.size]
    centre = (columns * square).sum() / square.sum(), (rows * square).sum() / square.sum()
    # An area mean moves a point by up to half a pixel; enlarging clips the interpolation at the crop's edge.
    reach = 0.5 + 0.5 * max(geometry.scale_x, geometry.scale_y, 1)
    assert np.abs(np.subtract(centre, geometry.to_prepared(x, y))).max() <= reach + 0.01


@given(geometries, st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_the_peak_of_a_map_comes_back_to_its_place_in_the_source(geometry, across, down):
    x = geometry.crop_x0 + round(across * (geometry.crop_x1 - geometry.crop_x0 - 1))
    y = geometry.crop_y0 + round(down * (geometry.crop_y1 - geometry.crop_y0 - 1))
    column, row = np.clip(np.rint(geometry.to_prepared(x, y)).astype(int), 0, geometry.size - 1)
    peak = np.zeros((geometry.size, geometry.size))
    peak[row, column] = 1
    shape = (geometry.crop_y1 + 2, geometry.crop_x1 + 3)
    restored = geometry.restore(peak, shape)
    assert restored.shape == shape
    if restored.max() == 0:  # enlarged so much that no source pixel's centre is near
        return
    found_y, found_x = np.unravel_index(restored.argmax(), shape)
    moved = np.subtract(geometry.to_prepared(found_x, found_y), geometry.to_prepared(x, y))
    assert (np.abs(moved) <= np.maximum(1, [geometry.scale_x, geometry.scale_y])).all()


def test_a_restored_map_is_zero_outside_the_crop_and_constant_inside():
    geometry = Geometry.fit(np.pad(np.ones((80, 40), bool), 20), "right", 32, stretch=True)
    restored = geometry.restore(np.full((32, 32), 0.3), (120, 80))
    inside = np.zeros((120, 80), bool)
    inside[geometry.crop_y0 : geometry.crop_y1, geometry.crop_x0 : geometry.crop_x1] = True
    assert restored[inside] == pytest.approx(0.3)
    assert (restored[~inside] == 0).all()


def test_a_mask_keeps_its_area():
    _, mask = breast_image(rows=1000, columns=800)
    geometry = Geometry.fit(mask, "left", 128)
    area = geometry.apply_mask(mask).sum() / (geometry.scale_x * geometry.scale_y)
    assert area == pytest.approx(mask.sum(), rel=0.01)
    assert geometry.apply_mask(mask).dtype == np.uint8


def test_an_image_smaller_than_the_crop_is_refused():
    geometry = Geometry.fit(np.ones((50, 50), bool), "left", 16)
    with pytest.raises(ValueError, match="does not fit"):
        geometry.apply(np.zeros((40, 50), np.uint16))
