"""Lesions planted into any mammogram, with their truth and a sham twin: the same place and path, and no lesion."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from mammovae.config import LesionKind
from mammovae.perturbations.lesion_shapes import PULLS, SHAPES

LesionFamily = Literal["train", "validation", "test"]

LesionKind = LesionKind
LESION_KINDS: tuple[LesionKind, ...] = ("mass", "spiculated", "calcification", "distortion", "asymmetry")
FAMILIES: tuple[LesionFamily, ...] = ("train", "validation", "test")
"""Learn from the first, choose settings by the second, report the third: they share no shape, blending or number."""

MARGIN_MM = 3.0
"""Least distance between a lesion and the breast's edge."""

_WHITE = 65535.0
_SUBPIXEL_MM = {"calcification": 0.08}
_COARSE_ROWS = 128


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
    kind: LesionKind
    family: LesionFamily
    diameter_mm: float
    contrast: float


def _add(values: np.ndarray, thickness: np.ndarray, rise: float, level: float) -> np.ndarray:
    return values + rise * thickness


def _multiply(values: np.ndarray, thickness: np.ndarray, rise: float, level: float) -> np.ndarray:
    return values * (1 + rise / level * thickness)


def _attenuate(values: np.ndarray, thickness: np.ndarray, rise: float, level: float) -> np.ndarray:
    """Beer and Lambert: what is left of the light, white less the value, falls by exp(-thickness)."""
    left = 1 - values / _WHITE
    share = min(rise / (_WHITE - min(level, 0.95 * _WHITE)), 0.98)
    return _WHITE * (1 - left * np.exp(np.log1p(-share) * thickness))


BLENDINGS: dict[LesionFamily, Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]] = {
    "train": _add,
    "validation": _multiply,
    "test": _attenuate,
}
"""Each raises a pixel of the local mean level by about rise x thickness; they differ away from that level."""


def contrast_unit(image: np.ndarray, mask: np.ndarray) -> float:
    """The grey range that a contrast of 1 stands for: 5th to 95th percentile of the breast's values."""
    low, high = np.percentile(image[mask], (5, 95))
    return float(max(high - low, 1.0))


def insert_lesion(
    image: np.ndarray,
    mask: np.ndarray,
    mm_per_pixel: float,
    *,
    kind: LesionKind,
    family: LesionFamily,
    diameter_mm: float,
    contrast: float,
    seed: int,
) -> InsertedLesion:
    """Plants one lesion inside the breast, away from its edge and from the pectoral muscle's corner.

    `image` (rows, columns) uint16, `mask` (rows, columns) bool. `diameter_mm`, 2 to 40, is the lesion's full extent:
    spikes included, and for calcifications the cluster, whose specks are 0.15 to 0.8 mm and fade in coarse pixels.
    `contrast` >= 0 is the rise at the lesion's thickest point, for a pixel of the local mean grey, as a share of the
    breast's 5th-to-95th-percentile grey range; above 1 is useful for calcium. For a distortion it is the longest
    displacement over half the radius, at most 1.

    The sham holds whatever planting leaves behind beside the lesion. Blending leaves nothing, and the sham equals the
    image to the bit; a distortion is resampled, which softens, and its sham is resampled too, moved by half a pixel at
    most.

    Raises ValueError for values out of range and where the breast has no room for the lesion.
    """
    if kind not in LESION_KINDS or family not in FAMILIES:
        raise ValueError(f"no such lesion: kind {kind!r}, family {family!r}; use {LESION_KINDS} and {FAMILIES}")
    if not 2 <= diameter_mm <= 40 or contrast < 0 or (kind == "distortion" and contrast > 1):
        raise ValueError(
            f"diameter {diameter_mm} mm must be 2 to 40, contrast {contrast} not negative, distortion's at most 1"
        )
    if image.dtype != np.uint16 or image.shape != mask.shape:
        raise ValueError(
            f"need a uint16 image and a mask of its shape, not {image.dtype} {image.shape} and {mask.shape}"
        )
    mask = mask.astype(bool)
    rng = np.random.default_rng(
        np.random.SeedSequence(seed, spawn_key=(FAMILIES.index(family), LESION_KINDS.index(kind)))
    )
    radius = 0.5 * diameter_mm
    y0, x0 = _place(mask, mm_per_pixel, radius, rng)
    reach = int(np.ceil(radius / mm_per_pixel)) + 2
    rows = slice(max(int(y0) - reach, 0), min(int(y0) + reach + 1, image.shape[0]))
    columns = slice(max(int(x0) - reach, 0), min(int(x0) + reach + 1, image.shape[1]))
    window = image[rows, columns].astype(np.float64)
    y = (np.arange(rows.start, rows.stop) - y0) * mm_per_pixel / radius
    x = (np.arange(columns.start, columns.stop) - x0) * mm_per_pixel / radius
    step = mm_per_pixel / radius
    if kind == "distortion":
        pull_y, pull_x = PULLS[family](rng, *np.meshgrid(y, x, indexing="ij"))
        longest = float(np.hypot(pull_y, pull_x).max()) or 1.0
        inside = np.hypot(*np.meshgrid(y, x, indexing="ij")) <= 1

        least = min(contrast, step)

        def blend(amount: float) -> np.ndarray:
            return _warp(window, pull_y * amount / longest, pull_x * amount / longest, 0.5 / step)

    else:
        parts = max(1, int(np.ceil(mm_per_pixel / _SUBPIXEL_MM.get(kind, 0.3))))
        thickness = _area_mean(SHAPES[family][kind], rng, y, x, step, parts, radius)
        inside = _outlined(thickness, kind, mm_per_pixel) & (np.hypot(*np.meshgrid(y, x, indexing="ij")) <= 1 + step)
        least, level = 0.0, float(max(window[mask[rows, columns]].mean(), 1.0))
        unit = contrast_unit(image, mask)

        def blend(amount: float) -> np.ndarray:
            return BLENDINGS[family](window, thickness, amount * unit, level)

    lesion = np.zeros(mask.shape, bool)
    lesion[rows, columns] = inside
    lesion &= mask
    if not lesion.any():
        lesion[round(y0), round(x0)] = True
    found_y, found_x = np.flatnonzero(lesion.any(1)), np.flatnonzero(lesion.any(0))
    return InsertedLesion(
        image=_with_window(image, rows, columns, blend(contrast)),
        sham=_with_window(image, rows, columns, blend(least)),
        lesion=lesion,
        box=(int(found_x[0]), int(found_y[0]), int(found_x[-1]) + 1, int(found_y[-1]) + 1),
        kind=kind,
        family=family,
        diameter_mm=diameter_mm,
        contrast=contrast,
    )


