"""Stress-test a run: technical faults and lesions planted into the healthy test images of a DATA folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.config import InputError
from mammovae.data.dataset import Data
from mammovae.detect.detector import Detector
from mammovae.detect.quality import Quality
from mammovae.detect.stress import detectability
from mammovae.detect.verdict import Verdict
from mammovae.folders import Stage, file_hash, read_json, replacing, write_json
from mammovae.model.run import Run
from mammovae.page.charts import detectability_chart, fault_chart
from mammovae.page.style import save
from mammovae.study.faults import fault_metrics, fault_table, planted_faults
from mammovae.study.leaks import unseen


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
    positions = unseen(opened, prepared, positions[prepared.healthy(positions)])
    if not len(positions):
        raise InputError(f"{prepared.path} has no healthy test image to plant anything into")
    if quality is None:
        raise InputError(f"{opened.path} has no quality score: it was trained on too few images")
    inputs = {
        "run": str(opened.path.resolve()),
        "data": str(prepared.path.resolve()),
        "index": file_hash(prepared.path / "index.parquet"),
    }
    settings = {"seed": seed, "other_view": None if other_view is None else str(other_view)}
    with Stage(Path(out), "stress", settings, inputs) as stage:
        if not stage.done:
            donors = None if other_view is None else Path(other_view)
            faults = planted_faults(quality, prepared, positions, "report", seed, donors, workers)
            lesions = lesion_rows(opened, prepared, positions, seed)
            write_stress(stage.out, prepared, faults, lesions)
            write_json(stage.out / "metrics.json", fault_metrics(faults) | lesion_metrics(lesions))
            stage.finish()
        return read_json(stage.out / "metrics.json")


def write_stress(out: Path, data: Data, faults: pd.DataFrame, lesions: pd.DataFrame) -> None:
    """Write tables and charts of planted faults and lesions into a folder."""
    for name, table in (("faults.csv", faults), ("lesions.csv", lesions)):
        named = table.assign(image_id=data.index["image_id"].iloc[table["position"]].to_numpy())
        with replacing(out / name) as partial:
            named.drop(columns="position").to_csv(partial, index=False)
    save(fault_chart(fault_table(faults)), out / "faults.png")
    save(detectability_chart(found_share(lesions), found_share(lesions, "hit")), out / "detectability.png")


def lesion_rows(run: Run, data: Data, positions: np.ndarray, seed: int) -> pd.DataFrame:
    """Score healthy images untouched and with REPORT lesions of 2 to 40 mm: finding, its p-value, and the map's hit."""
    rows = detectability(Detector(run), data, positions, seed)
    names = {name: rows[name].to_numpy() for name in run.settings.fused}
    return rows.assign(**Verdict(run).columns(names))[
        ["position", "kind", "diameter_mm", "contrast", "finding", "finding_percentile", "hit", "chance"]
    ]


def found_share(rows: pd.DataFrame, what: str = "finding") -> pd.DataFrame:
    """Return the share found by size (rows, mm) and contrast (columns).

    finding: films whose finding score exceeds the 95 % quantile of the untouched ones; hit: films whose map has its
    maximum in the lesion.
    """
    planted = rows[rows["kind"] != ""].copy()
    threshold = float(np.quantile(rows.loc[rows["kind"] == "", "finding"], 0.95))
    planted["found"] = (planted["finding"] > threshold) if what == "finding" else planted["hit"].astype(bool)
    return planted.pivot_table(index="diameter_mm", columns="contrast", values="found", aggfunc="mean")


def lesion_metrics(rows: pd.DataFrame) -> dict[str, float]:
    """Return flat keys: lesion_found_20mm_0_4, lesion_hit_20mm_0_4, ... (shares of films)."""
    flat = {}
    for word, what in (("found", "finding"), ("hit", "hit")):
        table = found_share(rows, what)
        for size, row in zip(table.index, table.to_numpy(), strict=True):
            for contrast, share in zip(table.columns, row, strict=True):
                flat[f"lesion_{word}_{size:g}mm_{contrast:g}".replace(".", "_")] = float(share)
    return flat
