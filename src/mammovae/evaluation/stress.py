"""Stress-test a run: technical faults and lesions planted into the healthy test images of a DATA folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.config import InputError
from mammovae.data.dataset import Data
from mammovae.detection.detector import Detector
from mammovae.detection.fusion import FusedScore
from mammovae.detection.quality import Quality
from mammovae.evaluation.inserted_faults import FaultFigures, fault_figures, score_inserted_faults
from mammovae.evaluation.inserted_lesions import detectability
from mammovae.models.run import Run
from mammovae.report.charts import detectability_chart, fault_chart
from mammovae.report.style import save
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap, flatten_estimates
from mammovae.storage import StageFolder, atomic_write, file_hash, read_json, write_json
from mammovae.training.leakage import exclude_training_images


def stress(
    run: Path | str,
    data: Path | str,
    *,
    out: Path | str,
    seed: int = 0,
    other_view: Path | str | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Plant faults and lesions (family REPORT) into healthy test images; return metrics.json.

    Faults go into the raw files, which must still be where prepare found them, and into what their header says; then
    each is prepared like any file. A refusal counts as found. other_view is a folder with images of the other view to
    slip in; without it those of the data set serve, else phantoms. The folder out gets faults.csv, faults.png,
    lesions.csv, detectability.png and metrics.json.
    """
    opened, prepared = Run.open(run), Data.open(data)
    prepared.check_prepared_as(opened.manifest["prepared"])
    quality = Quality.open(opened.path)
    positions = prepared.select("test", side=opened.settings.side, view=opened.settings.view)
    positions = exclude_training_images(opened, prepared, positions[prepared.healthy(positions)])
    if not len(positions):
        raise InputError(f"{prepared.path} has no healthy test image to plant anything into")
    if quality is None:
        raise InputError(f"{opened.path} has no quality score: it was trained on too few images")
    inputs = {
        "run": str(opened.path.resolve()),
        "weights": json.dumps(opened.manifest["weights"]),
        "data": str(prepared.path.resolve()),
        "index": file_hash(prepared.path / "index.parquet"),
    }
    settings = {"seed": seed, "other_view": None if other_view is None else str(other_view)}
    with StageFolder(Path(out), "stress", settings, inputs) as stage:
        if not stage.done:
            donors = None if other_view is None else Path(other_view)
            faults = with_identity(
                score_inserted_faults(quality, prepared, positions, "test", seed, donors, workers), prepared
            )
            lesions = with_identity(lesion_rows(opened, prepared, positions, seed), prepared)
            figures = fault_figures(faults)
            write_stress(stage.out, faults, lesions, figures)
            write_json(stage.out / "metrics.json", figures.metrics() | lesion_metrics(lesions))
            stage.finish()
        return read_json(stage.out / "metrics.json")


def with_identity(rows: pd.DataFrame, data: Data, fold: int = 0) -> pd.DataFrame:
    """Return a table of planted faults or lesions with the image_id and patient_id of each position, and the fold."""
    index = data.index.iloc[rows["position"]]
    return rows.assign(image_id=index["image_id"].to_numpy(), patient_id=index["patient_id"].to_numpy(), fold=fold)


def write_stress(out: Path, faults: pd.DataFrame, lesions: pd.DataFrame, figures: FaultFigures) -> None:
    """Write tables and charts of planted faults and lesions, as named gives them, into a folder."""
    for name, table in (("faults.csv", faults), ("lesions.csv", lesions)):
        with atomic_write(out / name) as partial:
            table.drop(columns="position").to_csv(partial, index=False)
    save(fault_chart(figures.table()), out / "faults.png")
    save(detectability_chart(found_share(lesions), found_share(lesions, "hit")), out / "detectability.png")


def lesion_rows(run: Run, data: Data, positions: np.ndarray, seed: int) -> pd.DataFrame:
    """Score healthy images untouched and with REPORT lesions of 2 to 40 mm: finding, its p-value, and the map's hit."""
    rows = detectability(Detector(run), data, positions, seed)
    names = {name: rows[name].to_numpy() for name in run.settings.fused}
    return rows.assign(**FusedScore(run).alone(names))[
        ["position", "kind", "diameter_mm", "contrast", "finding", "finding_percentile", "hit", "chance"]
    ]


def found_share(rows: pd.DataFrame, what: str = "finding") -> pd.DataFrame:
    """Return the share found by size (rows, mm) and contrast (columns).

    finding: films whose finding score exceeds the 95 % quantile of the untouched ones; hit: films whose map has its
    maximum in the lesion.
    """
    planted = rows.assign(found=_found(rows, what))[rows["kind"] != ""]
    return planted.pivot_table(index="diameter_mm", columns="contrast", values="found", aggfunc="mean")


def _found(rows: pd.DataFrame, what: str) -> np.ndarray:
    if what == "hit":
        return rows["hit"].fillna(0).to_numpy(np.float64)
    return (rows["finding"] > np.quantile(rows.loc[rows["kind"] == "", "finding"], 0.95)).to_numpy(np.float64)


def lesion_metrics(rows: pd.DataFrame) -> dict[str, float | int | None]:
    """Return flat keys, lesion_n_20mm_0_4, lesion_found_20mm_0_4, lesion_hit_20mm_0_4 ..., shares with intervals.

    rows: as named gives them. A breast without room for a lesion of a size is not among its films.
    """
    planted = (rows["kind"] != "").to_numpy()
    bootstrap = PatientBootstrap(rows["patient_id"].astype(str), planted, rows["fold"].tolist())
    counts: dict[str, float | int | None] = {}
    estimates: dict[str, Estimate] = {}
    for (size, contrast), part in rows[planted].groupby(["diameter_mm", "contrast"]):
        cell = f"{size:g}mm_{contrast:g}".replace(".", "_")
        keep = rows.index.isin(part.index)
        counts[f"lesion_n_{cell}"] = len(part)
        for word, what in (("found", "finding"), ("hit", "hit")):
            estimates[f"lesion_{word}_{cell}"] = bootstrap.mean(_found(rows, what), keep)
    return counts | flatten_estimates(estimates)
