"""Breast mask, side, and Geometry: crop, mirror, resize, and the way back to source pixels (the only owner of it).

In use:
    breast = find_breast(image)
    geometry = Geometry.fit(breast.mask, breast.chest_wall, size=128)
    square = geometry.apply(image)  # what is stored and learnt from
    x, y = geometry.to_source(64.0, 31.5)  # where that pixel lies in the source
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage, sparse

from mammovae.config import InputError

_WORKING_SIZE = 400  # longest side, in pixels, of the reduced image on which the breast is looked for
_MARGIN = 0.02  # of the longer side of the mask's bounding box
_NOTHING = "Nothing as large as a breast stands out from the background: check the file and its window."


class NoBreast(InputError):
    """No breast could be told from the background; the message says why, and what to do, in one sentence."""


@dataclass(frozen=True)
class Breast:
    """Where the breast lies in an image.

    mask: bool, (rows, columns) of the source: one connected region without holes, pectoral muscle included.
    chest_wall: the image edge towards which the chest wall lies, as seen in the pixels.
    """

    mask: np.ndarray
    chest_wall: Literal["left", "right"]


def find_breast(image: np.ndarray) -> Breast:
    """Find the breast up to its skin line, without film markers, labels, tape, scanner borders or burned-in text.

    image: uint16, (rows, columns), bright = dense tissue; the background is darker but need not be 0. The contrast may
    be low. Works on a copy reduced to at most 400 pixels; the same image always gives the same mask.
    Raises NoBreast for blank, inverted or all-bright images, and ValueError for any other array.
    """
    if image.ndim != 2 or image.dtype != np.uint16:
        raise ValueError(f"find_breast takes a uint16 image (rows, columns), not {image.dtype} {image.shape}.")
    step = -(-max(image.shape) // _WORKING_SIZE)
    if min(image.shape) < 16 * max(step, 1):
        raise NoBreast(f"The image is too small or too narrow ({image.shape[0]} x {image.shape[1]}): check the file.")
    # The median takes away noise and hair lines, and leaves the film's edge at the chest wall where it is.
    small = ndimage.median_filter(_reduce(image, step), 3, mode="nearest")
    # Scanners leave thin bright or dark lines along the image's edges: look inside them, and carry the mask on.
    frame = max(1, round(0.015 * max(small.shape)))
    inner = small[frame:-frame, frame:-frame]
    found = _segment(inner)
    mask = np.pad(found, frame, mode="edge") & (small > np.percentile(inner[found], 0.5))
    mask[frame:-frame, frame:-frame] = found
    mask = ndimage.binary_fill_holes(largest_part(mask))
    return Breast(_enlarge(mask, image.shape), _chest_wall(found, inner))


def _segment(small: np.ndarray) -> np.ndarray:
    """The mask of a reduced image: a safe core first, then grown to the faint skin line, then tidied."""
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
    mask = ndimage.binary_fill_holes(largest_part(mask))
    if mask.mean() < 0.02:
        raise NoBreast(_NOTHING)
    if mask.mean() > 0.97 or mask[[0, 0, -1, -1], [0, -1, 0, -1]].all() or _inverted(small, mask):
        raise NoBreast("No dark background lies around a breast: check that the image is not inverted or all bright.")
    return mask


def _inverted(small: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the mask is flat and as bright as can be while all sorts of grey lie beside it."""
    beside = np.percentile(small[~mask], (10, 90))
    return bool((small[mask] > 0.97 * small.max()).mean() > 0.5 and np.ptp(beside) > 0.1 * np.ptp(small))


