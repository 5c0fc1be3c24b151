"""Cross-validation for small data: patient-wise folds, members cached, out-of-fold scores pooled and measured."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.arguments import AnyPath, Folds, checked
from mammovae.config import PresetName, TrainSettings, UsageError
from mammovae.cross_validation.crossval_report import write_pooled_report
from mammovae.cross_validation.generators import audit_generators, only_generates
from mammovae.cross_validation.model_selection import inserted_lesion_table, summarise_selection
from mammovae.data.copies import set_aside
from mammovae.data.dataset import Data
from mammovae.data.split import assign_folds, split_fold
from mammovae.detection.detector import Detector
from mammovae.detection.quality import REFERENCE_MEASUREMENTS, TEMPLATES, Quality
from mammovae.evaluation import reference
from mammovae.evaluation.evaluation_metrics import FOLD
from mammovae.evaluation.inserted_faults import images_of_other_view, score_inserted_faults
from mammovae.evaluation.reference import REFERENCE_LOSS
from mammovae.evaluation.scored_images import score_images
from mammovae.evaluation.stress import lesion_rows
from mammovae.models.run import Run
from mammovae.storage import StageFolder, atomic_write, code_hash, digest, file_hash, read_json, write_json
from mammovae.training.train import check_settings, settings_for, train_on


@checked
def crossval(  # noqa: PLR0913
    data: AnyPath,
    out: AnyPath,
    preset: PresetName,
    settings: TrainSettings,
    *,
    folds: Folds,
    cache: AnyPath,
    other_view: AnyPath | None,
) -> dict[str, Any]:
    """Do mammovae crossval, and return what metrics.json says.

    In each fold the other patients are dealt 70/10/20 to train, validation and calibration. Beside the preset, the
    original preset and the baselines are evaluated on the same folds. The folder out gets fold-K/ with the runs,
    scores.csv (out-of-fold, no images), selection.json (what healthy validation images and lesions inserted into them
    say of each score), faults and lesions inserted into healthy test images (see stress), metrics.json and report.html.
    cache holds trained members and scored faults; each is taken from it when all that makes it is the same.

    A preset that generates and does not detect is audited instead: in each fold it and the original preset generate as
    many images as they were trained on, and these are compared, the folds pooled, with the healthy images that no
    fold's network has seen; see audit.
    """
    opened = Data.open(data)
    chosen = settings_for(opened, preset, settings)
    if other_view is not None and only_generates(chosen):
        raise UsageError("a preset that only generates is evaluated without inserted faults: omit --other-view")
    if cache.exists() and not cache.is_dir():
        raise UsageError(f"--cache {cache} is a file: name a folder")
    images_of_other_view(other_view)  # that there are any is known before hours of training
    fold_of = assign_folds(opened.index, folds, chosen.seed, set_aside(opened.index, opened.manifest))
    splits = [split_fold(opened.index, fold_of, fold, chosen.seed) for fold in range(folds)]
    parts = [replace(opened, index=frame) for frame in splits]
    check_settings(parts[0], chosen)
    inputs = {"data": str(opened.path.resolve()), "index": opened.digest}
    asked = {"preset": preset, "folds": folds, "other_view": None if other_view is None else str(other_view)}
    with StageFolder(out, "crossval", asked | chosen.model_dump(), inputs) as stage:
        if not stage.done:
            if only_generates(chosen):
                metrics = audit_generators(stage.out, opened, parts, preset, chosen, cache)
            else:
                folders = [stage.out / f"fold-{fold}" for fold in range(folds)]
                for fold, (part, folder) in enumerate(zip(parts, folders, strict=True)):
                    _fold(part, folder, fold, _Attempt(preset, chosen, cache, other_view))
                runs = [Run.open(folder / preset) for folder in folders]
                tables = [pd.read_parquet(folder / "inserted_lesions.parquet") for folder in folders]
                write_json(stage.out / "selection.json", summarise_selection(tables, opened, runs))
                metrics = write_pooled_report(stage.out, opened, runs)
            write_json(stage.out / "metrics.json", metrics)
            stage.finish()
        return read_json(stage.out / "metrics.json")


@dataclass(frozen=True)
class _Attempt:
    """What is trained in every fold, and where what attempts share lies."""

    preset: PresetName
    settings: TrainSettings
    cache: Path
    other_view: Path | None


def _fold(data: Data, folder: Path, fold: int, attempt: _Attempt) -> None:
    """Train and score one fold; files that are there already are kept."""
    chosen = attempt.settings
    train_on(data, folder / attempt.preset, attempt.preset, chosen, attempt.cache)
    run = Run.open(folder / attempt.preset)
    positions = data.select("test", side=chosen.side, view=chosen.view)
    validation = data.parts(chosen)["validation"]
    if not len(validation):
        raise UsageError(f"fold {fold} has no healthy image for validation: choose fewer folds")
    _once(folder / "inserted_lesions.parquet", lambda: inserted_lesion_table(run, data, validation, chosen.seed))
    healthy = positions[data.healthy(positions)]
    _once(folder / "lesions.parquet", lambda: lesion_rows(run, data, healthy, chosen.seed))
    _faults(run, data, healthy, folder, attempt)
    usual = reference.reference_settings(chosen)
    train_on(data, folder / "reference", reference.REFERENCE_PRESET, usual, attempt.cache)
    _once(folder / "scores.parquet", lambda: _scores(run, data, positions, fold, folder))


def _faults(run: Run, data: Data, healthy: np.ndarray, folder: Path, attempt: _Attempt) -> None:
    """Write faults.parquet into the fold's folder; attempts share it, as no member has a part in quality."""
    quality, seed = Quality.open(run.path), run.settings.seed
    if quality is None:
        return
    fitted = [file_hash(run.path / name) for name in (REFERENCE_MEASUREMENTS, TEMPLATES)]
    place = None if attempt.other_view is None else attempt.other_view.resolve()
    code = code_hash("imageio", "data", "perturbations", "detection", "evaluation")
    cached = attempt.cache / f"faults-{digest(code, data.digest, healthy, seed, place, fitted)}.parquet"
    donors = images_of_other_view(attempt.other_view)
    _once(cached, lambda: score_inserted_faults(quality, data, healthy, seed, donors))
    _once(folder / "faults.parquet", lambda: pd.read_parquet(cached))


def _once(path: Path, make: Callable[[], pd.DataFrame]) -> None:
    if not path.exists():
        table = make()
        with atomic_write(path) as partial:
            table.to_parquet(partial, index=False)


def _scores(run: Run, data: Data, positions: np.ndarray, fold: int, folder: Path) -> pd.DataFrame:
    """Score the fold's test images by both runs and all baselines."""
    loss = Detector(Run.open(folder / "reference")).table(data, positions)["reconstruction_loss"]
    return score_images(run, data, positions).assign(**{FOLD: fold, REFERENCE_LOSS: loss})
