"""AUROC, average precision and ROC curves, with intervals from resamples of whole patients."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from mammovae.config import InputError
from mammovae.statistics import Bools, Floats, Integers

RESAMPLES = 2000
"""Resamples behind every interval."""
FEWEST_PATIENTS = 10
"""Patients in each class that an interval needs; with fewer, it would reflect chance more than the score."""
_CELLS = 2**17  # weights held at once: what a processor's cache holds, at any number of images
_GRID = np.linspace(0, 1, 101)


def auroc(negative: ArrayLike, positive: ArrayLike) -> float | None:
    """Return the share of (negative, positive) pairs in which the positive scores higher, ties counting half.

    This is the area under the ROC curve (Hanley & McNeil, Radiology 143, 1982). A constant score gives 0.5, an empty
    class None, a NaN InputError.
    """
    low, high = np.sort(check_finite(negative)), check_finite(positive)
    wins = sum(np.searchsorted(low, high, side).sum() for side in ("left", "right"))
    return float(wins / (2 * low.size * high.size)) if low.size and high.size else None


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Return precision averaged over recall: the sum of (R_k - R_(k-1)) P_k over the distinct scores, highest first.

    labels (N,) are true for a finding. A random score is expected to reach the share of findings, so the value says
    little without that share. None when either class is empty; InputError for a NaN.
    """
    values, finding = check_finite(scores), np.asarray(labels, bool)
    if finding.all() or not finding.any():
        return None
    return float(_average_precisions(values, finding, np.ones((1, values.size)))[0])


