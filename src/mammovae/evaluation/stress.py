"""Stress-test a run: technical faults and lesions inserted into the healthy test images of a DATA folder."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from mammovae.arguments import AnyPath, Count, Workers, checked
from mammovae.config import InputError, Seed
from mammovae.data.dataset import Data
from mammovae.detection.calibration import FusedScore
from mammovae.detection.detector import Detector
from mammovae.detection.quality import Quality
from mammovae.evaluation.evaluate import stage_inputs
from mammovae.evaluation.inserted_faults import (
    FaultMetrics,
    fault_metrics,
    images_of_other_view,
    score_inserted_faults,
)
from mammovae.evaluation.inserted_lesions import detectability
from mammovae.models.run import Run
from mammovae.report.charts import detectability_chart, fault_chart
from mammovae.report.style import save
from mammovae.statistics.bootstrap import PatientBootstrap, flatten_estimates
from mammovae.storage import StageFolder, read_json, write_csv, write_json
from mammovae.training.leakage import UNCHECKED, exclude_training_images
from mammovae.training.model_card import record_on_card

_MIDDLE_MM = 10.0  # of the lesions whose kinds are distinguished at each contrast


@checked
def stress(  # noqa: PLR0913
    run: AnyPath,
    data: AnyPath,
    out: AnyPath,
    seed: Seed,
    *,
    limit: Count | None = None,
    other_view: AnyPath | None = None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Do mammovae stress with faults and lesions of the test families, and return what metrics.json says.

    Faults go into the raw files and into what their headers say; then each is prepared like any file. A refusal counts
    as a detection. The folder out gets faults.csv, faults.png, lesions.csv, detectability.png and metrics.json.
    """
    opened, prepared = Run.open(run), Data.open(data)
    opened.check_data(prepared)
    positions, notes = healthy_test_images(opened, prepared, limit)
    if (quality := Quality.open(opened.path)) is None:
        raise InputError(f"{opened.path} has no quality score: it was trained on too few images")
    donors = images_of_other_view(other_view, workers)
    settings = {"seed": seed, "limit": limit, "other_view": None if other_view is None else str(other_view)}
    with StageFolder(out, "stress", settings, stage_inputs(opened, prepared)) as stage:
        if not stage.done:
            faults = score_inserted_faults(quality, prepared, positions, seed, donors, workers)
            faults = with_identity(faults, prepared)
            lesions = with_identity(lesion_rows(opened, prepared, positions, seed), prepared)
            detected = fault_metrics(faults)
            write_stress(stage.out, faults, lesions, detected)
            metrics = {"notes": notes} | detected.metrics() | lesion_metrics(lesions)
            write_json(stage.out / "metrics.json", metrics)
            stage.finish()
        result = read_json(stage.out / "metrics.json")
    inputs = {"index": prepared.digest} | {name: settings[name] for name in ("limit", "other_view")}
    record_on_card(opened, prepared, result, inputs, UNCHECKED not in notes, command="stress", seed=seed)
    return result


