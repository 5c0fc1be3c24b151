"""Annotated lesions as regions in a DATA folder's squares."""

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data


def lesion_masks(data: Data, positions: np.ndarray, size: int) -> np.ndarray:
    """Return the annotated regions of images, bool (n, size, size): boxes, or the ellipses in them where findings are round.

    A region smaller than a pixel is the pixel that holds its centre. Images without a position have none.
    """
    masks = np.zeros((len(positions), size, size), bool)
    is_round, shrink = data.source.finding_shape == "round", data.size / size
    ys, xs = np.mgrid[:size, :size]
    for number, position in enumerate(positions):
        for item in data.index["findings"].iloc[position]:
            box = tuple(item[edge] for edge in ("xmin", "ymin", "xmax", "ymax"))
            if None in box:
                continue
            x0, y0, x1, y1 = ((edge + 0.5) / shrink - 0.5 for edge in data.geometry(int(position)).box_to_square(*box))
            x, y, half_x, half_y = (x0 + x1) / 2, (y0 + y1) / 2, max((x1 - x0) / 2, 0.5), max((y1 - y0) / 2, 0.5)
            across, down = (xs - x) / half_x, (ys - y) / half_y
            inside = across**2 + down**2 <= 1 if is_round else np.maximum(abs(across), abs(down)) <= 1
            inside[int(np.clip(round(y), 0, size - 1)), int(np.clip(round(x), 0, size - 1))] = True
            masks[number] |= inside
    return masks


def sizes_mm(data: Data, positions: np.ndarray) -> np.ndarray:
    """Return the largest lesion's extent in each image in mm, NaN where no position or pixel size is known, (n,)."""
    sizes = np.full(len(positions), np.nan)
    for number, position in enumerate(positions):
        row = data.index.iloc[position]
        for item in row["findings"]:
            box = [item[edge] for edge in ("xmin", "ymin", "xmax", "ymax")]
            if None not in box and not pd.isna(row["mm_per_pixel"]):
                extent = max(box[2] - box[0], box[3] - box[1]) * float(row["mm_per_pixel"])
                sizes[number] = np.fmax(sizes[number], extent)
    return sizes
