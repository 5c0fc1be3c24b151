"""The smooth distribution of one score among healthy images, tabulated once."""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri, ndtri_exp

from mammovae.config import InputError

_TAIL, _TAIL_VALUES = 0.2, 20  # share of the values that an exponential tail describes; of many, no more than 20
_REACH = 4.0  # bandwidths beyond which a value adds nothing to the distribution function
_GROUP_ENDS = ndtr(np.linspace(-5, 5, 256))  # ranks between which values are held as their mean
_NODES = 256  # places at which their distribution is tabulated
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
        rank = np.maximum.accumulate(ndtr((nodes[:, None] - groups) / width) @ shares)
        ends = np.clip([tail, 1 - tail], rank[0], rank[-1])
        is_inside = (rank > ends[0]) & (rank < ends[1])
        first, last = np.interp(ends, rank, nodes)
        nodes = np.concatenate([[first], nodes[is_inside], [last]])
        normal = ndtri(np.concatenate([ends[:1], rank[is_inside], ends[1:]]))
        rises = np.append(True, (np.diff(normal) > _STEP) & (np.diff(nodes) > 0))
        self.nodes, self.normal = nodes[rises], normal[rises]
        low, high = self.nodes[[0, -1]]
        excesses = np.array([np.maximum(low - values, 0).mean(), np.maximum(values - high, 0).mean()])
        self.log_tails = np.log(ndtr([self.normal[0], -self.normal[-1]]))  # shares below and above the nodes
        self.scales = np.maximum(excesses / np.exp(self.log_tails), 0.5 * width)  # mean excesses there

    def to_normal_score(self, x: np.ndarray) -> np.ndarray:
        """Return scores (m,) as normal scores: the standard normal quantiles of their ranks among healthy images."""
        return to_normal_scores([self], np.asarray(x)[:, None])[:, 0]


def to_normal_scores(distributions: Sequence[ScoreDistribution], table: np.ndarray) -> np.ndarray:
    """Return the columns of scores (m, k), each as the normal scores of one of k distributions."""
    table = np.asarray(table, np.float64)
    columns = [np.interp(column, one.nodes, one.normal) for one, column in zip(distributions, table.T, strict=True)]
    normal = np.stack(columns, axis=1)
    for end, sign in ((0, -1), (-1, 1)):
        beyond = sign * (table - [one.nodes[end] for one in distributions])
        rows, places = np.nonzero(beyond > 0)
        if len(rows):
            log_tails, scales = np.array([(one.log_tails[end], one.scales[end]) for one in distributions])[places].T
            normal[rows, places] = -sign * ndtri_exp(log_tails - beyond[rows, places] / scales)
    return normal


def _finite(values: np.ndarray) -> np.ndarray:
    """Return the values in order, without NaN, infinite ones as the outermost finite ones."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise InputError("a score is not finite for any healthy image: train again with a lower learning_rate")
    return np.sort(np.clip(values[~np.isnan(values)], finite.min(), finite.max()))


def _bandwidth(values: np.ndarray, floor: float) -> float:
    quartiles = np.array([0.25, 0.75]) * (len(values) - 1)
    deviation, (low, high) = values.std(), np.interp(quartiles, np.arange(len(values)), values)
    widths = 1.06 * len(values) ** -0.2 * np.array([min(deviation, (high - low) / 1.349), deviation])
    # Equal scores have no scale: take a thousandth of their size.
    return float(max(widths[0], floor) or widths[1] or 1e-3 * abs(values[0]) or 1e-3)


def _group(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of neighbouring values (few values: the values), narrow in rank towards the ends; and shares."""
    ranks = np.round(len(values) * _GROUP_ENDS).astype(int)
    starts = np.unique(np.concatenate([[0], ranks, [len(values)]]))
    counts = np.diff(starts)
    return np.add.reduceat(values, starts[:-1]) / counts, counts / len(values)


def _places(groups: np.ndarray, width: float) -> np.ndarray:
    """Return where to tabulate, (_NODES,): evenly within reach of a value, and across gaps in few steps."""
    ends = np.sort(np.concatenate([groups - _REACH * width, groups, groups + _REACH * width]))
    lengths = np.concatenate([[0], np.cumsum(np.minimum(np.diff(ends), width))])
    return np.interp(np.linspace(0, lengths[-1], _NODES), lengths, ends)
