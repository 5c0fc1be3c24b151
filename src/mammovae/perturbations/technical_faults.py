"""Technical faults inserted into source images and their header rows: what an archive has to be rid of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from mammovae.perturbations import foreign_objects as objects

FaultFamily = Literal["validation", "test"]
Range = tuple[float, float]


@dataclass(frozen=True)
class SourceImage:
    """A source image as archives hold it, and the side and view of its header or table, None where unknown."""

    pixels: np.ndarray
    """(rows, columns) uint16, bright where tissue is dense."""
    side: str | None
    view: str | None


@dataclass(frozen=True)
class FaultContext:
    """What faults need to know of a source image, and the other images that some of them show.

    `breast` (rows, columns) bool; `chest_wall` the image's edge at which the chest wall lies; `donor` another healthy
    image for a double exposure and `other_view` an image of the other view, both (rows, columns) uint16.
    """

    breast: np.ndarray
    chest_wall: Literal["left", "right"]
    mm_per_pixel: float
    donor: np.ndarray
    other_view: np.ndarray


@dataclass(frozen=True)
class _Scene(FaultContext):
    """An image to damage: `grey` (rows, columns) float32 in 0..1; `test` whether the family is test."""

    grey: np.ndarray
    test: bool
    rng: np.random.Generator

    def between(self, validation: Range, test: Range) -> float:
        """Draw a number from the range of the family."""
        return float(self.rng.uniform(*(test if self.test else validation)))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Rows and columns of the breast: y0, x0, y1, x1, half-open."""
        ys, xs = np.flatnonzero(self.breast.any(axis=1)), np.flatnonzero(self.breast.any(axis=0))
        return int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1

    def from_wall(self, inwards: float, down: float) -> tuple[float, float]:
        """Return the point (y, x) at a share of the breast's width from the wall and of its height from the top."""
        y0, x0, y1, x1 = self.box
        across = inwards * (x1 - x0)
        return y0 + down * (y1 - y0), x0 + across if self.chest_wall == "left" else x1 - across

    def inside(self, rim_mm: float) -> tuple[float, float]:
        """Draw a point (y, x) in the breast at least rim_mm from its edge, or as far inside as possible."""
        y0, x0, y1, x1 = self.box
        step = max(1, (y1 - y0) // 200)
        inner = np.pad(self.breast[y0:y1:step, x0:x1:step], 1)
        distance = np.asarray(ndimage.distance_transform_edt(inner))[1:-1, 1:-1]
        points = np.argwhere(distance >= min(rim_mm / self.mm_per_pixel / step, 0.8 * distance.max()))
        y, x = points[self.rng.integers(len(points))] * step
        return float(y + y0), float(x + x0)

    @property
    def white(self) -> float:
        """The brightest grey of the image, in which metal and text are drawn."""
        return float(max(self.grey.max(), 0.5))


def _rotated(scene: _Scene) -> np.ndarray:
    rotated = np.rot90(scene.grey, 1 if scene.rng.random() < 0.5 else 3)
    return ndimage.rotate(rotated, scene.rng.uniform(-9, 9), reshape=False, order=1) if scene.test else rotated


def _implant(scene: _Scene) -> np.ndarray:
    y, x = scene.from_wall(scene.between((0.1, 0.25), (0.28, 0.35)), scene.between((0.45, 0.55), (0.56, 0.66)))
    y0, x0, y1, x1 = scene.box
    down, across = scene.between((0.42, 0.5), (0.52, 0.6)), scene.between((0.8, 1), (1, 1.2))
    half, edge = (0.5 * (y1 - y0) * down, 0.5 * (x1 - x0) * across), 2 / scene.mm_per_pixel
    shell = objects.ellipse(scene.grey.shape, (y, x), half, edge) * scene.breast
    level = scene.white * scene.between((0.86, 0.93), (0.78, 0.85))
    # A little of the tissue above and below shines through.
    return scene.grey + shell * (level + 0.15 * (scene.grey - level) - scene.grey)


def _pacemaker(scene: _Scene) -> np.ndarray:
    centre = scene.from_wall(scene.between((0.12, 0.2), (0.22, 0.3)), scene.between((0.1, 0.16), (0.17, 0.24)))
    size, lead = scene.between((42, 50), (52, 60)) / scene.mm_per_pixel, 2 / scene.mm_per_pixel
    device = objects.pacemaker(scene.grey.shape, centre, size, lead, scene.chest_wall, scene.rng)
    return np.maximum(scene.grey, device * scene.white)


def _clip_or_wire(scene: _Scene) -> np.ndarray:
    width = scene.between((0.7, 0.9), (1.0, 1.2)) / scene.mm_per_pixel
    length = scene.between((25, 50), (55, 90)) if scene.rng.random() < 0.5 else scene.between((4, 6), (6.5, 8))
    metal = objects.curve(scene.grey.shape, scene.inside(10), length / scene.mm_per_pixel, width, scene.rng)
    return np.maximum(scene.grey, metal * scene.breast * scene.white)


def _burned_in_text(scene: _Scene) -> np.ndarray:
    rows, columns = scene.grey.shape
    height = scene.between((0.02, 0.028), (0.03, 0.04)) * rows
    lines = objects.random_words(scene.rng, 4 if scene.test else 2)
    corner = scene.rng.uniform(0.02, 0.6) * rows, scene.rng.uniform(0.02, 0.4) * columns
    return np.maximum(scene.grey, objects.text((rows, columns), corner, lines, height))


def _skin_marker(scene: _Scene) -> np.ndarray:
    # A metal ball; a ring of wire about a scar or mole.
    radius = scene.between((1.0, 1.5), (5.0, 8.0)) / scene.mm_per_pixel
    thick = 0.9 / scene.mm_per_pixel if scene.test else None
    marker = objects.disc(scene.grey.shape, scene.inside(12), radius, thick)
    return np.maximum(scene.grey, marker * scene.white)


def _saturated(scene: _Scene) -> np.ndarray:
    white = np.quantile(scene.grey[scene.breast], scene.between((0.6, 0.7), (0.72, 0.8)))
    return np.minimum(scene.grey / max(white, 0.05), 1)


def _motion_blur(scene: _Scene) -> np.ndarray:
    length = scene.between((2.0, 3.0), (3.2, 4.0)) / scene.mm_per_pixel
    angle = scene.rng.uniform(-0.4, 0.4) + (np.pi / 2 if scene.test else 0)
    return objects.blur_by_motion(scene.grey, length, angle)


def _noise(scene: _Scene) -> np.ndarray:
    noise = scene.rng.standard_normal(scene.grey.shape)
    if scene.test:  # quanta: more where more light fell, over two pixels
        noise = 1.6 * ndimage.gaussian_filter(noise, 0.6) * np.sqrt(0.3 + scene.grey)
    return scene.grey + noise * scene.between((0.06, 0.08), (0.09, 0.12))


def _cut_off(scene: _Scene) -> np.ndarray:
    y0, x0, y1, x1 = scene.box
    share, edge = scene.between((0.25, 0.32), (0.18, 0.24)), int(scene.rng.integers(3))
    if edge == 0:
        return scene.grey[y0 + round(share * (y1 - y0)) :]
    if edge == 1:
        return scene.grey[: y1 - round(share * (y1 - y0))]
    width = round((1 - share) * (x1 - x0))
    return scene.grey[:, : x0 + width] if scene.chest_wall == "left" else scene.grey[:, x1 - width :]


def _missing_rows(scene: _Scene) -> np.ndarray:
    y0, _, y1, _ = scene.box
    damaged = scene.grey.copy()
    for _ in range(int(scene.rng.integers(1, 4))):
        count = max(2, round(scene.between((0.015, 0.03), (0.005, 0.013)) * (y1 - y0)))
        start = int(scene.rng.uniform(y0 + 0.2 * (y1 - y0), y0 + 0.8 * (y1 - y0)))
        damaged[start : start + count] = damaged[start - 1] if scene.test else 0
    return damaged


def _collimator(scene: _Scene) -> np.ndarray:
    y0, _, y1, _ = scene.box
    share, slope = scene.between((0.2, 0.26), (0.13, 0.19)), scene.rng.uniform(-0.12, 0.12)
    below = scene.rng.random() < 0.5
    middle = y1 - share * (y1 - y0) if below else y0 + share * (y1 - y0)
    rows, columns = np.ogrid[: scene.grey.shape[0], : scene.grey.shape[1]]
    beyond = (rows - middle - slope * (columns - scene.grey.shape[1] / 2)) * (1 if below else -1)
    shade = np.clip(beyond / (1.5 / scene.mm_per_pixel) + 0.5, 0, 1)
    return scene.grey * (1 - shade * scene.between((0.85, 0.95), (0.7, 0.82)))


def _double_exposure(scene: _Scene) -> np.ndarray:
    second = objects.resized(_as_grey(scene.donor), scene.grey.shape)
    rows, shifted = len(scene.grey), np.zeros_like(second)
    down = round(scene.between((0.12, 0.2), (0.22, 0.3)) * rows) * (1 if scene.rng.random() < 0.5 else -1)
    visible = second[max(-down, 0) : rows - max(down, 0)]
    shifted[max(down, 0) : rows - max(-down, 0)] = visible[:, ::-1] if scene.test else visible
    weight = scene.between((0.45, 0.5), (0.36, 0.44))
    return (1 - weight) * scene.grey + weight * shifted


def _no_mammogram(scene: _Scene) -> np.ndarray:
    draws = (objects.chest, objects.head) if scene.test else (objects.page, objects.test_pattern)
    return draws[int(scene.rng.integers(2))](scene.grey.shape, scene.rng)


_PIXELS: dict[str, Callable[[_Scene], np.ndarray]] = {
    "upside_down": lambda scene: scene.grey[::-1],
    "rotated": _rotated,
    "inverted": lambda scene: scene.grey.max() - scene.grey ** scene.between((1.0, 1.0), (0.7, 0.9)),
    "implant": _implant,
    "pacemaker": _pacemaker,
    "clip_or_wire": _clip_or_wire,
    "burned_in_text": _burned_in_text,
    "skin_marker": _skin_marker,
    "under_exposed": lambda scene: scene.grey * scene.between((0.3, 0.4), (0.4, 0.48)),
    "over_exposed": lambda scene: 1 - (1 - scene.grey) * scene.between((0.3, 0.4), (0.4, 0.48)),
    "saturated": _saturated,
    "motion_blur": _motion_blur,
    "noise": _noise,
    "cut_off": _cut_off,
    "missing_rows": _missing_rows,
    "collimator": _collimator,
    "double_exposure": _double_exposure,
    "other_view": lambda scene: _as_grey(scene.other_view),
    "blank": lambda scene: (
        0.002 * ndimage.gaussian_filter(scene.rng.standard_normal(scene.grey.shape), 1.0)
        + scene.between((0.02, 0.3), (0.5, 0.9))
    ),
    "no_mammogram": _no_mammogram,
}

WRONG_SIDE = "wrong_side"
FAULTS = (WRONG_SIDE, *_PIXELS)
"""Every fault by name; the first is in the header alone."""


def _as_grey(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 65535


def insert_fault(
    source: SourceImage, context: FaultContext, fault: str, family: FaultFamily, seed: list[int]
) -> SourceImage:
    """Return the source with one fault of FAULTS, whose extent and place the seed draws from the family's ranges.

    The grey range of the image stays what a file of its kind holds: values are clipped to 0..65535.
    """
    if fault == WRONG_SIDE:
        return replace(source, side={"L": "R", "R": "L"}.get(source.side or ""))
    rng = np.random.default_rng([*seed, FAULTS.index(fault), int(family == "test")])
    scene = _Scene(**vars(context), grey=_as_grey(source.pixels), test=family == "test", rng=rng)
    damaged = np.rint(np.clip(_PIXELS[fault](scene), 0, 1) * 65535).astype(np.uint16)
    return replace(source, pixels=np.ascontiguousarray(damaged))
