"""Synthetic mammograms of healthy breasts, with known truth: any patient, side and view, at any pixel size.

Composed in the image plane from anatomical parts, where Bakic, Albert, Brzakovic & Maidment, Med. Phys. 29 (2002)
project a breast in three dimensions: fast, at the price that CC and MLO agree in kind and not in every strand.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mammovae.config import DensityClass, Side, View
from mammovae.phantoms import fields
from mammovae.phantoms.fields import FIELD_MM, Curve, lumps, power_law
from mammovae.phantoms.patient import (
    SIDES,
    VIEWS,
    Breast,
    Outline,
    depth_below_skin,
    make_breast,
    make_outline,
    muscle_depth,
)

_LEVELS = 4095
_SUPERSAMPLED_BELOW = 300
_BENT_POINTS = 2048
_NIPPLE_ROOM_MM = 12.0
_POLE_MM = 45.0


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
    density: DensityClass
    age: int
    nipple: tuple[float, float]


def image_shape(size: int) -> tuple[int, int]:
    """Return rows and columns of an image of `size` rows, in the proportions of a 3518 x 2800 detector."""
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
    along_ducts: tuple[np.ndarray, np.ndarray]
    """Positions in coordinates bent along the ducts, stretched; (rows, columns) each."""

    def field(self, number: int, amplitude: fields.Amplitude, *, at_most: int = 4096) -> np.ndarray:
        """Return an isotropic random field on the canvas."""
        field = fields.random_field(fields.child(self.source, number), min(self.points, at_most), amplitude)
        return fields.resample(field, self.y, self.x)

    def bent_field(self, number: int, amplitude: fields.Amplitude) -> np.ndarray:
        """Return a random field elongated along the ducts."""
        field = fields.random_field(fields.child(self.source, number), min(self.points, _BENT_POINTS), amplitude)
        return fields.look_up(field, *self.along_ducts)


def _make_canvas(breast: Breast, view: View, source: np.random.SeedSequence, size: int) -> _Canvas:
    """Make a canvas of `size` rows and an even number of columns, just wide enough for the breast."""
    mm = FIELD_MM / size
    outline = make_outline(breast, view, np.random.default_rng(source))
    columns = 2 * int(np.ceil((outline.skin[:, 0].max() + _NIPPLE_ROOM_MM) / mm / 2))
    y, x = (np.arange(size) + 0.5) * mm, (np.arange(columns) + 0.5) * mm
    depth = depth_below_skin(outline, y, x, 1.0 + 6.0 * max(0.0, breast.nipple_in_profile - 0.35))
    dy = (y - outline.nipple[1])[:, None].astype(np.float32)
    dx = (x - outline.nipple[0])[None, :].astype(np.float32)
    ax, ay = map(float, outline.axis)
    inwards, across = dx * ax + dy * ay, dx * ay - dy * ax
    # Ducts fan out from a pole in front of the nipple.
    angle = np.arctan2(across, np.maximum(inwards + _POLE_MM, 1))
    along_ducts = angle * (_POLE_MM + 0.5 * breast.depth), np.hypot(inwards + _POLE_MM, across) / breast.stretch
    points = fields.grid_points(size)
    return _Canvas(breast, outline, source, points, mm, y, x, depth, inwards, across, along_ducts)


def _web(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Draw sheets between the lobules, seen edge on: zero lines of random fields, thin (septa) and broad (strands)."""
    thin, broad = np.zeros_like(canvas.depth), np.zeros_like(canvas.depth)
    for number, diameter, width, share in ((6, 12.0, 0.5, 0.5), (7, 6.0, 0.4, 0.35), (8, 3.0, 0.3, 0.25)):
        field = canvas.bent_field(number, lumps(diameter))
        broad += share * np.exp(-((field / 0.45) ** 2))
        if diameter < 4:
            continue
        slope = np.hypot(*np.gradient(field)) / canvas.mm + 0.25 / diameter
        blurred = np.hypot(width, 0.4 * canvas.mm)
        presence = canvas.field(number + 10, lumps(13.0), at_most=256)
        line = np.exp(-0.5 * (field / slope / blurred) ** 2) * (width / blurred)
        thin += line * _smooth_step((presence - 0.2) * 2.5)
    return thin, broad


