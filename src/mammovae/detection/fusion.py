"""From raw scores to what a run says of an image: the finding score, its percentile, its p-value, and flags."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mammovae.detection.calibration import CALIBRATION, Calibration, with_fallback
from mammovae.models.run import Run

USED, MISSING = "used", "missing"


class FusedScore:
    """The calibrations of a run, opened once and applied to any number of raw scores.

    finding rests on this image alone, so that it is the same with and without the other breast; finding_bilateral adds
    the scores of settings.fused_bilateral, and falls back to the one-sided calibration where there is no other breast.
    """

    def __init__(self, run: Run) -> None:
        settings = run.settings
        self._meanings = run.score_meanings | {"map_peak": "a place where the members' maps add up"}
        healthy = pd.read_parquet(run.path / CALIBRATION)
        self.one_sided = Calibration(healthy, settings.fused)
        both = (*settings.fused, *settings.fused_bilateral)
        self.two_sided = Calibration(healthy, both) if settings.fused_bilateral else None

    @property
    def bilateral(self) -> tuple[str, ...]:
        """Names of the scores that need the other breast."""
        return () if self.two_sided is None else self.two_sided.names[len(self.one_sided.names) :]

    def alone(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return finding, finding_percentile (0..100) and finding_p for raw scores (n,) each."""
        one = self.one_sided
        return {
            "finding": one.fuse(scores),
            "finding_percentile": one.percentile(scores),
            "finding_p": one.p_value(scores),
        }

    def columns(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what alone does.

        Runs with bilateral scores also get finding_bilateral, its percentile and p, and other: "used" or "missing".
        """
        columns = self.alone(scores)
        if self.two_sided is not None:
            fused, percentile, p, used = with_fallback(self.two_sided, self.one_sided, scores)
            columns |= {"finding_bilateral": fused, "finding_bilateral_percentile": percentile}
            columns |= {"finding_bilateral_p": p, "other": np.where(used, USED, MISSING)}
        return columns

    def why(self, scores: Mapping[str, np.ndarray]) -> list[str]:
        """Return in words which score of each image lies furthest above healthy, and how far."""
        normal, names = self.one_sided.normal(scores), self.one_sided.names
        return [
            f"{self._meanings[names[furthest]]} ({names[furthest]}, {row[furthest]:.1f} healthy deviations above)"
            for row, furthest in zip(normal, normal.argmax(axis=1), strict=True)
        ]

    def check_rate(self, rate: float) -> None:
        """Raise UsageError when the run has too few calibration images to flag at a false-positive rate."""
        self.one_sided.check_rate(rate)
