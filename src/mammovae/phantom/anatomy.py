"""Synthetic mammograms of healthy breasts, with known truth: any patient, side and view, at any pixel size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mammovae.phantom.breast import SIDES, VIEWS, Breast, Density, Side, View, make_breast
from mammovae.phantom.fields import (
    FIELD_MM,
    Curve,
    draw_curves,
    grid_points,
    look_up,
    lumps,
    power_law,
    random_field,
    resample,
    stream,
)
from mammovae.phantom.outline import Outline, depth_below_skin, make_outline, muscle_depth

_LEVELS = 4095
_SUPERSAMPLED_BELOW = 300
_BENT_POINTS = 1024


@dataclass(frozen=True)
class Phantom:
    """One synthetic image and what is known of it.

    `image` (rows, columns) holds presentation values 0..65535 in 4096 steps, background near 0; `mask` the breast with
    the pectoral muscle; `muscle` that muscle alone (empty in CC); `gland` the share of glandular tissue, 0..1.
    `nipple` is (x, y) in pixels. The chest wall is on the image's left for side L, on its right for side R.
    """

    image: np.ndarray
    mask: np.ndarray
    muscle: np.ndarray
    gland: np.ndarray
    mm_per_pixel: float
    patient: int
    side: Side
    view: View
    density: Density
    age: int
    nipple: tuple[float, float]


def image_shape(size: int) -> tuple[int, int]:
    """Rows and columns of an image of `size` rows, in the proportions of a 3518 x 2800 detector."""
    return size, round(size * 2800 / 3518)


def _smooth_step(value: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * value))


@dataclass(frozen=True)
class _Canvas:
    """What every tissue is painted with, in mm: pixel positions, depth below the skin, the ducts' coordinates."""

    breast: Breast
    outline: Outline
    source: np.random.SeedSequence
    points: int
    mm: float
    y: np.ndarray
    x: np.ndarray
    depth: np.ndarray
    inwards: np.ndarray
    across: np.ndarray
    bent_y: np.ndarray
    bent_x: np.ndarray

    def child(self, number: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.source.entropy, spawn_key=(*self.source.spawn_key, number))

    def field(self, number: int, amplitude, *, at_most: int = 4096) -> np.ndarray:
        """An isotropic random field on the canvas."""
        points = min(self.points, at_most)
        return resample(random_field(self.child(number), points, amplitude), self.y, self.x)

    def bent_field(self, number: int, amplitude, *, at_most: int = _BENT_POINTS) -> np.ndarray:
        """A random field elongated along the ducts."""
        points = min(2 * self.points, at_most)
        return look_up(random_field(self.child(number), points, amplitude), self.bent_y, self.bent_x)


def _make_canvas(breast: Breast, view: View, source: np.random.SeedSequence, size: int, columns: int) -> _Canvas:
    mm = FIELD_MM / size
    y, x = (np.arange(size) + 0.5) * mm, (np.arange(columns) + 0.5) * mm
    outline = make_outline(breast, view, np.random.default_rng(source))
    stands_out = 1.0 + 6.0 * max(0.0, breast.nipple_in_profile - 0.35)
    depth = depth_below_skin(outline, y, x, stands_out)
    dy = (y - outline.nipple[1])[:, None].astype(np.float32)
    dx = (x - outline.nipple[0])[None, :].astype(np.float32)
    ax, ay = outline.axis
    inwards, across = dx * ax + dy * ay, dx * ay - dy * ax
    # Ducts fan out from a pole in front of the nipple.
    pole = 30.0
    radius = np.hypot(inwards + pole, across)
    angle = np.arctan2(across, np.maximum(inwards + pole, 1))
    return _Canvas(
        breast, outline, source, grid_points(size), mm, y, x, depth, inwards, across,
        bent_y=angle * (pole + 0.5 * breast.depth), bent_x=radius / breast.stretch,
    )  # fmt: skip


