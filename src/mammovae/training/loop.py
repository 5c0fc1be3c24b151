"""The training loop: steps over images, a row of history an epoch, validation, and a checkpoint to resume from."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mammovae.config import InputError, TrainSettings
from mammovae.data.dataset import Data
from mammovae.models.base import HISTORY, WEIGHTS, Member, load_weights, save_weights
from mammovae.models.noise import ImageNoise, image_keys
from mammovae.parallel.allocator import retain_freed_memory
from mammovae.report.progress import Progress
from mammovae.storage import atomic_write
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loader import BatchDataset, shard_epoch
from mammovae.training.step import TrainingStep

CHECKPOINT = "resume.ckpt"
ACTIVE_NATS = 0.01
"""A latent dimension whose mean divergence is below this carries nothing."""
LISTED_DIMENSIONS = 256
"""A larger latent is counted in history.csv, not listed."""
VALIDATION, FINAL = 2**31 - 1, 2**31 - 2
"""Stand for the epoch in the keys of what is drawn for validation, the same in every epoch, and after the last one."""
Parts = dict[str, np.ndarray]
"""Positions in a DATA folder by the name of the split: train, validation, calibration."""


def fit(
    member: Member, data: Data, parts: Parts, folder: Path, settings: TrainSettings, group: ProcessGroup
) -> pd.DataFrame:
    """Fit a member on healthy images and write its weights and history into folder; return the history.

    Order, noise, augmentation and inserted lesions depend on the seed, the epoch and the image alone, so a run resumed
    from its checkpoint ends with the very weights of an undisturbed one. In a group all processes call this, each with
    a GPU of its own where there are any, and divide every batch among them; the losses are those of one process but for
    the order in which floats are added. The history has a row an epoch: every term that the member's losses names, in
    training and validation, and for a latent the divergence of each dimension (kl_0, ..., nats) and active_units, how
    many of them exceed 0.01 nats.
    """
    group.is_waiting = False
    if not group.broadcast((folder / WEIGHTS).exists()):
        folder.mkdir(parents=True, exist_ok=True)
        if member.bilateral:  # only pairs of breasts in the same part
            parts = {name: positions[np.isin(data.others[positions], positions)] for name, positions in parts.items()}
            if not len(parts["train"]):
                missing = f"{data.name} has no healthy pair of breasts to train {folder.name} on"
                raise InputError(f"{missing}: omit it from members")
        with _deterministic(), retain_freed_memory():
            _Training(member, data, parts, folder, settings, group).run()
        if group.rank == 0:
            batches = data.batches(parts["train"], member.size, settings.batch_size, member.bilateral)
            member.finalize_fit((batch, ImageNoise(image_keys(settings.seed, FINAL, rows))) for rows, batch in batches)
            save_weights(member, folder / WEIGHTS)
    if group.rank == 0:
        (folder / CHECKPOINT).unlink(missing_ok=True)
        load_weights(member, folder / WEIGHTS)
    history, weights = group.broadcast(
        (pd.read_csv(folder / HISTORY), member.state_dict()) if group.rank == 0 else None
    )
    if group.rank:  # the first has just read them
        member.load_state_dict(weights)
        member.eval()
    group.is_waiting = True
    return history


@contextmanager
def _deterministic() -> Iterator[None]:
    """Compute by operations that give the same bits every time, or fail where there is none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS has no such operations
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class _Training:
    """A member being fitted: its steps and its history, beside the other processes of the group."""

    def __init__(
        self, member: Member, data: Data, parts: Parts, folder: Path, settings: TrainSettings, group: ProcessGroup
    ) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.member, self.rows = member, list[dict[str, float]]()
        self._batches = BatchDataset(data, member, settings.seed, device)
        self._parts, self._folder, self._settings, self._group = parts, folder, settings, group
        self._step = TrainingStep(member, settings, group, device)
        self._device = device

    def run(self) -> None:
        """Fit from the beginning or from the checkpoint, and leave the member on the CPU in evaluation mode."""
        checkpoint, steps = self._folder / CHECKPOINT, math.ceil(len(self._parts["train"]) / self._settings.batch_size)
        if self._group.broadcast(checkpoint.exists()):
            saved = torch.load(checkpoint, map_location=self._device, weights_only=True)
            self.rows = saved["history"]
            for name, part in self._step.parts.items():
                part.load_state_dict(saved[name])
        total = self._settings.epochs * steps if self._group.rank == 0 else 0  # the others show nothing
        name, saved_at = f"training {self._folder.name}", time.monotonic()
        with Progress(name, total, unit="steps", done=len(self.rows) * steps) as progress:
            for epoch in range(len(self.rows), self._settings.epochs):
                self._epoch(epoch, progress)
                if self._group.broadcast(time.monotonic() - saved_at >= self._settings.checkpoint_seconds):
                    self._save(checkpoint)
                    saved_at = time.monotonic()
        self.member.cpu().eval().to(memory_format=torch.contiguous_format)  # pyrefly: ignore[no-matching-overload]
        self._write_history()

    def _epoch(self, epoch: int, progress: Progress) -> None:
        """Train on every image once, validate, and add a row to the history."""
        begin, sums, train = time.monotonic(), dict[str, Tensor](), self._parts["train"]
        self.member.train()  # whatever was done to it before
        order = np.random.default_rng([self._settings.seed, epoch]).permutation(train)
        steps = shard_epoch(order, self._settings.batch_size, epoch, self._group)
        for rows, batch, keys in self._batches.on_device(steps):
            losses = self._step(batch, keys, rows)
            _add(sums, losses, rows.own)
            loss = self._group.all_reduce(losses["loss"].mean() * (rows.own / rows.count)).item()
            if not math.isfinite(loss):
                remedy = "lower learning_rate with a new --out, and check the data's contact sheet"
                raise InputError(f"the loss became {loss} in epoch {epoch + 1}: {remedy}")
            progress.advance(1, note=f"epoch {epoch + 1}, loss {loss:,.4g}")
        self._step.schedule.step()
        trained, validated = _row(sums, len(train), self._group), self._validate()
        row = {name: value for name, value in trained.items() if not name.startswith("kl_")}
        validation = {f"validation_{name}": validated.get(name, float("nan")) for name in row}
        dimensions = {name: value for name, value in trained.items() if name not in row}
        seconds = round(time.monotonic() - begin, 3)
        self.rows.append({"epoch": epoch + 1} | row | validation | dimensions | {"seconds": seconds})

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Return the mean losses of the validation images in evaluation mode."""
        positions, sums = self._parts["validation"], dict[str, Tensor]()
        self.member.eval()
        steps = shard_epoch(positions, self._settings.batch_size, VALIDATION, self._group)
        for rows, batch, keys in self._batches.on_device(steps):
            _add(sums, self._step.losses(batch, keys, rows), rows.own)
        return _row(sums, len(positions), self._group)

    def _save(self, checkpoint: Path) -> None:
        """Write history and checkpoint, in the first process alone."""
        if self._group.rank == 0:
            self._write_history()
            states: dict[str, Any] = {name: part.state_dict() for name, part in self._step.parts.items()}
            with atomic_write(checkpoint) as partial:
                torch.save(states | {"history": self.rows}, partial)

    def _write_history(self) -> None:
        """Write a row an epoch, losses as means over images in nats."""
        if self._group.rank == 0:
            with atomic_write(self._folder / HISTORY) as partial:
                pd.DataFrame(self.rows).to_csv(partial, index=False)


def _add(sums: dict[str, Tensor], losses: dict[str, Tensor], count: int) -> None:
    """Add the losses of the first count images."""
    for name, values in losses.items():
        total = values.detach()[:count].double().sum(dim=0)  # left on its device: a GPU is not waited for
        sums[name] = sums[name] + total if name in sums else total


def _row(sums: dict[str, Tensor], count: int, group: ProcessGroup) -> dict[str, float]:
    """Return means over count images of what the group added, each dimension of a divergence by its own name."""
    row: dict[str, float] = {}
    for name, part in sums.items():
        total = group.all_reduce(part)
        if name == "kl_dimensions":
            row["active_units"] = float((total / count > ACTIVE_NATS).sum())
            if len(total) <= LISTED_DIMENSIONS:
                row |= {f"kl_{number}": float(value) / count for number, value in enumerate(total)}
        else:
            row[name] = float(total) / count
    return row
