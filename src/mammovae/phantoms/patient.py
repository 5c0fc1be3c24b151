"""Parameters of a phantom patient's breasts: those that her four images share, and those that differ by side."""

from dataclasses import asdict, dataclass
from typing import get_args

import numpy as np

from mammovae.config import DensityClass, Side, View
from mammovae.phantoms.fields import clip, stream

SIDES: tuple[Side, ...] = get_args(Side)
VIEWS: tuple[View, ...] = get_args(View)
DENSITY_SHARES: dict[DensityClass, float] = {"A": 0.1, "B": 0.4, "C": 0.4, "D": 0.1}
"""Shares of the BI-RADS density classes in a screened population, about 10/40/40/10 %."""


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
    uniform = rng.random(16)
    normal = rng.standard_normal(16)
    shares = np.cumsum(list(DENSITY_SHARES.values()))
    classes = list(DENSITY_SHARES)
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
    shared = make_patient(seed, patient, density)
    rng = np.random.default_rng(stream(seed, patient, 1 + SIDES.index(side)))
    normal = rng.standard_normal(12)
    values = asdict(shared)
    values["depth"] *= clip(1 + 0.025 * normal[0], 0.93, 1.07)
    values["width"] *= clip(1 + 0.02 * normal[1], 0.94, 1.06)
    values["fat_layer"] *= clip(1 + 0.06 * normal[2], 0.85, 1.15)
    values["cover"] += 0.08 * float(normal[3])
    values["reach"] = clip(values["reach"] + 0.02 * normal[4], 0.45, 0.98)
    values["fat_grey"] += 0.006 * float(normal[5])
    values["gland_grey"] += 0.008 * float(normal[6])
    return Breast(
        **values, side=side, tilt=0.42 + 0.12 * float(normal[7]), nipple_in_profile=clip(0.55 + 0.4 * normal[8], 0, 1)
    )
