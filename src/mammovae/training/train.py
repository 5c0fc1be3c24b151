"""Train a run: fit its members, calibrate them, and keep what a person wants to see of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import tomli_w
import torch

from mammovae.config import MemberName, PresetName, TrainSettings, UsageError, suggest
from mammovae.data.dataset import Data
from mammovae.detection.reconstruct import reconstruct
from mammovae.generation.latent_density import DENSITY, LatentDensity
from mammovae.models.base import HISTORY, WEIGHTS, Member
from mammovae.models.run import CONFIG, Run, build_members
from mammovae.report.charts import loss_curve
from mammovae.report.images import image_grid
from mammovae.report.style import save
from mammovae.storage import StageFolder, atomic_write, digest, file_hash, read_manifest, write_text
from mammovae.training.calibrate import calibrate, check_insertion_artefacts
from mammovae.training.distributed import ProcessGroup, launch
from mammovae.training.leakage import record_training_images
from mammovae.version import __version__


def train_on(
    data: Data,
    out: Path,
    preset: PresetName,
    chosen: TrainSettings,
    cache: Path | None = None,
    devices: int | None = None,
) -> dict[str, Any]:
    """Do mammovae train for an opened DATA folder, whose splits may be another's; return the manifest.

    cache is a folder of trained members by the hash of all that makes them, shared by attempts that differ in
    something else.
    """
    team = ProcessGroup.here(devices)
    parts = data.for_training(chosen)
    members = build_members(chosen)
    _check_names(members, chosen, data, parts["train"][:1])  # before anything is written
    if team.size == 1 and devices is not None and devices > 1:
        launch(devices, train_on, data, out, preset, chosen, cache)
        return read_manifest(out, "train")
    from mammovae.training.loop import fit  # its framework takes seconds to import

    mine = digest(data.digest, chosen.model_dump())
    if team.total(torch.tensor(float(team.agree(mine) != mine))):
        raise UsageError("torchrun's processes were given different data or settings: start all of them alike")

    def fitted(name: str) -> pd.DataFrame:
        return fit(members[name], data, parts, out / "members" / name, _settings_of(name, chosen), team)

    if team.rank:
        return _follow(team, fitted)
    with team.leading():
        inputs = {"data": str(data.path.resolve()), "index": data.digest}
        with StageFolder(out, "train", {"preset": preset} | chosen.model_dump(), inputs) as stage:
            if not stage.done:
                write_text(stage.out / CONFIG, tomli_w.dumps(_without_nulls(chosen.model_dump())))
                histories: dict[str, pd.DataFrame] = {}
                for name in members:
                    folder = stage.out / "members" / name
                    kept = None if cache is None else cache / _key(name, chosen, data, parts)
                    cached = kept is not None and (kept / WEIGHTS).is_file()
                    if kept is not None and cached:
                        _copy(kept, folder)
                    histories[name] = fitted(team.agree(name))
                    if kept is not None and not cached:
                        _copy(folder, kept)
                run = Run(stage.out, {}, chosen, members)
                scales = _finish(run, data, parts, histories)
                stage.finish(
                    preset=preset,
                    devices=team.size,
                    training_seconds=round(sum(float(history["seconds"].sum()) for history in histories.values()), 1),
                    images={name: len(positions) for name, positions in parts.items()},
                    parameters={name: sum(p.numel() for p in member.parameters()) for name, member in members.items()},
                    weights={name: file_hash(stage.out / "members" / name / WEIGHTS) for name in members},
                    prepared=data.manifest["settings"]
                    | {name: data.manifest[name] for name in ("stored_as", "phantoms")},
                    **scales,
                )
            facts = stage.facts()
    return team.agree(facts)


def _follow(team: ProcessGroup, fitted: Callable[[str], object]) -> dict[str, Any]:
    """Take part in each fit that the team's first process names; return, or raise, what it ends with."""
    word: Any = team.agree(None)
    while isinstance(word, str):
        fitted(word)
        word = team.agree(None)
    if isinstance(word, Exception):
        raise word
    return word


def _finish(run: Run, data: Data, parts: dict[str, np.ndarray], histories: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Draw the curve, fit the density, calibrate, and remember the images, once all members are fitted."""
    first = next((name for name, history in histories.items() if "kl" in history), next(iter(histories)))
    save(loss_curve(histories[first]), run.path / "loss.png")
    if run.generator is not None:
        _, member = run.generator
        density = LatentDensity.fit(member, data, parts, run.settings.batch_size, run.settings.seed)
        density.save(run.path / DENSITY)
    check_insertion_artefacts(run, data, parts["validation"])
    scales = calibrate(run, data, parts)
    _reconstructions(run, data, parts)
    record_training_images(run, data, np.concatenate(list(parts.values())))
    return scales


def _check_names(members: dict[str, Member], chosen: TrainSettings, data: Data, film: np.ndarray) -> None:
    """Raise UsageError for a size that does not fit, or a score or map that no member makes; scores one film."""
    scores, maps = {"map_peak"}, set()
    with torch.inference_mode():
        for member in members.values():
            found, drawn = member.score(data.batch(film, member.size, member.bilateral))
            scores |= set(found)
            maps |= set() if member.bilateral else set(drawn)  # a map that half of the films lack adds up to nothing
    two_sided = {name for name in scores if name.endswith("_bilateral")}
    differences = {f"{name}_bilateral" for name in chosen.fused}
    known = {"fused": scores - two_sided, "fused_bilateral": two_sided | differences, "maps": maps}
    for field, names in known.items():
        for name in getattr(chosen, field):
            if name not in names:
                meant = suggest(name, sorted(names))
                raise UsageError(f"no member makes {name!r}, which {field} asks for: choose {meant}, or add its member")


def _settings_of(name: str, chosen: TrainSettings) -> TrainSettings:
    """Return the run's settings with what this member has of its own: its number of epochs."""
    epochs = getattr(getattr(chosen, name), "epochs", None)
    return chosen if epochs is None else chosen.model_copy(update={"epochs": epochs})


def _key(name: str, chosen: TrainSettings, data: Data, parts: dict[str, np.ndarray]) -> str:
    """Return a hash of what decides a member's weights: its settings, its films, and what it learns from."""
    made_of = [name, "residual_vae"] if name in ("lesion_segmenter", "patch_segmenter") else [name]
    common = chosen.model_dump(exclude={*get_args(MemberName), "members", "fused", "fused_bilateral", "maps"})
    own = {part: getattr(chosen, part).model_dump() for part in made_of}
    films = {part: data.index["image_id"].iloc[parts[part]].tolist() for part in ("train", "validation")}
    prepared = [data.manifest[part] for part in ("inputs", "settings")]
    return f"{name}-{digest(__version__, name, common, own, films, prepared)}"


def _copy(source: Path, target: Path) -> None:
    """Copy a trained member's folder; the weights last, for they say that it is whole."""
    for file in (HISTORY, WEIGHTS):
        with atomic_write(target / file) as partial:
            shutil.copyfile(source / file, partial)


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not set, for TOML has no null."""
    return {
        name: _without_nulls(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


def _reconstructions(run: Run, data: Data, parts: dict[str, np.ndarray]) -> None:
    positions = (parts["validation"] if len(parts["validation"]) else parts["train"])[:8]
    originals, made = reconstruct(run, data, positions)
    (run.path / "private").mkdir(exist_ok=True)
    grid = image_grid(np.concatenate([originals, made]), len(positions), row_labels=["image", "reconstruction"])
    save(grid, run.path / "private" / "reconstructions.png")
