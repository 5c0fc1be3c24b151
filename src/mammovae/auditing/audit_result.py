"""What an audit measured: the table of its measures, and their estimates from the values of the subsamples."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from mammovae.auditing.privacy import Copies
from mammovae.report.audit_page import AuditRow
from mammovae.statistics import Floats
from mammovae.statistics.bootstrap import Estimate

REAL_REFERENCE = "real against real"
BLURRED = "real, blurred"


class _Measure(NamedTuple):
    """One measure: its key, words for people, what is best, and whether its section rests on it."""

    name: str
    label: str
    better: Literal["lower", "higher", "half", "zero"]
    section: str
    note: str
    primary: bool = False


_ONE = "one image a patient"
_FRECHET = f"covariances shrunk; {_ONE}"
_KS = f"Kolmogorov-Smirnov distance; {_ONE}"
_COHERENCE = "coherence of orientation in dense tissue, over the real images' less 1"
_TO_NIPPLE = "share that leads to the nipple, less the real images'"
_HALVES = "1 = as two halves of real images"
MEASURES = (
    _Measure(
        "kernel_distance",
        "Kernel distance, radiomic",
        "lower",
        "Realism",
        "unbiased squared MMD, between patients",
        True,
    ),
    _Measure("frechet_distance", "Fréchet distance, radiomic", "lower", "Realism", _FRECHET),
    _Measure("kernel_distance_encoder", "Kernel distance, encoder", "lower", "Realism", "the run's latents, by fold"),
    _Measure(
        "frechet_distance_encoder", "Fréchet distance, encoder", "lower", "Realism", f"covariances shrunk; {_ONE}"
    ),
    _Measure("spectrum_error", "Spectrum error", "lower", "Realism", f"dB, RMS over frequencies; {_ONE}"),
    _Measure("ks_area", "Breast area", "lower", "Realism", _KS),
    _Measure("ks_density", "Dense share", "lower", "Realism", _KS),
    _Measure("ks_grey", "Mean grey", "lower", "Realism", _KS),
    _Measure("strand_coherence", "Strands", "zero", "Realism", f"{_COHERENCE}; {_ONE}"),
    _Measure("strands_to_nipple", "Strands to the nipple", "zero", "Realism", f"{_TO_NIPPLE}; {_ONE}"),
    _Measure("nipple", "Nipples in the skin line", "zero", "Realism", f"difference of the shares; {_ONE}"),
    _Measure("two_sample_auroc", "Classifier two-sample test", "half", "Realism", "AUROC; 1 = always distinguished"),
    _Measure("precision", "Precision", "higher", "Diversity", "generated among the real"),
    _Measure("recall", "Recall", "higher", "Diversity", "real among the generated", True),
    _Measure("density", "Density", "higher", "Diversity", "real neighbourhoods a generated image is in"),
    _Measure("coverage", "Coverage", "higher", "Diversity", "real neighbourhoods reached"),
    _Measure("recall_share", "Recall, share of the reference", "higher", "Diversity", _HALVES),
    _Measure("coverage_share", "Coverage, share of the reference", "higher", "Diversity", _HALVES),
    _Measure("spread", "Spread", "higher", "Diversity", "mean distance of two images, over that of real images"),
    _Measure("near_train", "Near a training image", "lower", "Privacy", "share nearer than two patients' images are"),
    _Measure("near_held_out", "Near a held-out image", "lower", "Privacy", "the same, where nothing was copied"),
    _Measure("nearness", "Distance to training, share", "higher", "Privacy", "over that to as many held-out images"),
    _Measure("membership_auroc", "Membership inference", "half", "Privacy", "AUROC; 0.5 = nothing disclosed", True),
)
"""Every measure of the audit, in the order of its table."""


@dataclass(frozen=True)
class AuditResult:
    """The measures of an audit: draws[arm][measure] (R,) of the subsamples, and what is counted over all images."""

    draws: dict[str, dict[str, Floats]]
    n: int
    """Real images, and as many generated ones, in each subsample."""
    few: int
    """Those of them that are one a patient."""
    exact: dict[str, int]
    """Images with the very pixels of a training image."""
    reached: dict[str, tuple[int, int]]
    """Patients in training, and held out, whom a generated image is near to."""
    pool: tuple[int, int]
    """Patients in training and held out."""
    near: dict[str, list[Copies]]
    """Of each arm's images, the nearest real ones, by fold."""

    def estimate(self, arm: str, measure: str) -> Estimate | None:
        """Return a measure with its interval; None where it was not taken."""
        return self._estimate(self.draws[arm][measure]) if measure in self.draws[arm] else None

    def difference(self, first: str, second: str, measure: str) -> Estimate:
        """Return first less second, the interval from the differences in the same subsamples."""
        return self._estimate(self.draws[first][measure] - self.draws[second][measure])

    def rows(self) -> dict[str, list[AuditRow]]:
        """Return the table of the page, by section."""
        sections: dict[str, list[AuditRow]] = {}
        for name, label, better, section, note, primary in MEASURES:
            estimates = {arm: self.estimate(arm, name) for arm in self.draws}
            if any(estimates.values()):
                sections.setdefault(section, []).append(AuditRow(name, label, better, estimates, note, primary))
        return sections

    def _estimate(self, draws: Floats) -> Estimate:
        low, high = np.percentile(draws, [2.5, 97.5])
        return Estimate(float(draws.mean()), float(low), float(high), self.n, self.n)
