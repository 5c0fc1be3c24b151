"""The registry of members, and a RUN folder opened: its settings and its trained members."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch

from mammovae.arguments import TO_PATH, checked
from mammovae.config import InputError, TrainSettings, UsageError
from mammovae.data.dataset import Data, in_pixels
from mammovae.models.base import WEIGHTS, Autoencoder, Generator, Member, load_weights
from mammovae.models.bilateral_vae import BilateralVae
from mammovae.models.denoiser import Denoiser
from mammovae.models.lesion_segmenter import LesionSegmenter, PatchSegmenter
from mammovae.models.precision import float32_products
from mammovae.models.pyramid_vae import PyramidVae
from mammovae.models.residual_vae import ResidualVae
from mammovae.models.vae import Vae
from mammovae.storage import read_manifest

CONFIG = "config.toml"
_SHOWN = 8  # images in a notebook

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


class Reconstructions(NamedTuple):
    """Images and what a run makes of them without noise, float32 (n, S, S) in [0, 1]; None if no member makes any."""

    images: np.ndarray
    reconstructions: np.ndarray | None

    def _repr_html_(self) -> str:
        """Show the first eight of them in a notebook."""
        from mammovae.report import notebook
        from mammovae.report.images import image_grid

        rows = {"image": self.images[:_SHOWN]}
        if self.reconstructions is not None:
            rows["reconstruction"] = self.reconstructions[:_SHOWN]
        grid = image_grid(np.concatenate(list(rows.values())), len(rows["image"]), row_labels=list(rows))
        return notebook.card("Images and reconstructions", notebook.image(grid, "Images above their reconstructions"))


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

    def reconstruct(self, data: Data, positions: np.ndarray) -> Reconstructions:
        """Return the images of a DATA folder at positions (n,), and what the run's autoencoder makes of them."""
        member = next(iter(self.members.values())) if self.autoencoder is None else self.autoencoder[1]
        batch = data.batch(positions, member.size)
        images = batch.image[:, 0].numpy()
        if self.autoencoder is None:
            return Reconstructions(images, None)
        with torch.inference_mode(), float32_products("ieee"):
            reconstruction = self.autoencoder[1].reconstruct(batch.to(device()))
        return Reconstructions(images, reconstruction[:, 0].cpu().numpy())

    def __fspath__(self) -> str:
        """Return the folder, so that a run can be given wherever its path can."""
        return str(self.path)

    def _repr_html_(self) -> str:
        """Show facts and losses in a notebook."""
        from mammovae.report import notebook

        facts = {"preset": self.manifest["preset"]}
        facts |= {f"parameters of {name}": number for name, number in self.manifest["parameters"].items()}
        facts |= {f"{name} images": number for name, number in self.manifest["images"].items()}
        curves = notebook.image(self.path / "loss.png", "Losses by epoch")
        return notebook.card(f"RUN folder {self.path}", notebook.facts(facts), curves)

    @classmethod
    @checked
    def open(cls, path: Annotated[str | PathLike[str], TO_PATH]) -> "Run":
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
