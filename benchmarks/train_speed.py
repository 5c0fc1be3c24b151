"""Training the original network: an epoch from files and from memory, against plain PyTorch and against pythae."""

import json
import subprocess
import tempfile
import time
import venv
from pathlib import Path

import materials
import numpy as np
import pandas as pd
import plain
import torch
import usual
from measure import Line, Scope, race, spread
from torch.utils.data import DataLoader

import mammovae
from mammovae.config import preset
from mammovae.data.dataset import Data
from mammovae.models.run import build_members
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loop import fit

HERE = Path(__file__).parent


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure train-png16, train-png8, train-eager or train-pythae."""
    if row.startswith("train-png"):
        return [files(row, scope)]
    return [pythae(row, scope) if row == "train-pythae" else eager(row, scope)]


def train_ours(
    data: Data, train: np.ndarray, epochs: int, *, validation: np.ndarray | None = None, seed: int = 0
) -> pd.DataFrame:
    """Fit the original network and return its history, whose seconds are those of each epoch."""
    settings = preset("original", {"epochs": epochs, "seed": seed})
    empty = np.zeros(0, np.int64)
    parts = {"train": train, "validation": empty if validation is None else validation, "calibration": empty}
    with tempfile.TemporaryDirectory() as folder:
        return fit(build_members(settings)["vae"], data, parts, Path(folder) / "vae", settings, ProcessGroup())


def epoch_ours(data: Data, count: int) -> float:
    """Return the seconds of a second epoch, batches and the framework's work included."""
    return float(train_ours(data, np.arange(count), 2)["seconds"].iloc[-1])


def in_memory(path: Path, count: int) -> tuple[Data, torch.Tensor]:
    """Open a DATA folder, and its first images as the tensor that a plain loop has in memory."""
    opened = Data.open(path)
    return opened, opened.batch(np.arange(count), usual.SIZE).image


def files(row: str, scope: Scope) -> Line:
    """Open, resize and convert each PNG in every epoch, as the original study did, against our epoch on DATA."""
    bits = int(row.removeprefix("train-png"))
    distinct, count, rounds = scope.pick((8, 64, 3), (1, 32, 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        links = materials.links(materials.vindr_sized(bits, folder / "films", distinct), folder / "raw", count)
        begin = time.perf_counter()
        mammovae.prepare("folder", folder / "raw", out=folder / "data")
        once = time.perf_counter() - begin
        loader = DataLoader(usual.ImageFiles(links), batch_size=32, shuffle=True, num_workers=0)
        trainer, data = plain.Trainer(), Data.open(folder / "data")
        works = (lambda: void(trainer.epoch(loader)), lambda: epoch_ours(data, count))
        usual_seconds, ours = race(works, rounds)
    rows, columns = materials.SHAPE
    work = f"an epoch of {count} PNG, {bits} bit, {rows} x {columns}, original network, batch 32"
    notes = (
        f"links to {distinct} real films resized to that size; usual: {spread(usual_seconds)}; ours: {spread(ours)}",
        f"preparing them once took {once:.1f} s, left out of the ratio",
    )
    return Line(row, work, "s/epoch", min(usual_seconds), min(ours), min(usual_seconds) / min(ours), notes)


def void(_: object) -> None:
    """Return None, so that the time of the call counts and not its value."""


def eager(row: str, scope: Scope) -> Line:
    """Compare the plain eager loop with ours, images in memory (of ours, the memory-mapped DATA folder's)."""
    count, rounds = scope.pick((320, 3), (32, 1))
    with tempfile.TemporaryDirectory() as name:
        data, images = in_memory(materials.data(Path(name), count, min(count, 80)), count)
        trainer = plain.Trainer()
        trainer.epoch([images[:32]])  # as ours has had an epoch before the one that counts
        works = (lambda: void(trainer.epoch(plain.shuffled(images))), lambda: epoch_ours(data, count))
        usual_seconds, ours = race(works, rounds)
    return _rates(
        row, f"{count // 32} steps of the original network, batch 32, images in memory", count, usual_seconds, ours
    )


def _rates(row: str, work: str, count: int, usual_seconds: list[float], ours: list[float]) -> Line:
    notes = (f"{torch.get_num_threads()} threads; usual: {spread(usual_seconds)}; ours: {spread(ours)}",)
    rates = count / min(usual_seconds), count / min(ours)
    return Line(row, work, "images/s", *rates, rates[1] / rates[0], notes)


def pythae(row: str, scope: Scope) -> Line:
    """Compare pythae's trainer, in an environment of its own, with ours: the same layers, batch, optimiser and loss."""
    count, rounds = scope.pick((320, 3), (32, 1))
    python = environment(scope.venv)
    with tempfile.TemporaryDirectory() as name:
        data, images = in_memory(materials.data(Path(name), count, min(count, 80)), count)
        np.save(Path(name) / "images.npy", images.numpy())
        script = [python, HERE / "pythae_train.py", Path(name) / "images.npy", "--epochs", "2"]

        def pythae_epoch() -> float:
            answer = subprocess.run([*map(str, script)], capture_output=True, text=True, check=False, cwd=name)
            if answer.returncode:
                raise RuntimeError(f"pythae failed: {answer.stderr.strip()[-2000:]}")
            return json.loads(answer.stdout.splitlines()[-1])[-1]

        seconds = race((pythae_epoch, lambda: epoch_ours(data, count)), rounds)
    return _rates(row, f"{count // 32} steps in pythae 0.1.2, original network, batch 32, in memory", count, *seconds)


def environment(folder: Path) -> Path:
    """Make pythae's virtual environment where it does not exist yet, and return its Python."""
    python, ready = folder / "bin" / "python", folder / ".installed"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        pins = ("--constraint", HERE.parent / "constraints.txt", "--requirement", HERE / "pythae_requirements.txt")
        subprocess.run([*map(str, (python, "-m", "pip", "install", "--quiet", *pins))], check=True)
        ready.touch()
    return python
