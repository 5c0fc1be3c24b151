"""Train a run: fit its members, calibrate them, and write the figures that a person looks at."""

import hashlib
import math
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import tomli_w
import torch
from pydantic import InstanceOf

from mammovae import config
from mammovae.arguments import AnyPath, Devices, checked
from mammovae.config import InputError, MemberName, PresetName, TrainSettings, UsageError, suggest
from mammovae.data.dataset import Data
from mammovae.generation.latent_density import DENSITY, LatentDensity
from mammovae.models.base import HISTORY, WEIGHTS, Member
from mammovae.models.run import CONFIG, Run, build_members, device
from mammovae.report.charts import loss_curves
from mammovae.report.formatting import plural
from mammovae.report.images import image_grid
from mammovae.report.style import save
from mammovae.storage import (
    StageFolder,
    atomic_write,
    code_hash,
    digest,
    file_hash,
    provenance,
    read_manifest,
    write_text,
)
from mammovae.training.calibrate import calibrate, check_insertion_artefacts
from mammovae.training.cohort import describe_cohort
from mammovae.training.distributed import ProcessGroup, launch, run_side_by_side
from mammovae.training.leakage import record_training_images
from mammovae.training.loop import fit
from mammovae.training.model_card import write_card

_SIZE_ON_GPU = 256
"""Of the generate preset's images, in pixels; on a CPU they are of 128."""
_OF_RAW_DATA = ("stored_as", "phantoms", "white")  # of a DATA folder's manifest: what files scored later share

_CODE_OF_WEIGHTS = (
    "data/dataset.py",
    *(f"training/{name}.py" for name in ("distributed", "history", "loader", "loop", "step", "train")),
)
"""What decides, beside the networks and the images themselves, the weights of a member and its history."""

_FEWEST_PATIENTS = 2  # of calibration: the images of one say nothing of how patients differ


@checked
def settings_for(data: InstanceOf[Data], preset: PresetName, settings: TrainSettings) -> TrainSettings:
    """Return a preset's settings, with those replaced that were set by hand, for a DATA folder.

    The generate preset makes images of 256 px where a GPU trains it and the folder's images have them, else of 128.
    """
    given = settings.given()
    chosen, is_chosen = config.preset(preset, given), "size" in given.get("pyramid_vae", {})
    if preset == "generate" and not is_chosen and device().type == "cuda" and data.size % _SIZE_ON_GPU == 0:
        return chosen.merged({"pyramid_vae": {"size": _SIZE_ON_GPU}})
    return chosen


@checked
def train_on(
    data: InstanceOf[Data],
    out: AnyPath,
    preset: PresetName,
    chosen: TrainSettings,
    cache: AnyPath | None = None,
    devices: Devices | None = None,
) -> dict[str, Any]:
    """Do mammovae train for an opened DATA folder (or several), whose splits may be another's; return the manifest.

    cache is a folder of trained members by the hash of all that makes them, which other attempts use too.
    """
    group = ProcessGroup.join(devices)
    parts = data.for_training(chosen)
    job = _Job(data, parts, chosen, build_members(chosen), out, group)
    job.check()  # before anything is written
    if group.size == 1 and devices is not None and devices > 1:
        launch(devices, train_on, data, out, preset, chosen, cache)
        return read_manifest(out, "train")
    task = digest(data.digest, chosen.model_dump())
    if group.all_reduce(torch.tensor(float(group.broadcast(task) != task))):
        raise UsageError("torchrun's processes were given different data or settings: start all of them alike")
    if group.rank:
        return job.follow()
    with group.leading():
        inputs = {"data": ", ".join(str(path.resolve()) for path in data.paths), "index": data.digest}
        with StageFolder(out, "train", {"preset": preset} | chosen.model_dump(), inputs) as stage:
            if not stage.done:
                write_text(out / CONFIG, tomli_w.dumps(chosen.model_dump(exclude_none=True)))
                made = {"preset": preset, "devices": group.size} | job.finish(job.fit_members(cache))
                write_card(out, stage.facts() | provenance() | made, chosen)
                stage.finish(**made)
            facts = stage.facts()
    return group.broadcast(facts)


