"""Annotated lesions as regions in the prepared images of a DATA folder."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mammovae.data.dataset import Data
from mammovae.data.index import BOX


def lesion_masks(data: Data, positions: np.ndarray, size: int) -> np.ndarray:
    """Return the annotated regions of images, bool (n, size, size): boxes, or ellipses in them for round findings.

    A region smaller than a pixel is the pixel that holds its centre. Findings without a position have no region.
    """
    masks = np.zeros((len(positions), size, size), bool)
    is_round, shrink = data.source.finding_shape == "round", data.size / size
    ys, xs = np.mgrid[:size, :size]
    findings = data.index["findings"].iloc[positions]
    boxes = [[box for finding in cell if None not in (box := _box(finding))] for cell in findings]
    numbers = [number for number, places in enumerate(boxes) if places]
    for number, geometry in zip(numbers, data.geometries(positions[numbers]), strict=True):
        for box in boxes[number]:
            prepared_box = np.array(geometry.box_to_prepared(*box))
            x0, y0, x1, y1 = ((prepared_box + 0.5) / shrink - 0.5).tolist()
            x, y, half_x, half_y = (x0 + x1) / 2, (y0 + y1) / 2, max((x1 - x0) / 2, 0.5), max((y1 - y0) / 2, 0.5)
            across, down = (xs - x) / half_x, (ys - y) / half_y
            inside = across**2 + down**2 <= 1 if is_round else np.maximum(abs(across), abs(down)) <= 1
            inside[int(np.clip(round(y), 0, size - 1)), int(np.clip(round(x), 0, size - 1))] = True
            masks[number] |= inside
    return masks


def sizes_mm(data: Data, positions: np.ndarray) -> np.ndarray:
    """Return the largest lesion's extent in each image in mm, NaN where no position or pixel size is known, (n,)."""
    sizes = np.full(len(positions), np.nan)
    rows = data.index.iloc[positions]
    scales = rows["mm_per_pixel"].to_numpy(np.float64, na_value=np.nan)
    for number, cell in enumerate(rows["findings"]):
        for finding in cell:
            box = _box(finding)
            if None not in box and not np.isnan(scales[number]):
                extent = max(box[2] - box[0], box[3] - box[1]) * scales[number]
                sizes[number] = np.fmax(sizes[number], extent)
    return sizes


def _box(finding: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(finding[edge] for edge in BOX)
