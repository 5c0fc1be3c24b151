"""Lesions inserted into any mammogram, with their truth and a sham twin: the same place and steps, but no lesion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates

from mammovae.config import LesionKind
from mammovae.perturbations.lesion_shapes import PULLS, SHAPES

LesionFamily = Literal["validation", "test"]

# Their order is part of the random key: new kinds go at the end.
LESION_KINDS: tuple[LesionKind, ...] = get_args(LesionKind)
FAMILIES: tuple[LesionFamily, ...] = get_args(LesionFamily)
"""Choose settings by the first, report the second: they share no shape, blending or number, nor do training lesions."""

MARGIN_MM = 3.0
"""Least distance between a lesion and the breast's edge."""

DIAMETERS_MM = (5.0, 40.0)
CONTRASTS = (0.15, 0.9)
CALCIFICATION_CONTRAST = 3.0
"""How much more contrast calcifications get: a speck fills a small part of a pixel."""

_WHITE = 65535.0
_SUBPIXEL_MM = {"calcification": 0.08}
_COARSE_ROWS = 128


@dataclass(frozen=True)
class LesionSpec:
    """The lesion to insert; a value out of its range is a ValueError."""

    kind: LesionKind
    family: LesionFamily
    diameter_mm: float
    """Full extent, 2 to 40, with all spikes; for calcifications that of the cluster, whose specks are 0.15 to 0.8 mm
    and fade in coarse pixels."""
    contrast: float
    """Rise at the lesion's thickest point, for a pixel of the local mean grey, as a share of `contrast_unit`: at least
    0, above 1 useful for calcifications. For a distortion the longest displacement over half the radius, at most 1."""
    seed: int

    def __post_init__(self) -> None:
        """Refuse what cannot be inserted."""
        if self.kind not in LESION_KINDS or self.family not in FAMILIES:
            allowed = f"use {LESION_KINDS} and {FAMILIES}"
            raise ValueError(f"no such lesion: kind {self.kind!r}, family {self.family!r}; {allowed}")
        if not 2 <= self.diameter_mm <= 40 or not 0 <= self.contrast <= (1 if self.kind == "distortion" else np.inf):
            contrast = f"contrast {self.contrast} not negative, a distortion's at most 1"
            raise ValueError(f"diameter {self.diameter_mm} mm must be 2 to 40, {contrast}")


@dataclass(frozen=True)
class InsertedLesion:
    """An image with a lesion, its twin without, and the truth.

    `image` and `sham` (rows, columns) uint16; `lesion` (rows, columns) bool, the region a reader would outline (for
    calcifications and distortions the whole cluster); `box` is xmin, ymin, xmax, ymax in half-open pixels.
    """

    image: np.ndarray
    sham: np.ndarray
    lesion: np.ndarray
    box: tuple[int, int, int, int]
    spec: LesionSpec


def _attenuate(values: np.ndarray, thickness: np.ndarray, rise: float, level: float) -> np.ndarray:
    """Apply the law of Beer and Lambert: the remaining light, white less the value, falls by exp(-thickness)."""
    light = 1 - values / _WHITE
    share = min(rise / (_WHITE - min(level, 0.95 * _WHITE)), 0.98)
    return _WHITE * (1 - light * np.exp(np.log1p(-share) * thickness))


_BLENDINGS: dict[LesionFamily, Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]] = {
    "validation": lambda values, thickness, rise, level: values * (1 + rise / level * thickness),
    "test": _attenuate,
}
"""Each raises a pixel of the local mean level by about rise x thickness; they differ away from that level."""


def contrast_unit(image: np.ndarray, mask: np.ndarray) -> float:
    """Return the grey range that a contrast of 1 stands for: 5th to 95th percentile of the breast's values."""
    low, high = np.percentile(image[mask], (5, 95))
    return float(max(high - low, 1.0))