def roc_curve(negative: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return false-positive rates, true-positive rates and thresholds (score >= threshold) from (0, 0) to (1, 1).

    One point for each distinct score, highest first; the first threshold is infinite. InputError when a class is
    empty or a score is NaN.
    """
    low, high = np.sort(check_finite(negative)), np.sort(check_finite(positive))
    if not low.size or not high.size:
        raise InputError("a ROC curve needs at least one healthy image and one with a finding")
    thresholds = np.append(np.inf, np.unique(np.concatenate([low, high]))[::-1])
    false = 1 - np.searchsorted(low, thresholds, "left") / low.size
    true = 1 - np.searchsorted(high, thresholds, "left") / high.size
    return false, true, thresholds


def check_finite(values: ArrayLike, what: str = "a score") -> Floats:
    """Return values as floats; InputError, naming what, where one is NaN."""
    floats = np.asarray(values, float)
    missing = np.flatnonzero(np.isnan(floats))
    if missing.size:
        raise InputError(
            f"{what} is missing (NaN) in {missing.size} of {floats.size} rows, first in row {missing[0]}: "
            "leave out the images that have no score"
        )
    return floats


def pearson(first: ArrayLike, second: ArrayLike) -> float | None:
    """Return the linear correlation, -1 to 1; None for fewer than three pairs, or one constant or infinite."""
    a, b = check_finite(first), check_finite(second)
    defined = a.size >= 3 and all(np.isfinite(x).all() and np.ptp(x) > 0 for x in (a, b))
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1)) if defined else None


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Return the rank correlation, -1 to 1; None for fewer than three pairs or where either is constant."""
    from scipy.stats import rankdata  # here, as most who import this module rank nothing, and scipy.stats loads slowly

    return pearson(rankdata(check_finite(first)), rankdata(check_finite(second)))


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval (None: too few patients) and the numbers of images behind it: one row of a table."""

    value: float | None
    low: float | None
    high: float | None
    n_healthy: int
    n_finding: int
    name: str = ""
    label: str = ""
    kind: str = "score"

    @property
    def text(self) -> str:
        """The value in words, "0.63 (0.55–0.71)", "0.63 (too few)" or "not defined"."""
        if self.value is None:
            return "not defined"
        if self.low is None or self.high is None:
            return f"{signed(self.value)} (too few)"
        dash = " to " if self.low < 0 else "–"
        return f"{signed(self.value)} ({signed(self.low)}{dash}{signed(self.high)})"

    def named(self, name: str, label: str, kind: str = "score") -> "Estimate":
        """Return the same estimate under a name (a key of metrics.json) and a label (for people)."""
        return replace(self, name=name, label=label, kind=kind)


def flatten_estimates(rows: Mapping[str, Estimate]) -> dict[str, float | None]:
    """Return estimates as the flat keys of metrics.json: KEY, KEY_low, KEY_high; null where there is no value."""
    parts = {"": "value", "_low": "low", "_high": "high"}
    return {f"{key}{end}": getattr(row, part) for key, row in rows.items() for end, part in parts.items()}


@dataclass(frozen=True)
class RocCurve:
    """A ROC curve with a pointwise 95 % band; the band is None where the estimate has no interval.

    false, true (K,): rates along the curve; grid (G,): false-positive rates at which the band runs from low to high.
    """

    estimate: Estimate
    false: Floats
    true: Floats
    grid: Floats
    low: Floats | None
    high: Floats | None


class PatientBootstrap:
    """Resamples of whole patients, drawn once, so that all scores are measured and compared in the same ones.

    Images of one patient resemble each other, and resampling images would make intervals too narrow: the patient is the
    unit (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, percentile interval; Obuchowski, Biometrics 53,
    1997, on clustered ROC data). For independent images it agrees with DeLong, DeLong & Clarke-Pearson, Biometrics 44,
    1988. Each resample keeps the number of patients of each stratum, such as a fold; InputError where a patient is in
    two. patients, finding (bool) and strata: (N,), one of each an image.
    """

    def __init__(
        self,
        patients: ArrayLike,
        finding: ArrayLike,
        strata: ArrayLike | None = None,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        names, self._patient = np.unique(np.asarray(patients).astype(str), return_inverse=True)
        self.finding: Bools = np.asarray(finding)
        if self.finding.dtype != bool or self.finding.shape != self._patient.shape:
            raise InputError("each image needs a patient and a finding that is true or false: leave out the unknown")
        stratum_of_image = np.zeros(self._patient.size, int)
        if strata is not None:
            stratum_of_image = np.unique(np.asarray(strata).astype(str), return_inverse=True)[1]
        stratum = np.zeros(len(names), int)
        stratum[self._patient] = stratum_of_image
        conflicts = np.flatnonzero(stratum[self._patient] != stratum_of_image)
        if conflicts.size:
            raise InputError(f"the patient of row {conflicts[0]} is in two strata: split by patient")
        rng = np.random.default_rng(seed)
        # How often each patient is drawn, (resamples, patients); a count above 255 does not happen.
        self._counts = np.zeros((resamples, len(names)), np.uint8)
        for members in (np.flatnonzero(stratum == name) for name in np.unique(stratum)):
            for row in self._counts:
                row[members] = np.bincount(rng.integers(0, members.size, members.size), minlength=members.size)

    def auroc(self, scores: ArrayLike, keep: Bools | None = None) -> Estimate:
        """Return the AUROC of scores (N,), higher for findings, over the images in keep (N,) bool or all."""
        scores, keep = self._checked(scores, keep)
        value = auroc(scores[keep & ~self.finding], scores[keep & self.finding])
        return self._estimate(value, self._aurocs(scores, keep), keep)

    def average_precision(self, scores: ArrayLike, keep: Bools | None = None) -> Estimate:
        """Return the average precision of scores (N,) over the images in keep (N,) bool or all."""
        scores, keep = self._checked(scores, keep)
        images = np.flatnonzero(keep)
        draws = (_average_precisions(scores[images], self.finding[images], w) for w in self._weights(images))
        return self._estimate(average_precision(self.finding[keep], scores[keep]), draws, keep)

    def mean(self, values: ArrayLike, keep: Bools | None = None) -> Estimate:
        """Return the mean of values (N,) over the images in keep (N,) bool or all, of which n_finding is the number."""
        values, keep = self._checked(values, keep)
        images = np.flatnonzero(keep)
        if not images.size:
            return Estimate(None, None, None, 0, 0)
        low = high = None
        if np.unique(self._patient[images]).size >= FEWEST_PATIENTS:
            low, high = _interval(_ratio(w @ values[images], w.sum(axis=1)) for w in self._weights(images))
        return Estimate(float(values[images].mean()), low, high, 0, int(images.size))

    def difference(self, first: ArrayLike, second: ArrayLike, keep: Bools | None = None) -> Estimate:
        """Return AUROC(first) - AUROC(second), its interval from the differences within each resample."""
        (a, keep), (b, _) = self._checked(first, keep), self._checked(second, keep)
        aurocs = [auroc(x[keep & ~self.finding], x[keep & self.finding]) for x in (a, b)]
        value = None if aurocs[0] is None or aurocs[1] is None else aurocs[0] - aurocs[1]
        draws = (x - y for x, y in zip(self._aurocs(a, keep), self._aurocs(b, keep), strict=True))
        return self._estimate(value, draws, keep)

    def roc(self, scores: ArrayLike, keep: Bools | None = None) -> RocCurve:
        """Return the ROC curve, its AUROC, and the band that holds 95 % of the resampled curves at each rate.

        InputError when a class is empty.
        """
        scores, keep = self._checked(scores, keep)
        false, true, _ = roc_curve(scores[keep & ~self.finding], scores[keep & self.finding])
        low = high = None
        if self._enough(keep):
            images = np.flatnonzero(keep)
            images = images[np.argsort(-scores[images], kind="stable")]
            ends = _ends_of_ties(scores[images])
            curves = [_rates(weights, self.finding[images], ends) for weights in self._weights(images)]
            low, high = np.nanpercentile(np.concatenate(curves), [2.5, 97.5], axis=0)
        return RocCurve(self.auroc(scores, keep), false, true, _GRID, low, high)

    def _checked(self, scores: ArrayLike, keep: Bools | None) -> tuple[Floats, Bools]:
        scores = check_finite(scores)
        if scores.shape != self.finding.shape:
            raise InputError(f"{scores.size} scores for {self.finding.size} images: give one score an image")
        return scores, np.ones(scores.size, bool) if keep is None else np.asarray(keep, bool)

    def _enough(self, keep: Bools) -> bool:
        groups = (self._patient[keep & mask] for mask in (self.finding, ~self.finding))
        return all(np.unique(group).size >= FEWEST_PATIENTS for group in groups)

    def _weights(self, images: Integers) -> Iterator[Floats]:
        """Yield how often each image is drawn, a row a resample, some resamples at a time."""
        patient, rows = self._patient[images], max(1, _CELLS // max(1, images.size))
        for start in range(0, len(self._counts), rows):
            yield self._counts[start : start + rows].take(patient, axis=1).astype(float)

    def _aurocs(self, scores: Floats, keep: Bools) -> Iterator[Floats]:
        from scipy.sparse import csr_array  # here, as most who import this module resample nothing

        def by_patient(rows: Integers, images: Integers) -> csr_array:
            shape = (places.size + 1, self._counts.shape[1])
            return csr_array((np.ones(rows.size), (rows, self._patient[images])), shape)

        healthy, positive = np.flatnonzero(keep & ~self.finding), np.flatnonzero(keep & self.finding)
        healthy = healthy[np.argsort(scores[healthy])]
        sides = [np.searchsorted(scores[healthy], scores[positive], side) for side in ("left", "right")]
        # Healthy images are summed between the places of findings among them, by patient, before any resample.
        places, place = np.unique(np.concatenate(sides), return_inverse=True)
        between = by_patient(np.searchsorted(places, np.arange(healthy.size), "right"), healthy)
        findings = by_patient(place, np.tile(positive, 2))  # each counts twice: for wins, and for wins and ties
        rows = max(1, _CELLS // max(places.size, self._counts.shape[1]))
        for start in range(0, len(self._counts), rows):
            counts = np.ascontiguousarray(self._counts[start : start + rows].T, float)
            below, drawn = np.cumsum(between @ counts, axis=0), findings @ counts
            yield _ratio((drawn * below).sum(axis=0), below[-1] * drawn.sum(axis=0))

    def _estimate(self, value: float | None, draws: Iterator[Floats], keep: Bools) -> Estimate:
        """Return a value with its interval where there are patients enough; else the draws are never made."""
        low, high = _interval(draws) if self._enough(keep) else (None, None)
        n_finding = int((keep & self.finding).sum())
        return Estimate(value, low, high, int(keep.sum()) - n_finding, n_finding)


def _interval(draws: Iterator[Floats]) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles; a resample of one class alone, 1 in 20,000 of ten patients, has no value."""
    low, high = np.nanpercentile(np.concatenate([*draws]), [2.5, 97.5])
    return float(low), float(high)


def signed(value: float, digits: int = 2) -> str:
    """Return the number rounded, with a true minus sign and no negative zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _average_precisions(scores: Floats, finding: Bools, weights: Floats) -> Floats:
    """Return the average precision of each row of weights (R, N)."""
    order = np.argsort(-scores, kind="stable")
    ends = _ends_of_ties(scores[order])
    true = np.cumsum(weights[:, order] * finding[order], axis=1)[:, ends]
    flagged = np.cumsum(weights[:, order], axis=1)[:, ends]
    precision = np.divide(true, flagged, out=np.zeros_like(true), where=flagged > 0)
    return _ratio((np.diff(true, axis=1, prepend=0) * precision).sum(axis=1), true[:, -1])


def _rates(weights: Floats, finding: Bools, ends: Integers) -> Floats:
    """Return the true-positive rates on the grid of each resample (R, N); columns are in order of falling score."""
    true, false = (np.cumsum(weights * mask, axis=1)[:, ends] for mask in (finding, ~finding))
    rates = np.full((len(weights), _GRID.size), np.nan)
    for row in np.flatnonzero((true[:, -1] > 0) & (false[:, -1] > 0)):
        steps = (np.append(0, counts[row]) / counts[row, -1] for counts in (false, true))
        rates[row] = np.interp(_GRID, *steps)
    return rates


def _ends_of_ties(ordered: Floats) -> Integers:
    """Return the last place of each run of equal scores; no differences, for that of two infinite ones is NaN."""
    return np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), ordered.size - 1)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)
