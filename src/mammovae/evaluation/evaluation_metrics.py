"""What scored test images say together: detection, localisation, patients as one, and promised false-positive rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mammovae.detection.calibration import flagged, realised_rate_range
from mammovae.evaluation.localisation import Localisation, localisation_metrics
from mammovae.evaluation.reference import REFERENCE_LOSS
from mammovae.evaluation.scored_images import BASELINES
from mammovae.models.run import Run
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap, flatten_estimates
from mammovae.statistics.detection_metrics import Arms, DetectionMetrics, detection_metrics

FINDING, FOLD = "finding", "fold"
RATES = (0.05, 0.1, 0.2)
"""Stated false-positive rates at which the realised one is read."""
PREVALENCE = 0.006
"""Cancers found a screened woman: about 6 in 1,000 (Lehman et al., Radiology 283:49, 2017: 5.1)."""


@dataclass(frozen=True)
class EvaluationMetrics:
    """The figures of scored test images, of one run or of the folds of a cross-validation."""

    detection: DetectionMetrics
    comparisons: dict[str, Estimate]
    """Bilateral scores, patients as one, and the original preset's loss, by key of metrics.json."""
    localisation: Localisation | None
    calibration: list[dict[str, float]]
    """Stated false-positive rates, the realised ones, and the 99 % range of these."""
    predictive: list[dict[str, float]]
    """Sensitivity and predictive value at stated rates."""
    n_healthy: int
    """Healthy images, on which rates are realised."""

    def metrics(self) -> dict[str, Any]:
        """Return the flat keys of metrics.json."""
        metrics: dict[str, Any] = self.detection.metrics() | flatten_estimates(self.comparisons)
        metrics |= {} if self.localisation is None else self.localisation.metrics()
        rates = {f"rate_{row['stated']:g}_{key}": row[key] for row in self.calibration for key in row}
        return metrics | {key.replace(".", "_"): value for key, value in rates.items()}


def evaluation_metrics(raw: pd.DataFrame, standard: pd.DataFrame, runs: Sequence[Run]) -> EvaluationMetrics:
    """Measure score_images' table of one run, or those of folds, one under another with a column fold.

    standard: the same rows with the scores of all folds on one scale; of a single run raw itself. Where there are
    folds, patients are resampled within them.
    """
    is_known = standard["healthy"].notna().to_numpy()
    known = standard[is_known].reset_index(drop=True)
    strata = FOLD if FOLD in known else None
    baselines = {name: label for name, label in BASELINES.items() if name in known}
    if REFERENCE_LOSS in known:
        baselines[REFERENCE_LOSS] = "Original preset's loss"
    arms = Arms.of(known)
    folds = known[strata].tolist() if strata else None
    bootstrap = PatientBootstrap(known["patient_id"].astype(str), arms.finding, folds)
    rates = _supported_rates(runs)
    comparisons = _comparisons(bootstrap, known, arms, baselines)
    if REFERENCE_LOSS in known:
        raw_loss = raw.loc[is_known, REFERENCE_LOSS].to_numpy(np.float64)
        difference = bootstrap.difference(known[FINDING], raw_loss, arms.with_unaffected)
        comparisons[f"auroc_minus_{REFERENCE_LOSS}_raw"] = difference
    return EvaluationMetrics(
        detection_metrics(standard, score_labels(runs[0]), baselines, strata),
        comparisons,
        localisation_metrics(known, arms.unaffected, bootstrap),
        [_realised(known, runs, rate) for rate in rates] if (~arms.finding).any() else [],
        [_predictive(known, arms, rate) for rate in rates] if arms.finding.any() and arms.unaffected.any() else [],
        int((~arms.finding).sum()),
    )


def score_labels(run: Run) -> dict[str, str]:
    """Return the columns that an evaluation measures with their labels, the headline first.

    Where one raw score alone is the finding score, the headline bears its name. Scores that need the other breast are
    measured apart, on the images that have it.
    """
    fused = run.settings.fused
    if len(fused) == 1:
        reported = {name: label for member in run.members.values() for name, label in member.reported.items()}
        return {FINDING: score_label(fused[0])} | {name: reported[name] for name in reported if name not in fused}
    return {FINDING: "Finding score"} | {name: score_label(name) for name in fused}