def insert_lesion(image: np.ndarray, mask: np.ndarray, mm_per_pixel: float, spec: LesionSpec) -> InsertedLesion:
    """Insert one lesion inside the breast, away from its edge and from the pectoral muscle's corner.

    The sham holds whatever insertion changes apart from the lesion. Blending changes nothing else, and the sham equals
    the image to the bit; a distortion is resampled, which softens, and its sham is resampled too, moved by half a pixel
    at most. Raises ValueError where image (rows, columns) is not uint16, mask (the breast) has another shape, or the
    breast has no room for the lesion.
    """
    if image.dtype != np.uint16 or image.shape != mask.shape:
        arrays = f"{image.dtype} {image.shape} and {mask.shape}"
        raise ValueError(f"need a uint16 image and a mask of its shape, not {arrays}")
    mask = mask.astype(bool)
    # From 1: published figures were measured on the lesions that these keys draw.
    key = (FAMILIES.index(spec.family) + 1, LESION_KINDS.index(spec.kind))
    rng, radius = np.random.default_rng(np.random.SeedSequence(spec.seed, spawn_key=key)), 0.5 * spec.diameter_mm
    centre, reach = _place(mask, mm_per_pixel, radius, rng), int(np.ceil(radius / mm_per_pixel)) + 2
    rows, columns = (
        np.arange(max(int(middle) - reach, 0), min(int(middle) + reach + 1, size))
        for middle, size in zip(centre, image.shape, strict=True)
    )
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    y, x = (rows - centre[0]) * mm_per_pixel / radius, (columns - centre[1]) * mm_per_pixel / radius
    step, tissue = mm_per_pixel / radius, image[window].astype(np.float64)
    if spec.kind == "distortion":
        with_lesion, without, outline = _distort(tissue, y, x, step, spec, rng)
    else:
        thickness = _thickness(y, x, mm_per_pixel, spec, rng)
        outline = _outline(thickness, spec.kind, mm_per_pixel) & (np.hypot(y[:, None], x) <= 1 + step)
        rise, level = spec.contrast * contrast_unit(image, mask), float(max(tissue[mask[window]].mean(), 1.0))
        with_lesion, without = _BLENDINGS[spec.family](tissue, thickness, rise, level), tissue
    lesion = np.zeros_like(mask)
    lesion[window] = outline & mask[window]
    if not lesion.any():
        lesion[round(centre[0]), round(centre[1])] = True
    ys, xs = np.flatnonzero(lesion.any(1)), np.flatnonzero(lesion.any(0))
    box = int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1
    changed, sham = image.copy(), image.copy()
    for target, values in ((changed, with_lesion), (sham, without)):
        target[window] = np.clip(np.rint(values), 0, _WHITE).astype(np.uint16)
    return InsertedLesion(changed, sham, lesion, box, spec)


def insert_random_lesion(
    image: np.ndarray,
    mask: np.ndarray,
    mm_per_pixel: float,
    family: LesionFamily,
    seed: list[int],
    kinds: Sequence[LesionKind] = LESION_KINDS,
) -> InsertedLesion | None:
    """Insert one lesion of a kind drawn from kinds, of random size and contrast; None where the breast has no room.

    Diameter log-uniform in 5 to 40 mm, contrast log-uniform in 0.15 to 0.9 (thrice that for calcifications). image
    (rows, columns) uint16, mask (rows, columns); seed decides everything.
    """
    rng = np.random.default_rng([*seed, 77])
    kind = kinds[int(rng.integers(len(kinds)))]
    diameter, contrast = (float(np.exp(rng.uniform(*np.log(span)))) for span in (DIAMETERS_MM, CONTRASTS))
    contrast *= CALCIFICATION_CONTRAST if kind == "calcification" else 1.0
    for shrink in (1.0, 0.5, 0.25):
        try:
            spec = LesionSpec(kind, family, max(2.0, diameter * shrink), contrast, int(rng.integers(2**31)))
            return insert_lesion(image, mask > 0, mm_per_pixel, spec)
        except ValueError:
            continue
    return None


