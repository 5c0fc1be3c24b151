"""The training loop: the only file that knows the training framework."""

import copy
import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from mammovae.config import InputError, TrainSettings
from mammovae.data.dataset import Batch, Data
from mammovae.models.augmentation import augment
from mammovae.models.base import HISTORY, WEIGHTS, Member, load_weights, save_weights
from mammovae.parallel.allocator import retain_freed_memory
from mammovae.report.progress import Progress
from mammovae.storage import atomic_write
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loader import BatchDataset, EpochSampler
from mammovae.training.share import WholeBatch, batch_axes

ACTIVE_NATS = 0.01
"""A latent dimension whose mean divergence is below this carries nothing."""
LISTED_DIMENSIONS = 256
"""A larger latent is counted in history.csv, not listed."""
VALIDATION = 2**31 - 1
"""Stands for the epoch in the seeds of what is drawn for validation: the same in every epoch."""


def fit(
    member: Member,
    data: Data,
    parts: dict[str, np.ndarray],
    folder: Path,
    settings: TrainSettings,
    team: ProcessGroup,
) -> pd.DataFrame:
    """Fit a member on healthy images and write its weights and history into folder; return the history.

    parts gives the positions in data to train on and to validate with; a bilateral member takes those whose other
    breast is in the same part. Order, noise, moves and planted lesions of an epoch depend on seed and epoch alone, so a
    run continued from its checkpoint ends with the very weights of an undisturbed one. Runs on the first GPU where
    there is one, else on the CPU. history.csv has a row an epoch: every term that the member's losses names, in
    training and validation, and for a latent the divergence of each dimension (kl_0, ..., nats) and active_units,
    how many of them exceed 0.01 nats.

    In a team all processes call this, each with a GPU of its own where there are any, and share out every batch. Each
    draws the whole batch's noise and keeps its images', and sums over a batch are taken over all of it, so the weights
    are those of one process but for the order in which floats are added; the same team gets the same weights. A marker
    on tiles alone draws its windows otherwise.
    """
    team.listening = False
    if not team.agree((folder / WEIGHTS).exists()):
        _fit(member, data, _pairs(data, parts, folder.name) if member.bilateral else parts, folder, settings, team)
    history = pd.DataFrame()
    if team.rank == 0:
        (folder / "resume.ckpt").unlink(missing_ok=True)
        load_weights(member, folder / WEIGHTS)
        history = pd.read_csv(folder / HISTORY)
    if team.size > 1:
        history, weights = team.agree((history, member.state_dict()))
        member.load_state_dict(weights)
        member.eval()
    team.listening = True
    return history


def _fit(
    member: Member,
    data: Data,
    parts: dict[str, np.ndarray],
    folder: Path,
    settings: TrainSettings,
    team: ProcessGroup,
) -> None:
    """Fit from the beginning or from the checkpoint; the first process of the team writes."""
    first = team.rank == 0
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "resume.ckpt"
    on_gpu = torch.cuda.is_available()
    member.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
    training = _Training(member, data, parts, folder, settings, team)
    loader = DataLoader(
        BatchDataset(data, member, settings.seed),
        batch_size=None,
        sampler=EpochSampler(parts["train"], settings.batch_size, settings.seed, team),
        pin_memory=on_gpu,
    )
    resume = team.agree(str(checkpoint) if checkpoint.exists() else None)
    # history.csv is written with each checkpoint, so its rows are the epochs that need not be repeated.
    done = len(pd.read_csv(folder / HISTORY)) * len(loader) if resume and first else 0
    steps = settings.epochs * len(loader) if first else 0  # the others say nothing
    before = torch.are_deterministic_algorithms_enabled()
    with (
        _quiet(),
        retain_freed_memory(),
        Progress(f"training {folder.name}", steps, unit="steps", done=done) as progress,
    ):
        training.progress = progress
        trainer = lightning.Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=team.local_size,
            num_nodes=team.size // team.local_size,
            strategy="auto" if team.size == 1 else DDPStrategy(),
            plugins=None if team.size == 1 else [TorchElasticEnvironment()],
            precision=settings.precision if on_gpu else "32-true",
            max_epochs=settings.epochs,
            deterministic=True,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        try:
            trainer.fit(training, loader, ckpt_path=resume, weights_only=True)
        except SystemExit:  # what the trainer makes of an interruption
            raise KeyboardInterrupt from None
        finally:
            torch.use_deterministic_algorithms(before)
    member.cpu().eval().to(memory_format=torch.contiguous_format)  # pyrefly: ignore[no-matching-overload]
    if first:
        size = member.size
        member.finalize_fit(
            batch for _, batch in data.batches(parts["train"], size, settings.batch_size, member.bilateral)
        )
        training.write_history()
        save_weights(member, folder / WEIGHTS)


