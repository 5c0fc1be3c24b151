"""Cross-validation for small data: patient-wise folds, members cached, out-of-fold scores pooled and judged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae import config
from mammovae.config import PresetName, TrainSettings, UsageError
from mammovae.cross_validation import reference
from mammovae.cross_validation.crossval_report import write_pooled_report
from mammovae.cross_validation.generators import audit_generators, only_generates
from mammovae.cross_validation.model_selection import inserted_lesion_table, summarise_selection
from mammovae.data.dataset import Data
from mammovae.data.split import assign_folds, split_fold
from mammovae.detection.calibration import Calibration
from mammovae.detection.detector import Detector
from mammovae.detection.fusion import FusedScore
from mammovae.detection.quality import REFERENCE_MEASUREMENTS, TEMPLATES, Quality
from mammovae.evaluation.baselines import PcaResidual, blob_map, image_statistics
from mammovae.evaluation.evaluate import identity
from mammovae.evaluation.inserted_faults import FaultInsertion, score_inserted_faults
from mammovae.evaluation.inserted_lesions import points_at_lesion
from mammovae.evaluation.lesion_masks import lesion_masks
from mammovae.evaluation.stress import lesion_rows
from mammovae.models.run import Run
from mammovae.storage import StageFolder, atomic_write, digest, file_hash, read_json, write_json
from mammovae.training.train import train_on
from mammovae.version import __version__


def crossval(
    data: Path | str,
    *,
    out: Path | str,
    preset: PresetName = "detect",
    folds: int = 5,
    cache: Path | str | None = None,
    other_view: Path | str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Judge a preset on small data: every image scored by a run that never saw its patient; return metrics.json.

    In each fold the other patients are dealt 70/10/20 to train, validation and calibration. Beside the preset, the
    seed preset and the baselines are judged on the same folds. The folder out gets fold-K/ with the runs, scores.csv
    (out-of-fold, no images), selection.json (what healthy validation films and lesions planted into them say of each
    score), faults and lesions planted into healthy test films (see stress, also for other_view), metrics.json and
    report.html. Interrupted, the same call goes on with the next fold or member. cache is a
    folder of trained members and planted faults, shared by attempts (by default beside out); each is taken from it when
    all that makes it is the same.

    A preset that makes images and does not detect ("generate") is audited instead: in each fold it and the seed preset
    make as many images as they were trained on, and these are judged, the folds pooled, against the healthy films that
    no fold's network has seen; see audit.
    """
    out, opened, chosen = Path(out), Data.open(data), config.preset(preset, settings)
    donors = None if other_view is None else Path(other_view)
    if donors is not None and only_generates(chosen):
        raise UsageError("a preset that makes images is judged without planted faults: leave --other-view out")
    kept = Path(cache) if cache is not None else out.parent / "members"
    copies = {name for group in opened.manifest["duplicates"] for name in group[1:]}
    fold_of = assign_folds(opened.index, folds, chosen.seed, copies)
    inputs = {"data": str(opened.path.resolve()), "index": opened.digest}
    asked = {"preset": preset, "folds": folds, "other_view": None if donors is None else str(donors)}
    with StageFolder(out, "crossval", asked | chosen.model_dump(), inputs) as stage:
        if not stage.done:
            if only_generates(chosen):
                splits = [split_fold(opened.index, fold_of, fold, chosen.seed) for fold in range(folds)]
                parts = [replace(opened, index=frame) for frame in splits]
                metrics = audit_generators(stage.out, opened, parts, preset, chosen, kept)
                write_json(stage.out / "metrics.json", metrics)
                stage.finish()
                return metrics
            for fold in range(folds):
                frame = split_fold(opened.index, fold_of, fold, chosen.seed)
                _fold(replace(opened, index=frame), stage.out / f"fold-{fold}", fold, preset, chosen, kept, donors)
            runs = [Run.open(stage.out / f"fold-{fold}" / preset) for fold in range(folds)]
            tables = [pd.read_parquet(stage.out / f"fold-{fold}" / "inserted_lesions.parquet") for fold in range(folds)]
            write_json(stage.out / "selection.json", summarise_selection(tables, runs))
            metrics = write_pooled_report(stage.out, opened, runs)
            write_json(stage.out / "metrics.json", metrics)
            stage.finish()
        return read_json(stage.out / "metrics.json")


