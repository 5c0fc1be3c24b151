"""Geometry: crop, mirror, resize, and the way back to source pixels; no other file computes it."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import sparse

from mammovae.config import InputError
from mammovae.imageio.decoded_image import PixelGrid

ChestWall = Literal["left", "right"]
"""The image edge towards which the chest wall lies."""
_MARGIN = 0.02  # of the longer side of the mask's box
_SHARE = 0.01  # of the mask's longest row or column, below which one is a spur and no part of the box


class NoBreast(InputError):
    """No breast stands out from the background; the message says why, and what to do, in one sentence."""


@dataclass(frozen=True)
class Geometry:
    """How a part of a source image became a prepared image: crop, then mirror, then resize, then pad with 0.

    Pixel coordinates are those of pixel centres: the first pixel's centre is at 0, its edges at -1/2 and 1/2.
    With x counted from the crop's left edge (its right edge if mirrored): x' = (x + 1/2) scale + pad - 1/2.
    """

    crop_x0: int  # in source pixels, half-open
    crop_y0: int
    crop_x1: int
    crop_y1: int
    mirrored: bool  # left to right, so that the chest wall is at column 0
    scale_x: float  # prepared pixels for each source pixel
    scale_y: float
    pad_left: float  # prepared pixels before the crop, also fractional
    pad_top: float
    size: int  # rows and columns of the prepared image

    @classmethod
    def fit(
        cls, mask: np.ndarray, chest_wall: ChestWall, size: int, *, stretch: bool = False, grid: PixelGrid | None = None
    ) -> "Geometry":
        """Return the geometry that brings a mask (bool, rows x columns) into size x size pixels, chest wall first.

        The crop is the box of the rows and columns that hold at least 1 % as many of the mask's pixels as the fullest
        one, so that it does not hang on single pixels, with a margin of 2 % of the box's longer side, clipped to the
        image. The chest wall's side gets no margin: there column 0 is the chest wall and not the black beyond a film.
        Both axes have one scale, with padding on the right and equally above and below, unless stretch is set: then
        the crop fills the prepared image. grid says how the pixels of a reduced image's mask lie on the source.
        """
        counts = mask.sum(axis=1), mask.sum(axis=0)
        if not counts[0].any():
            raise NoBreast("The breast mask is empty: give a mask with at least one pixel set.")
        ys, xs = (np.flatnonzero(count >= max(1, _SHARE * count.max())) for count in counts)
        grid = grid or PixelGrid(*mask.shape)
        x0, x1 = int(xs[0]) * grid.factor, min(grid.columns, (int(xs[-1]) + 1) * grid.factor)
        y0, y1 = int(ys[0]) * grid.factor, min(grid.rows, (int(ys[-1]) + 1) * grid.factor)
        margin = round(_MARGIN * max(x1 - x0, y1 - y0))
        x0 = x0 if chest_wall == "left" else max(0, x0 - margin)
        x1 = x1 if chest_wall == "right" else min(grid.columns, x1 + margin)
        y0, y1 = max(0, y0 - margin), min(grid.rows, y1 + margin)
        width, height = x1 - x0, y1 - y0
        scale_x, scale_y = size / width, size / height
        if not stretch:
            scale_x = scale_y = min(scale_x, scale_y)
        pad_top = (size - height * scale_y) / 2
        return cls(x0, y0, x1, y1, chest_wall == "right", scale_x, scale_y, 0.0, pad_top, size)

    def to_prepared(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return source coordinates (numbers or arrays) in the prepared image, extrapolated outside the crop."""
        across = self.crop_x1 - (x + 0.5) if self.mirrored else x + 0.5 - self.crop_x0
        down = y + 0.5 - self.crop_y0
        return across * self.scale_x + self.pad_left - 0.5, down * self.scale_y + self.pad_top - 0.5

    def to_source(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return prepared coordinates (numbers or arrays) in the source: the inverse of to_prepared."""
        across = (x + 0.5 - self.pad_left) / self.scale_x
        down = (y + 0.5 - self.pad_top) / self.scale_y
        x = self.crop_x1 - across - 0.5 if self.mirrored else across - 0.5 + self.crop_x0
        return x, down - 0.5 + self.crop_y0

    def box_to_prepared(self, xmin: Any, ymin: Any, xmax: Any, ymax: Any) -> tuple[Any, Any, Any, Any]:
        """Return a box (xmin, ymin, xmax, ymax) of the source in the prepared image, still with xmin <= xmax."""
        (xa, ya), (xb, yb) = self.to_prepared(xmin, ymin), self.to_prepared(xmax, ymax)
        return (xb, ya, xa, yb) if self.mirrored else (xa, ya, xb, yb)

    def box_to_source(self, xmin: Any, ymin: Any, xmax: Any, ymax: Any) -> tuple[Any, Any, Any, Any]:
        """Return a box of the prepared image in source coordinates: the inverse of box_to_prepared."""
        (xa, ya), (xb, yb) = self.to_source(xmin, ymin), self.to_source(xmax, ymax)
        return (xb, ya, xa, yb) if self.mirrored else (xa, ya, xb, yb)

    def apply(self, image: np.ndarray, grid: PixelGrid | None = None) -> np.ndarray:
        """Return the prepared image, uint16 (size, size), of a source image, uint16 (rows, columns), same grey scale.

        Each prepared pixel is the mean over the area that it covers, fractions of source pixels included; where a scale
        exceeds 1, linear interpolation. A pixel half outside the crop is the mean of its inside, one that is further
        out is 0. Single-threaded, hence the same on any number of cores.
        """
        return np.rint(self._resample(image, grid)).astype(np.uint16)

    def apply_mask(self, mask: np.ndarray, grid: PixelGrid | None = None) -> np.ndarray:
        """Return the prepared mask, uint8 (size, size), 1 where half of a pixel's area or more is in mask (bool)."""
        return (self._resample(mask, grid) >= 0.5 - 1e-6).astype(np.uint8)

    def restore(self, anomaly_map: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return a map over the prepared image, float (size, size), over the source (shape): bilinear, else 0."""
        xs, ys = self.to_prepared(np.arange(self.crop_x0, self.crop_x1), np.arange(self.crop_y0, self.crop_y1))
        narrow = linear_weights(xs, self.size) @ np.asarray(anomaly_map, np.float32).T
        restored = np.zeros(shape, np.float32)
        restored[self.crop_y0 : self.crop_y1, self.crop_x0 : self.crop_x1] = linear_weights(ys, self.size) @ narrow.T
        return restored

    def _resample(self, image: np.ndarray, grid: PixelGrid | None) -> np.ndarray:
        """Return the crop, mirrored and resized with separable sparse weights: float32 (size, size)."""
        grid = grid or PixelGrid(*image.shape)
        if self.crop_x1 > grid.columns or self.crop_y1 > grid.rows:
            raise ValueError(f"The crop of this geometry does not fit an image of {grid.rows} x {grid.columns} pixels.")
        factor = grid.factor
        rows = slice(self.crop_y0 // factor, -(-self.crop_y1 // factor))
        columns = slice(self.crop_x0 // factor, -(-self.crop_x1 // factor))
        height, width = self.crop_y1 - self.crop_y0, self.crop_x1 - self.crop_x0
        # Source pixels from the first pixel's edge to the crop, and the crop's end.
        y, x = self.crop_y0 % factor, (-self.crop_x1 if self.mirrored else self.crop_x0) % factor
        down = _area_weights((y, y + height), factor, self.scale_y, self.pad_top, self.size)
        across = _area_weights((x, x + width), factor, self.scale_x, self.pad_left, self.size)
        strip = down @ image[rows, columns].astype(np.float32)
        return (across @ np.ascontiguousarray((strip[:, ::-1] if self.mirrored else strip).T)).T


def _area_weights(crop: tuple[int, int], factor: int, scale: float, pad: float, size: int) -> sparse.csr_array:
    """Return weights (size, pixels) that average an axis' pixels to size; rows sum to 1, in the padding to 0."""
    count, length = -(-crop[1] // factor), crop[1] - crop[0]
    centres = (np.arange(size) + 0.5 - pad) / scale
    inside = (centres > -1e-9) & (centres < length + 1e-9)
    if scale * factor > 1:
        places = (centres + crop[0]) / factor - 0.5
        return sparse.csr_array(sparse.diags_array(inside.astype(np.float32)) @ linear_weights(places, count))
    edges = np.array([centres - 0.5 / scale, centres + 0.5 / scale])
    starts, ends = (np.clip(edges, 0, length) + crop[0]) / factor
    taps = int(np.ceil(1 / (scale * factor))) + 1
    target = np.repeat(np.flatnonzero(inside), taps)
    source = np.floor(starts[target]).astype(int) + np.tile(np.arange(taps), inside.sum())
    cover = np.minimum(source + 1, ends[target]) - np.maximum(source, starts[target])
    keep = (cover > 0) & (source < count)
    weights = (cover / (ends - starts)[target])[keep].astype(np.float32)
    return sparse.csr_array((weights, (target[keep], source[keep])), shape=(size, count))


def linear_weights(positions: np.ndarray, length: int) -> sparse.csr_array:
    """Return weights (len(positions), length) that interpolate linearly at positions, constant beyond the ends."""
    positions = np.clip(positions, 0, length - 1)
    first = np.minimum(positions.astype(int), max(length - 2, 0))
    rest = positions - first
    second = np.minimum(first + 1, length - 1)
    target = np.arange(len(positions))
    weights = np.concatenate([1 - rest, rest]).astype(np.float32)
    entries = (np.concatenate([target, target]), np.concatenate([first, second]))
    return sparse.csr_array((weights, entries), shape=(len(positions), length))