def _air_level(grey: np.ndarray, air: np.ndarray) -> np.ndarray:
    """The third quartile of the air in every row, (rows,): the fog of a film is uneven from top to bottom."""
    air = air & ((grey > 0.02).mean(axis=0) > 0.05)  # columns of nothing are padding beside a film, not air
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
        filled = np.flatnonzero(rows.any(axis=1))
        widths = rows[filled].sum(axis=1)
        tail_width = np.median(widths[: max(1, len(widths) // 20)])
        tail = int(np.argmax(widths > tail_width + 0.06 * widths.max()))
        if tail_width < 0.3 * widths.max() and tail > 0.1 * len(widths):
            rows[: filled[tail]] = False
    return trimmed


def _main_part(candidates: np.ndarray, small: np.ndarray, radius: float) -> np.ndarray:
    """The one part that is a breast, cut off from whatever hangs on it by a bridge or is thinner than 2 radius."""
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
    return ndimage.binary_fill_holes(largest_part(part))


def largest_part(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected part of a mask (rows, columns) that has any; bool."""
    labels, count = _label(mask)
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if count > 1 else mask


def _chest_wall(mask: np.ndarray, small: np.ndarray) -> Literal["left", "right"]:
    """The side on which the mask is flat (more of its rows reach nearly as far as any does) and ends brightly."""
    rows, values = mask[mask.any(axis=1)], small[mask.any(axis=1)]
    left = rows.argmax(axis=1)
    right = rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)
    near = 0.04 * (right.max() - left.min())
    # The upper half tells: there an oblique view slopes to the skin, while below a fold may part it from the wall.
    upper = slice(0, (len(rows) + 1) // 2)
    flat = np.mean((left - left.min() <= near)[upper]) - np.mean((right.max() - right <= near)[upper])
    every, inset = np.arange(len(rows)), np.minimum(max(2, int(near)), (right - left) // 2)
    at_left, at_right = values[every, left + inset].mean(), values[every, right - inset].mean()
    bright = (at_left - at_right) / max(at_left + at_right, 1e-6)
    return "left" if flat + bright / 4 >= 0 else "right"


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold (IEEE Trans. SMC 9:62, 1979) of values in [0, 1]."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    below = np.cumsum(counts / counts.sum())
    moment = np.cumsum(counts / counts.sum() * (edges[1:] + edges[:-1]) / 2)
    between = (moment[-1] * below - moment) ** 2 / np.maximum(below * (1 - below), 1e-12)
    return float(edges[1 + int(np.argmax(between))])


def _reduce(image: np.ndarray, step: int) -> np.ndarray:
    """The image in blocks of some step x step pixels, each the mean of 3 x 3 of its pixels (all would take long)."""
    shape = [-(-length // step) for length in image.shape]
    total = np.zeros(shape, np.float32)
    for y, x in np.ndindex(3, 3):
        at = [
            ((np.arange(n) + (2 * k + 1) / 6) * length / n).astype(int)
            for n, length, k in zip(shape, image.shape, (y, x), strict=True)
        ]
        total += image[np.ix_(*at)]
    return total / 9


def _enlarge(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The reduced mask in source pixels, its edge interpolated so that it has no steps."""
    down, across = (
        _linear_weights((np.arange(length) + 0.5) * n / length - 0.5, n)
        for n, length in zip(mask.shape, shape, strict=True)
    )
    return (down @ (across @ mask.T.astype(np.float32)).T) >= 0.5


def _distance(mask: np.ndarray) -> np.ndarray:
    """Pixels from each pixel of the mask to the nearest one outside it; the image's edge is not the mask's."""
    return np.asarray(ndimage.distance_transform_edt(mask), np.float64)


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    labels, count = ndimage.label(mask)  # pyrefly: ignore
    return labels, count


@dataclass(frozen=True)
class Geometry:
    """How a part of a source image became a DATA square: crop, then mirror, then resize, then pad with 0.

    Pixel coordinates are those of pixel centres: the first pixel's centre is at 0, its edges at -1/2 and 1/2.
    crop_x0, crop_y0, crop_x1, crop_y1: the crop in source pixels, half-open.
    mirrored: the crop was flipped left to right, so that the chest wall is at column 0.
    scale_x, scale_y: square pixels for each source pixel.
    pad_left, pad_top: square pixels before the crop; they may be fractional.
    size: the square's side in pixels.

    With x counted from the crop's left edge (its right edge if mirrored): x' = (x + 1/2) scale + pad - 1/2.
    """

    crop_x0: int
    crop_y0: int
    crop_x1: int
    crop_y1: int
    mirrored: bool
    scale_x: float
    scale_y: float
    pad_left: float
    pad_top: float
    size: int

    @classmethod
    def fit(
        cls, mask: np.ndarray, chest_wall: Literal["left", "right"], size: int, *, stretch: bool = False
    ) -> "Geometry":
        """The geometry that brings a mask (bool, rows x columns) into a square of size pixels, chest wall first.

        The crop is the mask's bounding box with a margin of 2 % of the box's longer side, clipped to the image; the
        chest wall's side gets no margin, for there column 0 is the chest wall and not the black beyond a film.
        Both axes have one scale, with padding on the right and equally above and below, unless stretch is set: then
        the crop fills the square. Raises NoBreast if the mask is empty, ValueError if size < 1.
        """
        if size < 1:
            raise ValueError(f"size is {size}: give at least 1 pixel.")
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if ys.size == 0:
            raise NoBreast("The breast mask is empty: give a mask with at least one pixel set.")
        x0, x1, y0, y1 = int(xs[0]), int(xs[-1]) + 1, int(ys[0]), int(ys[-1]) + 1
        margin = round(_MARGIN * max(x1 - x0, y1 - y0))
        x0 = x0 if chest_wall == "left" else max(0, x0 - margin)
        x1 = x1 if chest_wall == "right" else min(mask.shape[1], x1 + margin)
        y0, y1 = max(0, y0 - margin), min(mask.shape[0], y1 + margin)
        width, height = x1 - x0, y1 - y0
        scale_x, scale_y = size / width, size / height
        if not stretch:
            scale_x = scale_y = min(scale_x, scale_y)
        pad_top = (size - height * scale_y) / 2
        return cls(x0, y0, x1, y1, chest_wall == "right", scale_x, scale_y, 0.0, pad_top, size)

    def to_square(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Source pixel coordinates (numbers or arrays) in the square's; points outside the crop are extrapolated."""
        across = self.crop_x1 - (x + 0.5) if self.mirrored else x + 0.5 - self.crop_x0
        down = y + 0.5 - self.crop_y0
        return across * self.scale_x + self.pad_left - 0.5, down * self.scale_y + self.pad_top - 0.5

    def to_source(self, x: Any, y: Any) -> tuple[Any, Any]:
        """The square's pixel coordinates (numbers or arrays) in the source's: the inverse of to_square."""
        across = (x + 0.5 - self.pad_left) / self.scale_x
        down = (y + 0.5 - self.pad_top) / self.scale_y
        x = self.crop_x1 - across - 0.5 if self.mirrored else across - 0.5 + self.crop_x0
        return x, down - 0.5 + self.crop_y0

    def box_to_square(self, xmin: Any, ymin: Any, xmax: Any, ymax: Any) -> tuple[Any, Any, Any, Any]:
        """A box (xmin, ymin, xmax, ymax) of the source in the square's coordinates, still with xmin <= xmax."""
        (xa, ya), (xb, yb) = self.to_square(xmin, ymin), self.to_square(xmax, ymax)
        return (xb, ya, xa, yb) if self.mirrored else (xa, ya, xb, yb)

    def box_to_source(self, xmin: Any, ymin: Any, xmax: Any, ymax: Any) -> tuple[Any, Any, Any, Any]:
        """A box of the square in source coordinates: the inverse of box_to_square."""
        (xa, ya), (xb, yb) = self.to_source(xmin, ymin), self.to_source(xmax, ymax)
        return (xb, ya, xa, yb) if self.mirrored else (xa, ya, xb, yb)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The square of a source image (uint16, rows x columns): uint16, (size, size), same intensity scale.

        Each pixel is the mean over the area that it covers, fractions of source pixels included; where a scale
        exceeds 1, linear interpolation. A pixel half outside the crop is the mean of its inside, one that is further
        out is 0. Single-threaded, hence the same on any number of cores.
        """
        return np.rint(self._resample(image)).astype(np.uint16)

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """The square of a source mask (bool, rows x columns): uint8, (size, size), 1 where half the area or more is."""
        return (self._resample(mask) >= 0.5 - 1e-6).astype(np.uint8)

    def restore(self, map: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """A map over the square (float, size x size) on the source's (rows, columns): bilinear, 0 outside the crop."""
        xs, ys = self.to_square(np.arange(self.crop_x0, self.crop_x1), np.arange(self.crop_y0, self.crop_y1))
        narrow = _linear_weights(xs, self.size) @ np.asarray(map, np.float32).T
        restored = np.zeros(shape, np.float32)
        restored[self.crop_y0 : self.crop_y1, self.crop_x0 : self.crop_x1] = _linear_weights(ys, self.size) @ narrow.T
        return restored

    def _resample(self, image: np.ndarray) -> np.ndarray:
        """The crop, mirrored and resized with separable sparse weights: float32, (size, size)."""
        rows, columns = image.shape
        if self.crop_x1 > columns or self.crop_y1 > rows:
            raise ValueError(f"The crop of this geometry does not fit an image of {rows} x {columns} pixels.")
        crop = image[self.crop_y0 : self.crop_y1, self.crop_x0 : self.crop_x1].astype(np.float32)
        down = _area_weights(crop.shape[0], self.scale_y, self.pad_top, self.size)
        across = _area_weights(crop.shape[1], self.scale_x, self.pad_left, self.size)
        short = down @ crop
        return (across @ np.ascontiguousarray((short[:, ::-1] if self.mirrored else short).T)).T


def _area_weights(length: int, scale: float, pad: float, size: int) -> sparse.csr_array:
    """Weights (size, length) that make size pixels of length source pixels; rows sum to 1, or to 0 in the padding."""
    centres = (np.arange(size) + 0.5 - pad) / scale
    inside = (centres > -1e-9) & (centres < length + 1e-9)
    if scale > 1:
        return sparse.csr_array(sparse.diags_array(inside.astype(np.float32)) @ _linear_weights(centres - 0.5, length))
    starts = np.clip(centres - 0.5 / scale, 0, length)
    ends = np.clip(centres + 0.5 / scale, 0, length)
    target = np.repeat(np.flatnonzero(inside), int(np.ceil(1 / scale)) + 1)
    source = np.floor(starts[target]).astype(int) + np.tile(np.arange(int(np.ceil(1 / scale)) + 1), inside.sum())
    cover = np.minimum(source + 1, ends[target]) - np.maximum(source, starts[target])
    keep = (cover > 0) & (source < length)
    weights = (cover / (ends - starts)[target])[keep].astype(np.float32)
    return sparse.csr_array((weights, (target[keep], source[keep])), shape=(size, length))


def _linear_weights(positions: np.ndarray, length: int) -> sparse.csr_array:
    """Weights (len(positions), length) that interpolate linearly at positions, held constant beyond the ends."""
    positions = np.clip(positions, 0, length - 1)
    first = np.minimum(positions.astype(int), max(length - 2, 0))
    rest = positions - first
    second = np.minimum(first + 1, length - 1)
    target = np.arange(len(positions))
    weights = np.concatenate([1 - rest, rest]).astype(np.float32)
    index = (np.concatenate([target, target]), np.concatenate([first, second]))
    return sparse.csr_array((weights, index), shape=(len(positions), length))
