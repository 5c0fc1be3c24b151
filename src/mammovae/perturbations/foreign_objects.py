"""What does not belong in a breast, as pictures between 0 and 1 of an image's shape: metal, text, and motion."""

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Shape = tuple[int, ...]
Place = tuple[float, float]
_LETTERS = "ABCDEFGHIJKLMNOPRSTUVWXYZ0123456789"


def ellipse(shape: Shape, centre: Place, half: Place, edge: float) -> np.ndarray:
    """Return an ellipse with a soft edge some pixels wide; centre (y, x), half axes (down, across)."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    radius = np.hypot((rows - centre[0]) / half[0], (columns - centre[1]) / half[1])
    return np.clip((1 - radius) * min(half) / edge + 0.5, 0, 1).astype(np.float32)


def disc(shape: Shape, centre: Place, radius: float, thick: float | None) -> np.ndarray:
    """Return a filled disc, or a ring of some pixels' thickness."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    away = np.hypot(rows - centre[0], columns - centre[1])
    depth = radius - away if thick is None else thick / 2 - abs(away - radius)
    return np.clip(depth + 0.5, 0, 1).astype(np.float32)


def curve(shape: Shape, start: Place, length: float, width: float, rng: np.random.Generator) -> np.ndarray:
    """Return a gently bent line of a length and width in pixels that passes through start at its middle."""
    steps = max(8, int(length / 2))
    bend = np.cumsum(rng.normal(0, 0.6 / np.sqrt(steps), steps))
    angle = rng.uniform(0, 2 * np.pi) + bend
    path = np.cumsum(np.stack([np.sin(angle), np.cos(angle)], axis=1), axis=0) * length / steps
    return _stroke(shape, path - path[steps // 2] + np.array(start), width)


def pacemaker(shape: Shape, centre: Place, size: float, lead: float, wall: str, rng: np.random.Generator) -> np.ndarray:
    """Return a generator's can of some pixels, a darker battery in it, and its lead towards the chest wall."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    down, across = (rows - centre[0]) / (0.42 * size), (columns - centre[1]) / (0.5 * size)
    can = (abs(down) ** 3 + abs(across) ** 3) <= 1
    battery = (abs(down - 0.3) < 0.4) & (abs(across) < 0.7)
    turn = np.linspace(0, 1, 200)
    to_wall = centre[1] + size if wall == "left" else shape[1] - centre[1] + size
    side = -1 if wall == "left" else 1
    y = centre[0] + size * (0.3 * np.sin(4.5 * turn) + rng.uniform(1.5, 3.0) * turn**1.5)
    x = centre[1] + side * (to_wall * turn**2 - 0.9 * size * np.sin(np.pi * turn))
    wire = _stroke(shape, np.stack([y, x], axis=1), lead)
    return np.maximum(can * np.where(battery, 0.8, 1.0), wire).astype(np.float32)


def words(rng: np.random.Generator, lines: int) -> list[str]:
    """Return lines of letters and figures as devices print them, of no meaning."""
    return ["".join(rng.choice(list(_LETTERS), int(rng.integers(6, 15)))) for _ in range(lines)]


def text(shape: Shape, at: Place, lines: list[str], height: float) -> np.ndarray:
    """Return white print at a place (y, x), each line of a height in pixels."""
    picture = Image.new("L", (shape[1], shape[0]))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(8, height))
    for number, line in enumerate(lines):
        draw.text((at[1], at[0] + 1.2 * number * height), line, 255, font)
    return np.asarray(picture, np.float32) / 255


def moved(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Return the mean of the image along a line of some pixels: the breast moved while it was exposed."""
    steps = max(3, int(np.ceil(length)))
    total = np.zeros_like(image)
    for step in np.linspace(-0.5, 0.5, steps) * length:
        total += ndimage.shift(image, (step * np.sin(angle), step * np.cos(angle)), order=1, mode="nearest")
    return total / steps


def fitted(image: np.ndarray, shape: Shape) -> np.ndarray:
    """Return another image in this shape."""
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _stroke(shape: Shape, path: np.ndarray, width: float) -> np.ndarray:
    """Draw a path (n, 2) of places (y, x); its edge is a pixel wide, whatever the width."""
    margin = int(np.ceil(width)) + 2
    low = np.maximum(np.floor(path.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(path.max(axis=0)).astype(int) + margin + 1, shape[:2])
    drawn = np.zeros(shape, np.float32)
    if (high <= low).any():
        return drawn
    fine = np.concatenate([np.linspace(a, b, 8, endpoint=False) for a, b in pairwise(path)])
    near = np.ones(high - low, bool)
    places = np.rint(fine - low).astype(int)
    kept = places[((places >= 0) & (places < high - low)).all(axis=1)]
    near[kept[:, 0], kept[:, 1]] = False
    if near.all():
        return drawn
    distance = np.asarray(ndimage.distance_transform_edt(near))
    drawn[low[0] : high[0], low[1] : high[1]] = np.clip(width / 2 - distance + 0.5, 0, 1)
    return drawn
