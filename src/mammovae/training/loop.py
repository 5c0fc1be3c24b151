"""The training loop: steps over images, a row of history an epoch, validation, and a checkpoint to resume from."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mammovae.config import InputError, TrainSettings
from mammovae.data.dataset import Data
from mammovae.models.base import HISTORY, WEIGHTS, Member, load_weights, save_weights
from mammovae.models.noise import ImageNoise, image_keys
from mammovae.models.precision import float32_products
from mammovae.models.run import device
from mammovae.parallel.allocator import retain_freed_memory
from mammovae.report.progress import Progress
from mammovae.storage import atomic_write
from mammovae.training.distributed import ProcessGroup
from mammovae.training.history import EpochSums, history_row
from mammovae.training.loader import BatchDataset, shard_epoch
from mammovae.training.step import TrainingStep

CHECKPOINT = "resume.ckpt"
VALIDATION, FINAL = 2**31 - 1, 2**31 - 2
"""Stand for the epoch in the keys of what is drawn for validation, the same in every epoch, and after the last one."""
VALIDATIONS = 100
"""Of a training: few images make many short epochs, which say little each."""
STEPS_A_LOOK = {"cpu": 1, "cuda": 50}
"""Steps between two looks at the loss and the clock: each look waits for all that a GPU has still to do."""
Parts = dict[str, np.ndarray]
"""Positions in a DATA folder by the name of the split: train, validation, calibration."""


def fit(
    member: Member, data: Data, parts: Parts, folder: Path, settings: TrainSettings, group: ProcessGroup
) -> pd.DataFrame:
    """Fit a member on healthy images and write its weights and history into folder; return the history.

    Order, noise, augmentation and inserted lesions depend on the seed, the epoch and the image alone, so a run resumed
    from its checkpoint, which may lie within an epoch, ends with the very weights and history of an undisturbed one. In
    a group all processes call this, each with a GPU of its own where there are any, and divide every batch among them;
    the losses are those of one process but for the order in which floats are added. The history has a row an epoch:
    every term that the member's epoch_losses names, in training and (after 100 of them at most) in validation, and for
    a latent the divergence of each dimension (kl_0, ..., nats) and active_units, how many of them exceed 0.01 nats.
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
                keyed = ((batch, image_keys(settings.seed, FINAL, rows)) for rows, batch in batches)
                member.finalize_fit((batch.to(device()), ImageNoise(keys.to(device()))) for batch, keys in keyed)
                save_weights(member, folder / WEIGHTS)
    if group.rank == 0:
        (folder / CHECKPOINT).unlink(missing_ok=True)
        load_weights(member, folder / WEIGHTS)
    fitted = {name: values.cpu() for name, values in member.state_dict().items()} if group.size > 1 else {}
    history, weights = group.broadcast((pd.read_csv(folder / HISTORY), fitted) if group.rank == 0 else None)
    if group.rank:  # the first has just read them
        member.load_state_dict(weights)
        member.eval()
    member.to(device())
    group.is_waiting = True
    return history


@contextmanager
def _deterministic() -> Iterator[None]:
    """Compute by operations that give the same bits every time, or fail where there is none."""
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # one more operation for each new tensor
    try:
        with float32_products("ieee"):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]


