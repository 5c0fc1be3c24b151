"""What does not belong in an archive of breasts, as float32 arrays in 0..1 of an image's shape.

Metal, text and motion; and whole images that are no mammograms, as they occur by mistake.
"""

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Shape = tuple[int, ...]
Point = tuple[float, float]
"""(y, x), in pixels."""


def ellipse(shape: Shape, centre: Point, half: Point, edge: float) -> np.ndarray:
    """Return an ellipse with a soft edge of some pixels; half axes (down, across)."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    radius = np.hypot((rows - centre[0]) / half[0], (columns - centre[1]) / half[1])
    return np.clip((1 - radius) * min(half) / edge + 0.5, 0, 1).astype(np.float32)


def disc(shape: Shape, centre: Point, radius: float, thick: float | None) -> np.ndarray:
    """Return a filled disc, or a ring of some pixels' thickness."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot(rows - centre[0], columns - centre[1])
    depth = radius - distance if thick is None else thick / 2 - abs(distance - radius)
    return np.clip(depth + 0.5, 0, 1).astype(np.float32)


def curve(shape: Shape, start: Point, length: float, width: float, rng: np.random.Generator) -> np.ndarray:
    """Return a gently bent line of a length and width in pixels that passes through start at its middle."""
    steps = max(8, int(length / 2))
    bend = np.cumsum(rng.normal(0, 0.6 / np.sqrt(steps), steps))
    angle = rng.uniform(0, 2 * np.pi) + bend
    path = np.cumsum(np.stack([np.sin(angle), np.cos(angle)], axis=1), axis=0) * length / steps
    return _stroke(shape, path - path[steps // 2] + np.array(start), width)


def pacemaker(shape: Shape, centre: Point, size: float, lead: float, wall: str, rng: np.random.Generator) -> np.ndarray:
    """Return a pulse generator of some pixels, its darker battery, and its lead towards the chest wall."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    down, across = (rows - centre[0]) / (0.42 * size), (columns - centre[1]) / (0.5 * size)
    can = (abs(down) ** 3 + abs(across) ** 3) <= 1
    battery = (abs(down - 0.3) < 0.4) & (abs(across) < 0.7)
    along = np.linspace(0, 1, 200)
    to_wall, side = (centre[1] + size, -1) if wall == "left" else (shape[1] - centre[1] + size, 1)
    y = centre[0] + size * (0.3 * np.sin(4.5 * along) + rng.uniform(1.5, 3.0) * along**1.5)
    x = centre[1] + side * (to_wall * along**2 - 0.9 * size * np.sin(np.pi * along))
    wire = _stroke(shape, np.stack([y, x], axis=1), lead)
    return np.maximum(can * np.where(battery, 0.8, 1.0), wire).astype(np.float32)


def random_words(rng: np.random.Generator, lines: int) -> list[str]:
    """Return lines of random letters and digits, as devices print them."""
    letters = list("ABCDEFGHIJKLMNOPRSTUVWXYZ0123456789")
    return ["".join(rng.choice(letters, int(rng.integers(6, 15)))) for _ in range(lines)]


def text(shape: Shape, corner: Point, lines: list[str], height: float) -> np.ndarray:
    """Return white print whose first line begins at the corner, each line of a height in pixels."""
    canvas = Image.new("L", (shape[1], shape[0]))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(8, height))
    for number, line in enumerate(lines):
        draw.text((corner[1], corner[0] + 1.2 * number * height), line, 255, font)
    return np.asarray(canvas, np.float32) / 255


def blur_by_motion(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Return the mean of the image along a line of some pixels: the breast moved during the exposure."""
    steps, total = max(3, int(np.ceil(length))), np.zeros_like(image)
    for step in np.linspace(-0.5, 0.5, steps) * length:
        total += ndimage.shift(image, (step * np.sin(angle), step * np.cos(angle)), order=1, mode="nearest")
    return total / steps


def resized(image: np.ndarray, shape: Shape) -> np.ndarray:
    """Return another image, resized to this shape."""
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _stroke(shape: Shape, path: np.ndarray, width: float) -> np.ndarray:
    """Draw a path (n, 2) of points (y, x); its edge is a pixel wide, whatever the width."""
    margin = int(np.ceil(width)) + 2
    low = np.maximum(np.floor(path.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(path.max(axis=0)).astype(int) + margin + 1, shape[:2])
    canvas = np.zeros(shape, np.float32)
    if (high <= low).any():
        return canvas
    dense = np.concatenate([np.linspace(start, end, 8, endpoint=False) for start, end in pairwise(path)])
    pixels = np.rint(dense - low).astype(int)
    pixels = pixels[((pixels >= 0) & (pixels < high - low)).all(axis=1)]
    if not len(pixels):
        return canvas
    off_path = np.ones(high - low, bool)
    off_path[pixels[:, 0], pixels[:, 1]] = False
    distance = np.asarray(ndimage.distance_transform_edt(off_path))
    canvas[low[0] : high[0], low[1] : high[1]] = np.clip(width / 2 - distance + 0.5, 0, 1)
    return canvas


def page(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return a scanned page of print, black on white."""
    lines = [" ".join(random_words(rng, 4)) for _ in range(32)]
    return 0.95 - 0.9 * text(shape, (0.06 * shape[0], 0.08 * shape[1]), lines, 0.02 * shape[0])


def test_pattern(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return a monitor's test pattern: a wedge of steps, lines that get closer, and a grid."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] / np.array(shape[:2]).reshape(2, 1, 1)
    steps = np.floor(columns * 12) / 12
    lines = (np.sin(2 * np.pi * (20 + 100 * columns) * columns) > 0).astype(float)
    grid = ((rows * 20 % 1 < 0.06) | (columns * 16 % 1 < 0.06)).astype(float)
    middle = rng.uniform(0.4, 0.6)
    return np.where(rows < 0.3, steps, np.where(rows < middle, lines, 0.2 + 0.7 * grid)).astype(np.float32)


def chest(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return something like a chest radiograph: two dark lungs with ribs, a bright heart and spine."""
    rows, columns = shape[:2]
    image = np.full((rows, columns), 0.55, np.float32)
    for side in (-1, 1):
        centre, half = (0.45 * rows, (0.5 + 0.22 * side) * columns), (0.34 * rows, 0.16 * columns)
        image -= 0.38 * ellipse(shape, centre, half, 0.03 * rows)
    y, x = np.mgrid[:rows, :columns]
    ribs = np.sin(2 * np.pi * (y / rows * 11 + 1.5 * ((x / columns - 0.5) / 0.5) ** 2)) > 0.5
    image += 0.07 * ndimage.gaussian_filter(ribs.astype(np.float32), 0.004 * rows)
    heart = ellipse(shape, (0.6 * rows, 0.54 * columns), (0.17 * rows, 0.14 * columns), 0.04 * rows)
    spine = ellipse(shape, (0.5 * rows, 0.5 * columns), (0.7 * rows, 0.05 * columns), 0.03 * columns)
    return image + 0.25 * np.maximum(heart, spine) + 0.01 * rng.standard_normal((rows, columns)).astype(np.float32)


def head(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return something like a slice of a head: a bright skull, and soft ellipses in it."""
    rows, columns = shape[:2]
    middle, half = (0.5 * rows, 0.5 * columns), (0.4 * rows, 0.38 * columns)
    outer, inner = (ellipse(shape, middle, axes, 3) for axes in (half, (0.93 * half[0], 0.92 * half[1])))
    image = 0.95 * (outer - inner) + 0.45 * inner
    for _ in range(6):
        centre = middle[0] + rng.uniform(-0.2, 0.2) * rows, middle[1] + rng.uniform(-0.2, 0.2) * columns
        size = rng.uniform(0.04, 0.12) * rows, rng.uniform(0.04, 0.12) * columns
        image += rng.choice([-0.15, 0.12]) * ellipse(shape, centre, size, 4)
    return image + 0.01 * rng.standard_normal((rows, columns)).astype(np.float32)
