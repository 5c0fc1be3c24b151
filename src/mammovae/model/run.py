"""A RUN folder opened: its settings and its trained members."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mammovae.config import InputError, TrainSettings
from mammovae.folders import read_manifest
from mammovae.model.member import WEIGHTS, load_weights
from mammovae.model.vae import Vae

CONFIG = "config.toml"


def build(settings: TrainSettings) -> dict[str, Vae]:
    """Make the untrained members of a run by name, their weights drawn from the run's seed."""
    with torch.random.fork_rng():  # the caller's own random numbers go on undisturbed
        torch.manual_seed(settings.seed)
        return {"vae": Vae(settings.vae)}


def device() -> torch.device:
    """Return where networks run: the first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Run:
    """A finished RUN folder: its settings and its trained members by name, in evaluation mode."""

    path: Path
    manifest: dict[str, Any]
    settings: TrainSettings
    members: dict[str, Vae]

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open a folder that train finished; InputError says what else it is."""
        path = Path(path)
        manifest = read_manifest(path, "train")
        try:
            values = tomllib.loads((path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"cannot read {path / CONFIG}: {error}") from error
        settings = TrainSettings.of(values)
        members = build(settings)
        for name, member in members.items():
            load_weights(member, path / "members" / name / WEIGHTS)
            member.to(device())
        return cls(path, manifest, settings, members)
