"""Images that are not mammograms, as they occur in archives by mistake: float32 (rows, columns) in 0..1."""

import numpy as np
from scipy import ndimage

from mammovae.perturbations.foreign_objects import Shape, ellipse, random_words, text


def page(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return a scanned page of print, black on white."""
    height = 0.02 * shape[0]
    lines = [" ".join(random_words(rng, 4)) for _ in range(32)]
    return 0.95 - 0.9 * text(shape, (0.06 * shape[0], 0.08 * shape[1]), lines, height)


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
    outer = ellipse(shape, middle, half, 3)
    inner = ellipse(shape, middle, (0.93 * half[0], 0.92 * half[1]), 3)
    image = 0.95 * (outer - inner) + 0.45 * inner
    for _ in range(6):
        centre = middle[0] + rng.uniform(-0.2, 0.2) * rows, middle[1] + rng.uniform(-0.2, 0.2) * columns
        size = rng.uniform(0.04, 0.12) * rows, rng.uniform(0.04, 0.12) * columns
        image += rng.choice([-0.15, 0.12]) * ellipse(shape, centre, size, 4)
    return image + 0.01 * rng.standard_normal((rows, columns)).astype(np.float32)
