"""What the folds of a cross-validation say together: detection, localisation, inserted lesions and faults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detection.calibration import CALIBRATION, Calibration, flagged, realised_rate_range
from mammovae.evaluation.evaluate import BASELINES
from mammovae.evaluation.evaluation_report import FINDING, score_label
from mammovae.evaluation.inserted_faults import FaultMetrics, fault_metrics
from mammovae.evaluation.localisation import Localisation, localise
from mammovae.evaluation.stress import lesion_metrics, with_identity
from mammovae.models.run import Run
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap, flatten_estimates
from mammovae.statistics.detection_metrics import Arms, DetectionMetrics, detection_metrics

REFERENCE_LOSS = "original_reconstruction_loss"
RATES = (0.05, 0.1, 0.2)
"""Stated false-positive rates at which the realised one is read."""
PREVALENCE = 0.006
"""Cancers found a screened woman: about 6 in 1,000 (Lehman et al., Radiology 283:49, 2017: 5.1)."""


@dataclass(frozen=True)
class PooledMetrics:
    """What the folds of a cross-validation say together; None where a fold lacks what it is measured on."""

    table: pd.DataFrame
    """A row an image: identity and raw scores."""
    detection: DetectionMetrics
    extra: dict[str, Estimate]
    """Bilateral scores, patients as one, and the original preset's loss, by key of metrics.json."""
    localisation: Localisation | None
    lesions: pd.DataFrame
    faults: pd.DataFrame | None
    fault_metrics: FaultMetrics | None
    calibration: list[dict[str, float]]
    predictive: list[dict[str, float]]

    def flat(self) -> dict[str, Any]:
        """Return the flat keys of metrics.json."""
        metrics: dict[str, Any] = self.detection.metrics() | flatten_estimates(self.extra)
        metrics |= {} if self.localisation is None else self.localisation.metrics()
        metrics |= lesion_metrics(self.lesions)
        metrics |= {} if self.fault_metrics is None else self.fault_metrics.metrics()
        rates = {f"rate_{row['stated']:g}_{key}": row[key] for row in self.calibration for key in row}
        return metrics | {key.replace(".", "_"): value for key, value in rates.items()}


def pool_folds(out: Path, data: Data, runs: list[Run]) -> PooledMetrics:
    """Measure the folds of a folder together."""
    parts = [pd.read_parquet(out / f"fold-{fold}" / "scores.parquet") for fold in range(len(runs))]
    table, fused = pd.concat(parts, ignore_index=True), runs[0].settings.fused
    scores = {FINDING: "Finding score"} | {name: score_label(name) for name in fused if len(fused) > 1}
    baselines = BASELINES | {REFERENCE_LOSS: "Original preset's loss"}
    standard = pd.concat(list(map(_in_deviations, parts, runs)), ignore_index=True)
    known = standard[standard["healthy"].notna()].reset_index(drop=True)
    arms = Arms.of(known)
    bootstrap = PatientBootstrap(known["patient_id"].astype(str), arms.finding, known["fold"].tolist())
    raw_loss = table.loc[table["healthy"].notna(), REFERENCE_LOSS].to_numpy(np.float64)
    lesions, faults = (_inserted(out, name, data, len(runs)) for name in ("lesions.parquet", "faults.parquet"))
    assert lesions is not None
    return PooledMetrics(
        table,
        detection_metrics(standard, scores, baselines, strata="fold"),
        _comparisons(bootstrap, known, raw_loss, arms),
        _localised(out, table, runs, bootstrap, arms),
        lesions,
        faults,
        None if faults is None else fault_metrics(faults),
        _realised(table, runs),
        _predictive(known, arms, _supported_rates(runs)),
    )


def _inserted(out: Path, name: str, data: Data, folds: int) -> pd.DataFrame | None:
    """Return what was inserted in all folds, with its images' names; None where a fold has no such table."""
    paths = [out / f"fold-{fold}" / name for fold in range(folds)]
    if not all(path.exists() for path in paths):
        return None
    return pd.concat([with_identity(pd.read_parquet(p), data, fold) for fold, p in enumerate(paths)], ignore_index=True)


