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
        return metrics | {
            f"rate_{row['stated']:g}_{key}".replace(".", "_"): row[key] for row in self.calibration for key in row
        }


def pool_folds(out: Path, data: Data, runs: list[Run]) -> PooledMetrics:
    """Measure the folds of a folder together."""
    parts = [pd.read_parquet(out / f"fold-{fold}" / "scores.parquet") for fold in range(len(runs))]
    table = pd.concat(parts, ignore_index=True)
    fused = runs[0].settings.fused
    scores = {FINDING: "Finding score"} | {name: score_label(name) for name in fused if len(fused) > 1}
    baselines = BASELINES | {REFERENCE_LOSS: "Original preset's loss"}
    standard = pd.concat([_in_deviations(part, run) for part, run in zip(parts, runs, strict=True)], ignore_index=True)
    known = standard[standard["healthy"].notna()].reset_index(drop=True)
    arms = Arms.of(known)
    bootstrap = PatientBootstrap(known["patient_id"].astype(str), arms.finding, known["fold"].tolist())
    raw_loss = table.loc[table["healthy"].notna(), REFERENCE_LOSS].to_numpy(np.float64)
    lesions, faults = (_planted(out, name, data, len(runs)) for name in ("lesions.parquet", "faults.parquet"))
    assert lesions is not None
    return PooledMetrics(
        table,
        detection_metrics(standard, scores, baselines, strata="fold"),
        _more(bootstrap, known, raw_loss, arms),
        _localised(out, table, runs, bootstrap, arms),
        lesions,
        faults,
        None if faults is None else fault_metrics(faults),
        _realised(table, runs),
        _predictive(known, arms, _promised(runs)),
    )


def _planted(out: Path, name: str, data: Data, folds: int) -> pd.DataFrame | None:
    """Return what was planted in all folds, with its images' names; None where a fold has no such table."""
    paths = [out / f"fold-{fold}" / name for fold in range(folds)]
    if not all(path.exists() for path in paths):
        return None
    return pd.concat([with_identity(pd.read_parquet(p), data, fold) for fold, p in enumerate(paths)], ignore_index=True)