def _pairs(data: Data, parts: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Keep the positions whose other breast is in the same part; InputError when there are none to train on."""
    parts = {part: positions[np.isin(data.others[positions], positions)] for part, positions in parts.items()}
    if not len(parts["train"]):
        raise InputError(f"{data.path} has no healthy pair of breasts to train {name} on: leave it out")
    return parts


class _Training(lightning.LightningModule):
    """What the framework is told: a step, an epoch's row of history, and when to checkpoint."""

    def __init__(
        self,
        member: Member,
        data: Data,
        parts: dict[str, np.ndarray],
        folder: Path,
        settings: TrainSettings,
        team: ProcessGroup,
    ) -> None:
        super().__init__()
        self.member = member
        self.progress: Progress
        self._batches = BatchDataset(data, member, settings.seed)
        self._parts, self._folder, self._settings, self._team = parts, folder, settings, team
        # A member that a marker looked at begins in evaluation mode.
        modes = [(True, True), (True, False), (False, False)] if team.size > 1 else []
        self._axes = {mode: self._rehearse(*mode) for mode in modes}
        self._rows: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._saved = time.monotonic()
        self._begin = 0.0

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.member.parameters(), lr=self._settings.learning_rate, fused=True)
        if self._settings.schedule == "constant":
            return optimizer
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._settings.epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_train_epoch_start(self) -> None:
        self._sums = {}
        self._begin = time.monotonic()

    def training_step(self, batch: Batch, step: int) -> Tensor:
        settings, team = self._settings, self._team
        count = min(settings.batch_size, len(self._parts["train"]) - step * settings.batch_size)
        _, own = team.share(count)
        # Noise comes from (seed, epoch, step) alone: continuing needs no generator state, and what the framework
        # draws in between changes nothing. Where it cannot be drawn for the whole batch, each process has its own.
        key = [settings.seed, len(self._rows), step]
        if team.size > 1 and self._axes[True, self.member.training] is None:
            key.append(team.rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        losses = self._losses(batch, count, fitting=True)
        _add(self._sums, losses, own)
        # So weighed that the mean over processes, which the framework takes of the gradients, is that over images.
        loss = losses["loss"].mean() * (own * team.size / count)
        whole = team.total(loss.detach()).item() / team.size
        if not math.isfinite(whole):
            raise InputError(
                f"the loss became {whole} in epoch {self.current_epoch + 1}: "
                "lower learning_rate with a new --out, and check the data's contact sheet"
            )
        self.progress.advance(1, note=f"epoch {self.current_epoch + 1}, loss {whole:,.4g}")
        return loss

    def _losses(self, batch: Batch, count: int, fitting: bool) -> dict[str, Tensor]:
        """Return the member's losses of this process's rows of a batch of count images."""
        axes = self._axes.get((fitting, self.member.training))
        with nullcontext() if axes is None else WholeBatch(axes, count, self._team):
            return _losses(self.member, batch, fitting)

    def _rehearse(self, fitting: bool, mode: bool) -> list[int | None] | None:
        """Learn from a copy of the member which axis of what it draws and sums is the batch's."""
        member, position = copy.deepcopy(self.member).train(mode), self._parts["train"][0]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return batch_axes(lambda count: _losses(member, self._batches[np.repeat(position, count), 0], fitting))

    def on_train_epoch_end(self) -> None:
        trained, validated = _row(self._sums, len(self._parts["train"]), self._team), self._validate()
        row: dict[str, float] = {"epoch": self.current_epoch + 1}
        row |= {name: value for name, value in trained.items() if not name.startswith("kl_")}
        row |= {f"validation_{name}": validated.get(name, float("nan")) for name in row if name != "epoch"}
        dimensions = {name: value for name, value in trained.items() if name.startswith("kl_")}
        self._rows.append(row | dimensions | {"seconds": round(time.monotonic() - self._begin, 3)})
        if self._team.agree(time.monotonic() - self._saved >= self._settings.checkpoint_seconds):
            self._save(self._folder / "resume.ckpt")
            self._saved = time.monotonic()

    def _save(self, checkpoint: Path) -> None:
        """Write history and checkpoint; every process takes part, and the first writes."""
        if self._team.rank:
            self.trainer.save_checkpoint(checkpoint)
            return
        self.write_history()
        with atomic_write(checkpoint) as partial:
            self.trainer.save_checkpoint(partial)

    def _validate(self) -> dict[str, float]:
        positions, sums = self._parts["validation"], {}
        # Where numbers cannot be drawn for the whole batch, each process validates on all images.
        team = ProcessGroup() if self._axes.get((False, False)) is None else self._team
        torch.manual_seed(self._settings.seed)  # what is drawn here is the same in every epoch
        self.member.eval()
        with torch.no_grad():
            for start in range(0, len(positions), self._settings.batch_size):
                part = positions[start : start + self._settings.batch_size]
                rows, own = team.share(len(part))
                batch = self._batches[part[rows], VALIDATION].to(self.device)
                _add(sums, self._losses(batch, len(part), fitting=False), own)
        self.member.train()
        return _row(sums, len(positions), team)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self._rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rows = checkpoint["history"]

    def write_history(self) -> pd.DataFrame:
        """Write a row an epoch, losses as means over images in nats, and return them."""
        history = pd.DataFrame(self._rows)
        with atomic_write(self._folder / HISTORY) as partial:
            history.to_csv(partial, index=False)
        return history


def _losses(member: Member, batch: Batch, fitting: bool) -> dict[str, Tensor]:
    if fitting and member.augmented:
        batch = augment(batch)
    return member.losses(batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last)))


def _add(sums: dict[str, Tensor], losses: dict[str, Tensor], count: int) -> None:
    """Add the losses of the first count images."""
    for name, values in losses.items():
        # Left where it lies: a GPU is not waited for.
        total = values.detach()[:count].double().sum(dim=0)
        sums[name] = sums[name] + total if name in sums else total


def _row(sums: dict[str, Tensor], count: int, team: ProcessGroup) -> dict[str, float]:
    """Means over count images of what the team summed; each dimension of a divergence gets a name of its own."""
    row: dict[str, float] = {}
    for name, part in sums.items():
        total = team.total(part)
        if name == "kl_dimensions":
            row["active_units"] = float((total / count > ACTIVE_NATS).sum())
            if len(total) <= LISTED_DIMENSIONS:
                row |= {f"kl_{number}": float(value) / count for number, value in enumerate(total)}
        else:
            row[name] = float(total) / count
    return row


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the framework's own advice (workers, tips, hardware lines) off the screen."""
    names = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        for module in ("pytorch_lightning", "lightning_fabric"):
            warnings.filterwarnings("ignore", module=module)
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
