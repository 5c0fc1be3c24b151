"""The scores of healthy images as a scale: distributions, fusion of scores, percentiles, conformal p-values, flags."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import ndtri_exp
from scipy.stats import betabinom, norm

from mammovae.config import UsageError
from mammovae.models.run import Run

CALIBRATION = "calibration.parquet"  # the file of a RUN folder that holds the scores of healthy calibration images

USED, MISSING = "used", "missing"
_TAIL = 0.2  # share of the healthy images on either side that an exponential tail describes
_REFIT_LIMIT = 200  # with more calibration images than this they are split, not fitted again for each image


class ScoreDistribution:
    """The smooth, strictly increasing distribution of one score among healthy images.

    A Gaussian kernel estimate (bandwidth by Silverman's rule, "Density Estimation", 1986, 3.31) between the 20th and
    the 80th percentile, and beyond them exponential tails with the mean excess of the images there (Pickands, Ann.
    Statist. 3:119, 1975, with shape 0). Unlike ranks it distinguishes two scores that both exceed every healthy one.
    It is invariant to a positive affine change of the score. values (n,), n >= 1, are the scores of healthy images;
    floor is the smallest difference that matters, in the score's unit.
    """

    def __init__(self, values: np.ndarray, floor: float = 0.0) -> None:
        values = np.sort(np.asarray(values, np.float64))
        spread = min(values.std(), float(np.subtract(*np.percentile(values, (75, 25)))) / 1.349) or values.std()
        # Equal scores have no scale: take a thousandth of their size.
        self._bandwidth = max(1.06 * spread * len(values) ** -0.2, floor) or 1e-3 * abs(values[0]) or 1e-3
        self._values = values
        self._low, self._high = np.percentile(values, (100 * _TAIL, 100 * (1 - _TAIL)))
        self._excess_below = max(float(np.mean(self._low - values[values <= self._low])), 0.5 * self._bandwidth)
        self._excess_above = max(float(np.mean(values[values >= self._high] - self._high)), 0.5 * self._bandwidth)
        self._log_cdf_low = float(np.log(norm.cdf((self._low - values) / self._bandwidth).mean()))
        self._log_sf_high = float(np.log(norm.sf((self._high - values) / self._bandwidth).mean()))

    def to_normal_score(self, x: np.ndarray) -> np.ndarray:
        """Return scores (m,) as normal scores: the standard normal quantiles of their ranks among healthy images."""
        x = np.asarray(x, np.float64)
        inside = np.clip(x, self._low, self._high)
        # The survival function above the median, the distribution function below: neither loses digits near 1.
        survival = norm.sf((inside[..., None] - self._values) / self._bandwidth).mean(axis=-1)
        above, below = (x - self._high) / self._excess_above, (self._low - x) / self._excess_below
        log_above = np.where(above > 0, self._log_sf_high - above, np.log(survival))
        log_below = np.where(below > 0, self._log_cdf_low - below, np.log1p(-survival))
        return np.where(log_above < log_below, -ndtri_exp(log_above), ndtri_exp(log_below))


class Calibration:
    """The raw scores of healthy calibration images, as the scale for those of any other image.

    The fused score is the mean of the normal scores, with equal weights, which no labels choose. A single score is not
    transformed: it is its own fused score. Images that lack one of the scores (NaN) get NaN. In all methods, scores
    holds an array (m,) for each name; results are (m,).
    """

    def __init__(self, healthy: pd.DataFrame | Mapping[str, np.ndarray], fused: Sequence[str]) -> None:
        self.names = tuple(fused)
        table = self._table(healthy) if len(healthy) else np.empty((0, len(self.names)))
        self._healthy = table[~np.isnan(table).any(axis=1)]
        self.n = len(self._healthy)  # calibration images that have every score
        if self.n:
            self._marginals = _fit(self._healthy)

    @cached_property
    def _fused_distribution(self) -> ScoreDistribution:
        """The fused scores of the calibration images, each transformed by the distributions of the others."""
        if self.n > _REFIT_LIMIT or self.n < 3:
            return ScoreDistribution(_fuse(self._marginals, self._healthy))
        rows = np.arange(self.n)
        fused = [_fuse(_fit(self._healthy[rows != row]), self._healthy[[row]])[0] for row in rows]
        return ScoreDistribution(np.array(fused))

    def fuse(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the fused scores of images; NaN without calibration images."""
        return self._table(scores)[:, 0] if len(self.names) == 1 else self.normal_scores(scores).mean(axis=1)

    def normal_scores(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return how far each score is from healthy, in healthy standard deviations, (m, number of scores)."""
        table = self._table(scores)
        return _to_normal_scores(self._marginals, table) if self.n else np.full(table.shape, np.nan)

    def percentile(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the smooth percentile of each image's fused score among healthy images, 0 to 100."""
        return 100 * norm.cdf(self.deviation(scores))

    def deviation(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the percentile as a standard normal quantile, which still differs where all percentiles read 100."""
        if not self.n:
            return np.full(len(self._table(scores)), np.nan)
        distribution = self._fused_distribution if len(self.names) > 1 else self._marginals[0]
        return distribution.to_normal_score(self.fuse(scores))

    def p_value(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return conformal p-values: for an image exchangeable with the calibration images P(p <= a) <= a.

        p = (1 + number of healthy images at or above) / (n + 1) (Vovk, Gammerman & Shafer, "Algorithmic Learning in a
        Random World", 2005, section 2.2). Several scores are transformed by distributions fitted to the calibration
        images and the scored one, so that all n + 1 are treated alike; with more than 200 calibration images a third
        of them gives the distributions and the others the ranks, which is as exact and faster.
        """
        table = self._table(scores)
        p = np.full(len(table), np.nan)
        is_complete = ~np.isnan(table).any(axis=1) & (self.n > 0)
        if len(self.names) == 1:
            p[is_complete] = _rank_p_values(self._healthy[:, 0], table[is_complete, 0])
        elif self.n > _REFIT_LIMIT:
            marginals = _fit(self._healthy[::3])
            healthy = _fuse(marginals, np.delete(self._healthy, np.s_[::3], axis=0))
            p[is_complete] = _rank_p_values(healthy, _fuse(marginals, table[is_complete]))
        else:
            for row in np.flatnonzero(is_complete):
                augmented = np.vstack([self._healthy, table[row]])
                fused = _fuse(_fit(augmented), augmented)
                # Equal images may differ in the last digit; a tie counts against the flag.
                p[row] = np.count_nonzero(fused >= fused[-1] - 1e-9) / len(augmented)
        return p

    def columns(self, name: str, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the fused scores, percentiles and p-values as name, name_percentile and name_p."""
        columns = {name: self.fuse(scores), f"{name}_percentile": self.percentile(scores)}
        return columns | {f"{name}_p": self.p_value(scores)}

    def check_rate(self, rate: float) -> None:
        """Raise UsageError when the calibration images are too few for a false-positive rate."""
        n_ranks = self.n - (self.n + 2) // 3 if self.n > _REFIT_LIMIT and len(self.names) > 1 else self.n
        if not 0 < rate < 1 or rate < 1 / (n_ranks + 1):
            refusal = f"a false-positive rate of {rate:g} cannot be promised with {n_ranks} healthy calibration images"
            n_needed = int(np.ceil(1 / max(rate, 1e-9))) - 1
            raise UsageError(f"{refusal}: choose {1 / (n_ranks + 1):.3g} or more, or calibrate on {n_needed}")

    def _table(self, scores: pd.DataFrame | Mapping[str, np.ndarray]) -> np.ndarray:
        return np.stack([np.asarray(scores[name], np.float64) for name in self.names], axis=1)


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
    """Return the central range of the share of n_test healthy images flagged at a rate, over calibrations and tests.

    The number flagged is beta-binomial with k and n + 1 - k, k = floor(rate (n + 1)): Vovk, "Conditional validity of
    inductive conformal predictors" (ACML 2012); Angelopoulos & Bates, "Conformal prediction: a gentle introduction"
    (Found. Trends Mach. Learn. 16:494, 2023), section 3.2. Images are assumed independent.
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


def _to_normal_scores(marginals: Sequence[ScoreDistribution], table: np.ndarray) -> np.ndarray:
    return np.stack([marginals[row].to_normal_score(column) for row, column in enumerate(table.T)], axis=1)


def _fuse(marginals: Sequence[ScoreDistribution], table: np.ndarray) -> np.ndarray:
    return _to_normal_scores(marginals, table).mean(axis=1)


def _rank_p_values(healthy: np.ndarray, scores: np.ndarray) -> np.ndarray:
    ordered = np.sort(healthy)
    return (1 + len(ordered) - np.searchsorted(ordered, scores, side="left")) / (len(ordered) + 1)
