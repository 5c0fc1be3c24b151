"""Technical faults planted into source images and their header rows: what an archive has to be rid of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from mammovae.perturbations import foreign_objects, non_mammograms

FaultFamily = Literal["validation", "test"]


@dataclass(frozen=True)
class Source:
    """A source image as archives hold it, and what its header or listing says of it.

    pixels: uint16 (rows, columns), bright = dense; side and view None where unknown.
    """

    pixels: np.ndarray
    side: str | None
    view: str | None


@dataclass(frozen=True)
class Scene:
    """An image to spoil: grey float32 (rows, columns) in 0..1, breast bool of its shape, and what is needed with it.

    wall: the edge at which the chest wall lies; mm: the size of a pixel; report: whether the family is report, whose
    numbers and shapes select does not share; donor: another healthy image for a double exposure; other_view: an image
    of the view that this one is not, both as they are stored.
    """

    grey: np.ndarray
    breast: np.ndarray
    wall: Literal["left", "right"]
    mm: float
    test: bool
    donor: np.ndarray
    other_view: np.ndarray
    rng: np.random.Generator

    def between(self, select: tuple[float, float], report: tuple[float, float]) -> float:
        """Draw a number from the family's own range."""
        return float(self.rng.uniform(*(report if self.test else select)))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Rows and columns of the breast: y0, x0, y1, x1, half-open."""
        ys, xs = np.flatnonzero(self.breast.any(axis=1)), np.flatnonzero(self.breast.any(axis=0))
        return int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1

    def from_wall(self, inwards: float, down: float) -> tuple[float, float]:
        """Return the place (y, x) at a share of the breast's width from the chest wall and of its height from above."""
        y0, x0, y1, x1 = self.box
        across = inwards * (x1 - x0)
        return y0 + down * (y1 - y0), x0 + across if self.wall == "left" else x1 - across

    def inside(self, rim_mm: float) -> tuple[float, float]:
        """Draw a place (y, x) in the breast at least rim_mm from its edge, or as far inside as it gets."""
        y0, x0, y1, x1 = self.box
        step = max(1, (y1 - y0) // 200)
        inner = np.pad(self.breast[y0:y1:step, x0:x1:step], 1)
        distance = np.asarray(ndimage.distance_transform_edt(inner))[1:-1, 1:-1]
        places = np.argwhere(distance >= min(rim_mm / self.mm / step, 0.8 * distance.max()))
        y, x = places[self.rng.integers(len(places))] * step
        return float(y + y0), float(x + x0)

    @property
    def white(self) -> float:
        """The brightest grey of the image: what metal and text are drawn in."""
        return float(max(self.grey.max(), 0.5))


def _upside_down(scene: Scene) -> np.ndarray:
    return scene.grey[::-1]


def _rotated(scene: Scene) -> np.ndarray:
    turned = np.rot90(scene.grey, 1 if scene.rng.random() < 0.5 else 3)
    return turned if not scene.test else ndimage.rotate(turned, scene.rng.uniform(-9, 9), reshape=False, order=1)


def _inverted(scene: Scene) -> np.ndarray:
    return scene.grey.max() - scene.grey ** scene.between((1.0, 1.0), (0.7, 0.9))


def _implant(scene: Scene) -> np.ndarray:
    y, x = scene.from_wall(scene.between((0.1, 0.25), (0.28, 0.35)), scene.between((0.45, 0.55), (0.56, 0.66)))
    y0, x0, y1, x1 = scene.box
    half = (
        0.5 * (y1 - y0) * scene.between((0.42, 0.5), (0.52, 0.6)),
        0.5 * (x1 - x0) * scene.between((0.8, 1), (1, 1.2)),
    )
    shell = foreign_objects.ellipse(scene.grey.shape, (y, x), half, edge=2 / scene.mm) * scene.breast
    level = scene.white * scene.between((0.86, 0.93), (0.78, 0.85))
    # A little of the tissue above and below shines through.
    return scene.grey + shell * (level + 0.15 * (scene.grey - level) - scene.grey)


def _pacemaker(scene: Scene) -> np.ndarray:
    place = scene.from_wall(scene.between((0.12, 0.2), (0.22, 0.3)), scene.between((0.1, 0.16), (0.17, 0.24)))
    size = scene.between((42, 50), (52, 60)) / scene.mm
    device = foreign_objects.pacemaker(scene.grey.shape, place, size, 2 / scene.mm, scene.wall, scene.rng)
    return np.maximum(scene.grey, device * scene.white)


def _clip_or_wire(scene: Scene) -> np.ndarray:
    width = scene.between((0.7, 0.9), (1.0, 1.2)) / scene.mm
    length = scene.between((25, 50), (55, 90)) if scene.rng.random() < 0.5 else scene.between((4, 6), (6.5, 8))
    drawn = foreign_objects.curve(scene.grey.shape, scene.inside(10), length / scene.mm, width, scene.rng)
    return np.maximum(scene.grey, drawn * scene.breast * scene.white)


def _burned_in_text(scene: Scene) -> np.ndarray:
    rows, columns = scene.grey.shape
    height = scene.between((0.02, 0.028), (0.03, 0.04)) * rows
    lines = foreign_objects.words(scene.rng, 4 if scene.test else 2)
    at = scene.rng.uniform(0.02, 0.6) * rows, scene.rng.uniform(0.02, 0.4) * columns
    return np.maximum(scene.grey, foreign_objects.text((rows, columns), at, lines, height))


def _skin_marker(scene: Scene) -> np.ndarray:
    radius = scene.between((1.0, 1.5), (5.0, 8.0)) / scene.mm  # a metal ball; a ring of wire about a scar or mole
    thick = 0.9 / scene.mm if scene.test else None
    drawn = foreign_objects.disc(scene.grey.shape, scene.inside(12), radius, thick)
    return np.maximum(scene.grey, drawn * scene.white)


def _under_exposed(scene: Scene) -> np.ndarray:
    return scene.grey * scene.between((0.3, 0.4), (0.4, 0.48))


def _over_exposed(scene: Scene) -> np.ndarray:
    return 1 - (1 - scene.grey) * scene.between((0.3, 0.4), (0.4, 0.48))


def _saturated(scene: Scene) -> np.ndarray:
    share = scene.between((0.6, 0.7), (0.72, 0.8))
    return np.minimum(scene.grey / max(np.quantile(scene.grey[scene.breast], share), 0.05), 1)


def _motion_blur(scene: Scene) -> np.ndarray:
    length = scene.between((2.0, 3.0), (3.2, 4.0)) / scene.mm
    angle = scene.rng.uniform(-0.4, 0.4) + (np.pi / 2 if scene.test else 0)
    return foreign_objects.moved(scene.grey, length, angle)


def _noise(scene: Scene) -> np.ndarray:
    noise = scene.rng.standard_normal(scene.grey.shape)
    if scene.test:  # quanta: more where more light fell, over two pixels
        noise = 1.6 * ndimage.gaussian_filter(noise, 0.6) * np.sqrt(0.3 + scene.grey)
    return scene.grey + noise * scene.between((0.06, 0.08), (0.09, 0.12))


def _cut_off(scene: Scene) -> np.ndarray:
    y0, x0, y1, x1 = scene.box
    share, edge = scene.between((0.25, 0.32), (0.18, 0.24)), int(scene.rng.integers(3))
    if edge == 0:
        return scene.grey[y0 + round(share * (y1 - y0)) :]
    if edge == 1:
        return scene.grey[: y1 - round(share * (y1 - y0))]
    kept = round((1 - share) * (x1 - x0))
    return scene.grey[:, : x0 + kept] if scene.wall == "left" else scene.grey[:, x1 - kept :]


def _missing_rows(scene: Scene) -> np.ndarray:
    y0, _, y1, _ = scene.box
    spoiled = scene.grey.copy()
    for _ in range(int(scene.rng.integers(1, 4))):
        count = max(2, round(scene.between((0.015, 0.03), (0.005, 0.013)) * (y1 - y0)))
        start = int(scene.rng.uniform(y0 + 0.2 * (y1 - y0), y0 + 0.8 * (y1 - y0)))
        spoiled[start : start + count] = spoiled[start - 1] if scene.test else 0
    return spoiled


def _collimator(scene: Scene) -> np.ndarray:
    y0, _, y1, _ = scene.box
    share, slope = scene.between((0.2, 0.26), (0.13, 0.19)), scene.rng.uniform(-0.12, 0.12)
    below = scene.rng.random() < 0.5
    middle = y1 - share * (y1 - y0) if below else y0 + share * (y1 - y0)
    rows, columns = np.ogrid[: scene.grey.shape[0], : scene.grey.shape[1]]
    beyond = (rows - middle - slope * (columns - scene.grey.shape[1] / 2)) * (1 if below else -1)
    shade = np.clip(beyond / (1.5 / scene.mm) + 0.5, 0, 1)
    return scene.grey * (1 - shade * scene.between((0.85, 0.95), (0.7, 0.82)))


def _double_exposure(scene: Scene) -> np.ndarray:
    second = foreign_objects.fitted(scene.donor, scene.grey.shape)
    rows = len(scene.grey)
    moved = np.zeros_like(second)
    down = round(scene.between((0.12, 0.2), (0.22, 0.3)) * rows) * (1 if scene.rng.random() < 0.5 else -1)
    source = second[max(-down, 0) : rows - max(down, 0)]
    moved[max(down, 0) : rows - max(-down, 0)] = source[:, ::-1] if scene.test else source
    weight = scene.between((0.45, 0.5), (0.36, 0.44))
    return (1 - weight) * scene.grey + weight * moved


def _other_view(scene: Scene) -> np.ndarray:
    return scene.other_view


def _blank(scene: Scene) -> np.ndarray:
    noise = ndimage.gaussian_filter(scene.rng.standard_normal(scene.grey.shape), 1.0)
    return scene.between((0.02, 0.3), (0.5, 0.9)) + 0.002 * noise


def _no_mammogram(scene: Scene) -> np.ndarray:
    kinds = (
        (non_mammograms.chest, non_mammograms.head)
        if scene.test
        else (non_mammograms.page, non_mammograms.test_pattern)
    )
    return kinds[int(scene.rng.integers(2))](scene.grey.shape, scene.rng)


_PIXELS: dict[str, Callable[[Scene], np.ndarray]] = {
    "upside_down": _upside_down,
    "rotated": _rotated,
    "inverted": _inverted,
    "implant": _implant,
    "pacemaker": _pacemaker,
    "clip_or_wire": _clip_or_wire,
    "burned_in_text": _burned_in_text,
    "skin_marker": _skin_marker,
    "under_exposed": _under_exposed,
    "over_exposed": _over_exposed,
    "saturated": _saturated,
    "motion_blur": _motion_blur,
    "noise": _noise,
    "cut_off": _cut_off,
    "missing_rows": _missing_rows,
    "collimator": _collimator,
    "double_exposure": _double_exposure,
    "other_view": _other_view,
    "blank": _blank,
    "no_mammogram": _no_mammogram,
}

WRONG_SIDE = "wrong_side"
FAULTS = (WRONG_SIDE, *_PIXELS)
"""Every fault by name; the first is in the header alone."""


def insert_fault(
    source: Source,
    breast: np.ndarray,
    wall: Literal["left", "right"],
    *,
    mm_per_pixel: float,
    fault: str,
    family: FaultFamily,
    donor: np.ndarray,
    other_view: np.ndarray,
    seed: list[int],
) -> Source:
    """Return the source with one fault of FAULTS, whose extent and place the seed draws from the family's ranges.

    breast: bool (rows, columns); wall: the image's edge at which the chest wall lies; donor and other_view: uint16
    images, shown by double_exposure and other_view. The grey range of the image stays what a file of its kind holds:
    values are cut to 0..65535.
    """
    if fault == WRONG_SIDE:
        return Source(source.pixels, {"L": "R", "R": "L"}.get(source.side or ""), source.view)
    scene = Scene(
        grey=source.pixels.astype(np.float32) / 65535,
        breast=breast,
        wall=wall,
        mm=mm_per_pixel,
        test=family == "test",
        donor=donor.astype(np.float32) / 65535,
        other_view=other_view.astype(np.float32) / 65535,
        rng=np.random.default_rng([*seed, FAULTS.index(fault), int(family == "test")]),
    )
    spoiled = np.clip(_PIXELS[fault](scene), 0, 1)
    return Source(np.ascontiguousarray(np.rint(spoiled * 65535).astype(np.uint16)), source.side, source.view)
