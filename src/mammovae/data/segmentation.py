"""The breast mask, and the side on which the chest wall lies."""

from functools import reduce
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mammovae.data.geometry import ChestWall, NoBreast, linear_weights

_WORKING_SIZE = 400  # longest side, in pixels, of the reduced image on which the breast is looked for
_NOTHING = "Nothing as large as a breast stands out from the background: check the file and its window."


class Breast(NamedTuple):
    """Where the breast lies in an image."""

    mask: np.ndarray  # bool (rows, columns): one connected region without holes, pectoral muscle included
    chest_wall: ChestWall


def find_breast(image: np.ndarray) -> Breast:
    """Find the breast up to its skin line, without markers, labels, tape, scanner borders or burned-in text.

    image is uint16 (rows, columns), bright = dense tissue; the background is darker but need not be 0, and the contrast
    may be low. Works on a copy reduced to at most 400 pixels. Raises NoBreast for blank, inverted or all-bright images.
    """
    if image.ndim != 2 or image.dtype != np.uint16:
        raise ValueError(f"find_breast takes a uint16 image (rows, columns), not {image.dtype} {image.shape}.")
    step = -(-max(image.shape) // _WORKING_SIZE)
    if min(image.shape) < 16 * max(step, 1):
        raise NoBreast(f"The image is too small or too narrow ({image.shape[0]} x {image.shape[1]}): check the file.")
    small = _median(_reduce(image, step))  # without noise and hair lines, the film's edge where it is
    # Scanners leave thin bright or dark lines along the image's edges: look inside them, and carry the mask on.
    frame = max(1, round(0.015 * max(small.shape)))
    inner = small[frame:-frame, frame:-frame]
    inner_mask = _segment(inner)
    mask = np.pad(inner_mask, frame, mode="edge") & (small > np.percentile(inner[inner_mask], 0.5))
    mask[frame:-frame, frame:-frame] = inner_mask
    mask = _fill_holes(largest_part(mask))
    return Breast(_enlarge(mask, image.shape), _chest_wall(inner_mask, inner))


def _segment(small: np.ndarray) -> np.ndarray:
    """Return the mask of a reduced image: a safe core first, then grown to the faint skin line, then tidied."""
    dark, bright = np.percentile(small, (1, 99))
    if bright - dark < 64:  # of 65535: less than two grey levels of a 10-bit detector
        raise NoBreast("The image is blank (one grey value throughout): check the file and its window.")
    # The root makes air and tissue two compact groups, so that Otsu's threshold does not part fat from gland.
    grey = np.clip((small - dark) / (bright - dark), 0, 1) ** 0.4
    high = _otsu(grey)
    radius = max(1.0, 0.012 * max(small.shape))

    core = _main_part(grey > high, small, radius)
    near = _distance(~core)
    floor = _air_level(grey, (near > 3 * radius) & (grey < high))[:, None]
    # linear in intensity, a part of the way from the brighter air of the row to the core's threshold
    low = (floor**2.5 + 0.09 * (high**2.5 - floor**2.5)) ** 0.4
    skin = (grey > low) & (grey < 0.9) & (near <= 8 * radius)  # brighter things outside the core are labels
    mask = _main_part(core | skin, small, 0.75 * radius)
    mask = _trim(_close(mask, 2 * radius))
    mask = ndimage.gaussian_filter(mask.astype(np.float32), radius / 3, mode="nearest") >= 0.5
    mask = _fill_holes(largest_part(mask))
    if mask.mean() < 0.02:
        raise NoBreast(_NOTHING)
    is_everything = mask.mean() > 0.97 or mask[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    # Inverted: the mask is flat and as bright as can be while all sorts of grey lie around it.
    if is_everything or (
        (small[mask] > 0.97 * small.max()).mean() > 0.5
        and np.ptp(np.percentile(small[~mask], (10, 90))) > 0.1 * np.ptp(small)
    ):
        raise NoBreast("No dark background lies around a breast: check that the image is not inverted or all bright.")
    return mask


def _air_level(grey: np.ndarray, air: np.ndarray) -> np.ndarray:
    """Return the third quartile of the air in every row, (rows,): a film's fog is uneven from top to bottom."""
    # Columns of nothing are padding beside a film, not air, even if a little noise lies on them.
    air = air & ((grey > 0.04).mean(axis=0) > 0.05)
    counts = air.sum(axis=1)
    if counts.sum() == 0:
        return np.zeros(len(grey))
    ordered = np.sort(np.where(air, grey, 2.0), axis=1)
    level = ordered[np.arange(len(grey)), (0.75 * counts).astype(int).clip(max=grey.shape[1] - 1)]
    level = np.where(counts >= 0.05 * grey.shape[1], level, np.percentile(grey[air], 75))
    return ndimage.median_filter(level, size=5, mode="nearest")


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    """Fill the bays that dark fat opens in a mask; at the image's edges as if the mask went on beyond them."""
    frame = int(np.ceil(2 * radius))
    padded = np.pad(mask, frame, mode="edge")
    wide = _distance(~padded) <= radius
    closed = _distance(wide) > radius
    return mask | closed[frame:-frame, frame:-frame]


def _trim(mask: np.ndarray) -> np.ndarray:
    """Cut off long tails of even, small width above and below: a film's bright edge, a fold along the chest wall."""
    trimmed = mask.copy()
    for rows in (trimmed, trimmed[::-1]):  # views: from above, then from below
        breast_rows = np.flatnonzero(rows.any(axis=1))
        widths = rows[breast_rows].sum(axis=1)
        tail_width = np.median(widths[: max(1, len(widths) // 20)])
        tail = int(np.argmax(widths > tail_width + 0.06 * widths.max()))
        if tail_width < 0.3 * widths.max() and tail > 0.1 * len(widths):
            rows[: breast_rows[tail]] = False
    return trimmed


def _main_part(candidates: np.ndarray, small: np.ndarray, radius: float) -> np.ndarray:
    """Return the part that is a breast, cut off from what hangs on it by a bridge or is thinner than 2 radius."""
    # Outside the image counts as inside the part: the breast goes on there, and thin borders still vanish.
    eroded = _distance(candidates) > radius
    labels, count = _label(eroded)
    if count == 0:
        raise NoBreast(_NOTHING)
    # Scanner borders and tape are saturated; a breast may be in places, not all over.
    weights = np.where(small < 0.97 * small.max(), 1.0, 0.001)
    sizes = ndimage.sum_labels(weights, labels, np.arange(1, count + 1))
    part = labels == 1 + int(np.argmax(sizes))
    part = candidates & (_distance(~part) <= 1.5 * radius)
    return _fill_holes(largest_part(part))


def largest_part(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected part of a mask (rows, columns) that has any; bool."""
    labels, count = _label(mask)
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if count > 1 else mask


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return the mask without holes, as ndimage.binary_fill_holes, which takes several times as long."""
    labels, count = _label(~mask)
    outside = np.zeros(count + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[edge] = True  # of what is not in the mask, only the parts that touch the image's edge stay out
    outside[0] = False
    return ~outside[labels]


def _median(image: np.ndarray) -> np.ndarray:
    """Return the median of each pixel's 3 x 3 neighbourhood, the edge repeated.

    By minima and maxima of shifted images, which take a fraction of ndimage.median_filter's time: the median of nine is
    that of the largest minimum, the middle median and the smallest maximum of its sorted columns.
    """
    columns = _sort(*(np.pad(image, 1, mode="edge")[k : k + len(image)] for k in range(3)))
    lows, middles, highs = ([part[:, k : k + image.shape[1]] for k in range(3)] for part in columns)
    return _sort(reduce(np.maximum, lows), _sort(*middles)[1], reduce(np.minimum, highs))[1]


def _sort(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lowest, the middle and the highest of three images, pixel by pixel."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    return np.minimum(low, c), np.maximum(low, np.minimum(high, c)), np.maximum(high, c)


def _chest_wall(mask: np.ndarray, small: np.ndarray) -> ChestWall:
    """Return the side on which the mask is flat (most rows reach nearly as far as any does) and ends brightly."""
    rows, values = mask[mask.any(axis=1)], small[mask.any(axis=1)]
    left = rows.argmax(axis=1)
    right = rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)
    near = 0.04 * (right.max() - left.min())
    # The upper half decides: there an oblique view slopes to the skin, while below a fold may part it from the wall.
    upper = slice(0, (len(rows) + 1) // 2)
    flat = np.mean((left - left.min() <= near)[upper]) - np.mean((right.max() - right <= near)[upper])
    every, inset = np.arange(len(rows)), np.minimum(max(2, int(near)), (right - left) // 2)
    at_left, at_right = values[every, left + inset].mean(), values[every, right - inset].mean()
    bright = (at_left - at_right) / max(at_left + at_right, 1e-6)
    return "left" if flat + bright / 4 >= 0 else "right"


def _otsu(values: np.ndarray) -> float:
    """Return Otsu's threshold (IEEE Trans. SMC 9:62, 1979) of values in [0, 1]."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    below = np.cumsum(counts / counts.sum())
    moment = np.cumsum(counts / counts.sum() * (edges[1:] + edges[:-1]) / 2)
    between = (moment[-1] * below - moment) ** 2 / np.maximum(below * (1 - below), 1e-12)
    return float(edges[1 + int(np.argmax(between))])


def _reduce(image: np.ndarray, step: int) -> np.ndarray:
    """Return the image in blocks of step x step pixels or so, each the mean of 3 x 3 of its pixels (all take long)."""
    (height, width), rows, columns = image.shape, -(-image.shape[0] // step), -(-image.shape[1] // step)
    total = np.zeros((rows, columns), np.float32)
    for y, x in np.ndindex(3, 3):
        down = ((np.arange(rows) + (2 * y + 1) / 6) * height / rows).astype(int)
        across = ((np.arange(columns) + (2 * x + 1) / 6) * width / columns).astype(int)
        total += image[np.ix_(down, across)]
    return total / 9


def _enlarge(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the reduced mask in source pixels, its edge interpolated so that it has no steps."""
    lengths = zip(mask.shape, shape, strict=True)
    down, across = (linear_weights((np.arange(length) + 0.5) * n / length - 0.5, n) for n, length in lengths)
    return (down @ (across @ mask.T.astype(np.float32)).T) >= 0.5


def _distance(mask: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel of the mask to the nearest one outside; the image's edge is not the mask's."""
    return np.asarray(ndimage.distance_transform_edt(mask), np.float64)


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    labels, count = ndimage.label(mask)  # pyrefly: ignore
    return labels, count
