"""The interface of a member (one trained network of a run), its weights on disk, and a RUN folder opened."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mammovae.config import InputError, TrainSettings, VaeSettings
from mammovae.folders import read_manifest, replacing
from mammovae.model.vae import Vae

WEIGHTS = "model.safetensors"
CONFIG = "config.toml"


class Member(Protocol):
    """What every member offers beyond a torch module; images are (n, 1, S, S) in [0, 1].

    losses(image) gives the terms to train by, (n,) each, their sum under "loss"; score(image, mask, other)
    gives named scores (n,) and named maps (n, 1, S, S), higher = further from healthy, without noise.
    """

    settings: VaeSettings

    def losses(self, image: Tensor) -> dict[str, Tensor]: ...

    def score(
        self, image: Tensor, mask: Tensor, other: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]: ...


def build(settings: TrainSettings) -> dict[str, Vae]:
    """Make the untrained members of a run by name, their weights drawn from the run's seed."""
    torch.manual_seed(settings.seed)
    return {"vae": Vae(settings.vae)}


def save_weights(member: nn.Module, path: Path) -> None:
    """Write a member's weights as safetensors in one step."""
    with replacing(path) as partial:
        save_file({key: value.contiguous() for key, value in member.state_dict().items()}, partial)


def load_weights(member: nn.Module, path: Path) -> None:
    """Load weights into a member and set it to evaluation; InputError when they are damaged or of another shape."""
    try:
        member.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path} does not hold this member's weights: {str(error).splitlines()[0]}") from error
    member.eval()


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
