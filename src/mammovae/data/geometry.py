"""Geometry: crop, mirror, resize, and the way back to source pixels; no other file computes it.

In use:
    breast = find_breast(image)
    geometry = Geometry.fit(breast.mask, breast.chest_wall, size=128)
    prepared = geometry.apply(image)  # what is stored and learnt from
    x, y = geometry.to_source(64.0, 31.5)  # where that pixel lies in the source
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import sparse

from mammovae.config import InputError
from mammovae.imageio.decoded_image import PixelGrid

_MARGIN = 0.02  # of the longer side of the mask's bounding box


class NoBreast(InputError):
    """No breast stands out from the background; the message says why, and what to do, in one sentence."""


@dataclass(frozen=True)
class Geometry:
    """How a part of a source image became a prepared image: crop, then mirror, then resize, then pad with 0.

    Pixel coordinates are those of pixel centres: the first pixel's centre is at 0, its edges at -1/2 and 1/2.
    With x counted from the crop's left edge (its right edge if mirrored): x' = (x + 1/2) scale + pad - 1/2.

    Attributes
    ----------
    crop_x0, crop_y0, crop_x1, crop_y1
        The crop in source pixels, half-open.
    mirrored
        The crop was flipped left to right, so that the chest wall is at column 0.
    scale_x, scale_y
        Prepared pixels for each source pixel.
    pad_left, pad_top
        Prepared pixels before the crop; they may be fractional.
    size
        Rows and columns of the prepared image.
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
        cls,
        mask: np.ndarray,
        chest_wall: Literal["left", "right"],
        size: int,
        *,
        stretch: bool = False,
        grid: PixelGrid | None = None,
    ) -> "Geometry":
        """Return the geometry that brings a mask (bool, rows x columns) into size x size pixels, chest wall first.

        The crop is the mask's bounding box with a margin of 2 % of the box's longer side, clipped to the image; the
        chest wall's side gets no margin, for there column 0 is the chest wall and not the black beyond a film.
        Both axes have one scale, with padding on the right and equally above and below, unless stretch is set: then
        the crop fills the prepared image. grid says how the pixels of a reduced image's mask lie on the source.
        Raises NoBreast if the mask is empty, ValueError if size < 1.
        """
        if size < 1:
            raise ValueError(f"size is {size}: give at least 1 pixel.")
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if ys.size == 0:
            raise NoBreast("The breast mask is empty: give a mask with at least one pixel set.")
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
        out is 0. grid says how the pixels of a reduced image lie on the source. Single-threaded, hence the same on any
        number of cores.
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
        rows, columns = (
            _Span(start // grid.factor, -(-end // grid.factor), grid.factor, start % grid.factor, end - start)
            for start, end in ((self.crop_y0, self.crop_y1), (self.crop_x0, self.crop_x1))
        )
        crop = image[rows.first : rows.last, columns.first : columns.last].astype(np.float32)
        columns = columns.reversed() if self.mirrored else columns
        down = _area_weights(rows, self.scale_y, self.pad_top, self.size)
        across = _area_weights(columns, self.scale_x, self.pad_left, self.size)
        strip = down @ crop
        return (across @ np.ascontiguousarray((strip[:, ::-1] if self.mirrored else strip).T)).T


@dataclass(frozen=True)
class _Span:
    """The pixels of an image that a crop needs along one axis, half-open, and where the crop lies in them."""

    first: int
    last: int
    factor: int
    before: int  # source pixels from the first pixel's edge to the crop
    length: int  # of the crop, in source pixels

    def reversed(self) -> "_Span":
        return replace(self, before=(self.last - self.first) * self.factor - self.before - self.length)


def _area_weights(span: _Span, scale: float, pad: float, size: int) -> sparse.csr_array:
    """Return weights (size, pixels of span) that average them to size pixels; rows sum to 1, in the padding to 0."""
    count = span.last - span.first
    centres = (np.arange(size) + 0.5 - pad) / scale
    inside = (centres > -1e-9) & (centres < span.length + 1e-9)
    if scale * span.factor > 1:
        places = (centres + span.before) / span.factor - 0.5
        return sparse.csr_array(sparse.diags_array(inside.astype(np.float32)) @ linear_weights(places, count))
    starts, ends = (
        (np.clip(edge, 0, span.length) + span.before) / span.factor
        for edge in (centres - 0.5 / scale, centres + 0.5 / scale)
    )
    taps = int(np.ceil(1 / (scale * span.factor))) + 1
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
    index = (np.concatenate([target, target]), np.concatenate([first, second]))
    return sparse.csr_array((weights, index), shape=(len(positions), length))