def _with_window(image: np.ndarray, rows: slice, columns: slice, window: np.ndarray) -> np.ndarray:
    result = image.copy()
    result[rows, columns] = np.clip(np.rint(window), 0, _WHITE).astype(np.uint16)
    return result


def _warp(window: np.ndarray, pull_y: np.ndarray, pull_x: np.ndarray, pixels: float) -> np.ndarray:
    """Tissue drawn inwards: each pixel shows what lay further out by the pull."""
    if not (pull_y.any() or pull_x.any()):
        return window
    rows, columns = np.indices(window.shape)
    at = (rows + pixels * pull_y, columns + pixels * pull_x)
    return ndimage.map_coordinates(window, at, order=3, mode="nearest")


def _area_mean(
    shape: Callable[..., np.ndarray],
    rng: np.random.Generator,
    y: np.ndarray,
    x: np.ndarray,
    step: float,
    parts: int,
    radius: float,
) -> np.ndarray:
    """The shape averaged over each pixel from parts x parts points."""
    offsets = ((np.arange(parts) + 0.5) / parts - 0.5) * step
    fine_y, fine_x = np.meshgrid((y[:, None] + offsets).ravel(), (x[:, None] + offsets).ravel(), indexing="ij")
    return shape(rng, fine_y, fine_x, radius).reshape(len(y), parts, len(x), parts).mean((1, 3))


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels to the nearest pixel outside the mask."""
    return np.asarray(ndimage.distance_transform_edt(mask))


def _outlined(thickness: np.ndarray, kind: LesionKind, mm_per_pixel: float) -> np.ndarray:
    if kind != "calcification":
        return thickness > 0.08 * thickness.max()
    reach = max(1, round(1.5 / mm_per_pixel))
    specks = np.pad(thickness > 0.05 * thickness.max(), reach)
    near = _distance(~specks) <= reach
    closed = _distance(near) > reach - 1
    return closed[reach:-reach, reach:-reach]


def _place(mask: np.ndarray, mm_per_pixel: float, radius: float, rng: np.random.Generator) -> tuple[float, float]:
    """A random centre (row, column) with room for radius and margin, outside the pectoral corner where possible."""
    factor = max(1, mask.shape[0] // _COARSE_ROWS)
    small = mask[: mask.shape[0] // factor * factor, : mask.shape[1] // factor * factor]
    small = np.asarray(small.reshape(small.shape[0] // factor, factor, small.shape[1] // factor, factor).all((1, 3)))
    room = _distance(np.pad(small, 1))[1:-1, 1:-1] * factor * mm_per_pixel
    fits = room >= radius + MARGIN_MM
    if not fits.any():
        fits = room >= radius + factor * mm_per_pixel
    if not fits.any():
        raise ValueError(
            f"no room in the breast for a lesion {2 * radius:g} mm wide: at most {2 * room.max():.1f} mm fit"
        )
    free = fits & ~_pectoral_corner(small)
    rows, columns = np.nonzero(free if free.any() else fits)
    chosen = int(rng.integers(len(rows)))
    half = 0.5 * (factor - 1)
    return float(rows[chosen] * factor + half), float(columns[chosen] * factor + half)


def _pectoral_corner(mask: np.ndarray) -> np.ndarray:
    """The triangle at the chest wall's top that an oblique view's muscle fills; empty where the mask looks like CC.

    Told by the breast's width near its top: an oblique view begins broad, a cranio-caudal one at a point.
    """
    corner = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, height = rows[0], rows[-1] - rows[0] + 1
    widths = mask[rows[0] : rows[-1] + 1].sum(1)
    if widths[int(0.03 * height)] < 0.25 * widths.max():
        return corner
    left = mask[:, columns[0]].sum() >= mask[:, columns[-1]].sum()
    from_wall = np.arange(mask.shape[1]) - columns[0] if left else columns[-1] - np.arange(mask.shape[1])
    from_top = np.arange(mask.shape[0]) - top
    return (from_wall[None, :] / (0.55 * widths.max()) + from_top[:, None] / (0.62 * height) < 1) & mask
