"""The scores of healthy images as a scale: fusion of scores, percentiles, conformal p-values, flags."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import betabinom

from mammovae.config import UsageError
from mammovae.detection.score_distribution import ScoreDistribution, to_normal_scores
from mammovae.models.run import Run

CALIBRATION = "calibration.parquet"  # the file of a RUN folder that holds the scores of healthy calibration images
PATIENT = "patient"  # its column that numbers their patients

USED, MISSING = "used", "missing"
_FOLDS = 5  # parts of the calibration patients, each transformed by the distributions of the others


class Calibration:
    """The raw scores of healthy calibration images, as the scale for those of any other image.

    The fused score is the mean of the normal scores, with equal weights, which no labels choose. A single score is not
    transformed: it is its own fused score. Images that lack one of the scores (NaN) get NaN. In all methods, scores
    holds an array (m,) for each name; results are (m,).

    healthy may hold a column patient, a number for each patient; without it each image is a patient of its own.
    Percentiles are places among images, and p-values count patients: the images of one say much the same.
    """

    def __init__(self, healthy: pd.DataFrame | Mapping[str, np.ndarray], fused: Sequence[str]) -> None:
        self.names = tuple(fused)
        table = self._table(healthy) if len(healthy) else np.empty((0, len(self.names)))
        patients = np.asarray(healthy[PATIENT]) if PATIENT in healthy else np.arange(len(table))
        is_complete = ~np.isnan(table).any(axis=1)
        self._healthy = table[is_complete]
        _, self._patient, counts = np.unique(patients[is_complete], return_inverse=True, return_counts=True)
        self._weights = 1 / counts[self._patient]  # of each image: a patient's share
        self.n_patients = len(counts)  # calibration patients with an image that has every score
        if self.n_patients:
            self._marginals = _fit(self._healthy)

    @cached_property
    def _folds(self) -> list["_Fold"]:
        """Parts of the calibration patients as the distributions of the others see them; of a single patient, one."""
        fold = self._patient % min(_FOLDS, self.n_patients)
        parts = [fold == number for number in range(fold.max() + 1)]
        fits = [_fit(self._healthy[~part]) for part in parts] if len(parts) > 1 else [self._marginals]
        return [
            _Fold(fit, _Ranks(_fuse(fit, self._healthy[part]), self._weights[part]))
            for fit, part in zip(fits, parts, strict=True)
        ]

    @cached_property
    def _ranks(self) -> "_Ranks":
        return _Ranks(self._healthy[:, 0], self._weights)

    @cached_property
    def _fused_distribution(self) -> ScoreDistribution:
        """The fused scores of the calibration images, each transformed by the distributions of other patients."""
        if len(self.names) == 1:
            return self._marginals[0]
        return ScoreDistribution(np.concatenate([fold.ranks.values for fold in self._folds]))

    def fuse(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the fused scores of images; NaN without calibration images."""
        return self._table(scores)[:, 0] if len(self.names) == 1 else self.normal_scores(scores).mean(axis=1)

    def normal_scores(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return how far each score is from healthy, in healthy standard deviations, (m, number of scores)."""
        table = self._table(scores)
        return to_normal_scores(self._marginals, table) if self.n_patients else np.full(table.shape, np.nan)

    def percentile(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the smooth percentile of each image's fused score among healthy images.

        It runs from 100 / (n + 1) to 100 n / (n + 1) with n calibration patients, which cannot tell what lies beyond.
        """
        outermost = 100 / (self.n_patients + 1)
        return np.clip(100 * ndtr(self.deviation(scores)), outermost, 100 - outermost)

    def deviation(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the percentile as a standard normal quantile, which still differs where percentiles end."""
        if not self.n_patients:
            return np.full(len(self._table(scores)), np.nan)
        return self._fused_distribution.to_normal_score(self.fuse(scores))

    def p_value(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return conformal p-values: for an image of a new healthy patient P(p <= a) <= a.

        p = (1 + sum over patients of the share of their images at or above) / (n + 1) with n calibration patients, who
        are exchangeable with the new one, however alike the images of one are (Dunn, Wasserman & Ramdas, "Distribution-
        free prediction sets for two-layer hierarchical models", JASA 118:2491, 2023; Lee, Barber & Willett,
        "Distribution-free inference with hierarchical data", 2023). With an image each it is the rank among n + 1
        (Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World", 2005, section 2.2).

        Several scores make it cross-conformal (Vovk, Ann. Math. Artif. Intell. 74:9, 2015): the patients are dealt to
        five parts, and in each the image is compared after both were transformed by distributions fitted to the other
        parts. For that P(p <= a) <= a is what simulations give, for few patients and many; proven is about 2a
        (Barber, Candès, Ramdas & Tibshirani, Ann. Statist. 49:486, 2021, theorem 4).
        """
        table = self._table(scores)
        if not self.n_patients:
            return np.full(len(table), np.nan)
        if len(self.names) == 1:
            at_or_above = self._ranks.at_or_above(table[:, 0])
        else:
            marginals = [one for fold in self._folds for one in fold.marginals]
            normal = to_normal_scores(marginals, np.tile(table, len(self._folds)))
            fused = normal.reshape(len(table), len(self._folds), -1).mean(axis=2)
            parts = zip(self._folds, fused.T, strict=True)
            at_or_above = np.sum([fold.ranks.at_or_above(column) for fold, column in parts], axis=0)
        return np.where(np.isnan(table).any(axis=1), np.nan, (1 + at_or_above) / (self.n_patients + 1))

    def columns(self, name: str, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the fused scores, percentiles and p-values as name, name_percentile and name_p."""
        columns = {name: self.fuse(scores), f"{name}_percentile": self.percentile(scores)}
        return columns | {f"{name}_p": self.p_value(scores)}

    def check_rate(self, rate: float) -> None:
        """Raise UsageError when the calibration patients are too few for a false-positive rate."""
        n = self.n_patients
        least = 1 / (n + 1)
        if not 0 < rate < 1 or not flagged(np.array(least), rate):
            refusal = f"a false-positive rate of {rate:g} cannot be promised with {n} healthy calibration patients"
            n_needed = int(np.ceil(1 / max(rate, 1e-9))) - 1
            rounded = np.ceil(least * 1e4) / 1e4
            raise UsageError(f"{refusal}: choose {rounded:g} or more, or calibrate on {n_needed}")

    def _table(self, scores: pd.DataFrame | Mapping[str, np.ndarray]) -> np.ndarray:
        return np.stack([np.asarray(scores[name], np.float64) for name in self.names], axis=1)


class _Ranks:
    """Healthy scores (n,) with the weight of each, in order: what weighs at or above any other score."""

    def __init__(self, values: np.ndarray, weights: np.ndarray) -> None:
        order = np.argsort(values)
        self.values = values[order]
        self._above = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)

    def at_or_above(self, scores: np.ndarray) -> np.ndarray:
        return self._above[np.searchsorted(self.values, scores, side="left")]


class _Fold(NamedTuple):
    """Some of the calibration patients: the distributions of all others, and their own fused scores by these."""

    marginals: list[ScoreDistribution]
    ranks: _Ranks


def flagged(p: np.ndarray, rate: float) -> np.ndarray:
    """Return whether conformal p-values (m,) flag at a false-positive rate, bool (m,); NaN does not."""
    # A rate of k / (n + 1) means k, whatever the last digit of the division is.
    return np.asarray(p) <= rate * (1 + 1e-9)


def with_fallback(
    two_sided: Calibration, one_sided: Calibration, scores: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return fused score, percentile, p-value and whether the other breast was used, (m,) each.

    Images without the other breast, and all where too few calibration images had it, get the one-sided calibration.
    Both fused scores are means of normal scores, hence on one scale.
    """
    two, one = (list(calibration.columns("", scores).values()) for calibration in (two_sided, one_sided))
    is_used = ~np.isnan(two[0])
    fused, percentile, p = (np.where(is_used, *pair) for pair in zip(two, one, strict=True))
    return fused, percentile, p, is_used


def realised_rate_range(n_calibration: int, n_test: int, rate: float, level: float = 0.99) -> tuple[float, float]:
    """Return the central range of the share of healthy images flagged at a rate, over calibrations and tests.

    The number flagged is beta-binomial with k and n + 1 - k, k = floor(rate (n + 1)): Vovk, "Conditional validity of
    inductive conformal predictors" (ACML 2012); Angelopoulos & Bates, "Conformal prediction: a gentle introduction"
    (Found. Trends Mach. Learn. 16:494, 2023), section 3.2. n_calibration and n_test are patients, taken as an image
    each: if the images of one differ, the range is too wide.
    """
    k = int(np.floor(rate * (n_calibration + 1) * (1 + 1e-9)))
    if k < 1:
        return 0.0, 0.0
    low, high = betabinom(n_test, k, n_calibration + 1 - k).interval(level)
    return float(low) / n_test, float(high) / n_test


class FusedScore:
    """The calibrations of a run, opened once and applied to raw scores, an array (n,) for each name.

    finding rests on one image, so that it is the same with and without the other breast; finding_bilateral adds the
    scores of settings.fused_bilateral, and falls back to the one-sided calibration where there is no other breast.
    """

    def __init__(self, run: Run) -> None:
        settings = run.settings
        self._meanings = run.score_meanings | {"map_peak": "a place where the members' maps add up"}
        healthy = pd.read_parquet(run.path / CALIBRATION)
        self.one_sided = Calibration(healthy, settings.fused)
        names = (*settings.fused, *settings.fused_bilateral)
        self.two_sided = Calibration(healthy, names) if settings.fused_bilateral else None

    @property
    def bilateral(self) -> tuple[str, ...]:
        """Names of the scores that need the other breast."""
        return () if self.two_sided is None else self.two_sided.names[len(self.one_sided.names) :]

    def finding_columns(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return finding, finding_percentile (0..100) and finding_p, (n,) each."""
        return self.one_sided.columns("finding", scores)

    def columns(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return finding_columns; of a bilateral run also finding_bilateral, its percentile and p, and other."""
        columns = self.finding_columns(scores)
        if self.two_sided is not None:
            fused, percentile, p, is_used = with_fallback(self.two_sided, self.one_sided, scores)
            columns |= {"finding_bilateral": fused, "finding_bilateral_percentile": percentile}
            columns |= {"finding_bilateral_p": p, "other": np.where(is_used, USED, MISSING)}
        return columns

    def reasons(self, scores: Mapping[str, np.ndarray]) -> list[str]:
        """Return in words which score of each image lies furthest above healthy, and how far."""
        normal_scores, names = self.one_sided.normal_scores(scores), self.one_sided.names
        return [
            f"{self._meanings[names[furthest]]} ({names[furthest]}, {row[furthest]:.1f} healthy deviations above)"
            for row, furthest in zip(normal_scores, normal_scores.argmax(axis=1), strict=True)
        ]


def _fit(table: np.ndarray) -> list[ScoreDistribution]:
    return [ScoreDistribution(column) for column in table.T]


def _fuse(marginals: Sequence[ScoreDistribution], table: np.ndarray) -> np.ndarray:
    return to_normal_scores(marginals, table).mean(axis=1)
