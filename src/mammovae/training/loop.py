"""The training loop: the only file that knows the training framework."""

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
    parts : positions in data to train on and to validate with; a bilateral member takes those whose other breast is in
        the same part.

    Returns
    -------
    What history.csv holds, a row an epoch: every term that the member's losses names, in training and validation, and
    for a latent the divergence of each dimension (kl_0, ..., nats) and active_units, how many of them exceed 0.01 nats.
    """
    group.is_waiting = False
    if not group.broadcast((folder / WEIGHTS).exists()):
        _fit(member, data, _pairs(data, parts, folder.name) if member.bilateral else parts, folder, settings, group)
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


def _fit(
    member: Member, data: Data, parts: dict[str, np.ndarray], folder: Path, settings: TrainSettings, group: ProcessGroup
) -> None:
    """Fit from the beginning or from the checkpoint; the first process of the group writes."""
    is_first = group.rank == 0
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    member.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
    training = _Training(member, data, parts, folder, settings, group)
    loader = DataLoader(
        training.batches,
        batch_size=None,
        sampler=EpochSampler(parts["train"], settings.batch_size, settings.seed, group),
        pin_memory=torch.cuda.is_available(),
    )
    resume = group.broadcast(str(checkpoint) if checkpoint.exists() else None)
    # history.csv is written with each checkpoint, so its rows are the epochs that need not be repeated.
    done = len(pd.read_csv(folder / HISTORY)) * len(loader) if resume and is_first else 0
    steps = settings.epochs * len(loader) if is_first else 0  # the others show nothing
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    with (
        _quiet(),
        retain_freed_memory(),
        Progress(f"training {folder.name}", steps, unit="steps", done=done) as training.progress,
    ):
        try:
            _trainer(settings, group, folder).fit(training, loader, ckpt_path=resume, weights_only=True)
        except SystemExit:  # what the trainer makes of an interruption
            raise KeyboardInterrupt from None
        finally:
            torch.use_deterministic_algorithms(was_deterministic)
    member.cpu().eval().to(memory_format=torch.contiguous_format)  # pyrefly: ignore[no-matching-overload]
    if is_first:
        batches = data.batches(parts["train"], member.size, settings.batch_size, member.bilateral)
        member.finalize_fit((batch, ImageNoise(image_keys(settings.seed, FINAL, rows))) for rows, batch in batches)
        training.write_history()
        save_weights(member, folder / WEIGHTS)


def _trainer(settings: TrainSettings, group: ProcessGroup, folder: Path) -> lightning.Trainer:
    on_gpu = torch.cuda.is_available()
    return lightning.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=group.local_size,
        num_nodes=group.size // group.local_size,
        strategy="auto" if group.size == 1 else DDPStrategy(),
        plugins=None if group.size == 1 else [TorchElasticEnvironment()],
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


def _pairs(data: Data, parts: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Keep the positions whose other breast is in the same part; InputError when there are none to train on."""
    parts = {part: positions[np.isin(data.others[positions], positions)] for part, positions in parts.items()}
    if not len(parts["train"]):
        raise InputError(f"{data.path} has no healthy pair of breasts to train {name} on: omit it from members")
    return parts