def _distort(
    tissue: np.ndarray, y: np.ndarray, x: np.ndarray, step: float, spec: LesionSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pull tissue inwards, its sham half a pixel at most, and give the lesion's region; y, x and a step in radii."""
    pull_y, pull_x = PULLS[spec.family](rng, *np.meshgrid(y, x, indexing="ij"))
    longest = float(np.hypot(pull_y, pull_x).max()) or 1.0
    rows, columns = np.indices(tissue.shape)

    def warp(amount: float) -> np.ndarray:
        moved_y, moved_x = pull_y * amount / longest, pull_x * amount / longest
        if not (moved_y.any() or moved_x.any()):
            return tissue
        source = rows + 0.5 / step * moved_y, columns + 0.5 / step * moved_x
        return map_coordinates(tissue, source, order=3, mode="nearest")

    return warp(spec.contrast), warp(min(spec.contrast, step)), np.hypot(y[:, None], x) <= 1


def _thickness(
    y: np.ndarray, x: np.ndarray, mm_per_pixel: float, spec: LesionSpec, rng: np.random.Generator
) -> np.ndarray:
    """Average the lesion's shape over each pixel, from several points a side; positions in radii."""
    radius, points = 0.5 * spec.diameter_mm, max(1, int(np.ceil(mm_per_pixel / _SUBPIXEL_MM.get(spec.kind, 0.3))))
    offsets = ((np.arange(points) + 0.5) / points - 0.5) * (mm_per_pixel / radius)
    fine_y, fine_x = np.meshgrid((y[:, None] + offsets).ravel(), (x[:, None] + offsets).ravel(), indexing="ij")
    shape = SHAPES[spec.family][spec.kind](rng, fine_y, fine_x, radius)
    return shape.reshape(len(y), points, len(x), points).mean((1, 3))


def _outline(thickness: np.ndarray, kind: LesionKind, mm_per_pixel: float) -> np.ndarray:
    """Return the region that a reader would outline; specks nearer than 3 mm to each other are one cluster."""
    if kind != "calcification":
        return thickness > 0.08 * thickness.max()
    reach = max(1, round(1.5 / mm_per_pixel))
    specks = np.pad(thickness > 0.05 * thickness.max(), reach)
    near = np.asarray(distance_transform_edt(~specks)) <= reach
    return (np.asarray(distance_transform_edt(near)) > reach - 1)[reach:-reach, reach:-reach]


def _place(mask: np.ndarray, mm_per_pixel: float, radius: float, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a centre (row, column) with room for radius and margin, outside the pectoral corner where possible."""
    factor = max(1, mask.shape[0] // _COARSE_ROWS)
    small = mask[: mask.shape[0] // factor * factor, : mask.shape[1] // factor * factor]
    small = np.asarray(small.reshape(small.shape[0] // factor, factor, small.shape[1] // factor, factor).all((1, 3)))
    room = np.asarray(distance_transform_edt(np.pad(small, 1)))[1:-1, 1:-1] * factor * mm_per_pixel
    fits = room >= radius + MARGIN_MM
    if not fits.any():
        fits = room >= radius + factor * mm_per_pixel
    if not fits.any():
        widest = f"at most {2 * room.max():.1f} mm fit"
        raise ValueError(f"no room in the breast for a lesion {2 * radius:g} mm wide: {widest}")
    free = fits & ~_pectoral_corner(small)
    rows, columns = np.nonzero(free if free.any() else fits)
    chosen, half = int(rng.integers(len(rows))), 0.5 * (factor - 1)
    return float(rows[chosen] * factor + half), float(columns[chosen] * factor + half)


def _pectoral_corner(mask: np.ndarray) -> np.ndarray:
    """Return the triangle at the chest wall's top that an oblique view's muscle fills; empty where the view seems CC.

    The breast's width near its top decides: an oblique view begins broad, a cranio-caudal one at a point.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, height = rows[0], rows[-1] - rows[0] + 1
    widths = mask[top : top + height].sum(1)
    if widths[int(0.03 * height)] < 0.25 * widths.max():
        return np.zeros_like(mask)
    left = mask[:, columns[0]].sum() >= mask[:, columns[-1]].sum()
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    from_wall = x - columns[0] if left else columns[-1] - x
    return (from_wall / (0.55 * widths.max()) + (y - top) / (0.62 * height) < 1) & mask
