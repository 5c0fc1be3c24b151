"""What healthy images score: percentiles and conformal p-values from images that training never saw."""

import numpy as np


class Calibration:
    """The scores of healthy calibration images, as the scale on which every other score is read.

    calibration = Calibration(healthy_scores)
    calibration.percentile(scores)      # 0..100: share of healthy images that score lower
    """

    def __init__(self, healthy: np.ndarray) -> None:
        self.healthy_ = np.sort(np.asarray(healthy, dtype=np.float64))

    def percentile(self, scores: np.ndarray) -> np.ndarray:
        """Return the share of healthy calibration images at or below each score, in percent; NaN without any."""
        if not len(self.healthy_):
            return np.full(np.shape(scores), np.nan)
        return 100 * np.searchsorted(self.healthy_, scores, side="right") / len(self.healthy_)

    def p_value(self, scores: np.ndarray) -> np.ndarray:
        """Return the conformal p-value of each score: (1 + number of healthy at or above) / (n + 1); NaN without any.

        Under exchangeability with the calibration images P(p <= a) <= a for every a (Vovk, Gammerman & Shafer,
        "Algorithmic Learning in a Random World", 2005, section 2.2).
        """
        if not len(self.healthy_):
            return np.full(np.shape(scores), np.nan)
        above = len(self.healthy_) - np.searchsorted(self.healthy_, scores, side="left")
        return (1 + above) / (len(self.healthy_) + 1)
