"""What prepare measures of every image for the quality score: exposure, sharpness, objects, lines, position.

Each measurement is one number of the whole source image, not of the prepared one alone; detection/quality.py compares
it with those of healthy images.
"""

from functools import reduce

import numpy as np
from scipy import ndimage

from mammovae.data.geometry import ChestWall

MEASUREMENTS = "measurements.parquet"  # of a DATA folder: what was measured, a row a row of the index
MIN_LENGTH = 1024
"""Fine structure is measured in images of less than twice so many pixels on the longer side, or smaller ones."""
_COARSE = 256  # pixels of the longer side at which lines and shapes are looked for
_SHADE_NEAR, _SHADE_FAR = 2, 5  # coarse pixels from a shade's edge at which its two sides are compared
_SHADE_SLOPES = tuple(0.03 * step for step in range(-8, 9))  # an edge 1 % off its slope would be blurred
_METAL_AREA = 1.4e-4  # of the square of the image's height: some 6 mm2, more than a coarse calcification has
_SLOPES = (-0.24, -0.16, -0.08, 0.0, 0.08, 0.16, 0.24)  # of the straight edges that are looked for


def measure_image(pixels: np.ndarray, breast: np.ndarray, wall: ChestWall) -> dict[str, float]:
    """Measure an image, uint16 (rows, columns), with its breast, bool; of 2,048 pixels and more reduced: MIN_LENGTH.

    Grey values are shares of 65535, lengths shares of the breast's height; ratios and counts as their names say.
    """
    if wall == "right":
        pixels, breast = pixels[:, ::-1], breast[:, ::-1]
    grey = pixels / np.float32(65535)
    deep = _eroded(breast, max(1, round(0.012 * len(grey))))
    values = _exposure(pixels, breast, grey, deep) | _sharpness(grey, deep) | _objects(grey, deep)
    values |= {"metal": _metal(grey, deep)} | _print(grey, breast) | _lines(pixels, breast)
    return values | _position(breast) | {"tissue_below": _tissue_below(grey, breast)}