def _fold(
    data: Data,
    folder: Path,
    fold: int,
    preset: PresetName,
    chosen: TrainSettings,
    cache: Path,
    other_view: Path | None,
) -> None:
    """Train and score one fold; what is there already is left as it is."""
    train_on(data, folder / preset, preset, chosen, cache)
    run = Run.open(folder / preset)
    positions = data.select("test", side=chosen.side, view=chosen.view)
    validation = data.parts(chosen)["validation"]
    if not len(validation):
        raise UsageError(f"fold {fold} has no healthy film for validation: choose fewer folds")
    _once(folder / "inserted_lesions.parquet", lambda: inserted_lesion_table(run, data, validation, chosen.seed))
    healthy = positions[data.healthy(positions)]
    _once(folder / "lesions.parquet", lambda: lesion_rows(run, data, healthy, chosen.seed))
    _faults(run, data, healthy, folder, cache, other_view)
    train_on(data, folder / "reference", reference.REFERENCE, reference.reference_settings(chosen), cache)
    seed_run = Run.open(folder / "reference")
    _once(folder / "scores.parquet", lambda: _scores(run, seed_run, data, positions, fold, folder))


def _faults(run: Run, data: Data, healthy: np.ndarray, folder: Path, cache: Path, other_view: Path | None) -> None:
    """Write faults.parquet into the fold's folder; attempts share it, for no member has a say in quality."""
    quality, seed = Quality.open(run.path), run.settings.seed
    if quality is None:
        return
    learnt = [file_hash(run.path / name) for name in (REFERENCE_MEASUREMENTS, TEMPLATES)]
    donors = None if other_view is None else other_view.resolve()
    made_of = digest(__version__, data.digest, healthy, seed, donors, learnt)
    kept = cache / f"faults-{made_of}.parquet"
    _once(kept, lambda: score_inserted_faults(quality, data, healthy, FaultInsertion(seed, other_view)))
    _once(folder / "faults.parquet", lambda: pd.read_parquet(kept))


def _once(path: Path, make: Any) -> None:
    if not path.exists():
        table = make()
        with atomic_write(path) as partial:
            table.to_parquet(partial, index=False)


def _scores(run: Run, reference: Run, data: Data, positions: np.ndarray, fold: int, folder: Path) -> pd.DataFrame:
    """Score the fold's test images by both runs and all baselines; keep their maps for localisation.

    All raw, but for the PCA residual, which is in deviations of the fold's healthy calibration images already.
    """
    detector, table = Detector(run), identity(data, positions).assign(fold=fold)
    raw = detector.table(data, positions)
    said = FusedScore(run).columns(raw)
    theirs = Detector(reference).table(data, positions)
    blob_maps = np.stack([blob_map(data, int(position)) for position in positions])
    parts = data.parts(run.settings)
    pca = PcaResidual().fit(data, parts["train"])
    calm = Calibration({"pca_residual": pca.score_samples(data, parts["calibration"])}, ["pca_residual"])
    base = {
        **image_statistics(data, positions),
        "pca_residual": calm.normal({"pca_residual": pca.score_samples(data, positions)})[:, 0],
        "blobs": blob_maps.max(axis=(1, 2)).astype(np.float64),
        "original_reconstruction_loss": theirs["reconstruction_loss"],
    }
    maps = np.concatenate([whole for *_, whole in detector.data(data, positions)])
    lesions = lesion_masks(data, positions, maps.shape[-1])
    breasts = np.concatenate([batch.mask[:, 0].numpy() for _, batch in data.batches(positions, maps.shape[-1], 64)])
    wide = lesion_masks(data, positions, blob_maps.shape[-1])
    has = wide.any(axis=(1, 2))
    hits = [points_at_lesion(map, lesion) for map, lesion in zip(blob_maps, wide, strict=True)]
    table["blob_hit"] = np.where(has, np.array(hits, dtype=float), np.nan)
    with atomic_write(folder / "maps.npz") as partial:
        np.savez_compressed(partial, maps=maps.astype(np.float16), lesions=lesions, breasts=breasts > 0)
    return table.assign(**said, **raw, **base)