def healthy_test_images(run: Run, data: Data, limit: int | None) -> tuple[np.ndarray, list[str]]:
    """Return the positions of at most limit healthy test images, evenly spaced, and notes on their choice."""
    positions = data.select("test", side=run.settings.side, view=run.settings.view)
    positions, notes = exclude_training_images(run, data, positions[data.healthy(positions)])
    if not len(positions):
        raise InputError(f"{data.path} has no healthy test image to insert faults and lesions into")
    if limit is not None and limit < len(positions):
        positions = positions[np.arange(limit) * len(positions) // limit]
    return positions, notes


def with_identity(rows: pd.DataFrame, data: Data, fold: int = 0) -> pd.DataFrame:
    """Return a table of inserted faults or lesions with the image_id and patient_id of each position, and the fold."""
    index = data.index.iloc[rows["position"]]
    return rows.assign(image_id=index["image_id"].to_numpy(), patient_id=index["patient_id"].to_numpy(), fold=fold)


def write_stress(out: Path, faults: pd.DataFrame, lesions: pd.DataFrame, detected: FaultMetrics) -> None:
    """Write tables and charts of inserted faults and lesions, as with_identity gives them, into a folder."""
    for name, table in (("faults.csv", faults), ("lesions.csv", lesions)):
        write_csv(table.drop(columns="position"), out / name)
    save(fault_chart(detected.table()), out / "faults.png")
    save(detectability_chart(detected_share(lesions), detected_share(lesions, "hit")), out / "detectability.png")


def lesion_rows(run: Run, data: Data, positions: np.ndarray, seed: int) -> pd.DataFrame:
    """Score healthy images untouched and with test lesions of 2 to 40 mm: finding, percentile, and the map's hit."""
    rows = detectability(Detector(run), data, positions, seed)
    scores = {name: rows[name].to_numpy() for name in run.settings.fused}
    columns = ["position", "kind", "diameter_mm", "contrast", "finding", "finding_percentile", "hit", "chance"]
    return rows.assign(**FusedScore(run).finding_columns(scores))[columns]


def detected_share(rows: pd.DataFrame, by: Literal["finding", "hit"] = "finding") -> pd.DataFrame:
    """Return the share of lesions detected by size (rows, mm) and contrast (columns)."""
    inserted = rows.assign(detected=_is_detected(rows, by))[rows["kind"] != ""]
    return inserted.pivot_table(index="diameter_mm", columns="contrast", values="detected", aggfunc="mean")


def _is_detected(rows: pd.DataFrame, by: Literal["finding", "hit"]) -> np.ndarray:
    """Say whether the score exceeds the untouched images' 95 % quantile, or the map's maximum lies in the lesion."""
    if by == "hit":
        return rows["hit"].fillna(0).to_numpy(np.float64)
    return (rows["finding"] > np.quantile(rows.loc[rows["kind"] == "", "finding"], 0.95)).to_numpy(np.float64)


def lesion_metrics(rows: pd.DataFrame) -> dict[str, float | int | None]:
    """Return flat keys, lesion_n_20mm_0_4, lesion_detected_20mm_0_4, lesion_hit_20mm_0_4 ..., shares with intervals.

    lesion_auroc_mass ... are AUROCs of the finding score of images with lesions of a kind, of all sizes and contrasts,
    and lesion_auroc_mass_10mm_0_4 ... those of 10 mm, against the same images untouched. rows: as with_identity gives
    them. A breast without room for a lesion of a size is not counted there.
    """
    is_inserted = (rows["kind"] != "").to_numpy()
    bootstrap = PatientBootstrap(rows["patient_id"].astype(str), is_inserted, rows["fold"].tolist())
    detected = {"detected": _is_detected(rows, "finding"), "hit": _is_detected(rows, "hit")}
    inserted = rows[is_inserted]
    groups = inserted.groupby(["diameter_mm", "contrast"])
    cells = {_cell(*place): rows.index.isin(part.index) for place, part in groups}
    shares = {
        f"lesion_{word}_{cell}": bootstrap.mean(values, is_there)
        for cell, is_there in cells.items()
        for word, values in detected.items()
    }
    kinds = {str(kind): rows.index.isin(part.index) for kind, part in inserted.groupby("kind")}
    middle = inserted[inserted["diameter_mm"] == _MIDDLE_MM].groupby(["kind", "contrast"])
    kinds |= {f"{kind}_{_cell(_MIDDLE_MM, float(c))}": rows.index.isin(part.index) for (kind, c), part in middle}
    aurocs = {
        f"lesion_auroc_{name}": bootstrap.auroc(rows["finding"], is_there | ~is_inserted)
        for name, is_there in kinds.items()
    }
    counts = {f"lesion_n_{name}": int(is_there.sum()) for name, is_there in (cells | kinds).items()}
    return counts | flatten_estimates(shares | aurocs)


def _cell(diameter_mm: float, contrast: float) -> str:
    return f"{diameter_mm:g}mm_{contrast:g}".replace(".", "_")