def _in_deviations(part: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return a fold's table with its raw scores in deviations of the fold's healthy calibration images.

    Raw, the scores of networks trained on other images lie on other scales, and pooling them would compare the folds.
    """
    names = [FINDING] if len(run.settings.fused) == 1 else []
    healthy = pd.read_parquet(run.path / CALIBRATION)
    healthy = healthy.assign(**dict.fromkeys(names, healthy[run.settings.fused[0]]))
    healthy[REFERENCE_LOSS] = pd.read_parquet(run.path.parent / "reference" / CALIBRATION)["reconstruction_loss"]
    raw = {str(name): part[name].to_numpy(np.float64) for name in healthy if name in part}
    return part.assign(**{name: Calibration(healthy, [name]).normal_scores(raw)[:, 0] for name in raw})


def _comparisons(
    bootstrap: PatientBootstrap, known: pd.DataFrame, raw_loss: np.ndarray, arms: Arms
) -> dict[str, Estimate]:
    """Return bilateral scores where the other breast is present, the patient level, and the original preset's loss.

    Each against healthy images of unaffected patients, affected-patient controls (_affected), or both (all_healthy).
    raw_loss: the original preset's loss in nats, pooled raw, so that the primary comparison can be read that way too.
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
    for name, label in (BASELINES | {REFERENCE_LOSS: "the original preset's loss"}).items():
        difference = bootstrap.difference(finding, known[name], arms.with_affected)
        estimates[f"auroc_affected_minus_{name}"] = difference.named(name, label, "difference")
    estimates[f"auroc_all_healthy_minus_{REFERENCE_LOSS}"] = bootstrap.difference(finding, known[REFERENCE_LOSS])
    estimates[f"auroc_minus_{REFERENCE_LOSS}_raw"] = bootstrap.difference(finding, raw_loss, arms.with_unaffected)
    grouped = known.groupby("patient_id", sort=True)
    highest, healthy = grouped[FINDING].max(), grouped["healthy"].min().astype(bool)
    patients = PatientBootstrap(highest.index.astype(str), ~healthy.to_numpy(), grouped["fold"].first().tolist())
    estimates["auroc_patients"] = patients.auroc(highest).named(FINDING, "Finding score, by patient")
    return estimates


def _localised(
    out: Path, table: pd.DataFrame, runs: list[Run], bootstrap: PatientBootstrap, arms: Arms
) -> Localisation | None:
    """Compare the folds' maps with annotated regions; None where no image has any."""
    files = [np.load(out / f"fold-{fold}" / "maps.npz") for fold in range(len(runs))]
    maps, lesions, breasts = (np.concatenate([file[key] for file in files]) for key in ("maps", "lesions", "breasts"))
    known = table["healthy"].notna().to_numpy()
    if not lesions[known].any():
        return None
    hits = table.loc[known, "blob_hit"].to_numpy(float)
    return localise(maps[known], lesions[known], breasts[known], arms.unaffected, hits, bootstrap)


def _realised(table: pd.DataFrame, runs: list[Run]) -> list[dict[str, float]]:
    """Return for stated false-positive rates the realised one on healthy test images, and its 99 % range.

    The range is that of one calibration with the folds' mean number of patients and of the patients of all healthy test
    images: too wide for several folds, whose calibrations partly cancel.
    """
    healthy = table[(table["healthy"] == True).fillna(False)]  # noqa: E712 - nullable
    n = round(np.mean([run.manifest["calibration_patients"] for run in runs]))
    rows = []
    for rate in _supported_rates(runs):
        low, high = realised_rate_range(n, healthy["patient_id"].nunique(), rate)
        realised = float(flagged(healthy["finding_p"].to_numpy(), rate).mean())
        rows.append({"stated": rate, "realised": realised, "range_low": low, "range_high": high, "n_calibration": n})
    return rows


def _supported_rates(runs: list[Run]) -> list[float]:
    """Return the rates of RATES that every fold has calibration patients enough for."""
    fewest = min(run.manifest["calibration_patients"] for run in runs)
    return [rate for rate in RATES if rate >= 1 / (fewest + 1)]


def _predictive(known: pd.DataFrame, arms: Arms, rates: list[float]) -> list[dict[str, float]]:
    """Return sensitivity, and the predictive value at screening prevalence, at stated false-positive rates.

    The predictive value takes the stated rate: where few healthy test images are flagged, the realised one is chance.
    """
    rows = []
    for rate in rates:
        is_flagged = flagged(known["finding_p"].to_numpy(), rate)
        sensitivity, false = float(is_flagged[arms.finding].mean()), float(is_flagged[arms.unaffected].mean())
        value = sensitivity * PREVALENCE / (sensitivity * PREVALENCE + rate * (1 - PREVALENCE))
        rows.append({"rate": rate, "sensitivity": sensitivity, "specificity": 1 - false, "predictive_value": value})
    return rows


def result_rows(metrics: DetectionMetrics, extra: dict[str, Estimate]) -> pd.DataFrame:
    """Return a row a score, baseline or group, with n, AUROC and interval, also against affected-patient controls."""
    rows = [(row.kind, row, metrics.affected.get(row.name)) for row in (*metrics.scores, *metrics.baselines)]
    bilateral = [key for key in extra if key.startswith("score_") and not key.endswith("_affected")]
    rows += [("bilateral", extra[key], extra[f"{key}_affected"]) for key in bilateral]
    rows.append(("patient", extra["auroc_patients"], None))
    for heading, table in metrics.tables.items():
        affected = {row.name: row for row in metrics.affected_tables.get(heading, ())}
        rows += [(heading, row, affected.get(row.name)) for row in table]
    return pd.DataFrame(
        {
            "kind": kind,
            "name": main.label or main.name,
            "n_healthy": main.n_healthy,
            "n_finding": main.n_finding,
            "auroc": main.text,
            "n_healthy_affected": affected.n_healthy if affected else None,
            "auroc_affected": affected.text if affected else None,
        }
        for kind, main, affected in rows
    )
