"""A RUN folder opened: its settings and its trained members."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mammovae.config import InputError, TrainSettings
from mammovae.models.base import WEIGHTS, Generator, Member, load_weights
from mammovae.models.bilateral_vae import BilateralVae
from mammovae.models.denoiser import Denoiser
from mammovae.models.lesion_segmenter import LesionSegmenter
from mammovae.models.pyramid_vae import PyramidVae
from mammovae.models.residual_vae import ResidualVae
from mammovae.models.vae import Vae
from mammovae.storage import read_manifest

CONFIG = "config.toml"

MEMBERS: dict[str, Callable[[TrainSettings, dict[str, Any]], Member]] = {
    "vae": lambda settings, _: Vae(settings.vae),
    "residual_vae": lambda settings, _: ResidualVae(settings.residual_vae),
    "denoiser": lambda settings, _: Denoiser(settings.denoiser),
    "bilateral_vae": lambda settings, _: BilateralVae(settings.bilateral_vae),
    "pyramid_vae": lambda settings, _: PyramidVae(settings.pyramid_vae),
    "lesion_segmenter": lambda settings, built: LesionSegmenter(
        settings.lesion_segmenter, built["residual_vae"], "lesion_segmenter"
    ),
    "patch_segmenter": lambda settings, built: LesionSegmenter(
        settings.patch_segmenter, built["residual_vae"], "patch_segmenter"
    ),
}
"""How each member is made, in the order of training: a marker learns from what the VAE before it says."""


def build_members(settings: TrainSettings) -> dict[str, Member]:
    """Make the untrained members of a run by name, in the order of training, weights drawn from the run's seed.

    A member's weights do not depend on which others there are.
    """
    members: dict[str, Member] = {}
    for name in MEMBERS:
        if name in settings.members:
            with torch.random.fork_rng():  # the caller's own random numbers go on undisturbed
                torch.manual_seed(settings.seed)
                members[name] = MEMBERS[name](settings, members)
    return members


def device() -> torch.device:
    """Return where networks run: the first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Run:
    """A finished RUN folder: its settings and its trained members by name, in evaluation mode."""

    path: Path
    manifest: dict[str, Any]
    settings: TrainSettings
    members: dict[str, Member]

    @property
    def generator(self) -> tuple[str, Generator] | None:
        """The name and the member that makes images, where there is one."""
        found = ((name, member) for name, member in self.members.items() if isinstance(member, Generator))
        return next(found, None)

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open a folder that train finished; InputError says what else it is."""
        path = Path(path)
        manifest = read_manifest(path, "train")
        try:
            values = tomllib.loads((path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"cannot read {path / CONFIG}: {error}") from error
        settings = TrainSettings(**values)
        members = build_members(settings)
        for name, member in members.items():
            load_weights(member, path / "members" / name / WEIGHTS)
            member.to(device())
        return cls(path, manifest, settings, members)
