"""From raw scores to the finding score of a run, its percentile and its p-value."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mammovae.detection.calibration import CALIBRATION, Calibration, with_fallback
from mammovae.models.run import Run

USED, MISSING = "used", "missing"


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
        """Return finding_columns, and for bilateral runs finding_bilateral, its percentile and p, and other.

        other says whether the other breast was used: "used" or "missing".
        """
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
