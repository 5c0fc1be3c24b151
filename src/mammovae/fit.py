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
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mammovae.config import InputError, TrainSettings
from mammovae.data.dataset import Data
from mammovae.folders import replacing
from mammovae.model.member import WEIGHTS, Member, load_weights, save_weights
from mammovae.page.progress import Progress

HISTORY = "history.csv"
PARTS = ("loss", "reconstruction", "kl")


def fit(
    member: Member,
    data: Data,
    parts: dict[str, np.ndarray],
    folder: Path,
    settings: TrainSettings,
) -> pd.DataFrame:
    """Fit a member on healthy images and write its weights and history into folder; return the history.

    parts gives the positions in data to train on and to validate with. The member's losses(image) gives
    the negative ELBO of each image with its parts. Order and noise of an epoch depend on seed and epoch
    alone, so a run continued from its checkpoint ends with the very weights of an undisturbed one. Runs on
    the first GPU where there is one, else on the CPU.
    """
    checkpoint = folder / "resume.ckpt"
    if (folder / WEIGHTS).exists():
        checkpoint.unlink(missing_ok=True)
        load_weights(member, folder / WEIGHTS)
        return pd.read_csv(folder / HISTORY)
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = torch.cuda.is_available()
    member.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
    training = _Training(member, data, parts, folder, settings)
    loader = DataLoader(
        _Batches(data, member.settings.size),
        batch_size=None,
        sampler=_Order(parts["train"], settings.batch_size, settings.seed),
        pin_memory=on_gpu,
    )
    # history.csv is written with each checkpoint, so its rows are the epochs that need not be repeated.
    done = len(pd.read_csv(folder / HISTORY)) * len(loader) if checkpoint.exists() else 0
    steps = settings.epochs * len(loader)
    before = torch.are_deterministic_algorithms_enabled()
    with _quiet(), Progress(f"training {folder.name}", steps, unit="steps", done=done) as progress:
        training.progress = progress
        trainer = lightning.Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=1,
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
        resume = str(checkpoint) if checkpoint.exists() else None
        try:
            trainer.fit(training, loader, ckpt_path=resume, weights_only=True)
        except SystemExit:  # what the trainer makes of an interruption
            raise KeyboardInterrupt from None
        finally:
            torch.use_deterministic_algorithms(before)
    member.cpu().eval().to(memory_format=torch.contiguous_format)  # pyrefly: ignore[no-matching-overload]
    history = training.write_history()
    save_weights(member, folder / WEIGHTS)
    checkpoint.unlink(missing_ok=True)
    return history


class _Batches(Dataset):
    """Batches straight from the memory map: an item is a whole batch, its index an array of positions."""

    def __init__(self, data: Data, size: int) -> None:
        self._data, self._size = data, size

    def __getitem__(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        return self._data.batch(index, self._size)


class _Order(Sampler):
    """The positions of an epoch's batches, shuffled by seed and epoch alone."""

    def __init__(self, positions: np.ndarray, batch_size: int, seed: int) -> None:
        self._positions, self._batch_size, self._seed, self._epoch = positions, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self._positions) / self._batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(self._positions)
        for start in range(0, len(order), self._batch_size):
            # Sorted, so that the memory map is read forwards; the order inside a batch changes no loss.
            yield np.sort(order[start : start + self._batch_size])


class _Training(lightning.LightningModule):
    """What the framework is told: a step, an epoch's row of history, and when to checkpoint."""

    def __init__(
        self,
        member: Member,
        data: Data,
        parts: dict[str, np.ndarray],
        folder: Path,
        settings: TrainSettings,
    ) -> None:
        super().__init__()
        self.member = member
        self.progress: Progress
        self._data, self._parts, self._folder = data, parts, folder
        self._settings, self._size = settings, member.settings.size
        self._rows: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._saved = time.monotonic()
        self._begin = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.member.parameters(), lr=self._settings.learning_rate, fused=True)

    def on_train_epoch_start(self) -> None:
        self._sums = {part: torch.zeros((), dtype=torch.float64, device="cpu") for part in PARTS}
        self._begin = time.monotonic()

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        # Noise comes from (seed, epoch, step) alone: continuing needs no generator state, and what the framework
        # draws in between changes nothing.
        key = np.random.SeedSequence([self._settings.seed, len(self._rows), step])
        torch.manual_seed(int(key.generate_state(1)[0]))
        losses = self.member.losses(batch[0].contiguous(memory_format=torch.channels_last))
        for part in PARTS:
            self._sums[part] += losses[part].detach().double().sum().cpu()
        loss = losses["loss"].mean()
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss became {loss.item()} in epoch {self.current_epoch + 1}: "
                "lower learning_rate with a new --out, and check the data's contact sheet"
            )
        self.progress.advance(1, note=f"epoch {self.current_epoch + 1}, loss {loss.item():,.1f}")
        return loss

    def on_train_epoch_end(self) -> None:
        count = len(self._parts["train"])
        row = {"epoch": self.current_epoch + 1} | {part: float(self._sums[part]) / count for part in PARTS}
        row |= {f"validation_{part}": value for part, value in self._validate().items()}
        self._rows.append(row | {"seconds": round(time.monotonic() - self._begin, 3)})
        if time.monotonic() - self._saved >= self._settings.checkpoint_seconds:
            self.write_history()
            with replacing(self._folder / "resume.ckpt") as partial:
                self.trainer.save_checkpoint(partial)
            self._saved = time.monotonic()

    def _validate(self) -> dict[str, float]:
        positions = self._parts["validation"]
        if not len(positions):
            return dict.fromkeys(PARTS, float("nan"))
        sums = dict.fromkeys(PARTS, 0.0)
        self.member.eval()
        with torch.no_grad():
            for _, image, _ in self._data.batches(positions, self._size, self._settings.batch_size):
                losses = self.member.losses(image.to(self.device))
                for part in PARTS:
                    sums[part] += float(losses[part].double().sum())
        self.member.train()
        return {part: total / len(positions) for part, total in sums.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self._rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rows = checkpoint["history"]

    def write_history(self) -> pd.DataFrame:
        """Write a row an epoch, losses as means over images in nats, and return them."""
        history = pd.DataFrame(self._rows)
        with replacing(self._folder / HISTORY) as partial:
            history.to_csv(partial, index=False)
        return history


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