def _gland(canvas: _Canvas) -> np.ndarray:
    """Share of glandular tissue, 0..1: a disc behind the nipple, scalloped towards the fat and broken up by it."""
    breast = canvas.breast
    coarse = canvas.field(1, power_law(2.6, longest_mm=90), at_most=128)
    length = breast.reach * breast.depth
    half = 0.62 * breast.width
    centre = 0.5 * length
    squared = ((canvas.inwards - centre) / (0.55 * length)) ** 2 + (canvas.across / half) ** 2
    scallop = canvas.field(2, lumps(9.0), at_most=256)
    disc = _smooth_step((1.0 - squared + 0.35 * coarse) * 5)
    disc *= _smooth_step((canvas.depth - breast.fat_layer - 1.8 * scallop) / 1.6)
    ducts = canvas.bent_field(3, power_law(breast.exponent, longest_mm=60))
    fine = canvas.field(4, power_law(breast.exponent, longest_mm=35))
    texture = 0.75 * ducts + 0.65 * fine + 0.35 * coarse
    lobules = canvas.bent_field(5, lumps(breast.lobule), at_most=512)
    parenchyma = _smooth_step((texture - breast.cover) * 3.2)
    parenchyma *= 1 - 0.55 * _smooth_step((lobules - 0.9) * 4)
    return disc * parenchyma * np.clip(0.8 + 0.16 * texture, 0.4, 1.3)


def _septa(canvas: _Canvas) -> np.ndarray:
    """Thin bright sheets around the fat lobules, seen edge on: the zero lines of two random fields."""
    total = np.zeros_like(canvas.depth)
    for number, diameter, width in ((6, 11.0, 0.45), (7, 6.0, 0.35)):
        field = canvas.bent_field(number, lumps(diameter))
        slope = np.hypot(*np.gradient(field)) / canvas.mm + 1e-3
        drawn = np.hypot(width, 0.4 * canvas.mm)
        ridge = np.exp(-0.5 * (field / slope / drawn) ** 2) * (width / drawn)
        presence = canvas.field(number + 10, lumps(13.0), at_most=256)
        total += ridge * _smooth_step((presence - 0.1) * 2.5)
    return total


def _random_curves(canvas: _Canvas, rng: np.random.Generator, count: int, length: float, bend: float) -> list[Curve]:
    """Curves that begin anywhere in the breast and run, roughly, along the ducts."""
    breast, outline = canvas.breast, canvas.outline
    pole = outline.nipple - 30 * outline.axis
    curves = []
    step = min(0.5, 0.5 * canvas.mm)
    for _ in range(count):
        start = np.array([rng.random() * breast.depth, outline.nipple[1] + (2 * rng.random() - 1) * breast.width])
        away = start - pole
        heading = np.arctan2(away[1], away[0]) + 0.45 * rng.standard_normal()
        size = length * np.exp(0.4 * rng.standard_normal())
        turn, twist, phase = bend * rng.standard_normal(), bend * rng.standard_normal(), rng.random() * 6.3
        along = np.arange(0, size, step)
        direction = heading + turn * along / 20 + twist * np.sin(along / 7 + phase)
        path = start + np.cumsum(np.column_stack([np.cos(direction), np.sin(direction)]) * step, axis=0)
        weight = np.sin(np.pi * (along + step) / (size + 2 * step)) * (0.4 + 0.6 * rng.random())
        curves.append(Curve(path, weight))
    return curves


def _strands(canvas: _Canvas) -> np.ndarray:
    """Cooper's ligaments and vessels: fine lines, and a few broader tubes."""
    rng = np.random.default_rng(canvas.child(20))
    breast = canvas.breast
    shape = canvas.depth.shape
    ligaments = _random_curves(canvas, rng, int(130 * breast.ligaments), 22.0, 0.35)
    vessels = _random_curves(canvas, rng, 2 + int(5 * breast.vessels), 75.0, 0.25)
    fine = draw_curves(ligaments, shape, canvas.mm, 0.7)
    broad = draw_curves(vessels, shape, canvas.mm, 1.7)
    return 0.09 * np.minimum(fine, 2.0) + 0.10 * np.minimum(broad, 1.4)


