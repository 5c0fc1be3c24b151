"""The registry of members, and a RUN folder opened: its settings and its trained members."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from mammovae.arguments import TO_PATH, checked
from mammovae.config import InputError, TrainSettings, UsageError
from mammovae.data.dataset import Data, in_pixels
from mammovae.models.base import WEIGHTS, Autoencoder, Generator, Member, load_weights
from mammovae.models.bilateral_vae import BilateralVae
from mammovae.models.denoiser import Denoiser
from mammovae.models.lesion_segmenter import LesionSegmenter, PatchSegmenter
from mammovae.models.pyramid_vae import PyramidVae
from mammovae.models.residual_vae import ResidualVae
from mammovae.models.vae import Vae
from mammovae.storage import read_manifest

CONFIG = "config.toml"

MEMBERS: dict[str, type[Member]] = {
    "vae": Vae,
    "residual_vae": ResidualVae,
    "denoiser": Denoiser,
    "bilateral_vae": BilateralVae,
    "pyramid_vae": PyramidVae,
    "lesion_segmenter": LesionSegmenter,
    "patch_segmenter": PatchSegmenter,
}
"""Every kind of member by name, in the order of training."""


def build_members(settings: TrainSettings) -> dict[str, Member]:
    """Make the untrained members of a run by name, in the order of training, each with weights of the run's seed."""
    members: dict[str, Member] = {}
    for name, kind in MEMBERS.items():
        if name in settings.members:
            with torch.random.fork_rng():  # the caller's own random numbers go on undisturbed
                torch.manual_seed(settings.seed)
                try:
                    members[name] = kind(getattr(settings, name))
                except RuntimeError as error:
                    if "memory" not in str(error):
                        raise
                    raise InputError(f"{name} does not fit into this machine's memory: make it smaller") from error
    return members


def device() -> torch.device:
    """Return where networks run: the first GPU where there is one, else the CPU."""
    # Read by cuBLAS at its first product in a process: without it there are none that give the same bits every time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Run:
    """A finished RUN folder: its settings and its trained members by name."""

    path: Path  # the folder
    manifest: dict[str, Any]  # its manifest.json
    settings: TrainSettings  # its config.toml
    members: dict[str, Member]  # on the device, set to evaluation

    @property
    def generator(self) -> tuple[str, Generator] | None:
        """The name and the member that makes images, where there is one."""
        return next(((name, one) for name, one in self.members.items() if isinstance(one, Generator)), None)

    @property
    def autoencoder(self) -> tuple[str, Autoencoder] | None:
        """The name and the member whose reconstructions are shown, where there is one."""
        return next(((name, one) for name, one in self.members.items() if isinstance(one, Autoencoder)), None)

    @property
    def score_meanings(self) -> dict[str, str]:
        """What it means, by score, that this is the one furthest above healthy images."""
        return {name: text for member in self.members.values() for name, text in member.scores.items()}

    @property
    def curves(self) -> dict[str, Mapping[str, str]]:
        """The columns of its history that each member's loss curve shows, with their titles."""
        return {name: member.curve for name, member in self.members.items()}

    def check_data(self, data: Data) -> None:
        """Refuse, with UsageError, data that was not prepared as the data that the run was trained on.

        In another size, images that the networks could be given after averaging would still be measured otherwise for
        the quality score, and smaller ones would have to be enlarged.
        """
        own = self.manifest["prepared"]
        stretch, expected = data.manifest["settings"]["stretch"], own["stretch"]
        if stretch != expected:
            stretches = f"with stretch {stretch}, the run's data with {expected}"
            raise UsageError(f"{data.name} was prepared {stretches}: prepare alike")
        if data.size != own["size"]:
            taken = in_pixels([member.size for member in self.members.values()])
            sizes = f"{self.path} was trained on images of {own['size']} px, of which its networks take {taken}"
            remedy = f"prepare it again with --size {own['size']}"
            if data.manifest["inputs"]["kind"] == "generated":
                remedy = f"generate it by a network of {own['size']} px"
            raise UsageError(f"{data.name} holds images of {data.size} px, and {sizes}: {remedy}")

    @classmethod
    @checked
    def open(cls, path: Annotated[str | Path, TO_PATH]) -> "Run":
        """Open a folder that train finished.

        Parameters
        ----------
        path
            The folder.
        """
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
