"""Audit a set of generated images: realistic, varied, no patient's copy, and of what use."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mammovae import config
from mammovae.arguments import AnyPath, checked
from mammovae.auditing.audit_report import AuditContext, AuditedSets, write_audit_report
from mammovae.auditing.image_set import BLUR, FoldImages, ImageSet, MeasuredSet, sample_groups
from mammovae.auditing.latent_space import latent_view
from mammovae.auditing.subsampling import audit_sets
from mammovae.config import InputError, PresetName, Seed, TrainSettings, UsageError
from mammovae.data.dataset import Data
from mammovae.evaluation.evaluate import select_test_images, stage_inputs
from mammovae.evaluation.scored_images import score_images
from mammovae.generation.data_sheet import record_on_sheet
from mammovae.generation.samplers import DERIVED
from mammovae.models.base import Generator
from mammovae.models.run import Run
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap
from mammovae.storage import StageFolder, file_hash, read_json, write_json
from mammovae.training.leakage import exclude_training_images
from mammovae.training.train import check_settings, train_on


@checked
def audit(
    generated: AnyPath, run: AnyPath, data: AnyPath, out: AnyPath, seed: Seed, utility: PresetName | None = None
) -> dict[str, Any]:
    """Do mammovae audit, and return what metrics.json says (flat keys, intervals as KEY_low and KEY_high)."""
    opened, real, artificial = Run.open(run), Data.open(data), Data.open(generated)
    if artificial.path.resolve() == real.path.resolve():
        raise UsageError(f"{real.path} is given both as the generated and as the real images: name two folders")
    opened.check_data(real)
    if real.digest != opened.manifest["inputs"]["index"]:
        own = opened.manifest["inputs"]["data"]
        problem = f"{opened.path} was not trained on {real.path} as it is now split, but on {own}"
        raise InputError(f"{problem}: name its own DATA folder (a run of several folders cannot be audited)")
    maker = artificial.manifest.get("run", {}).get("weights", opened.manifest["weights"])
    if maker != opened.manifest["weights"]:
        raise InputError(f"{artificial.path} was made by another run than {opened.path}: name the one that made it")
    if utility is not None:
        _utility_settings(real, artificial, utility, seed)  # refused before anything is written
    inputs = stage_inputs(opened, real)
    inputs |= {"generated": str(artificial.path.resolve()), "images": file_hash(artificial.path / "images.npy")}
    with StageFolder(out, "audit", {"seed": seed, "utility": utility}, inputs) as stage:
        if not stage.done:
            # The run's own data, whose splits answer for its test images where the run's record is not there.
            unseen, _ = exclude_training_images(opened, real, healthy_of(opened, real, "test"))
            mode = artificial.manifest.get("sampling", {}).get("mode")
            arm = "generated" if mode is None else f"{opened.manifest['preset']}, {mode}"
            made = {arm: generated_images(opened, artificial, seed)}
            images = fold_images(opened, real, unseen, made, seed)
            n_failed = int((artificial.index["status"] != "ok").sum())
            sets = AuditedSets([images], [arm] if mode in DERIVED else [], n_failed)
            title, names = f"Audit of {len(made[arm]):,} generated images", ("versions", "git_commit", "weights")
            provenance = opened.settings.model_dump(exclude_none=True) | {"seed": seed}
            provenance |= {name: opened.manifest[name] for name in names}
            context = AuditContext(title, real.manifest["by_patient"], real.manifest["phantoms"], provenance)
            latent = None if opened.generator is None else latent_view(opened, images.train, images.held, made, seed)
            used = None if utility is None else measure_utility(stage.out, real, artificial, utility, seed)
            result = audit_sets(sets.folds, seed)
            metrics = write_audit_report(stage.out, sets, result, context, latent, used)
            write_json(stage.out / "metrics.json", metrics)
            stage.finish()
        result = read_json(stage.out / "metrics.json")
    if {"sampling", "run"} <= artificial.manifest.keys():  # that is, mammovae generated them
        measured = {name: inputs[name] for name in ("index", "images")}
        record_on_sheet(artificial.path, real, result, measured, seed)
    return result


def _encoder(run: Run) -> Generator | None:
    return None if run.generator is None else run.generator[1]


def healthy_of(run: Run, data: Data, split: str) -> np.ndarray:
    """Return the positions of a split's healthy images, of the run's side and view."""
    positions = data.select(split, side=run.settings.side, view=run.settings.view)
    return positions[data.healthy(positions)]


def fold_images(run: Run, data: Data, held: np.ndarray, generated: dict[str, MeasuredSet], seed: int) -> FoldImages:
    """Return the held-out images at positions, the run's training images and generated sets, at the size of these."""
    if not len(held):
        raise InputError(f"{data.path} has no healthy test image that {run.path} has not seen: nothing to audit by")
    size = next(iter(generated.values())).size
    patients = data.index["patient_id"].iloc[held].astype(str).to_numpy(str)
    real = MeasuredSet.measured(ImageSet.of(data, held[sample_groups(patients, seed)], size, seed), _encoder(run))
    train = ImageSet.of(data, data.for_training(run.settings)["train"], size, seed)
    return FoldImages(real, train, generated, real.measure(_encoder(run), BLUR))


