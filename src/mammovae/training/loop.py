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
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR
from torch.utils.data import DataLoader

from mammovae.config import InputError, TrainSettings
from mammovae.data.dataset import Batch, Data
from mammovae.models.augmentation import augment
from mammovae.models.base import HISTORY, WEIGHTS, Member, load_weights, save_weights
from mammovae.models.noise import ImageNoise, StepContext, image_keys
from mammovae.parallel.allocator import retain_freed_memory
from mammovae.report.progress import Progress
from mammovae.storage import atomic_write
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loader import BatchDataset, EpochSampler, StepRows

CHECKPOINT = "resume.ckpt"
ACTIVE_NATS = 0.01
"""A latent dimension whose mean divergence is below this carries nothing."""
LISTED_DIMENSIONS = 256
"""A larger latent is counted in history.csv, not listed."""
VALIDATION, FINAL = 2**31 - 1, 2**31 - 2
"""Stand for the epoch in the keys of what is drawn for validation, the same in every epoch, and after the last one."""


def fit(
    member: Member, data: Data, parts: dict[str, np.ndarray], folder: Path, settings: TrainSettings, group: ProcessGroup
) -> pd.DataFrame:
    """Fit a member on healthy images and write its weights and history into folder; return the history.

    Order, noise, augmentation and inserted lesions depend on the seed, the epoch and the image alone, so a run resumed
    from its checkpoint ends with the very weights of an undisturbed one. Runs on the first GPU where there is one, else
    on the CPU. In a group all processes call this, each with a GPU of its own where there are any, and divide every
    batch among them; the losses are those of one process but for the order in which floats are added.

    Parameters
    ----------
    parts
        Positions in data to train on and to validate with; a bilateral member takes those whose other breast is in the
        same part.

    Returns
    -------
    What history.csv holds, a row an epoch: every term that the member's losses names, in training and validation, and
    for a latent the divergence of each dimension (kl_0, ..., nats) and active_units, how many of them exceed 0.01 nats.
    """
    group.is_waiting = False
    if not group.broadcast((folder / WEIGHTS).exists()):
        folder.mkdir(parents=True, exist_ok=True)
        parts = _pairs(data, parts, folder.name) if member.bilateral else parts
        with _deterministic(), retain_freed_memory():
            _Training(member, data, parts, folder, settings, group).run()
        if group.rank == 0:
            batches = data.batches(parts["train"], member.size, settings.batch_size, member.bilateral)
            member.finalize_fit((batch, ImageNoise(image_keys(settings.seed, FINAL, rows))) for rows, batch in batches)
            save_weights(member, folder / WEIGHTS)
    history = pd.DataFrame()
    if group.rank == 0:
        (folder / CHECKPOINT).unlink(missing_ok=True)
        load_weights(member, folder / WEIGHTS)
        history = pd.read_csv(folder / HISTORY)
    if group.size > 1:
        history, weights = group.broadcast((history, member.state_dict()))
        member.load_state_dict(weights)
        member.eval()
    group.is_waiting = True
    return history