def _in_deviations(part: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return a fold's table with its raw scores in deviations of the fold's healthy calibration images.

    Raw, the scores of networks trained on other films lie on other scales, and pooling would judge the folds. run is
    the fold's run, the reference beside it.
    """
    names = [FINDING] if len(run.settings.fused) == 1 else []
    healthy = pd.read_parquet(run.path / CALIBRATION)
    healthy = healthy.assign(**dict.fromkeys(names, healthy[run.settings.fused[0]]))
    theirs = pd.read_parquet(run.path.parent / "reference" / CALIBRATION)
    healthy[REFERENCE_LOSS] = theirs["reconstruction_loss"]
    raw = {str(name): part[name].to_numpy(np.float64) for name in healthy if name in part}
    return part.assign(**{name: Calibration(healthy, [name]).normal(raw)[:, 0] for name in raw})


def _more(bootstrap: PatientBootstrap, known: pd.DataFrame, raw_loss: np.ndarray, arms: Arms) -> dict[str, Estimate]:
    """Return bilateral scores in both arms where the other breast is there, the patient level, and both arms as one.

    raw_loss: the original preset's loss in nats, pooled raw, so that the primary comparison can be read that way too.
    """
    found = {}
    for name in (str(name) for name in known if str(name).endswith("_bilateral")):
        there = known[name].notna().to_numpy()
        for arm, keep in (("", arms.with_unaffected), ("_affected", arms.with_affected)):
            values = known[name].fillna(0).to_numpy()
            found[f"score_{name}_auroc{arm}"] = bootstrap.auroc(values, keep & there).named(name, score_label(name))
            if (one_sided := name.removesuffix("_bilateral")) in known:
                gain = bootstrap.difference(values, known[one_sided].to_numpy(), keep & there)
                found[f"gain_{name}{arm}"] = gain.named(name, score_label(name), "difference")
    finding = known[FINDING].to_numpy()
    found["auroc_both_arms"] = bootstrap.auroc(finding).named(FINDING, "Finding score, both arms")
    for name, label in (BASELINES | {REFERENCE_LOSS: "the original preset's loss"}).items():
        less = bootstrap.difference(finding, known[name], arms.with_affected)
        found[f"auroc_affected_minus_{name}"] = less.named(name, label, "difference")
    found["auroc_both_arms_minus_original_reconstruction_loss"] = bootstrap.difference(finding, known[REFERENCE_LOSS])
    found["auroc_minus_original_reconstruction_loss_raw"] = bootstrap.difference(
        finding, raw_loss, arms.with_unaffected
    )
    grouped = known.groupby("patient_id", sort=True)
    worst, healthy = grouped[FINDING].max(), grouped["healthy"].min().astype(bool)
    whole = PatientBootstrap(worst.index.astype(str), ~healthy.to_numpy(), grouped["fold"].first().tolist())
    found["auroc_patients"] = whole.auroc(worst).named(FINDING, "Finding score, by patient")
    return found


def _localised(
    out: Path, table: pd.DataFrame, runs: list[Run], bootstrap: PatientBootstrap, arms: Arms
) -> Localisation | None:
    """Judge the folds' maps against annotated regions; None where no image has any."""
    kept = [np.load(out / f"fold-{fold}" / "maps.npz") for fold in range(len(runs))]
    maps, lesions, breasts = (np.concatenate([part[key] for part in kept]) for key in ("maps", "lesions", "breasts"))
    known = table["healthy"].notna().to_numpy()
    if not lesions[known].any():
        return None
    hits = table.loc[known, "blob_hit"].to_numpy(float)
    return localise(maps[known].astype(np.float32), lesions[known], breasts[known], arms.unaffected, hits, bootstrap)


def _realised(table: pd.DataFrame, runs: list[Run]) -> list[dict[str, float]]:
    """Return for stated false-positive rates the realised one on healthy test images, and its 99 % range.

    The range is that of one calibration of the folds' mean size and all healthy test images: exact for one fold, and
    too wide for several, whose calibrations partly cancel.
    """
    healthy = (table["healthy"] == True).fillna(False).to_numpy(bool)  # noqa: E712 - nullable column
    n = round(np.mean([run.manifest["images"]["calibration"] for run in runs]))
    rows = []
    for rate in _promised(runs):
        low, high = realised_rate_range(n, int(healthy.sum()), rate)
        realised = float(flagged(table.loc[healthy, "finding_p"].to_numpy(), rate).mean())
        rows.append({"stated": rate, "realised": realised, "range_low": low, "range_high": high, "n_calibration": n})
    return rows


def _promised(runs: list[Run]) -> list[float]:
    """Return the rates of RATES that every fold has calibration images enough for."""
    fewest = min(run.manifest["images"]["calibration"] for run in runs)
    return [rate for rate in RATES if rate >= 1 / (fewest + 1)]


def _predictive(known: pd.DataFrame, arms: Arms, rates: list[float]) -> list[dict[str, float]]:
    """Return sensitivity, and the predictive value at screening prevalence, at stated false-positive rates.

    The predictive value takes the stated rate: where few healthy test images are flagged, the realised one is luck.
    """
    rows = []
    for rate in rates:
        called = flagged(known["finding_p"].to_numpy(), rate)
        sensitivity, false = float(called[arms.finding].mean()), float(called[arms.unaffected].mean())
        value = sensitivity * PREVALENCE / (sensitivity * PREVALENCE + rate * (1 - PREVALENCE))
        rows.append({"rate": rate, "sensitivity": sensitivity, "specificity": 1 - false, "predictive_value": value})
    return rows


def result_rows(judgement: DetectionMetrics, extra: dict[str, Estimate]) -> pd.DataFrame:
    """Return the one table: a row a score, baseline or group, with n, AUROC and interval in both arms."""
    single = (*judgement.scores, *judgement.baselines)
    rows = [_row(row, judgement.affected.get(row.name), row.kind) for row in single]
    rows += [
        _row(row, extra[f"{key}_affected"], "bilateral")
        for key, row in extra.items()
        if key.startswith("score_") and not key.endswith("_affected")
    ]
    rows.append(_row(extra["auroc_patients"], None, "patient"))
    for heading, table in judgement.tables.items():
        second = {row.name: row for row in judgement.affected_tables.get(heading, ())}
        rows += [_row(row, second.get(row.name), heading) for row in table]
    return pd.DataFrame(rows)


def _row(main: Estimate, second: Estimate | None, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": main.label or main.name,
        "n_healthy": main.n_healthy,
        "n_finding": main.n_finding,
        "auroc": main.text,
        "n_healthy_affected": second.n_healthy if second else None,
        "auroc_affected": second.text if second else None,
    }