def _with_muscle(canvas: _Canvas, grey: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Lays the pectoral muscle over the tissue: brighter towards the armpit, faintly striped along its edge."""
    share = _smooth_step(inside / 1.3)
    y = canvas.y[:, None]
    top = canvas.outline.muscle_bottom or 1.0
    stripes = canvas.field(21, lumps(5.0, spread=0.6), at_most=512)
    level = 0.47 + 0.10 * np.clip(1 - y / top, 0, 1) + 0.05 * np.tanh(inside / 18)
    muscle = level + 0.5 * (grey - canvas.breast.fat_grey) + 0.012 * stripes
    return grey + share * (muscle - grey)


def _paint(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The presentation image in 0..1 before blur and noise, the gland's share and the muscle's depth."""
    breast = canvas.breast
    gland = _gland(canvas)
    fat = breast.fat_grey + 0.022 * canvas.field(8, power_law(breast.exponent, longest_mm=50))
    septa = (0.035 + 0.05 * np.clip(gland, 0, 1)) * breast.ligaments * _septa(canvas)
    deep = np.clip(canvas.depth / 9, 0, 1)
    grey = fat + breast.gland_grey * gland + deep * (septa + _strands(canvas))
    inside = muscle_depth(canvas.outline, canvas.y, canvas.x)
    if canvas.outline.muscle_top is not None:
        grey = _with_muscle(canvas, grey, inside)
    # Beyond the plateau the compressed breast is round; what is left of the fall-off after the maker's equalisation.
    roll = np.clip(canvas.depth / 20, 0, 1)
    thickness = 0.45 + 0.55 * np.sqrt(1 - (1 - roll) ** 2)
    skin = breast.skin * np.exp(-0.5 * ((canvas.depth - 1.3) / 0.8) ** 2)
    edge = np.clip(canvas.depth / canvas.mm + 0.5, 0, 1) * np.clip(0.55 + canvas.depth / 2.5, 0, 1)
    return edge * (grey * thickness + skin), gland, inside


def make_phantom(
    seed: int, patient: int, side: Side, view: View, *, size: int = 512, density: Density | None = None
) -> Phantom:
    """The image of one breast in one view, `size` rows by about 0.8 `size` columns over a field 240 mm high.

    The result depends on the arguments alone: any image can be made by itself, in any order, in any process. Another
    `size` shows the same breast; only detail finer than the coarser pixel, and the noise, differ.

    Raises ValueError for an unknown side, view or density, and for fewer than 32 or more than 4096 rows.
    """
    if side not in SIDES or view not in VIEWS or density not in (None, "A", "B", "C", "D"):
        raise ValueError(f"no such side, view or density: {side!r}, {view!r}, {density!r}; use L/R, CC/MLO, A-D")
    if not 32 <= size <= 4096:
        raise ValueError(f"a phantom has 32 to 4096 rows, not {size}")
    breast = make_breast(seed, patient, side, density)
    source = stream(seed, patient, 1 + SIDES.index(side), 1 + VIEWS.index(view))
    factor = 2 if size < _SUPERSAMPLED_BELOW else 1
    canvas = _make_canvas(breast, view, source, size * factor, factor * image_shape(size)[1])
    grey, gland, inside = _paint(canvas)
    columns = image_shape(size)[1]
    grey, gland, inside, depth = (
        plane.reshape(size, factor, columns, factor).mean((1, 3)) for plane in (grey, gland, inside, canvas.depth)
    )
    mm = FIELD_MM / size
    image = _expose(
        grey, mm, np.random.default_rng(np.random.SeedSequence(source.entropy, spawn_key=(*source.spawn_key, 99, size)))
    )
    mask = depth > 0
    x, y = canvas.outline.nipple / mm - 0.5
    if side == "R":
        image, mask, inside, gland = (plane[:, ::-1] for plane in (image, mask, inside, gland))
        x = columns - 1 - x
    return Phantom(
        image=np.ascontiguousarray(image),
        mask=np.ascontiguousarray(mask),
        muscle=np.ascontiguousarray((inside > 0) & mask),
        gland=np.ascontiguousarray(np.where(mask, np.clip(gland, 0, 1), 0).astype(np.float32)),
        mm_per_pixel=mm,
        patient=patient,
        side=side,
        view=view,
        density=breast.density,
        age=breast.age,
        nipple=(float(x), float(y)),
    )


def _expose(grey: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
    """Detector blur, quantum noise that falls with the pixel's area, a pedestal, and 4096 levels over 0..65535."""
    blurred = ndimage.gaussian_filter(grey, 0.08 / mm) if mm < 0.3 else grey
    spread = (0.0018 / mm) * np.sqrt(0.25 + np.clip(blurred, 0, 1))
    noise = rng.standard_normal(grey.shape, dtype=np.float32) * np.minimum(spread, 0.02)
    levels = np.clip(np.rint((blurred + 0.004 + noise) * _LEVELS), 0, _LEVELS)
    return np.rint(levels * (65535 / _LEVELS)).astype(np.uint16)