class _Training:
    """A member being fitted: its steps and its history, beside the other processes of the group."""

    def __init__(
        self, member: Member, data: Data, parts: Parts, folder: Path, settings: TrainSettings, group: ProcessGroup
    ) -> None:
        self.member, self.rows, self._sums = member, list[dict[str, float]](), EpochSums(group)
        self._seconds = 0.0  # of the epoch under way, before this process began
        self._batches = BatchDataset(data, member, settings.seed, device())
        self._folder, self._settings, self._group = folder, settings, group
        self._train, validation = parts["train"], parts["validation"]
        count = min(settings.validation_images, len(validation))
        self._validation = validation[np.arange(count) * len(validation) // max(count, 1)]
        self._batches.hold(np.concatenate([self._train, self._validation]))
        self._step = TrainingStep(member, settings, group, device())
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Fit from the beginning or from the checkpoint, and leave the member in evaluation mode."""
        if self._group.broadcast((self._folder / CHECKPOINT).exists()):
            self._resume()
        steps = math.ceil(len(self._train) / self._settings.batch_size)
        total, done = self._settings.epochs * steps, len(self.rows) * steps + self._sums.steps
        with Progress(f"training {self._folder.name}", total, unit="steps", done=done) as progress:
            for epoch in range(len(self.rows), self._settings.epochs):
                self._epoch(epoch, progress)
                if self._group.broadcast(self._is_due()):
                    self._save()
        self.member.eval().to(memory_format=torch.contiguous_format)  # pyrefly: ignore[no-matching-overload]
        self._write_history()

    def _epoch(self, epoch: int, progress: Progress) -> None:
        """Train on every image once, or on those that are left of an epoch, validate, and add a row to the history."""
        begin, settings = time.monotonic() - self._seconds, self._settings
        self.member.train()  # whatever was done to it before
        order = np.random.default_rng([settings.seed, epoch]).permutation(self._train)
        steps = shard_epoch(order, settings.batch_size, epoch, self._group)
        note, steps_a_look = "", STEPS_A_LOOK[device().type]
        for rows, batch, keys in self._batches.on_device(steps[self._sums.steps :]):
            self._sums.add(self._step(batch, keys, rows), rows)
            is_last, is_due = self._sums.steps == len(steps), False
            if is_last or self._sums.steps % steps_a_look == 0:
                loss, is_due = self._look()
                if not math.isfinite(loss):
                    remedy = "lower learning_rate with a new --out, and check the data's contact sheet"
                    raise InputError(f"the loss became {loss} in epoch {epoch + 1}: {remedy}")
                note = f"epoch {epoch + 1}, loss {loss:,.4g}"
            progress.advance(1, note)
            if is_due and not is_last:  # then the validation comes first
                self._seconds = time.monotonic() - begin
                self._save()
        self._step.schedule.step()
        trained = history_row(self.member, self._sums)
        validated = self._validate() if self._is_validated(epoch + 1) else {}
        row = {name: value for name, value in trained.items() if not name.startswith("kl_")}
        validation = {f"validation_{name}": validated.get(name, float("nan")) for name in row}
        dimensions = {name: value for name, value in trained.items() if name not in row}
        seconds = round(time.monotonic() - begin, 3)
        self.rows.append({"epoch": epoch + 1} | row | validation | dimensions | {"seconds": seconds})
        self._sums, self._seconds = EpochSums(self._group), 0.0

    def _look(self) -> tuple[float, bool]:
        """Return the epoch's mean loss so far, and whether a checkpoint is due: the same in all processes."""
        loss = self._sums.loss()
        is_due = loss.new_tensor(float(self._group.rank == 0 and self._is_due()))
        total, due = self._group.all_reduce(torch.stack([loss, is_due])).tolist()
        return total / self._sums.images, due > 0

    def _is_validated(self, epoch: int) -> bool:
        """Say whether the validation images are looked at after so many epochs: 100 times, and at the end."""
        return epoch % math.ceil(self._settings.epochs / VALIDATIONS) == 0 or epoch == self._settings.epochs

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Return the row of the validation images in evaluation mode, the same however they fall into batches."""
        if not len(self._validation):
            return {}
        sums = EpochSums(self._group)
        self.member.eval()
        steps = shard_epoch(self._validation, self._settings.batch_size, VALIDATION, self._group)
        # What a batch shares is drawn once for all of them.
        for rows, batch, keys in self._batches.on_device([rows._replace(step=0) for rows in steps]):
            sums.add(self._step.losses(batch, keys, rows), rows)
        return history_row(self.member, sums)

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._settings.checkpoint_seconds

    def _save(self) -> None:
        """Write history and checkpoint, in the first process alone; all must call this."""
        states: dict[str, Any] = {name: part.state_dict() for name, part in self._step.parts.items()}
        progress = {"history": self.rows, "epoch_sums": self._sums.state(), "seconds": self._seconds}
        if self._group.rank == 0:
            self._write_history()
            with atomic_write(self._folder / CHECKPOINT) as partial:
                torch.save(states | progress, partial)
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        """Go on from the checkpoint."""
        saved = torch.load(self._folder / CHECKPOINT, map_location=device(), weights_only=True)
        self._step.load(saved)
        self.rows, self._seconds = saved["history"], saved["seconds"]
        self._sums.load_state(saved["epoch_sums"])

    def _write_history(self) -> None:
        """Write a row an epoch, losses as means over images in nats."""
        if self._group.rank == 0 and self.rows:
            with atomic_write(self._folder / HISTORY) as partial:
                pd.DataFrame(self.rows).to_csv(partial, index=False)
