"""Whether a breast is cut off above, judged by how wide it is at each height: learnt from healthy breasts and cuts.

What is left of an oblique view after such a cut is a plausible breast, and no single measure of its outline is unusual;
how its widths go together is.
"""

import numpy as np

HEIGHTS = 32
"""Places down the breast, each in the middle of an equal part of its height, at which its width is known."""
_PLACES = (np.arange(HEIGHTS) + 0.5) / HEIGHTS
_SHARES = np.linspace(0.15, 0.33, 4)  # of a healthy breast's height that are cut off for comparison
_BLOCKS = 8  # parts of the healthy images, each judged by what was learnt from the others
_SHRINKAGE = 0.3  # some eighty breasts do not determine the covariance of 33 numbers
_TOUCHED = 0.02  # of a thumbnail's pixel that is breast: less is a mask's frayed edge


def widths(outlines: np.ndarray) -> np.ndarray:
    """Return the widths of breasts at HEIGHTS places of their height, as shares of it, for outlines 0 to 1 (n, S, S).

    Zero where an outline is empty. Rows that the breast fills in part only, the first one and the last, count as part
    of its height.
    """
    fullest, total = outlines.max(axis=2), outlines.sum(axis=2)
    is_breast = fullest > _TOUCHED
    first, last = is_breast.argmax(axis=1), outlines.shape[1] - 1 - is_breast[:, ::-1].argmax(axis=1)
    number = np.arange(len(outlines))
    top, bottom = first + 1 - fullest[number, first], last + fullest[number, last]
    height = np.maximum(bottom - top, 1e-6)[:, None]
    row_widths = np.where(is_breast, total / np.maximum(fullest, _TOUCHED), 0)
    places = top[:, None] + _PLACES * height - 0.5
    return _at(row_widths, np.clip(places, first[:, None], last[:, None])) / height


def cut_above(breast_widths: np.ndarray, share: float) -> np.ndarray:
    """Return widths (n, HEIGHTS) of breasts without the upper share of their height, as shares of what is left."""
    left = (share + _PLACES * (1 - share)) * HEIGHTS - 0.5
    return _at(breast_widths, np.tile(left, (len(breast_widths), 1))) / (1 - share)


def learn_cuts(breast_widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Learn from healthy widths (n, HEIGHTS), n >= 2, what a cut changes; return a direction and their own values.

    The direction (HEIGHTS + 1,) is the one that cut_value takes: Fisher's linear discriminant between these breasts and
    the same ones cut, with a shrunk covariance (Friedman, "Regularized discriminant analysis", JASA 84:165, 1989). The
    healthy breasts' own values (n,), comparable with those of others, come from directions that were learnt without
    them: neighbouring rows, which often are one patient's, are left out together.
    """
    healthy = _features(breast_widths)
    cut = np.stack([_features(cut_above(breast_widths, share)) for share in _SHARES], axis=1)
    direction = _discriminant(healthy, cut)
    own, number = np.empty(len(healthy)), np.arange(len(healthy))
    for block in np.array_split(number, min(_BLOCKS, len(number))):
        others = np.setdiff1d(number, block)
        without = _discriminant(healthy[others], cut[others])
        # Of the same mean and spread among healthy breasts as the values that the whole direction gives.
        placed = (healthy[block] - healthy[others].mean(axis=0)) @ without
        scale = (healthy[others] @ without).std(), (healthy[others] @ direction).std()
        own[block] = placed * scale[1] / max(scale[0], 1e-12) + healthy[others].mean(axis=0) @ direction
    return direction, own


def cut_value(breast_widths: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return how much widths (n, HEIGHTS) look as if the breast were cut off above, (n,), in no unit."""
    return _features(breast_widths) @ direction


def _features(breast_widths: np.ndarray) -> np.ndarray:
    """Return widths as shares of the largest one, and the log of that one, (n, HEIGHTS + 1)."""
    largest = np.maximum(breast_widths.max(axis=1, keepdims=True), 1e-6)
    return np.concatenate([breast_widths / largest, np.log(largest)], axis=1)


def _discriminant(healthy: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Return the direction (d,) along which cut (n, k, d) exceeds healthy (n, d) most for the spread of both."""
    cut = cut.reshape(-1, cut.shape[-1])
    # In units of the two groups' mean spread, so that shrinking does not depend on the features' own.
    unit = np.sqrt(0.5 * (healthy.var(axis=0) + cut.var(axis=0))) + 1e-3
    groups = [group / unit for group in (healthy, cut)]
    covariance = sum(np.cov(group, rowvar=False, bias=True) for group in groups) / len(groups)
    average = np.trace(covariance) / len(unit) + 1e-9
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * average * np.eye(len(unit))
    return np.linalg.solve(shrunk, groups[1].mean(axis=0) - groups[0].mean(axis=0)) / unit


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return values (n, k) between their columns, linearly, at places (n, m), at their ends beyond them."""
    places = np.clip(places, 0, values.shape[1] - 1)
    below = np.minimum(places.astype(int), values.shape[1] - 2)
    low, high = (np.take_along_axis(values, column, axis=1) for column in (below, below + 1))
    return low + (places - below) * (high - low)
