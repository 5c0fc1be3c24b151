"""What healthy images score: smooth distributions, fusion of several scores, percentiles, conformal p-values, flags."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import ndtri_exp
from scipy.stats import betabinom, norm

from mammovae.config import UsageError

CALIBRATION = "calibration.parquet"
"""The file of a RUN folder that holds the scores of healthy calibration images."""

_TAIL = 0.2
"""Share of the healthy images on either side that an exponential tail stands for."""
_REFIT = 200
"""Up to so many calibration images the distributions are fitted anew for every image judged; above, they are split."""


class ScoreDistribution:
    """The smooth, strictly increasing distribution of one score among healthy images.

    A Gaussian kernel estimate (bandwidth by Silverman's rule, "Density Estimation", 1986, 3.31) between the 20th and
    the 80th percentile, and beyond them exponential tails with the mean excess of the images there (Pickands, Ann.
    Statist. 3:119, 1975, with shape 0). Unlike ranks it tells two scores apart that both exceed every healthy one. A
    positive affine change of the score changes nothing.
    """

    def __init__(self, values: np.ndarray, floor: float = 0.0) -> None:
        """values: (n,) scores of healthy images, n >= 1; floor: the least difference that matters."""
        values = np.sort(np.asarray(values, np.float64))
        spread = min(values.std(), float(np.subtract(*np.percentile(values, (75, 25)))) / 1.349) or values.std()
        # Equal scores have no scale of their own; take a thousandth of their size.
        self._width = max(1.06 * spread * len(values) ** -0.2, floor) or 1e-3 * abs(values[0]) or 1e-3
        self._values = values
        self._low, self._high = np.percentile(values, (100 * _TAIL, 100 * (1 - _TAIL)))
        self._below = max(float(np.mean(self._low - values[values <= self._low])), 0.5 * self._width)
        self._above = max(float(np.mean(values[values >= self._high] - self._high)), 0.5 * self._width)
        self._at_low = float(np.log(norm.cdf((self._low - values) / self._width).mean()))
        self._at_high = float(np.log(norm.sf((self._high - values) / self._width).mean()))

    def normal(self, x: np.ndarray) -> np.ndarray:
        """Return the normal scores of x (m,): the standard normal quantiles of its places among healthy images."""
        x = np.asarray(x, np.float64)
        inside = np.clip(x, self._low, self._high)
        # Above the median by the survival, below by the distribution itself: neither loses digits near 1.
        survival = norm.sf((inside[..., None] - self._values) / self._width).mean(axis=-1)
        log_above = np.where(x > self._high, self._at_high - (x - self._high) / self._above, np.log(survival))
        log_below = np.where(x < self._low, self._at_low - (self._low - x) / self._below, np.log1p(-survival))
        return np.where(log_above < log_below, -ndtri_exp(log_above), ndtri_exp(log_below))


class Calibration:
    """The raw scores of healthy calibration images, as the scale on which those of any other image are read.

        calibration = Calibration(healthy, ["local_peak", "lesion_segmenter_peak"])    # healthy: a column a score
        calibration.fuse(scores)           # mean of the normal scores, (m,)
        calibration.flags(scores, 0.05)    # at most one healthy image in twenty

    The fused score is the mean of the normal scores, equal weights: no labels choose any. A single score is not
    transformed: its fused score is itself. Images that lack one of the scores (NaN) get NaN.
    """

    def __init__(self, healthy: pd.DataFrame | Mapping[str, np.ndarray], fused: Sequence[str]) -> None:
        self.names = tuple(fused)
        columns = [np.asarray(healthy[name], np.float64) for name in self.names] if len(healthy) else []
        table = np.stack(columns, axis=1) if columns else np.empty((0, len(self.names)))
        self._healthy = table[~np.isnan(table).any(axis=1)]
        self.n = len(self._healthy)
        """Calibration images that have every score."""
        if self.n:
            self._marginals = [ScoreDistribution(column) for column in self._healthy.T]

    @cached_property
    def _own(self) -> ScoreDistribution:
        """The fused scores of the calibration images, each with itself left out of what transforms it."""
        return ScoreDistribution(self._left_out())

    def fuse(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the fused scores of images, (m,), from named raw scores (m,) each; NaN without calibration images."""
        return self._table(scores)[:, 0] if len(self.names) == 1 else self.normal(scores).mean(axis=1)

    def normal(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return how far each score of images is from healthy, in healthy deviations, (m, number of scores)."""
        table = self._table(scores)
        if not self.n:
            return np.full(table.shape, np.nan)
        return np.stack([one.normal(column) for one, column in zip(self._marginals, table.T, strict=True)], axis=1)

    def percentile(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the place of each image's fused score among healthy images, 0 to 100, smooth, (m,).

        The calibration images' own fused scores are taken with each left out of the distributions that transform it.
        """
        return 100 * norm.cdf(self.deviation(scores))

    def deviation(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the same place as a standard normal quantile, (m,): it goes on where percentiles all read 100."""
        if not self.n:
            return np.full(len(self._table(scores)), np.nan)
        own = self._own if len(self.names) > 1 else self._marginals[0]
        return own.normal(self.fuse(scores))

    def p_value(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return conformal p-values, (m,): for an image exchangeable with the calibration images P(p <= a) <= a.

        p = (1 + number of healthy images at or above) / (n + 1) (Vovk, Gammerman & Shafer, "Algorithmic Learning in a
        Random World", 2005, section 2.2). Several scores are transformed by distributions fitted to the calibration
        images and the judged one together, so that all n + 1 are treated alike; with more than 200 calibration images
        a third of them gives the distributions and the others the ranks, which is as exact and quicker.
        """
        table = self._table(scores)
        if not self.n:
            return np.full(len(table), np.nan)
        known = ~np.isnan(table).any(axis=1)
        p = np.full(len(table), np.nan)
        if len(self.names) == 1:
            p[known] = _ranked(self._healthy[:, 0], table[known, 0])
        elif self.n > _REFIT:
            third = np.arange(self.n) % 3 == 0
            marginals = [ScoreDistribution(column) for column in self._healthy[third].T]
            p[known] = _ranked(_fused(marginals, self._healthy[~third]), _fused(marginals, table[known]))
        else:
            for row in np.flatnonzero(known):
                together = np.vstack([self._healthy, table[row]])
                fused = _fused([ScoreDistribution(column) for column in together.T], together)
                # Equal images may differ in the last digit; a tie counts against the flag.
                p[row] = np.count_nonzero(fused >= fused[-1] - 1e-9) / len(together)
        return p

    def flags(self, scores: Mapping[str, np.ndarray], rate: float) -> np.ndarray:
        """Say of each image whether it is flagged at a false-positive rate, bool (m,); an unknown score is no flag.

        UsageError when the calibration images are too few for that rate.
        """
        self.check_rate(rate)
        return flagged(self.p_value(scores), rate)

    def check_rate(self, rate: float) -> None:
        """Raise UsageError when the calibration images are too few for a false-positive rate."""
        ranked = self.n - (self.n + 2) // 3 if self.n > _REFIT and len(self.names) > 1 else self.n
        if not 0 < rate < 1 or rate < 1 / (ranked + 1):
            raise UsageError(
                f"a false-positive rate of {rate:g} cannot be promised with {ranked} healthy calibration images: "
                f"choose {1 / (ranked + 1):.3g} or more, or calibrate on {int(np.ceil(1 / max(rate, 1e-9))) - 1}"
            )

    def _table(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.stack([np.asarray(scores[name], np.float64) for name in self.names], axis=1)

    def _left_out(self) -> np.ndarray:
        if self.n > _REFIT or self.n < 3:
            return _fused(self._marginals, self._healthy)
        keep = ~np.eye(self.n, dtype=bool)
        return np.array(
            [
                _fused([ScoreDistribution(column) for column in self._healthy[others].T], self._healthy[~others])[0]
                for others in keep
            ]
        )


def flagged(p: np.ndarray, rate: float) -> np.ndarray:
    """Say of conformal p-values (m,) whether they flag at a false-positive rate; an unknown one does not."""
    # A rate of k / (n + 1) means k, whatever the last digit of the division says.
    return np.asarray(p) <= rate * (1 + 1e-9)


def with_fallback(
    two_sided: Calibration, one_sided: Calibration, scores: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return fused score, percentile, p-value and whether the other breast was used, (m,) each.

    Images without the other breast, and all where too few calibration images had it, are judged by the one-sided
    calibration. Both fused scores are means of normal scores, hence on one scale.
    """
    used = ~np.isnan(two_sided.fuse(scores))
    pairs = (
        (two_sided.fuse(scores), one_sided.fuse(scores)),
        (two_sided.percentile(scores), one_sided.percentile(scores)),
        (two_sided.p_value(scores), one_sided.p_value(scores)),
    )
    fused, percentile, p = (np.where(used, both, one) for both, one in pairs)
    return fused, percentile, p, used


def realised_rate_range(n_calibration: int, n_test: int, rate: float, level: float = 0.99) -> tuple[float, float]:
    """Return the central range of the share of healthy test images flagged at a rate, over calibrations and tests.

    The number flagged is beta-binomial with k and n + 1 - k, k = floor(rate (n + 1)): Vovk, "Conditional validity of
    inductive conformal predictors" (ACML 2012); Angelopoulos & Bates, "Conformal prediction: a gentle introduction"
    (Found. Trends Mach. Learn. 16:494, 2023), section 3.2. Images are taken as independent.
    """
    k = int(np.floor(rate * (n_calibration + 1) * (1 + 1e-9)))
    if k < 1:
        return 0.0, 0.0
    low, high = betabinom(n_test, k, n_calibration + 1 - k).interval(level)
    return float(low) / n_test, float(high) / n_test


def _fused(marginals: Sequence[ScoreDistribution], table: np.ndarray) -> np.ndarray:
    return np.mean([one.normal(column) for one, column in zip(marginals, table.T, strict=True)], axis=0)


def _ranked(healthy: np.ndarray, scores: np.ndarray) -> np.ndarray:
    ordered = np.sort(healthy)
    return (1 + len(ordered) - np.searchsorted(ordered, scores, side="left")) / (len(ordered) + 1)
