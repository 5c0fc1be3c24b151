"""What the folds of a cross-validation say together: detection, localisation, inserted lesions and faults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detection.calibration import CALIBRATION, Calibration
from mammovae.evaluation.evaluation_metrics import FINDING, EvaluationMetrics, evaluation_metrics
from mammovae.evaluation.inserted_faults import FaultMetrics, fault_metrics
from mammovae.evaluation.reference import REFERENCE_LOSS
from mammovae.evaluation.stress import lesion_metrics, with_identity
from mammovae.models.run import Run


@dataclass(frozen=True)
class PooledMetrics:
    """What the folds of a cross-validation say together; None where a fold lacks what it is measured on."""

    table: pd.DataFrame
    """A row an image: identity and raw scores."""
    scored: EvaluationMetrics
    lesions: pd.DataFrame
    faults: pd.DataFrame | None
    fault_metrics: FaultMetrics | None

    def flat(self) -> dict[str, Any]:
        """Return the flat keys of metrics.json."""
        metrics = self.scored.metrics() | lesion_metrics(self.lesions)
        return metrics | ({} if self.fault_metrics is None else self.fault_metrics.metrics())


def pool_folds(out: Path, data: Data, runs: list[Run]) -> PooledMetrics:
    """Measure the folds of a folder together."""
    parts = [pd.read_parquet(out / f"fold-{fold}" / "scores.parquet") for fold in range(len(runs))]
    table = pd.concat(parts, ignore_index=True)
    standard = pd.concat(list(map(_in_deviations, parts, runs)), ignore_index=True)
    lesions, faults = (_inserted(out, name, data, len(runs)) for name in ("lesions.parquet", "faults.parquet"))
    assert lesions is not None
    detected = None if faults is None else fault_metrics(faults)
    return PooledMetrics(table, evaluation_metrics(table, standard, runs), lesions, faults, detected)


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


def result_rows(scored: EvaluationMetrics) -> pd.DataFrame:
    """Return a row a score, baseline or group, with n, AUROC and interval, also against affected-patient controls."""
    metrics, extra = scored.detection, scored.comparisons
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