def _pairs(data: Data, parts: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Keep the positions whose other breast is in the same part; InputError when there are none to train on."""
    parts = {part: positions[np.isin(data.others[positions], positions)] for part, positions in parts.items()}
    if not len(parts["train"]):
        raise InputError(f"{data.path} has no healthy pair of breasts to train {name} on: omit it from members")
    return parts


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
    """A member being fitted: its optimiser and its history, in step with the other processes of the group."""

    def __init__(
        self,
        member: Member,
        data: Data,
        parts: dict[str, np.ndarray],
        folder: Path,
        settings: TrainSettings,
        group: ProcessGroup,
    ) -> None:
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.member, self.rows = member, list[dict[str, float]]()
        self._batches = BatchDataset(data, member, settings.seed)
        self._sampler = EpochSampler(parts["train"], settings.batch_size, settings.seed, group)
        self._loader = DataLoader(self._batches, batch_size=None, sampler=self._sampler, pin_memory=on_gpu)
        self._parts, self._folder, self._settings, self._group = parts, folder, settings, group
        member.to(self.device, memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
        self._optimizer = torch.optim.Adam(member.parameters(), lr=settings.learning_rate, fused=True)
        is_constant = settings.schedule == "constant"
        self._schedule = (
            ConstantLR(self._optimizer, 1.0) if is_constant else CosineAnnealingLR(self._optimizer, settings.epochs)
        )
        precision = settings.precision if on_gpu else "32"
        self._half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._half == torch.float16)
        self._stateful: dict[str, Any] = {"member": member, "optimizer": self._optimizer}
        self._stateful |= {"schedule": self._schedule, "scaler": self._scaler}

    def run(self) -> None:
        """Fit from the beginning or from the checkpoint, and leave the member on the CPU in evaluation mode."""
        checkpoint, steps = self._folder / CHECKPOINT, len(self._sampler)
        if self._group.broadcast(checkpoint.exists()):
            saved = torch.load(checkpoint, map_location=self.device, weights_only=True)
            self.rows = saved["history"]
            for name, part in self._stateful.items():
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
        begin, sums = time.monotonic(), dict[str, Tensor]()
        self.member.train()  # whatever was done to it before
        self._sampler.set_epoch(epoch)
        for step, (batch, keys) in enumerate(self._loader):
            loss = self._step(batch, keys, step, sums)
            if not math.isfinite(loss):
                raise InputError(
                    f"the loss became {loss} in epoch {epoch + 1}: "
                    "lower learning_rate with a new --out, and check the data's contact sheet"
                )
            progress.advance(1, note=f"epoch {epoch + 1}, loss {loss:,.4g}")
        self._schedule.step()
        trained, validated = _row(sums, len(self._parts["train"]), self._group), self._validate()
        row: dict[str, float] = {"epoch": epoch + 1}
        row |= {name: value for name, value in trained.items() if not name.startswith("kl_")}
        row |= {f"validation_{name}": validated.get(name, float("nan")) for name in row if name != "epoch"}
        dimensions = {name: value for name, value in trained.items() if name.startswith("kl_")}
        self.rows.append(row | dimensions | {"seconds": round(time.monotonic() - begin, 3)})

    def _step(self, batch: Batch, keys: Tensor, step: int, sums: dict[str, Tensor]) -> float:
        """Change the weights by one batch, add its losses to sums, and return its mean loss."""
        size, group = self._settings.batch_size, self._group
        count = min(size, len(self._parts["train"]) - step * size)
        losses, own = self._losses(batch, keys, count), group.rows_of(count)[1]
        _add(sums, losses, own)
        # Weighted so that the sum over processes is the mean over images.
        loss = losses["loss"].mean() * (own / count)
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        group.sum_gradients(self.member.parameters())
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return group.all_reduce(loss.detach()).item()

    def _losses(self, batch: Batch, keys: Tensor, count: int) -> dict[str, Tensor]:
        """Return the member's losses of this process's rows of a batch of count images, in training or evaluation."""
        batch, context = batch.to(self.device), StepContext.of(keys.to(self.device), self._group.batch_sum(count))
        with torch.autocast(self.device.type, self._half, enabled=self._half is not None):
            if self.member.training and self.member.augmented:
                batch = augment(batch, context.noise)
            image = batch.image.contiguous(memory_format=torch.channels_last)
            return self.member.losses(batch._replace(image=image), context)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Return the mean losses of the validation images in evaluation mode."""
        positions, size, sums = self._parts["validation"], self._settings.batch_size, dict[str, Tensor]()
        self.member.eval()
        for step, start in enumerate(range(0, len(positions), size)):
            part = positions[start : start + size]
            rows, own = self._group.rows_of(len(part))
            _add(sums, self._losses(*self._batches[StepRows(part[rows], VALIDATION, step)], len(part)), own)
        return _row(sums, len(positions), self._group)

    def _save(self, checkpoint: Path) -> None:
        """Write history and checkpoint, in the first process alone."""
        if self._group.rank == 0:
            self._write_history()
            states: dict[str, Any] = {name: part.state_dict() for name, part in self._stateful.items()}
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
        # Left on its device: a GPU is not waited for.
        total = values.detach()[:count].double().sum(dim=0)
        sums[name] = sums[name] + total if name in sums else total


def _row(sums: dict[str, Tensor], count: int, group: ProcessGroup) -> dict[str, float]:
    """Return means over count images of what the group added; each dimension of a divergence has its own name."""
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