class _Training(lightning.LightningModule):
    """What the framework is given: a step, an epoch's row of history, and when to write a checkpoint."""

    progress: Progress

    def __init__(
        self,
        member: Member,
        data: Data,
        parts: dict[str, np.ndarray],
        folder: Path,
        settings: TrainSettings,
        group: ProcessGroup,
    ) -> None:
        super().__init__()
        self.member, self.batches = member, BatchDataset(data, member, settings.seed)
        self._parts, self._folder, self._settings, self._group = parts, folder, settings, group
        self._rows: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._saved = time.monotonic()
        self._begin = 0.0

    def configure_optimizers(self) -> Any:
        """Return Adam and, where asked for, its schedule."""
        optimizer = torch.optim.Adam(self.member.parameters(), lr=self._settings.learning_rate, fused=True)
        if self._settings.schedule == "constant":
            return optimizer
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._settings.epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_train_epoch_start(self) -> None:
        """Put the member into training mode, whatever was done to it before, and begin to count."""
        self.member.train()
        self._sums = {}
        self._begin = time.monotonic()

    def training_step(self, batch: tuple[Batch, Tensor], step: int) -> Tensor:
        """Return the loss of this process's rows; InputError when that of the whole batch is not finite."""
        settings, group = self._settings, self._group
        count = min(settings.batch_size, len(self._parts["train"]) - step * settings.batch_size)
        losses, own = self._losses(*batch, count), group.rows_of(count)[1]
        _add(self._sums, losses, own)
        # Weighted so that the mean over processes, which the framework takes of the gradients, is that over images.
        loss = losses["loss"].mean() * (own * group.size / count)
        batch_loss = group.all_reduce(loss.detach()).item() / group.size
        if not math.isfinite(batch_loss):
            raise InputError(
                f"the loss became {batch_loss} in epoch {self.current_epoch + 1}: "
                "lower learning_rate with a new --out, and check the data's contact sheet"
            )
        self.progress.advance(1, note=f"epoch {self.current_epoch + 1}, loss {batch_loss:,.4g}")
        return loss

    def _losses(self, batch: Batch, keys: Tensor, count: int) -> dict[str, Tensor]:
        """Return the member's losses of this process's rows of a batch of count images, in training or evaluation."""
        context = StepContext.of(keys, self._group.batch_sum(count))
        if self.member.training and self.member.augmented:
            batch = augment(batch, context.noise)
        return self.member.losses(
            batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last)), context
        )

    def on_train_epoch_end(self) -> None:
        """Validate, add a row to the history, and write a checkpoint when it is time."""
        trained, validated = _row(self._sums, len(self._parts["train"]), self._group), self._validate()
        row: dict[str, float] = {"epoch": self.current_epoch + 1}
        row |= {name: value for name, value in trained.items() if not name.startswith("kl_")}
        row |= {f"validation_{name}": validated.get(name, float("nan")) for name in row if name != "epoch"}
        dimensions = {name: value for name, value in trained.items() if name.startswith("kl_")}
        self._rows.append(row | dimensions | {"seconds": round(time.monotonic() - self._begin, 3)})
        if self._group.broadcast(time.monotonic() - self._saved >= self._settings.checkpoint_seconds):
            self._save(self._folder / CHECKPOINT)
            self._saved = time.monotonic()

    def _save(self, checkpoint: Path) -> None:
        """Write history and checkpoint; every process takes part, and the first writes."""
        if self._group.rank:
            self.trainer.save_checkpoint(checkpoint)
            return
        self.write_history()
        with atomic_write(checkpoint) as partial:
            self.trainer.save_checkpoint(partial)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Return the mean losses of the validation images in evaluation mode."""
        positions, size = self._parts["validation"], self._settings.batch_size
        sums: dict[str, Tensor] = {}
        self.member.eval()
        for step, start in enumerate(range(0, len(positions), size)):
            part = positions[start : start + size]
            rows, own = self._group.rows_of(len(part))
            batch, keys = self.batches[StepRows(part[rows], VALIDATION, step)]
            _add(sums, self._losses(batch.to(self.device), keys.to(self.device), len(part)), own)
        return _row(sums, len(positions), self._group)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights."""
        checkpoint["history"] = self._rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up again."""
        self._rows = checkpoint["history"]

    def write_history(self) -> None:
        """Write a row an epoch, losses as means over images in nats."""
        with atomic_write(self._folder / HISTORY) as partial:
            pd.DataFrame(self._rows).to_csv(partial, index=False)


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the framework's own advice (workers, tips, hardware lines) off the screen."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for module in ("pytorch_lightning", "lightning_fabric"):
            warnings.filterwarnings("ignore", module=module)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
