"""The smooth distribution of one score among healthy images, tabulated once."""

import numpy as np
from scipy.special import ndtr, ndtri, ndtri_exp

from mammovae.config import InputError

_TAIL, _TAIL_VALUES = 0.2, 20  # share of the values that an exponential tail describes; of many, no more than 20
_REACH = 4.0  # bandwidths beyond which a value adds nothing to the distribution function
_GROUPS, _NODES = 256, 256  # in how many means values are held, and places at which their distribution is tabulated
_STEP = 1e-9  # least rise of the normal score from one node to the next


class ScoreDistribution:
    """The smooth, continuous, strictly increasing distribution of one score among healthy images.

    A Gaussian kernel estimate (bandwidth by Silverman's rule, "Density Estimation", 1986, 3.31), tabulated, and beyond
    the outer fifth of the values on either side (of many values, the outer 20) exponential tails (Pickands, Ann.
    Statist. 3:119, 1975, with shape 0) whose area is that of the excesses there. Where many values are equal, they
    have the middle of their ranks. Unlike ranks it distinguishes two scores that both exceed every healthy one. It is
    invariant to a positive affine change of the score. values (n,), n >= 1, are the scores of healthy images: NaN is
    left out, and an infinite one counts as the outermost finite one. floor is the smallest difference that matters, in
    the score's unit.
    """

    def __init__(self, values: np.ndarray, floor: float = 0.0) -> None:
        values = _finite(np.asarray(values, np.float64))
        width = _bandwidth(values, floor)
        tail = min(_TAIL, _TAIL_VALUES / len(values))
        groups, shares = _group(values)
        nodes = _places(groups[np.abs(np.cumsum(shares) - 0.5 * shares - 0.5) <= 0.5 * (1 - tail)], width)
        rank = ndtr((nodes[:, None] - groups) / width) @ shares
        is_inside = (rank >= tail) & (rank <= 1 - tail)
        nodes, normal = nodes[is_inside], ndtri(rank[is_inside])
        rises = np.append(True, np.diff(np.maximum.accumulate(normal)) > _STEP)
        self._nodes, self._normal = nodes[rises], normal[rises]
        low, high = self._nodes[[0, -1]]
        self._log_tails = np.log(ndtr([self._normal[0], -self._normal[-1]]))
        excesses = np.array([np.maximum(low - values, 0).mean(), np.maximum(values - high, 0).mean()])
        self._scales = np.maximum(excesses / np.exp(self._log_tails), 0.5 * width)

    def to_normal_score(self, x: np.ndarray) -> np.ndarray:
        """Return scores (m,) as normal scores: the standard normal quantiles of their ranks among healthy images."""
        x = np.asarray(x, np.float64)
        normal = np.interp(x, self._nodes, self._normal)
        if (is_below := x < self._nodes[0]).any():
            normal[is_below] = ndtri_exp(self._log_tails[0] - (self._nodes[0] - x[is_below]) / self._scales[0])
        if (is_above := x > self._nodes[-1]).any():
            normal[is_above] = -ndtri_exp(self._log_tails[1] - (x[is_above] - self._nodes[-1]) / self._scales[1])
        return normal


def _finite(values: np.ndarray) -> np.ndarray:
    """Return the values in order, without NaN, infinite ones as the outermost finite ones."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise InputError("a score is not finite for any healthy image: train again with a lower learning_rate")
    return np.sort(np.clip(values[~np.isnan(values)], finite.min(), finite.max()))


def _bandwidth(values: np.ndarray, floor: float) -> float:
    deviation, (low, high) = values.std(), np.percentile(values, (25, 75))
    widths = 1.06 * len(values) ** -0.2 * np.array([min(deviation, (high - low) / 1.349), deviation])
    # Equal scores have no scale: take a thousandth of their size.
    return float(max(widths[0], floor) or widths[1] or 1e-3 * abs(values[0]) or 1e-3)


def _group(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of neighbouring values (few values: the values), narrow in rank towards the ends; and shares."""
    ranks = np.round(len(values) * ndtr(np.linspace(-5, 5, _GROUPS))).astype(int)
    starts = np.unique(np.concatenate([[0], ranks, [len(values)]]))
    counts = np.diff(starts)
    return np.add.reduceat(values, starts[:-1]) / counts, counts / len(values)


def _places(groups: np.ndarray, width: float) -> np.ndarray:
    """Return where to tabulate, (_NODES,): evenly within reach of a value, and across gaps in few steps."""
    ends = np.sort(np.concatenate([groups - _REACH * width, groups, groups + _REACH * width]))
    lengths = np.concatenate([[0], np.cumsum(np.minimum(np.diff(ends), width))])
    return np.interp(np.linspace(0, lengths[-1], _NODES), lengths, ends)