def generated_images(run: Run, generated: Data, seed: int) -> MeasuredSet:
    """Return the usable images of a generated DATA folder."""
    usable = np.flatnonzero((generated.index["status"] == "ok").to_numpy(bool))
    if not len(usable):
        raise InputError(f"{generated.path} has no usable image: nothing to audit")
    return MeasuredSet.measured(ImageSet.of(generated, usable, generated.size, seed), _encoder(run))


def _utility_settings(real: Data, generated: Data, preset: PresetName, seed: int) -> TrainSettings:
    """Return a preset's settings for as many real as generated images; an error where it can be trained on neither."""
    numbers = [len(data.for_training(config.preset(preset))["train"]) for data in (real, generated)]
    chosen = config.preset(preset, {"limit": min(numbers), "seed": seed})
    for data in (real, generated):
        check_settings(data, chosen)
    return chosen


def measure_utility(out: Path, real: Data, generated: Data, preset: PresetName, seed: int) -> dict[str, Estimate]:
    """Train a preset on real images, on as many generated ones and on both, and evaluate it on the same real images."""
    chosen, tables = _utility_settings(real, generated, preset, seed), []
    trainings = {"real": (real, chosen), "generated": (generated, chosen)}
    trainings["both"] = _both(real, generated, chosen), chosen.merged({"limit": None})
    for name, (data, settings) in trainings.items():
        train_on(data, out / f"utility-{name}", preset, settings)
    runs = {name: Run.open(out / f"utility-{name}") for name in trainings}
    positions, _ = select_test_images(runs["real"], real, "full", seed)
    for run in runs.values():
        table = score_images(run, real, positions)
        tables.append(table[table["healthy"].notna()])
    bootstrap = PatientBootstrap(tables[0]["patient_id"].astype(str), ~tables[0]["healthy"].to_numpy(bool))
    by_real, by_generated, by_both = (table["finding"].to_numpy(np.float64) for table in tables)
    return {
        f"{preset}_trained_on_real": bootstrap.auroc(by_real),
        f"{preset}_trained_on_generated": bootstrap.auroc(by_generated),
        f"{preset}_trained_on_both": bootstrap.auroc(by_both),
        "generated_less_real": bootstrap.difference(by_generated, by_real),
        "both_less_real": bootstrap.difference(by_both, by_real),
    }


def _both(real: Data, generated: Data, chosen: TrainSettings) -> Data:
    """Return both folders as one whose training images are those that each of them alone is trained on."""
    joined = Data.open(real.path, generated.path)
    folders = zip(joined.starts, (real, generated), strict=False)
    kept = np.concatenate([start + data.for_training(chosen)["train"] for start, data in folders])
    frame = joined.index.copy()
    frame.loc[np.setdiff1d(joined.select("train"), kept), "split"] = "unused"
    return replace(joined, index=frame)
