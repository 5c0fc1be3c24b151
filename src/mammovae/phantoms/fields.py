"""Random fields and curves in millimetres, the same at every pixel size: the raw material of the phantom's tissue."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import fft, ndimage, sparse

FIELD_MM = 240.0
"""Height of the detector's field. Fields repeat after this length, in both directions."""

Amplitude = Callable[[np.ndarray], np.ndarray]
"""Square root of the power spectrum at frequencies in cycles per mm."""

Curve = tuple[np.ndarray, np.ndarray]
"""A line: its points (points, 2) as (x, y) in mm, closer together than a pixel, and a weight for each."""

_COARSEST = 64
_FINEST = 4096


def stream(seed: int, *key: int) -> np.random.SeedSequence:
    """Return a source of randomness for each key, independent of what was drawn before or in another process."""
    return np.random.SeedSequence(entropy=seed, spawn_key=key)


def child(source: np.random.SeedSequence, *key: int) -> np.random.SeedSequence:
    """Return the source of randomness of a part."""
    return np.random.SeedSequence(source.entropy, spawn_key=(*source.spawn_key, *key))


def clip(value: float, low: float, high: float) -> float:
    """Return the value, or the limit that it exceeds."""
    return float(np.clip(value, low, high))


def _spectrum_of_white_noise(source: np.random.SeedSequence, points: int) -> np.ndarray:
    """Draw a half spectrum (points, points // 2 + 1) whose low frequencies are the same for every number of points."""
    spectrum, size = np.zeros((0, 0), np.complex64), _COARSEST
    while size <= points:
        rng = np.random.default_rng(child(source, size))
        finer = rng.standard_normal((size, size + 2), dtype=np.float32).view(np.complex64)
        if spectrum.size:
            quarter = size // 4
            finer[:quarter, :quarter] = spectrum[:quarter, :quarter]
            finer[1 - quarter :, :quarter] = spectrum[1 - quarter :, :quarter]
        spectrum, size = finer, 2 * size
    return spectrum


@lru_cache(maxsize=8)
def _frequencies(points: int) -> np.ndarray:
    """Return the radial frequency of the half spectrum in cycles per mm."""
    rows = np.fft.fftfreq(points, FIELD_MM / points).astype(np.float32)
    columns = np.fft.rfftfreq(points, FIELD_MM / points).astype(np.float32)
    return np.hypot(rows[:, None], columns[None, :])


def grid_points(size: int) -> int:
    """Return the power of two, 64 to 4096, that samples the field at least as finely as `size` rows do."""
    return min(max(_COARSEST, 2 ** (size - 1).bit_length()), _FINEST)


def random_field(source: np.random.SeedSequence, points: int, amplitude: Amplitude) -> np.ndarray:
    """Draw a Gaussian random field (points, points) of mean 0 and variance about 1 over the whole detector field.

    The scale is set on a fixed grid: more points add fine detail and change nothing else.
    """
    spectrum, reference = _spectrum_of_white_noise(source, points), amplitude(_frequencies(256)).astype(np.float64)
    spectrum *= amplitude(_frequencies(points))
    spectrum[0, 0] = reference[0, 0] = 0
    power = 2 * (2 * np.sum(reference**2) - np.sum(reference[:, 0] ** 2))
    field = fft.irfft2(spectrum, s=(points, points), norm="forward", overwrite_x=True)
    return (field / np.sqrt(power)).astype(np.float32)


def power_law(exponent: float, *, longest_mm: float = 120.0) -> Amplitude:
    """Return an amplitude whose power falls as 1 / f**exponent, flat for wavelengths above `longest_mm`.

    Mammograms have exponents near 3: Heine & Velthuizen, Med. Phys. 27 (2000); Burgess, JOSA A 16 (1999);
    Burgess, Jacobson & Judy, Med. Phys. 28 (2001).
    """
    return lambda frequency: np.maximum(frequency, 1 / longest_mm) ** (-exponent / 2)


def lumps(diameter_mm: float, *, spread: float = 0.45) -> Amplitude:
    """Return the amplitude of blobs of about one diameter: log-normal band around one cycle per two diameters.

    The stationary counterpart of the lumpy background of Bochud, Abbey & Eckstein, Opt. Express 4 (1999).
    """

    def amplitude(frequency: np.ndarray) -> np.ndarray:
        octaves = np.log(np.maximum(frequency, 1e-6) * 2 * diameter_mm)
        return np.exp(-0.5 * (octaves / spread) ** 2) / np.maximum(frequency, 1e-6) ** 0.5

    return amplitude


def _interpolation_matrix(positions: np.ndarray, points: int, wrap: bool) -> sparse.csr_array:
    """Return Catmull-Rom weights (positions, points) that read a row of samples at fractional indices."""
    base = np.floor(positions).astype(int)
    t = positions - base
    weights = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    index = base[:, None] + np.arange(-1, 3)
    index = index % points if wrap else np.clip(index, 0, points - 1)
    rows = np.repeat(np.arange(len(positions)), 4)
    values = np.stack(weights, axis=1).astype(np.float32).ravel()
    return sparse.csr_array((values, (rows, index.ravel())), shape=(len(positions), points))


def interpolate(grid: np.ndarray, y: np.ndarray, x: np.ndarray, *, wrap: bool) -> np.ndarray:
    """Read a grid, periodic with `wrap`, at every pair of fractional indices of rows `y` and columns `x`."""
    rows, columns = _interpolation_matrix(y, grid.shape[0], wrap), _interpolation_matrix(x, grid.shape[1], wrap)
    return np.ascontiguousarray((columns @ (rows @ grid).T).T)


def resample(field: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray) -> np.ndarray:
    """Read a periodic field on the grid of the given row and column positions."""
    points = field.shape[0]
    return interpolate(field, y_mm * points / FIELD_MM, x_mm * points / FIELD_MM, wrap=True)


def look_up(field: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray) -> np.ndarray:
    """Read a periodic field at any positions, linearly: for fields bent along the breast's own coordinates."""
    scale = field.shape[0] / FIELD_MM
    return ndimage.map_coordinates(field, (y_mm * scale, x_mm * scale), order=1, mode="grid-wrap")


def draw_curves(curves: Sequence[Curve], shape: tuple[int, int], mm_per_pixel: float, width_mm: float) -> np.ndarray:
    """Draw soft tubes of one full width at half maximum, 1 on the axis of a curve of weight 1.

    Tubes thinner than a pixel keep their integral, as on a detector, and so fade in coarse images.
    """
    if not curves:
        return np.zeros(shape, np.float32)
    sigma = float(np.hypot(width_mm / 2.355, 0.3 * mm_per_pixel))
    points, weight = map(np.concatenate, zip(*curves, strict=True))
    weight = weight * np.concatenate([np.hypot(*np.gradient(line, axis=0).T) for line, _ in curves])
    x, y = points[:, 0] / mm_per_pixel - 0.5, points[:, 1] / mm_per_pixel - 0.5
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - column, y - row
    canvas = np.zeros(shape[0] * shape[1])
    for dy, dx in product((0, 1), repeat=2):
        r, c, share = row + dy, column + dx, (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
        inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
        canvas += np.bincount((r * shape[1] + c)[inside], weights=(weight * share)[inside], minlength=canvas.size)
    points_drawn = canvas.reshape(shape).astype(np.float32)
    image = ndimage.gaussian_filter(points_drawn, sigma / mm_per_pixel, mode="constant", truncate=3)
    return image * np.float32(np.sqrt(2 * np.pi) * width_mm / 2.355 / mm_per_pixel**2)