def _eroded(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return the mask without a rim of some pixels, the image's edge no rim; the mask itself where nothing is left."""
    inner = np.pad(mask, pixels, mode="edge")
    for _ in range(2):  # along the rows, then, transposed, along the columns
        # Together, runs of 1, 2, 4, ... and at last 2 pixels + 1: a few passes however wide the rim is.
        run, full_run = 1, 2 * pixels + 1
        while run < full_run:
            step = min(run, full_run - run)
            inner, run = inner[step:] & inner[:-step], run + step
        inner = inner.T
    return inner if inner.any() else mask


def _exposure(pixels: np.ndarray, breast: np.ndarray, grey: np.ndarray, deep: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(grey[deep], (0.02, 0.5, 0.98))
    air = grey[_eroded(~breast, max(1, round(0.02 * len(grey))))]
    values = pixels[::4, ::4][breast[::4, ::4]]
    return {
        "grey_low": float(low),
        "grey_median": float(middle),
        "grey_high": float(high),
        "saturated": float((values >= max(0.98 * 65535, float(values.max()) - 64)).mean()) if values.size else 0.0,
        "air_median": float(np.median(air)) if air.size else 0.0,
        "air_haze": float(((air > 0.25 * middle) & (air < middle)).mean()) if air.size else 0.0,
    }


def _sharpness(grey: np.ndarray, deep: np.ndarray) -> dict[str, float]:
    """Measure how much of the breast's structure is fine: logs of median second differences over 1, 4 and 8 pixels."""
    # Noise raises the finest; motion takes fine structure away. Medians, so that a skin marker's edge is no noise.
    box = _box(deep, 8)
    grey, deep = grey[box], deep[box]
    energy = {}
    for reach in (1, 4, 8):
        middle, inside = grey[reach:-reach, reach:-reach], deep[reach:-reach, reach:-reach]
        level = middle - (grey[reach:-reach, 2 * reach :] + grey[reach:-reach, : -2 * reach]) / 2
        upright = middle - (grey[2 * reach :, reach:-reach] + grey[: -2 * reach, reach:-reach]) / 2
        medians = (float(np.median(np.abs(part[inside]))) if inside.any() else 0.0 for part in (level, upright))
        energy[reach] = sum(medians) + 4e-4
    return {
        "fine_energy": float(np.log(energy[1])),
        "fine_to_middle": float(np.log(energy[1] / energy[4])),
        "middle_to_coarse": float(np.log(energy[4] / energy[8])),
    }


def _box(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    """Return the rows and columns that hold the mask, and a margin where there is room."""
    places = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return tuple(slice(max(0, int(at[0]) - margin), int(at[-1]) + 1 + margin) for at in places)


def _objects(grey: np.ndarray, deep: np.ndarray) -> dict[str, float]:
    """Measure how far bright things of two sizes exceed what lies beside them, the sharpest edge, and plateaus."""
    box = _box(deep, round(0.03 * len(grey)))
    height, grey, deep = len(grey), grey[box], deep[box]
    values: dict[str, float] = {}
    for name, size in (("ball", 0.012), ("device", 0.05)):
        step = max(1, round(size * height / 6))
        blocks, inside = (grey, deep) if step == 1 else (_blocks(grey, step), _blocks(deep, step) > 0.99)
        rise = _above_both_sides(blocks, max(2, round(size * height / step)))
        values[f"{name}_height"] = _highest(rise[inside])
    edge = np.zeros_like(grey)
    edge[1:-1, 1:-1] = np.hypot(grey[2:, 1:-1] - grey[:-2, 1:-1], grey[1:-1, 2:] - grey[1:-1, :-2])
    values["sharpest_edge"] = _highest(edge[deep])
    step = max(1, height // _COARSE)
    small, inside = _blocks(grey, step), _blocks(deep, step) > 0.99
    mean = ndimage.uniform_filter(small, 7)
    rough = np.sqrt(np.maximum(ndimage.uniform_filter(small**2, 7) - mean**2, 0))
    if not inside.any():
        return values | {"plateau": 0.0}
    flat = inside & (rough < 0.35 * np.median(rough[inside])) & (mean > np.median(small[inside]))
    labels, count = ndimage.label(flat)  # pyrefly: ignore
    largest = np.bincount(labels.ravel())[1:].max() if count else 0
    return values | {"plateau": float(largest / inside.sum())}


def _blocks(values: np.ndarray, step: int) -> np.ndarray:
    """Return the mean of each step x step block, float32."""
    rows, columns = (max(step, length // step * step) for length in values.shape)
    exact = np.float32 if values.dtype == np.float32 else np.uint32
    down = values[:rows, :columns].reshape(rows // step, step, columns).sum(axis=1, dtype=exact)
    total = sum((down[:, column::step] for column in range(1, step)), start=down[:, ::step])
    return total.astype(np.float32) / np.float32(step * step)


def _above_both_sides(grey: np.ndarray, reach: int) -> np.ndarray:
    """Return how far each pixel exceeds what lies at some distance on both sides, both level and upright."""
    level, upright = np.full_like(grey, -1), np.full_like(grey, -1)
    for values, target in ((grey, level), (grey.T, upright.T)):
        neighbours = np.maximum(values[:, 2 * reach :], values[:, : -2 * reach])
        target[:, reach:-reach] = values[:, reach:-reach] - neighbours
    return np.minimum(level, upright)


def _above_at(grey: np.ndarray, ys: np.ndarray, xs: np.ndarray, reach: int) -> np.ndarray:
    """Return how far some pixels exceed what lies at a distance on both sides, level or upright: lines count too."""
    rise = np.full(len(ys), -1, grey.dtype)
    for at, length, dy, dx in ((xs, grey.shape[1], 0, reach), (ys, grey.shape[0], reach, 0)):
        fits = (at >= reach) & (at < length - reach)
        y, x = ys[fits], xs[fits]
        neighbours = np.maximum(grey[y + dy, x + dx], grey[y - dy, x - dx])
        rise[fits] = np.maximum(rise[fits], grey[y, x] - neighbours)
    return rise


def _highest(values: np.ndarray, count: int = 20) -> float:
    """Return the mean of the highest few values: one pixel may be dust."""
    return float(np.partition(values, -count)[-count:].mean()) if values.size >= count else 0.0


def _metal(grey: np.ndarray, deep: np.ndarray) -> float:
    """Measure how white a thing of some mm² with a sharp rim is: its share of the way from tissue to white."""
    # A share, since in dense tissue metal rises by little, but by all that there is room for; a coarse calcification
    # does so too, but is smaller.
    length, white = len(grey), max(float(grey.max()), 0.5)
    rim = max(1, round(0.004 * length))  # scanners leave thin lines along the image's edges
    framed = np.pad(deep[rim:-rim, rim:-rim], rim)
    box = _box(framed if framed.any() else deep, round(0.03 * length))
    grey, deep = grey[box], framed[box]
    blocks = _blocks(grey, 2)  # of what lies under thin things a coarse image is enough
    opened = ndimage.grey_opening(blocks, (max(2, round(0.007 * length)),) * 2)
    tissue = np.pad(opened.repeat(2, axis=0).repeat(2, axis=1), ((0, 1), (0, 1)), mode="edge")
    tissue = tissue[: grey.shape[0], : grey.shape[1]]
    edge = np.zeros_like(grey)
    down, across = grey[2:, 1:-1] - grey[:-2, 1:-1], grey[1:-1, 2:] - grey[1:-1, :-2]
    edge[1:-1, 1:-1] = np.sqrt(down * down + across * across)
    rise = np.minimum(grey - tissue, _largest_near(edge, max(1, round(0.002 * length))))
    share = np.where(deep, rise / (0.06 + np.maximum(white - tissue, 0)), 0)
    levels = np.geomspace(0.02, 0.9, 256)
    low, high = 0, len(levels)
    fewest = _METAL_AREA * length**2
    while low < high:  # by halves: the highest level above which the largest thing is large enough
        middle = (low + high) // 2
        above, is_large = share > levels[middle], False
        if np.count_nonzero(above) >= fewest:
            labels, _ = ndimage.label(above, np.ones((3, 3)))  # pyrefly: ignore
            is_large = bool(np.bincount(labels[above]).max() >= fewest)
        low, high = (middle + 1, high) if is_large else (low, middle)
    return float(levels[max(low - 1, 0)])


def _largest_near(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the largest value, at least 0, within reach of each pixel along rows and columns."""
    for _ in range(2):
        padded = np.pad(values, ((reach, reach), (0, 0)))
        values = reduce(np.maximum, (padded[shift : shift + len(values)] for shift in range(2 * reach + 1))).T
    return values


def _print(grey: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """Count white strokes a few pixels wide, and steep steps, as print has them and film hardly: log10 a row."""
    white, reach = float(grey.max()), max(2, round(0.006 * len(grey)))
    strokes = grey > 0.85 * white
    ys, xs = np.nonzero(strokes)
    strokes[ys, xs] = _above_at(grey, ys, xs, reach) > 0.4 * white
    steep = np.zeros_like(strokes)
    steep[:, 1:-1] = np.abs(grey[:, 2:] - grey[:, :-2]) > 0.5 * white
    pixels = {"print_outside": strokes & ~inside, "print_inside": strokes & inside, "steep_outside": steep & ~inside}
    return {name: float(np.log10(where.sum() / len(grey) + 0.02)) for name, where in pixels.items()}


def _lines(pixels: np.ndarray, breast: np.ndarray) -> dict[str, float]:
    """Measure the sharpest step along nearly level or upright lines across the breast, and repeated or empty rows."""
    step = -(-max(pixels.shape) // _COARSE)
    height, width = (length // step * step for length in pixels.shape)
    grey, inside = _blocks(pixels, step) / 65535, breast[step // 2 : height : step, step // 2 : width : step]
    spread = float(np.subtract(*np.quantile(grey[inside], (0.75, 0.25)))) + 0.02
    rows = np.flatnonzero(breast.any(axis=1))
    part = slice(rows[0], rows[-1] + 1), slice(None, None, max(1, pixels.shape[1] // 512))
    sampled, mask = pixels[part], breast[part]
    pairs = mask[1:] & mask[:-1]
    same = ((sampled[1:] == sampled[:-1]) & pairs).sum(axis=1) >= 0.98 * np.maximum(pairs.sum(axis=1), 1)
    dead = (np.where(mask, sampled, 0).max(axis=1) <= 0.02 * sampled.max()) & (mask.sum(axis=1) > 3)
    return {
        "shaded_edge": max(_shaded_below(grey, inside), _shaded_below(grey[::-1], inside[::-1])),
        "upright_step": _steepest_line(grey.T, inside.T) / spread,
        "dead_rows": float(same.sum() + dead.sum()) / len(rows),
    }


def _steepest_line(grey: np.ndarray, inside: np.ndarray) -> float:
    """Return the largest mean step across any nearly level line that crosses a quarter of the breast's columns."""
    columns = np.arange(grey.shape[1])
    shifts = [np.rint(slope * (columns - columns.mean())).astype(int) for slope in _SLOPES]
    # The steps of all pixels once, the image repeated at its edges; a sloping line then takes one of each column.
    margin = max(int(np.abs(shift).max()) for shift in shifts)
    grey_padded, mask = (np.pad(part, ((margin, margin), (0, 0)), mode="edge") for part in (grey, inside))
    # Beyond a film lies nothing at all: its edge is no step.
    counts = (mask[2:] | mask[:-2]) & (np.minimum(grey_padded[2:], grey_padded[:-2]) > 0.01)
    step = np.where(counts, np.clip(grey_padded[2:] - grey_padded[:-2], -0.2, 0.2), 0)
    steepest = 0.0
    for shift in shifts:
        rows = np.arange(margin, margin + grey.shape[0] - 2)[:, None] + shift
        count, steps = counts[rows, columns].sum(axis=1), step[rows, columns].sum(axis=1)
        long = count > 0.25 * inside.any(axis=0).sum()
        if long.any():
            steepest = max(steepest, float(np.abs(steps[long] / count[long]).max()))
    return steepest


def _shaded_below(grey: np.ndarray, inside: np.ndarray) -> float:
    """Return the share of the breast's width along which one nearly level line shades what lies below it, 0..1."""
    # A collimator takes most of the light from all beyond its straight edge. What is left there still shows more than
    # air, where beyond the skin nothing is; and skin fades into air, while this grey falls within 2 mm.
    columns = _box(inside)[1]
    light, mask = np.log(grey[:, columns] + 0.01), inside[:, columns]
    air = float(np.median(grey[~inside])) if not inside.all() else 0.0
    near, far = _SHADE_NEAR, _SHADE_FAR
    rows, width = np.arange(far, len(grey) - far), mask.shape[1]
    fall = light[rows - near] - light[rows + near]
    slow = np.abs(light[rows - far] - light[rows - near]) + np.abs(light[rows + near] - light[rows + far])
    counts = mask[rows - near] & (grey[rows + far, columns] > air + 0.02)
    # Lines that leave the image fall into the rows of nothing above and below.
    margin = int(np.ceil(max(_SHADE_SLOPES) * width))
    sharp = np.pad(np.where(counts, np.clip(fall - slow, 0, 1), 0), ((margin, margin), (0, 0)))
    places, starts = np.arange(width), np.arange(margin, margin + len(rows))[:, None]
    shifts = (np.rint(slope * (places - width / 2)).astype(int) for slope in _SHADE_SLOPES)
    return max(float(sharp[starts + shift, places].sum(axis=1).max()) / width for shift in shifts)


def _position(inside: np.ndarray) -> dict[str, float]:
    """Measure where the breast lies and how it is shaped; the chest wall on the left."""
    box = inside[_box(inside)]
    height, width = box.shape
    rows, columns = np.nonzero(box)
    widths = box.sum(axis=1)
    third = max(1, height // 3)
    return {
        "height": height / len(inside),
        "filled": float(box.mean()),
        "middle_down": float(rows.mean() / height),
        "middle_across": float(columns.mean() / width),
        "upper_to_lower": float(np.log(widths[:third].mean() / widths[-third:].mean())),
        "touches_top": float(inside[0].sum() / width),
        "touches_front": float(inside[:, -1].sum() / height),
        "touches_wall": float(box[:, 0].mean()),
        "straight_above": _straight(inside),
        "straight_below": _straight(inside[::-1]),
    }


def _tissue_below(grey: np.ndarray, breast: np.ndarray) -> float:
    """Return how much of the breast's greatest width the image's lower edge cuts where tissue is bright, 0..1."""
    # Below a breast that is shown whole lie its skin and the fold: dark, or narrow.
    part = slice(-max(1, round(0.012 * len(grey))), None)
    bright = breast[part] & (grey[part] > 0.7 * np.median(grey[breast]))
    return float(np.minimum(bright.mean(axis=0).sum() / breast.sum(axis=1).max(), 1))


def _straight(inside: np.ndarray) -> float:
    """Return the longest run of columns whose uppermost breast pixels lie on one line, as a share of the width."""
    first = inside.argmax(axis=0)
    columns = np.flatnonzero(inside.any(axis=0) & (first > 2))  # what touches the image's own edge is no line
    if len(columns) < 20:
        return 0.0
    best, reach = 0, max(10, len(columns) // 5)
    for start in range(0, len(columns) - reach, max(1, reach // 4)):
        part = columns[start : start + reach]
        slope, offset = np.polyfit(part, first[part], 1)
        near = np.abs(first[columns] - slope * columns - offset) <= 1 + 0.004 * len(inside)
        best = max(best, int(near.sum())) if abs(slope) <= 0.5 else best
    return best / int(inside.any(axis=0).sum())
