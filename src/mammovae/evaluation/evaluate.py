"""Evaluate a run: which test images, their scores, the detection metrics, and the report."""

import json
from typing import Any

import numpy as np
import pandas as pd
from pydantic import InstanceOf

from mammovae.arguments import AnyPath, checked
from mammovae.config import InputError, Protocol, Seed
from mammovae.data.dataset import Data
from mammovae.detection.calibration import FusedScore
from mammovae.detection.detector import Detector
from mammovae.evaluation.baselines import PcaResidual, blob_maps, image_statistics
from mammovae.evaluation.evaluation_report import ImageSelection, build_page, score_labels
from mammovae.evaluation.lesion_masks import sizes_mm
from mammovae.models.run import Run
from mammovae.report.page import write_page
from mammovae.statistics.detection_metrics import detection_metrics
from mammovae.storage import StageFolder, file_hash, read_json, write_csv, write_json
from mammovae.training.leakage import exclude_training_images

BASELINES = {"mean_grey": "Mean grey", "breast_area": "Breast area"}
BASELINES |= {"pca_residual": "PCA residual", "blobs": "Blob filter"}
ORIGINAL_PROTOCOL_IMAGES = 20


@checked
def evaluate(run: AnyPath, data: AnyPath, out: AnyPath, protocol: Protocol, seed: Seed) -> dict[str, Any]:
    """Do mammovae evaluate, and return what metrics.json says (flat keys, intervals as KEY_low and KEY_high).

    Labels are read here and nowhere before: they choose nothing.
    """
    opened, prepared = Run.open(run), Data.open(data)
    opened.check_data(prepared)
    positions, notes = select_test_images(opened, prepared, protocol, seed)
    settings = {"protocol": protocol, "seed": seed}
    with StageFolder(out, "evaluate", settings, stage_inputs(opened, prepared)) as stage:
        if not stage.done:
            table = scores_table(opened, prepared, positions)
            write_csv(table.drop(columns="position"), stage.out / "scores.csv")
            baselines = {name: label for name, label in BASELINES.items() if name in table}
            metrics = detection_metrics(table, score_labels(opened), baselines)
            write_json(stage.out / "metrics.json", {"protocol": protocol, "notes": notes, **metrics.metrics()})
            selection = ImageSelection(protocol, seed, notes)
            write_page(stage.out / "report.html", build_page(opened, prepared, table, metrics, selection))
            stage.finish()
        return read_json(stage.out / "metrics.json")


def stage_inputs(run: Run, data: Data) -> dict[str, str]:
    """Return what a folder that is made from a run and a DATA folder must have been made from to be resumed."""
    return {
        "run": str(run.path.resolve()),
        "weights": json.dumps(run.manifest["weights"]),
        "data": str(data.path.resolve()),
        "index": file_hash(data.path / "index.parquet"),
    }


def scores_table(run: Run, data: Data, positions: np.ndarray) -> pd.DataFrame:
    """Return a row an image with identity, health, categories, density, every score and every trivial baseline.

    The PCA is fitted on the run's own training images in data; without any there, its column is left out.
    """
    raw = Detector(run).table(data, positions)
    table = identity(data, positions).assign(**FusedScore(run).columns(raw), **raw, **image_statistics(data, positions))
    table["blobs"] = [float(blobs.max()) for blobs in blob_maps(data, positions)]
    train = data.parts(run.settings)["train"]
    if len(train) > 1:
        table["pca_residual"] = PcaResidual().fit(data, train).score_samples(data, positions)
    return table


def identity(data: Data, positions: np.ndarray) -> pd.DataFrame:
    """Return what metrics are grouped by, a row an image: patient, health, categories, severity, density, size ...

    patient_affected: whether any image of the patient, of whatever side, view, split or status, has a finding.
    """
    frame = data.index.iloc[positions]
    affected = data.index.loc[(data.index["healthy"] == False).fillna(False), "patient_id"]  # noqa: E712
    names = ("image_id", "patient_id", "side", "view", "healthy", "density", "vendor")
    columns: dict[str, Any] = {"position": positions, **{name: frame[name].to_numpy() for name in names}}
    columns["patient_affected"] = frame["patient_id"].isin(affected).to_numpy(bool)
    columns["categories"] = [sorted({item["category"] for item in cell}) for cell in frame["findings"]]
    columns["severity"] = [sorted({item["severity"] for item in cell} - {None}) for cell in frame["findings"]]
    return pd.DataFrame(columns | {"size_mm": sizes_mm(data, positions)})


@checked
def select_test_images(
    run: InstanceOf[Run], data: InstanceOf[Data], protocol: Protocol, seed: Seed
) -> tuple[np.ndarray, list[str]]:
    """Return the test images of the run's side and view, and notes on their choice for the report.

    full: all of them. original: 20 healthy ones and 20 with findings, drawn at random; fewer where there are fewer.
    Images whose patient or pixels the run was trained on are left out of both, where its private/ says which they are.
    InputError when none is left.
    """
    tested = data.select("test", side=run.settings.side, view=run.settings.view)
    positions, notes = exclude_training_images(run, data, tested)
    if not len(positions):
        which = " ".join(filter(None, [run.settings.side, run.settings.view, "test image"]))
        raise InputError(f"{data.path} has no {which} to evaluate" + "".join(f" ({note})" for note in notes))
    if protocol == "full":
        return positions, notes
    rng, chosen, count = np.random.default_rng(seed), [], ORIGINAL_PROTOCOL_IMAGES
    health = data.index["healthy"].iloc[positions]
    for label, words in ((True, "healthy images"), (False, "images with findings")):
        arm = positions[(health == label).fillna(False).to_numpy(bool)]
        if len(arm) < count:
            notes.append(f"the original protocol takes {count} {words}; the test split has {len(arm)}")
        chosen.append(rng.choice(arm, min(len(arm), count), replace=False))
    return np.sort(np.concatenate(chosen)), notes