def _gland(canvas: _Canvas, strands: np.ndarray) -> np.ndarray:
    """Return the share of glandular tissue, 0..1: a disc behind the nipple, scalloped and broken up by fat."""
    breast = canvas.breast
    coarse = canvas.field(1, power_law(2.6, longest_mm=90), at_most=128)
    length = breast.reach * breast.depth
    squared = ((canvas.inwards - 0.5 * length) / (0.55 * length)) ** 2 + (canvas.across / (0.66 * breast.width)) ** 2
    scallop = canvas.field(2, lumps(breast.lobule), at_most=256)
    disc = _smooth_step((1.0 - squared + 0.3 * coarse) * 4)
    disc *= _smooth_step((canvas.depth - breast.fat_layer - 2.2 * scallop) / 1.8)
    ducts = canvas.bent_field(3, power_law(breast.exponent, longest_mm=60))
    fine = canvas.field(4, power_law(breast.exponent, longest_mm=30))
    texture = 0.75 * ducts + 0.3 * fine + 0.45 * coarse + 0.3 * scallop + 1.1 * breast.web * (strands - 0.45)
    parenchyma = _smooth_step((texture - breast.cover) * 2.3)
    inner = 0.64 + 0.12 * ducts + 0.10 * fine + 0.48 * breast.web * (strands - 0.4)
    return disc * parenchyma * np.clip(inner, 0.15, 1.3)


def _random_curves(canvas: _Canvas, rng: np.random.Generator, count: int, length: float, bend: float) -> list[Curve]:
    """Draw curves that begin anywhere in the breast and run, roughly, along the ducts."""
    breast, outline = canvas.breast, canvas.outline
    pole, step, curves = outline.nipple - _POLE_MM * outline.axis, min(0.5, 0.5 * canvas.mm), []
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
        curves.append((path, weight))
    return curves


def _lines(canvas: _Canvas) -> np.ndarray:
    """Draw Cooper's ligaments and vessels: fine lines, and a few broader tubes."""
    rng, breast, shape = np.random.default_rng(fields.child(canvas.source, 20)), canvas.breast, canvas.depth.shape
    ligaments = _random_curves(canvas, rng, int(130 * breast.ligaments), 26.0, 0.16)
    vessels = _random_curves(canvas, rng, 2 + int(5 * breast.vessels), 85.0, 0.16)
    fine = fields.draw_curves(ligaments, shape, canvas.mm, 0.55)
    broad = fields.draw_curves(vessels, shape, canvas.mm, 1.7)
    return 0.09 * np.minimum(fine, 2.0) + 0.11 * np.minimum(broad, 1.4)


