"""Shapes of inserted lesions: two families of generators that share nothing but their names.

A shape is a function of a random generator, of positions `y`, `x` in units of the lesion's radius, and of that radius
in mm. It gives the lesion's thickness, 0..1 with a peak near 1, and 0 at a radius of 1 and beyond.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Shape = Callable[[np.random.Generator, np.ndarray, np.ndarray, float], np.ndarray]
Pull = Callable[[np.random.Generator, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _waves(rng: np.random.Generator, angle: np.ndarray, orders: range, size: float, decay: float = 1.0) -> np.ndarray:
    """Draw a periodic function of the angle with the given harmonics."""
    total = np.zeros_like(angle)
    for order in orders:
        strength, phase = size * rng.standard_normal() / order**decay, 2 * np.pi * rng.random()
        total += strength * np.cos(order * angle + phase)
    return total


def _smooth_noise(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, cells: float) -> np.ndarray:
    """Draw smooth noise of variance about 1 with `cells` lumps over the lesion's diameter, the same at any sampling."""
    nodes = int(np.ceil(cells)) + 5
    position = ((y + 1) * (cells / 2) + 2, (x + 1) * (cells / 2) + 2)
    return 1.6 * ndimage.map_coordinates(rng.standard_normal((nodes, nodes)), position, order=3, mode="mirror")


