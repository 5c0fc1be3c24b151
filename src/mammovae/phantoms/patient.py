"""Phantom patients: what their four images share and what differs by side, and the breast's outlines in either view.

Outlines (skin, nipple, pectoral muscle) are in mm from the top left, with the chest wall at x = 0.
"""

from dataclasses import asdict, dataclass, replace
from typing import get_args

import numpy as np
from scipy.spatial import KDTree

from mammovae.config import DensityClass, Side, View
from mammovae.phantoms.fields import FIELD_MM, clip, interpolate, stream

SIDES: tuple[Side, ...] = get_args(Side)
VIEWS: tuple[View, ...] = get_args(View)
DENSITY_SHARES: dict[DensityClass, float] = {"A": 0.1, "B": 0.4, "C": 0.4, "D": 0.1}
"""Shares of the BI-RADS density classes in a screened population, about 10/40/40/10 %."""

_FIELD_WIDTH_MM = FIELD_MM * 2800 / 3518
_STEP_MM = 2.5


@dataclass(frozen=True)
class Patient:
    """What both breasts of a patient have in common. Lengths in mm, shares in 0..1."""

    density: DensityClass
    depth: float
    """From chest wall to nipple under compression."""
    width: float
    """Half the extent along the chest wall."""
    fat_layer: float
    """Between the skin and the glandular disc."""
    cover: float
    """How much of the disc's area is gland: the threshold of the texture, in its standard deviations."""
    reach: float
    """How far the disc reaches from the nipple to the chest wall, as a share of the depth."""
    exponent: float
    stretch: float
    """How elongated the texture is along the ducts."""
    lobule: float
    """Diameter of the fat lobules."""
    web: float
    """How much of the gland's texture is strands rather than cloud."""
    roll_off: float
    """Over how many mm from the skin the breast's thickness reaches its plateau."""
    fat_grey: float
    gland_grey: float
    skin: float
    ligaments: float
    vessels: float
    muscle: float
    age: int


@dataclass(frozen=True)
class Breast(Patient):
    """A patient's parameters as one side has them: near those of the other side, never equal."""

    side: Side
    tilt: float
    """Of the ducts' axis towards the armpit, in radians, in the MLO view."""
    nipple_in_profile: float


def make_patient(seed: int, patient: int, density: DensityClass | None = None) -> Patient:
    """Draw the shared parameters of patient number `patient`; a given density replaces the drawn one, nothing else."""
    rng = np.random.default_rng(stream(seed, patient))
    uniform, normal = rng.random(16), rng.standard_normal(16)
    classes, shares = list(DENSITY_SHARES), np.cumsum(list(DENSITY_SHARES.values()))
    density = density or classes[int(np.searchsorted(shares, uniform[0], side="right").clip(0, 3))]
    rank = classes.index(density)
    depth = clip(108 - 6 * rank + 19 * normal[0], 62, 160)
    width = clip(0.5 * depth + 48 + 8 * normal[1], 66, 116)
    return Patient(
        density=density,
        depth=depth,
        width=width,
        fat_layer=clip((15, 12, 9, 6)[rank] * (depth / 95) ** 0.5 + 2 * normal[2], 3.5, 24),
        cover=(1.15, 0.45, -0.35, -1.3)[rank] + 0.2 * float(normal[3]),
        reach=clip((0.72, 0.74, 0.8, 0.88)[rank] + 0.07 * normal[4], 0.5, 0.98),
        exponent=clip(3.0 + 0.15 * normal[5], 2.7, 3.3),
        stretch=1.5 + 0.9 * float(uniform[1]),
        lobule=6.0 + 5.0 * float(uniform[2]),
        web=0.35 + 0.8 * float(uniform[8]),
        roll_off=14.0 + 16.0 * float(uniform[9]),
        fat_grey=0.25 + 0.05 * float(uniform[3]) + 0.012 * rank,
        gland_grey=0.34 + 0.08 * float(uniform[4]),
        skin=0.02 + 0.08 * float(uniform[5]),
        ligaments=0.6 + 0.8 * float(uniform[6]),
        vessels=float(uniform[7]),
        muscle=clip(0.5 + 0.22 * normal[6], 0, 1),
        age=int(np.clip(round(57 - 4 * (rank - 1.5) + 9 * normal[7]), 35, 89)),
    )


def make_breast(seed: int, patient: int, side: Side, density: DensityClass | None = None) -> Breast:
    """Draw this side's own small deviations from the patient's parameters."""
    normal = np.random.default_rng(stream(seed, patient, 1 + SIDES.index(side))).standard_normal(12)
    values = asdict(make_patient(seed, patient, density))
    values["depth"] *= clip(1 + 0.025 * normal[0], 0.93, 1.07)
    values["width"] *= clip(1 + 0.02 * normal[1], 0.94, 1.06)
    values["fat_layer"] *= clip(1 + 0.06 * normal[2], 0.85, 1.15)
    values["cover"] += 0.08 * float(normal[3])
    values["reach"] = clip(values["reach"] + 0.02 * normal[4], 0.45, 0.98)
    values["fat_grey"] += 0.006 * float(normal[5])
    values["gland_grey"] += 0.008 * float(normal[6])
    tilt, in_profile = 0.42 + 0.12 * float(normal[7]), clip(0.55 + 0.4 * normal[8], 0, 1)
    return Breast(**values, side=side, tilt=tilt, nipple_in_profile=in_profile)


@dataclass(frozen=True)
class Outline:
    """One view's shapes.

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
    normal, width = rng.standard_normal(8), min(breast.width, 116.0)
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
    return Outline(skin, np.array([breast.depth, centre]), np.array([-np.cos(lean), np.sin(lean)]))


def _oblique(breast: Breast, rng: np.random.Generator) -> Outline:
    normal, uniform = rng.standard_normal(10), rng.random(4)
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
    return Outline(
        skin=np.concatenate([[[top - 3.0, -20.0]], upper, lower, belly]),
        nipple=np.array([depth, nipple_y]),
        axis=np.array([-np.cos(breast.tilt), -np.sin(breast.tilt)]),
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
    """Return the distance to the skin in mm, (rows, columns), positive inside, of a nipple standing out `nipple_mm`.

    Computed on a coarse grid and enlarged: smooth at every pixel size, and the same shape at all of them.
    """
    rows = np.arange(-2, FIELD_MM / _STEP_MM + 3) * _STEP_MM
    columns = np.arange(-2, _FIELD_WIDTH_MM / _STEP_MM + 3) * _STEP_MM
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(outline.skin, axis=0).T))])
    dense = np.arange(0, along[-1], 0.8)
    line = np.column_stack([np.interp(dense, along, outline.skin[:, i]) for i in (0, 1)])
    grid_y, grid_x = np.meshgrid(rows, columns, indexing="ij")
    distance, _ = KDTree(line).query(np.column_stack([grid_x.ravel(), grid_y.ravel()]))
    edge = np.interp(rows, outline.skin[:, 1], outline.skin[:, 0])
    depth = np.where(grid_x < edge[:, None], 1, -1) * distance.reshape(grid_x.shape)
    to_rows, to_columns = (y_mm - rows[0]) / _STEP_MM, (x_mm - columns[0]) / _STEP_MM
    depth = interpolate(depth.astype(np.float32), to_rows, to_columns, wrap=False)
    radius = 5.5
    dx = x_mm[None, :].astype(np.float32) - float(outline.nipple[0] + nipple_mm - radius)
    dy = y_mm[:, None].astype(np.float32) - float(outline.nipple[1])
    bump = radius - np.hypot(dx, dy)
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