def _with_muscle(canvas: _Canvas, grey: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Lay the pectoral muscle over the tissue: brighter towards the armpit, faintly striped along its edge."""
    stripes = canvas.field(21, lumps(7.0, spread=0.6), at_most=256)
    upwards = np.clip(1 - canvas.y[:, None] / (canvas.outline.muscle_bottom or 1.0), 0, 1)
    level = 0.47 + 0.10 * upwards + 0.05 * np.tanh(inside / 18)
    muscle = level + 0.3 * (grey - canvas.breast.fat_grey) + 0.006 * stripes
    return grey + _smooth_step(inside / 1.3) * (muscle - grey)


def _paint(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the presentation image in 0..1 before blur and noise, the gland's share and the muscle's depth."""
    breast = canvas.breast
    septa, strands = _web(canvas)
    gland = _gland(canvas, strands)
    fat = breast.fat_grey + 0.022 * canvas.field(9, power_law(breast.exponent, longest_mm=50)) + 0.02 * strands
    # Lines show against fat; within gland there is little to set them off.
    lines = (0.05 * breast.ligaments * septa + _lines(canvas)) * (1 - 0.6 * np.clip(gland, 0, 1))
    grey = fat + breast.gland_grey * gland + np.clip(canvas.depth / 9, 0, 1) * lines
    inside = muscle_depth(canvas.outline, canvas.y, canvas.x)
    if canvas.outline.muscle_top is not None:
        grey = _with_muscle(canvas, grey, inside)
    # Beyond the plateau the compressed breast is round; what is left of the fall-off after the maker's
    # equalisation (Byng, Critten & Yaffe, Radiology 203, 1997).
    roll = np.clip(canvas.depth / breast.roll_off, 0, 1)
    thickness = 0.4 + 0.6 * np.sqrt(1 - (1 - roll) ** 2)
    uneven = 1 + 0.5 * canvas.field(22, lumps(40.0), at_most=64)
    skin = breast.skin * np.clip(uneven, 0.1, 2) * np.exp(-0.5 * ((canvas.depth - 1.2) / 0.7) ** 2)
    edge = np.clip(canvas.depth / canvas.mm + 0.5, 0, 1) * np.clip(0.45 + canvas.depth / 3, 0, 1)
    return edge * (grey * thickness + skin), gland, inside


def _to_pixels(plane: np.ndarray, factor: int, columns: int, beyond: float) -> np.ndarray:
    """Take the area mean over factor x factor points, cut or filled with `beyond` to the image's columns."""
    rows, width = plane.shape[0] // factor, plane.shape[1] // factor
    pixels = plane.reshape(rows, factor, width, factor).mean((1, 3)) if factor > 1 else plane
    return np.pad(pixels[:, :columns], ((0, 0), (0, max(0, columns - width))), constant_values=beyond)


def make_phantom(
    seed: int, patient: int, side: Side, view: View, *, size: int = 512, density: DensityClass | None = None
) -> Phantom:
    """Make the image of one breast in one view, `size` rows by about 0.8 `size` columns over a field 240 mm high.

    The result depends on the arguments alone: any image can be made by itself, in any order, in any process. Another
    `size` shows the same breast; only detail finer than the coarser pixel, and the noise, differ.

    Raises ValueError for an unknown side, view or density, and for fewer than 32 or more than 4096 rows.
    """
    if side not in SIDES or view not in VIEWS or density not in (None, "A", "B", "C", "D"):
        raise ValueError(f"no such side, view or density: {side!r}, {view!r}, {density!r}; use L/R, CC/MLO, A-D")
    if not 32 <= size <= 4096:
        raise ValueError(f"a phantom has 32 to 4096 rows, not {size}")
    breast = make_breast(seed, patient, side, density)
    source = fields.stream(seed, patient, 1 + SIDES.index(side), 1 + VIEWS.index(view))
    factor = 2 if size < _SUPERSAMPLED_BELOW else 1
    canvas = _make_canvas(breast, view, source, size * factor)
    columns, mm = image_shape(size)[1], FIELD_MM / size
    grey, gland, inside, depth = (
        _to_pixels(plane, factor, columns, beyond)
        for plane, beyond in zip((*_paint(canvas), canvas.depth), (0.0, 0.0, -np.inf, -np.inf), strict=True)
    )
    image, mask = _expose(grey, mm, np.random.default_rng(fields.child(source, 99, size))), depth > 0
    gland = np.where(mask, np.clip(gland, 0, 1), 0).astype(np.float32)
    x, y = map(float, canvas.outline.nipple / mm - 0.5)
    planes = image, mask, (inside > 0) & mask, gland
    if side == "R":
        planes, x = [plane[:, ::-1] for plane in planes], columns - 1 - x
    image, mask, muscle, gland = map(np.ascontiguousarray, planes)
    return Phantom(image, mask, muscle, gland, mm, patient, side, view, breast.density, breast.age, (x, y))


def _expose(grey: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
    """Detector blur, quantum noise that falls with the pixel's area, a pedestal, and 4096 levels over 0..65535."""
    blurred = ndimage.gaussian_filter(grey, 0.08 / mm) if mm < 0.3 else grey
    spread = (0.0018 / mm) * np.sqrt(0.25 + np.clip(blurred, 0, 1))
    noise = rng.standard_normal(grey.shape, dtype=np.float32) * np.minimum(spread, 0.02)
    levels = np.clip(np.rint((blurred + 0.004 + noise) * _LEVELS), 0, _LEVELS)
    return np.rint(levels * (65535 / _LEVELS)).astype(np.uint16)