def check_settings(data: Data, chosen: TrainSettings) -> None:
    """Raise UsageError for settings that do not fit the images or each other; InputError where there are no images."""
    _Job(data, data.for_training(chosen), chosen, build_members(chosen), Path(), ProcessGroup()).check()


@dataclass(frozen=True)
class _Job:
    """A training under way: its images, its settings, its members, its RUN folder, and the processes that do it."""

    data: Data
    parts: dict[str, np.ndarray]
    chosen: TrainSettings
    members: dict[str, Member]
    out: Path
    group: ProcessGroup

    def check(self) -> None:
        """Raise UsageError for images that do not fit a member, a score or map that no member makes, or no calibration.

        The last is an InputError, of a run that detects; one that only generates does without.
        """
        self.data.check_size(self.chosen)
        self._check_calibration()
        scores, maps = {"map_peak"}, set()
        for member in self.members.values():
            scores |= set(member.scores)
            maps |= set() if member.bilateral else set(member.maps)  # half of the images may lack a bilateral map
        bilateral = {name for name in scores if name.endswith("_bilateral")}
        differences = {f"{name}_bilateral" for name in self.chosen.fused}
        known = {"fused": scores - bilateral, "fused_bilateral": bilateral | differences, "maps": maps}
        for field, names in known.items():
            for name in getattr(self.chosen, field):
                if name not in names:
                    remedy = f"choose {suggest(name, sorted(names))}, or add its member"
                    raise UsageError(f"no member makes {name!r}, which {field} asks for: {remedy}")

    def _check_calibration(self) -> None:
        patients = self.data.index["patient_id"].iloc[self.parts["calibration"]].nunique()
        if patients < _FEWEST_PATIENTS and any(member.detects for member in self.members.values()):
            owner = f"{self.data.name} {'has' if len(self.data.paths) == 1 else 'have'}"
            problem = f"{owner} calibration images of {plural(patients, 'healthy patient')} that match"
            remedy = "prepare more patients, or these with another --seed"
            if self.chosen.include == "healthy" and self.data.index["healthy"].isna().any():
                remedy += ", or train with --include unlabelled"
            raise InputError(f"{problem}, and percentiles need {_FEWEST_PATIENTS}: {remedy}")

    def fit(self, name: str) -> pd.DataFrame:
        """Fit a member, for the run's number of epochs or until it has seen enough images; all processes call this."""
        presentations, epochs = getattr(getattr(self.chosen, name), "presentations", None), self.chosen.epochs
        if presentations is not None:
            epochs = math.ceil(presentations / len(self.parts["train"]))
        settings = self.chosen.model_copy(update={"epochs": epochs})
        return fit(self.members[name], self.data, self.parts, self._folder(name), settings, self.group)

    def follow(self) -> dict[str, Any]:
        """Take part in each fit that the group's first process names; return, or raise, what it ends with."""
        message: Any = self.group.broadcast(None)
        while isinstance(message, str):
            self.fit(message)
            message = self.group.broadcast(None)
        if isinstance(message, Exception):
            raise message
        return message

    def fit_members(self, cache: Path | None) -> dict[str, pd.DataFrame]:
        """Fit all members together with the group, or take them from the cache; return their histories.

        On a CPU networks are fitted side by side, in processes that divide its threads: two threads fit one network
        hardly faster than one does.
        """
        entries = {} if cache is None else {name: cache / self._key(name) for name in self.members}
        cached = [name for name, entry in entries.items() if (entry / WEIGHTS).is_file()]
        for name in cached:
            _copy(entries[name], self._folder(name))
        unfitted = [name for name in self.members if not (self._folder(name) / WEIGHTS).exists()]
        if self._at_once > 1 and unfitted:  # a single one too: with all threads it would round otherwise
            calls = [(self.data, self.chosen, self.out, name) for name in unfitted]
            run_side_by_side(_fit_alone, calls, self._at_once, self._threads)
        histories = {name: self.fit(self.group.broadcast(name)) for name in self.members}
        for name in entries:
            if name not in cached:
                _copy(self._folder(name), entries[name])
        return histories

    def finish(self, histories: dict[str, pd.DataFrame]) -> dict[str, Any]:
        """Fit the latent distribution, calibrate, draw, and record the images; return what the manifest says."""
        run, data, parts = Run(self.out, {}, self.chosen, self.members), self.data, self.parts
        save(loss_curves(histories, run.curves), run.path / "loss.png")
        if run.generator is not None:
            density = LatentDensity.fit(run.generator[1], data, parts, self.chosen.batch_size, self.chosen.seed)
            density.save(run.path / DENSITY)
        check_insertion_artefacts(run, data, parts["validation"])
        scales = calibrate(run, data, parts)
        shown = (parts["validation"] if len(parts["validation"]) else parts["train"])[:8]
        (run.path / "private").mkdir(exist_ok=True)
        images, reconstructions = run.reconstruct(data, shown)
        if reconstructions is not None:
            pairs = np.concatenate([images, reconstructions])
            grid = image_grid(pairs, len(shown), row_labels=["image", "reconstruction"])
            save(grid, run.path / "private" / "reconstructions.png")
        record_training_images(run, data, np.concatenate(list(parts.values())))
        return {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "training_seconds": round(sum(float(history["seconds"].sum()) for history in histories.values()), 1),
            "images": {name: len(positions) for name, positions in parts.items()},
            "parameters": {name: sum(p.numel() for p in one.parameters()) for name, one in self.members.items()},
            "weights": {name: file_hash(self._folder(name) / WEIGHTS) for name in self.members},
            "prepared": data.manifest["settings"] | {name: data.manifest[name] for name in _OF_RAW_DATA},
            "joined": data.manifest.get("joined", []),
            "training_data": describe_cohort(data, parts),
            **scales,
        }

    @property
    def _at_once(self) -> int:
        """How many of the run's networks are fitted at a time: on a GPU, or by several processes each, one."""
        alone = self.group.size > 1 or device().type != "cpu"
        return 1 if alone else min(len(self.chosen.members), torch.get_num_threads())

    @property
    def _threads(self) -> int:
        """How many of this process's threads fit one network."""
        return torch.get_num_threads() // self._at_once

    def _folder(self, name: str) -> Path:
        return self.out / "members" / name

    def _key(self, name: str) -> str:
        """Return a hash of what decides a member's weights, to the last bit, and its history.

        That is the code, the run's settings and its own; the images, with what is known of them and with their places
        in the data, which noise is drawn by; and by what arithmetic it is computed.
        """
        common = self.chosen.model_dump(exclude={*get_args(MemberName), "members", "fused", "fused_bilateral", "maps"})
        settings = getattr(self.chosen, name).model_dump()
        code = code_hash("models", *_CODE_OF_WEIGHTS)
        processor = torch.cuda.get_device_name() if torch.cuda.is_available() else self._threads
        arithmetic = [torch.__version__, processor, self.group.size]
        return f"{name}-{digest(code, name, common, settings, self._images, arithmetic)}"

    @cached_property
    def _images(self) -> str:
        """A hash of the images that members are trained and validated on."""
        pixels = hashlib.blake2b()
        for part in ("train", "validation"):
            for position in self.parts[part]:
                pixels.update(self.data.images[position].tobytes() + self.data.masks[position].tobytes())
        places = [self.parts[part] for part in ("train", "validation")]
        return digest(self.data.digest, places, pixels.hexdigest())


def _fit_alone(data: Data, chosen: TrainSettings, out: Path, name: str) -> None:
    """Fit one member of a run in a process of its own; its weights and its history are the result."""
    _Job(data, data.for_training(chosen), chosen, build_members(chosen), out, ProcessGroup()).fit(name)


def _copy(source: Path, target: Path) -> None:
    """Copy a trained member's folder; the weights last, for they say that it is whole."""
    for file in (HISTORY, WEIGHTS):
        with atomic_write(target / file) as partial:
            shutil.copyfile(source / file, partial)