def score_label(name: str) -> str:
    """Return the name of a score in words: "local_peak" -> "Local peak"."""
    return name.replace("_", " ").capitalize()


def _comparisons(
    bootstrap: PatientBootstrap, known: pd.DataFrame, arms: Arms, baselines: dict[str, str]
) -> dict[str, Estimate]:
    """Return bilateral scores where the other breast is present, the patient level, and differences from baselines.

    Each against healthy images of unaffected patients, affected-patient controls (_affected), or both (all_healthy).
    """
    estimates: dict[str, Estimate] = {}
    for name in (str(name) for name in known if str(name).endswith("_bilateral")):
        is_present, values, label = known[name].notna().to_numpy(), known[name].fillna(0).to_numpy(), score_label(name)
        for suffix, arm in (("", arms.with_unaffected), ("_affected", arms.with_affected)):
            keep = arm & is_present
            estimates[f"score_{name}_auroc{suffix}"] = bootstrap.auroc(values, keep).named(name, label)
            if (one_sided := name.removesuffix("_bilateral")) in known:
                gain = bootstrap.difference(values, known[one_sided].to_numpy(), keep)
                estimates[f"gain_{name}{suffix}"] = gain.named(name, label, "difference")
    finding = known[FINDING].to_numpy()
    estimates["auroc_all_healthy"] = bootstrap.auroc(finding).named(FINDING, "Finding score, all healthy images")
    for name, label in baselines.items():
        difference = bootstrap.difference(finding, known[name], arms.with_affected)
        estimates[f"auroc_affected_minus_{name}"] = difference.named(name, label, "difference")
    if REFERENCE_LOSS in baselines:
        estimates[f"auroc_all_healthy_minus_{REFERENCE_LOSS}"] = bootstrap.difference(finding, known[REFERENCE_LOSS])
    grouped = known.groupby("patient_id", sort=True)
    highest, healthy = grouped[FINDING].max(), grouped["healthy"].min().astype(bool)
    folds = grouped[FOLD].first().tolist() if FOLD in known else None
    patients = PatientBootstrap(highest.index.astype(str), ~healthy.to_numpy(bool), folds)
    estimates["auroc_patients"] = patients.auroc(highest).named(FINDING, "Finding score, by patient")
    return estimates


def _realised(known: pd.DataFrame, runs: Sequence[Run], rate: float) -> dict[str, float]:
    """Return for a stated false-positive rate the realised one on healthy test images, and its 99 % range.

    A rate is promised for an image of a new patient: realised is the mean over patients of the share of their images
    that is flagged. By image it would be exceeded where patients with more images have higher scores. The range is that
    of one calibration with the folds' mean number of patients and of the patients of all healthy test images: too wide
    for several folds, whose calibrations partly cancel.
    """
    healthy = known[known["healthy"].astype(bool)]
    n = round(np.mean([run.manifest["calibration_patients"] for run in runs]))
    low, high = realised_rate_range(n, healthy["patient_id"].nunique(), rate)
    is_flagged = pd.Series(flagged(healthy["finding_p"].to_numpy(), rate))
    realised = float(is_flagged.groupby(healthy["patient_id"].to_numpy()).mean().mean())
    return {"stated": rate, "realised": realised, "range_low": low, "range_high": high, "n_calibration": n}


def _supported_rates(runs: Sequence[Run]) -> list[float]:
    """Return the rates of RATES that every run has calibration patients enough for."""
    fewest = min(run.manifest["calibration_patients"] for run in runs)
    return [rate for rate in RATES if rate >= 1 / (fewest + 1)]


def _predictive(known: pd.DataFrame, arms: Arms, rate: float) -> dict[str, float]:
    """Return sensitivity, and the predictive value at screening prevalence, at a stated false-positive rate.

    The predictive value takes the stated rate: where few healthy test images are flagged, the realised one is chance.
    """
    is_flagged = flagged(known["finding_p"].to_numpy(), rate)
    sensitivity, false = float(is_flagged[arms.finding].mean()), float(is_flagged[arms.unaffected].mean())
    value = sensitivity * PREVALENCE / (sensitivity * PREVALENCE + rate * (1 - PREVALENCE))
    return {"rate": rate, "sensitivity": sensitivity, "specificity": 1 - false, "predictive_value": value}
