"""What the parts of gpu.py share: how much is done, a line of the table, DATA and RUN folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from size_data import phantoms, write_data

import mammovae
from mammovae.config import TrainSettings, preset
from mammovae.data.dataset import Data
from mammovae.models.run import device
from mammovae.storage import MANIFEST


class Row(NamedTuple):
    """A line of the table; ratio says how many times better ours is."""

    part: str
    work: str
    unit: str = ""
    usual: float | None = None
    ours: float | None = None
    note: str = ""
    failed: str = ""

    def line(self) -> str:
        """Return the line as it is printed."""
        figures = ["-" if value is None else f"{value:.4g}" for value in (self.usual, self.ours)]
        ratio = f"{self.ours / self.usual:.2f}" if self.ours and self.usual else "-"
        cells = [f"{self.part:<10}", f"{self.work:<76}", f"{self.unit:<10}"]
        cells += [f"{cell:>10}" for cell in (*figures, ratio)]
        return " ".join((*cells, self.note))


@dataclass(frozen=True)
class Scale:
    """How much is done: what a GPU needs to show its speed, or what shows on a CPU that everything runs."""

    patients: int  # phantoms that are prepared
    rows: int  # of the DATA folder, made of them
    scored: int  # images of the DATA folder that is scored
    files: int  # image files that are scored, and rows and columns of each
    pixels: int
    steps: int  # an epoch, at most
    rounds: int
    settings: dict[str, Any]  # beside the presets'
    size: int = 128
    is_least: bool = False  # two members stand for all

    @classmethod
    def here(cls, tiny: bool) -> "Scale":
        """Return how much is done on this machine."""
        if tiny:
            blocks = {"size": 32, "widths": [4, 8]}
            small = dict.fromkeys(("residual_vae", "denoiser", "lesion_segmenter"), blocks)
            small |= {"patch_segmenter": blocks | {"patch_size": 16}}
            small |= {"vae": {"size": 32, "filters": [4, 8], "latent": 4}}
            small |= {"pyramid_vae": blocks | {"bands": 2, "refiner": [8, 8]}}
            return cls(6, 96, 16, 4, 128, 1, 1, small, 32, is_least=True)
        if device().type == "cpu":
            half = {"size": 64}
            small = dict.fromkeys(("residual_vae", "denoiser", "lesion_segmenter", "pyramid_vae"), half)
            small |= {"patch_segmenter": half | {"patch_size": 32}, "vae": half | {"latent": 32}}
            return cls(6, 96, 16, 4, 256, 1, 1, small, 64)
        return cls(16, 4096, 2048, 64, 1024, 128, 2, {}, 512)


@dataclass
class Study:
    """A folder of DATA and RUN folders, made when they are asked for and kept for a next call."""

    folder: Path
    scale: Scale

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return device().type == "cuda"

    def data(self, rows: int | None = None) -> Path:
        """Return a DATA folder of so many rows, by default those to train on."""
        source, rows = self.folder / "phantoms" / "data", rows or self.scale.rows
        if not (source / MANIFEST).is_file():
            phantoms(self.folder / "phantoms", self.scale.size, self.scale.patients)
        return write_data(source, self.folder / f"data-{rows}", rows)

    def settings(self, name: str, **values: Any) -> TrainSettings:
        """Return a preset's settings, small where the work is."""
        chosen = preset(name, values)
        return chosen.merged({key: part for key, part in self.scale.settings.items() if key in chosen.members})

    def run(self, name: str) -> Path:
        """Return a RUN folder of a preset, trained for one epoch."""
        out = self.folder / f"run-{name}"
        given = self.settings(name).model_dump() | {"epochs": 1}
        if name != "original":
            given["limit"] = 2048
        for member in given["members"]:
            if "presentations" in given[member]:
                given[member]["presentations"] = None
        mammovae.train(self.data(), out=out, preset=name, settings=TrainSettings(**given))
        return out

    def training_rows(self, data: Data, settings: TrainSettings) -> np.ndarray:
        """Return positions for an epoch of whole batches."""
        found = data.for_training(settings)["train"]
        steps = min(self.scale.steps, len(found) // settings.batch_size)
        return found[: steps * settings.batch_size]


def wait() -> None:
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