def _rotated(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angle = 2 * np.pi * rng.random()
    return np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x


def _window(y: np.ndarray, x: np.ndarray, power: float = 1.0) -> np.ndarray:
    return np.clip(1 - (y * y + x * x), 0, 1) ** power


def _segment(y: np.ndarray, x: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to a segment from (y, x) `start` to `end`, and the share of the way along it, 0..1."""
    along = end - start
    share = ((y - start[0]) * along[0] + (x - start[1]) * along[1]) / max(float(along @ along), 1e-9)
    share = np.clip(share, 0, 1)
    return np.hypot(y - start[0] - share * along[0], x - start[1] - share * along[1]), share


def lobed_mass(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, radius_mm: float) -> np.ndarray:
    """Draw a union of three to five soft discs."""
    total = np.zeros_like(y)
    for _ in range(int(rng.integers(3, 6))):
        size = 0.42 + 0.16 * rng.random()
        angle, away = 2 * np.pi * rng.random(), (1 - size) * rng.random() ** 0.5
        r = np.hypot(y - away * np.sin(angle), x - away * np.cos(angle)) / size
        total = np.maximum(total, np.cos(0.5 * np.pi * np.clip(r, 0, 1)) ** 0.7)
    return total


def rugged_mass(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, radius_mm: float) -> np.ndarray:
    """Draw a ball whose surface is displaced by smooth noise: an indistinct, irregular margin."""
    noise, fine, r = _smooth_noise(rng, y, x, 4.0), _smooth_noise(rng, y, x, 9.0), np.hypot(y, x)
    body = np.clip(0.72 + 0.12 * noise + 0.05 * fine - r, 0, None) / 0.72
    return np.clip(1.35 * body, 0, 1) ** 0.85 * np.clip((1 - r) * 8, 0, 1)


def jagged_star(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, radius_mm: float) -> np.ndarray:
    """Draw one body whose margin is a rough function of the angle."""
    r, angle = np.hypot(y, x), np.arctan2(y, x)
    edge = np.clip(0.3 + 0.33 * np.abs(_waves(rng, angle, range(3, 26), 0.55, decay=0.55)), 0.25, 0.98)
    return np.clip(1 - r / edge, 0, 1) ** 0.6 * np.clip(1.3 - 0.6 * r, 0, 1)


def branching_star(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, radius_mm: float) -> np.ndarray:
    """Draw a rugged core with curved spikes that fork."""
    total = rugged_mass(rng, y / 0.5, x / 0.5, radius_mm)

    def grow(start: np.ndarray, heading: float, left: float, width: float, strength: float) -> None:
        nonlocal total
        while left > 0:
            end = start + 0.13 * np.array([np.sin(heading), np.cos(heading)])
            distance, _ = _segment(y, x, start, end)
            total = np.maximum(total, strength * np.exp(-0.5 * (distance / width) ** 2))
            if rng.random() < 0.12:
                grow(end, heading + rng.choice([-0.6, 0.6]), 0.6 * left, 0.8 * width, 0.8 * strength)
            start, left, width, strength = end, left - 0.13, width * 0.9, strength * 0.88
            heading += 0.22 * rng.standard_normal()

    for base in np.arange(14) * (2 * np.pi / 14):
        heading = base + 0.3 * rng.standard_normal()
        grow(0.3 * np.array([np.sin(heading), np.cos(heading)]), heading, 0.3 + 0.35 * rng.random(), 0.03, 0.55)
    return np.clip(total, 0, 1) * np.clip((1 - np.hypot(y, x)) * 10, 0, 1)


def _specks(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, centres: np.ndarray, halves: np.ndarray, elongation: float
) -> np.ndarray:
    """Draw small ellipses at centres (specks, 2), with half axes in radii, each kept inside the unit circle."""
    total = np.zeros_like(y)
    for centre, half in zip(centres, halves, strict=True):
        centre = centre * min(1.0, (1 - 2 * half) / max(float(np.hypot(*centre)), 1e-9))
        dy, dx = _rotated(rng, y - centre[0], x - centre[1])
        stretch = 1 + elongation * rng.random()
        r = np.hypot(dy / half * stretch**0.5, dx / half / stretch**0.5)
        total = np.maximum(total, (0.6 + 0.4 * rng.random()) * np.sqrt(np.clip(1 - r * r, 0, 1)))
    return total


def oval_specks(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, radius_mm: float) -> np.ndarray:
    """Draw 8 to 20 slightly elongated specks of 0.2-0.5 mm, even over a disc."""
    count = int(rng.integers(8, 21))
    angle, r = 2 * np.pi * rng.random(count), np.sqrt(rng.random(count))
    centres = np.column_stack([r * np.sin(angle), r * np.cos(angle)]) * 0.95
    return _specks(rng, y, x, centres, 0.5 * (0.2 + 0.3 * rng.random(count)) / radius_mm, 0.6)


def ductal_specks(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, radius_mm: float) -> np.ndarray:
    """Draw 10 to 28 specks of 0.15-0.8 mm and of many forms, along up to three lines, as in ducts."""
    count = int(rng.integers(10, 29))
    heading = 2 * np.pi * rng.random() + np.array([0.0, 0.5, -0.5])[rng.integers(0, 3, count)]
    along = 2 * rng.random(count) - 1
    centres = (along * np.array([np.sin(heading), np.cos(heading)])).T + 0.1 * rng.standard_normal((count, 2))
    return _specks(rng, y, x, centres, 0.5 * (0.15 + 0.65 * rng.random(count) ** 2) / radius_mm, 2.0)


def clouded_patch(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, radius_mm: float) -> np.ndarray:
    """Draw a cloud of noise of several scales, bounded by a soft window."""
    scales = ((2.5, 1.0), (5.0, 0.5), (10.0, 0.25), (20.0, 0.13))
    noise = sum(weight * _smooth_noise(rng, y, x, cells) for cells, weight in scales)
    return _window(y, x, 0.7) * 0.5 * (1 + np.tanh(0.6 + np.asarray(noise)))


def stranded_patch(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, radius_mm: float) -> np.ndarray:
    """Draw an elongated patch of strands with concave borders, like an island of gland."""
    y, x = _rotated(rng, y, x)
    strands = _smooth_noise(rng, np.clip(3 * y, -3, 3) / 3, 0.6 * x, 12.0)
    border = _smooth_noise(rng, y, x, 4.0)
    body = 0.5 * (1 + np.tanh(4 * (0.55 + 0.2 * border - np.hypot(1.5 * y, x))))
    return np.clip(body * (0.78 + 0.2 * strands), 0, 1) * np.clip((1 - np.hypot(y, x)) * 6, 0, 1)


def twist(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a pull that turns about the centre."""
    size = _window(y, x, 2.0)
    turn = float(rng.choice([-1.0, 1.0])) * (0.8 + 0.4 * rng.random())
    return size * (0.6 * y + turn * x), size * (0.6 * x - turn * y)


def rays(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a pull along some directions more than others, towards a short line: radiating folds."""
    y, x = _rotated(rng, y, x)
    size = _window(y, x, 1.6) * np.clip(1 + _waves(rng, np.arctan2(y, x), range(5, 10), 0.9, decay=0.5), 0, 2)
    return size * y, size * np.sign(x) * np.clip(np.abs(x) - 0.2, 0, None)


_KINDS = ("mass", "spiculated", "calcification", "asymmetry")
SHAPES: dict[str, dict[str, Shape]] = {
    "validation": dict(zip(_KINDS, (lobed_mass, jagged_star, oval_specks, clouded_patch), strict=True)),
    "test": dict(zip(_KINDS, (rugged_mass, branching_star, ductal_specks, stranded_patch), strict=True)),
}

PULLS: dict[str, Pull] = {"validation": twist, "test": rays}
