"""Outlines of a compressed breast in either view: skin, nipple and pectoral muscle, in mm from the top left."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import KDTree

from mammovae.config import View
from mammovae.phantoms.fields import FIELD_MM, clip, interpolation_matrix, separable
from mammovae.phantoms.patient import Breast

FIELD_WIDTH_MM = FIELD_MM * 2800 / 3518
_STEP_MM = 2.5


@dataclass(frozen=True)
class Outline:
    """One view's shapes with the chest wall at x = 0.

    `skin` (points, 2) runs from top to bottom with y rising; `axis` is the unit vector from the nipple inwards;
    `muscle_top` and `muscle_bottom` are where the pectoral edge meets the image's top and the chest wall (None in CC).
    """

    skin: np.ndarray
    nipple: np.ndarray
    axis: np.ndarray
    muscle_top: float | None = None
    muscle_bottom: float | None = None
    muscle_bend: float = 1.0


def _cranio_caudal(breast: Breast, rng: np.random.Generator) -> Outline:
    normal = rng.standard_normal(8)
    width = min(breast.width, 116.0)
    centre = FIELD_MM / 2 + clip(4 * normal[0], -8, 8)
    upper, lower = width * (1 + 0.04 * normal[1]), width * (1 + 0.04 * normal[2])
    bluntness = clip(0.93 + 0.06 * normal[3], 0.8, 1.05)
    # The ellipse's middle lies behind the chest wall, which the skin therefore meets at a slant.
    behind = 0.22 * breast.depth
    angle = np.linspace(-np.pi / 2, np.pi / 2, 361)
    reach = np.abs(np.sin(angle)) ** bluntness
    y = centre + np.sign(angle) * reach * np.where(angle < 0, upper, lower) * 1.02
    x = (breast.depth + behind) * np.cos(angle) ** (bluntness * 0.96) - behind
    skin = np.concatenate([[[-30.0, y[0] - 20.0]], np.column_stack([x, y]), [[-30.0, y[-1] + 20.0]]])
    lean = 0.10 * float(normal[4])
    axis = np.array([-np.cos(lean), np.sin(lean)])
    return Outline(skin=skin, nipple=np.array([breast.depth, centre]), axis=axis)


def _oblique(breast: Breast, rng: np.random.Generator) -> Outline:
    normal = rng.standard_normal(10)
    uniform = rng.random(4)
    depth = breast.depth * clip(1.02 + 0.02 * normal[0], 0.97, 1.07)
    nipple_y = clip(134 + 0.25 * (breast.width - 95) + 7 * normal[1], 110, 165)
    fold_y = clip(nipple_y + 0.88 * breast.width + 6 * normal[2], nipple_y + 50, 252)
    fold_x = 2 + 10 * uniform[0]
    top = clip(depth * (0.52 + 0.08 * normal[3]), 30, 110)
    t = np.linspace(0, 1, 240, endpoint=False)
    convex = clip(0.55 + 0.2 * normal[4], 0.15, 0.95)
    rise = convex * np.sin(np.pi * t / 2) + (1 - convex) * t * t * (3 - 2 * t)
    upper = np.column_stack([top + (depth - top) * rise, nipple_y * t])
    angle = np.linspace(0, np.pi / 2, 240)
    x, y = (depth - fold_x) * np.cos(angle) ** 0.92, (fold_y - nipple_y) * np.sin(angle) ** 0.95
    lower = np.column_stack([fold_x + x, nipple_y + y])
    below = np.linspace(0.5, 60, 60)
    belly = np.column_stack([fold_x + (2 + 8 * uniform[1]) * (1 - np.exp(-below / 12)), fold_y + below])
    tilt = breast.tilt
    return Outline(
        skin=np.concatenate([[[top - 3.0, -20.0]], upper, lower, belly]),
        nipple=np.array([depth, nipple_y]),
        axis=np.array([-np.cos(tilt), -np.sin(tilt)]),
        muscle_top=clip(top * (0.45 + 0.5 * breast.muscle) + 3 * normal[5], 14, top - 6),
        muscle_bottom=clip(95 + 75 * breast.muscle + 8 * normal[6], 60, nipple_y + 30),
        muscle_bend=clip(1.15 + 0.22 * normal[7], 0.8, 1.7),
    )


def make_outline(breast: Breast, view: View, rng: np.random.Generator) -> Outline:
    """Draw the shapes of one view, with a smooth unevenness of the skin of about a millimetre."""
    outline = _cranio_caudal(breast, rng) if view == "CC" else _oblique(breast, rng)
    y = outline.skin[:, 1]
    uneven = np.zeros_like(y)
    for wavelength, size in ((110, 1.4), (55, 0.6), (28, 0.25)):
        phase, strength = rng.random() * 2 * np.pi, rng.standard_normal()
        uneven += size * strength * np.sin(2 * np.pi * (y - outline.nipple[1]) / wavelength + phase)
    fade = np.clip((outline.skin[:, 0] - 5) / 25, 0, 1)
    skin = outline.skin + np.column_stack([uneven * fade, np.zeros_like(y)])
    at_nipple = float(np.interp(outline.nipple[1], skin[:, 1], skin[:, 0]))
    return replace(outline, skin=skin, nipple=np.array([at_nipple, outline.nipple[1]]))


def depth_below_skin(outline: Outline, y_mm: np.ndarray, x_mm: np.ndarray, nipple_mm: float) -> np.ndarray:
    """Return the distance to the skin in mm, (rows, columns), positive inside.

    `nipple_mm` is how far the nipple stands out. Computed on a coarse grid and enlarged: smooth at every pixel size,
    and the same shape at all of them.
    """
    rows = np.arange(-2, FIELD_MM / _STEP_MM + 3) * _STEP_MM
    columns = np.arange(-2, FIELD_WIDTH_MM / _STEP_MM + 3) * _STEP_MM
    steps = np.hypot(*np.diff(outline.skin, axis=0).T)
    along = np.concatenate([[0], np.cumsum(steps)])
    dense = np.arange(0, along[-1], 0.8)
    line = np.column_stack([np.interp(dense, along, outline.skin[:, i]) for i in (0, 1)])
    grid_y, grid_x = np.meshgrid(rows, columns, indexing="ij")
    distance, _ = KDTree(line).query(np.column_stack([grid_x.ravel(), grid_y.ravel()]))
    edge = np.interp(rows, outline.skin[:, 1], outline.skin[:, 0])
    depth = np.where(grid_x < edge[:, None], 1, -1) * distance.reshape(grid_x.shape)
    to_rows = interpolation_matrix((y_mm - rows[0]) / _STEP_MM, len(rows), wrap=False)
    to_columns = interpolation_matrix((x_mm - columns[0]) / _STEP_MM, len(columns), wrap=False)
    depth = separable(to_rows, to_columns, depth.astype(np.float32))
    radius = 5.5
    bump = radius - np.hypot(
        x_mm[None, :].astype(np.float32) - float(outline.nipple[0] + nipple_mm - radius),
        y_mm[:, None].astype(np.float32) - float(outline.nipple[1]),
    )
    # A smooth maximum joins nipple and skin without a crease.
    return 0.5 * (depth + bump + np.sqrt((depth - bump) ** 2 + 1.5)) - 0.1


def muscle_depth(outline: Outline, y_mm: np.ndarray, x_mm: np.ndarray) -> np.ndarray:
    """Return the distance in mm, about, from the pectoral muscle's edge, positive in the muscle; (rows, columns)."""
    if outline.muscle_top is None or outline.muscle_bottom is None:
        return np.full((len(y_mm), len(x_mm)), -np.inf, np.float32)
    share = np.clip(y_mm / outline.muscle_bottom, 0, None)
    edge = outline.muscle_top * (1 - share**outline.muscle_bend)
    slope = outline.muscle_top / outline.muscle_bottom
    return ((edge[:, None] - x_mm[None, :]) / np.hypot(1, slope)).astype(np.float32)
