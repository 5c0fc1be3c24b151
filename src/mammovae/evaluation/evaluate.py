"""Evaluate a run: which test images, their scores, the detection metrics, and the report."""

import json
from typing import Any

import numpy as np
from pydantic import InstanceOf

from mammovae.arguments import AnyPath, checked
from mammovae.config import InputError, Protocol, Seed
from mammovae.data.dataset import Data
from mammovae.evaluation.evaluation_metrics import evaluation_metrics
from mammovae.evaluation.evaluation_report import ImageSelection, build_page
from mammovae.evaluation.scored_images import listed, score_images
from mammovae.models.run import Run
from mammovae.report.page import write_page
from mammovae.storage import StageFolder, file_hash, read_json, write_csv, write_json
from mammovae.training.leakage import UNCHECKED, exclude_training_images
from mammovae.training.model_card import record_on_card

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
            table = score_images(opened, prepared, positions)
            write_csv(listed(table), stage.out / "scores.csv")
            metrics = evaluation_metrics(table, table, [opened])
            write_json(stage.out / "metrics.json", {"protocol": protocol, "notes": notes, **metrics.metrics()})
            selection = ImageSelection(protocol, seed, notes)
            write_page(stage.out / "report.html", build_page(opened, prepared, table, metrics, selection))
            stage.finish()
        result = read_json(stage.out / "metrics.json")
    about = {"command": "evaluate", "seed": seed, "protocol": protocol}
    record_on_card(opened, prepared, result, {"index": prepared.digest}, UNCHECKED not in notes, **about)
    return result


def stage_inputs(run: Run, data: Data) -> dict[str, str]:
    """Return what a folder that is made from a run and a DATA folder must have been made from to be resumed."""
    return {
        "run": str(run.path.resolve()),
        "weights": json.dumps(run.manifest["weights"]),
        "data": str(data.path.resolve()),
        "index": file_hash(data.path / "index.parquet"),
    }


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
