"""Time to a given healthy ELBO: plain PyTorch against ours, with the same settings on the same images."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import materials
import numpy as np
import plain
import torch
import usual
from measure import Line, Scope
from train_speed import train_ours

from mammovae.data.dataset import Data


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure train-elbo: a plain training with another seed sets the target before the race."""
    train, held_out, epochs, seeds = scope.pick((64, 32, 16, (1, 2)), (32, 8, 1, (1,)))
    with tempfile.TemporaryDirectory() as name:
        data = Data.open(materials.data(Path(name), train + held_out, train + held_out))
        positions = np.arange(train + held_out)
        images = data.batch(positions, usual.SIZE).image
        parts = (images[:train], images[train:])
        *_, (_, target) = plain_epochs(*parts, 0, epochs, lambda _: False)
        our_runs, usual_runs = [], []
        for seed in seeds:
            usual_runs.append(plain_epochs(*parts, seed, 3 * epochs, lambda loss: loss <= target))
            our_runs.append(our_epochs(data, positions[:train], positions[train:], seed, epochs, target))
    reached = all(run[-1][1] <= target for run in (*usual_runs, *our_runs))
    each = [sum(run[-1][0] for run in runs) / len(seeds) for runs in (usual_runs, our_runs)]
    counts = [", ".join(str(len(run)) for run in runs) for runs in (usual_runs, our_runs)]
    work = f"original preset, {train} phantoms, to {target:,.0f} nats on {held_out} others"
    notes = (
        f"target: the validation loss of a plain training after {epochs} epochs; seeds {', '.join(map(str, seeds))}; "
        f"epochs needed: usual {counts[0]}, ours {counts[1]}; validation is in both times",
        *(() if reached else ("NOT REACHED within three times as many epochs: times are lower bounds",)),
    )
    return [Line(row, work, "s", each[0], each[1], each[0] / each[1] if reached else None, notes)]


def plain_epochs(
    images: torch.Tensor, held_out: torch.Tensor, seed: int, epochs: int, enough: Callable[[float], bool]
) -> list[tuple[float, float]]:
    """Return (seconds since the start, validation loss) after each epoch of a plain training, until it is enough."""
    trainer, history, begin = plain.Trainer(seed), [], time.perf_counter()
    for _ in range(epochs):
        trainer.epoch(plain.shuffled(images))
        with torch.no_grad():
            losses = [float(trainer.network(part)) * len(part) for part in held_out.split(32)]
        history.append((time.perf_counter() - begin, sum(losses) / len(held_out)))
        if enough(history[-1][1]):
            break
    return history


def our_epochs(
    data: Data, train: np.ndarray, held_out: np.ndarray, seed: int, epochs: int, target: float
) -> list[tuple[float, float]]:
    """Do the same with ours, whose number of epochs is fixed: one that misses the target is repeated with more."""
    pairs: list[tuple[float, float]] = []
    for longer in (1.25, 2, 3):
        history = train_ours(data, train, round(longer * epochs), validation=held_out, seed=seed)
        pairs = list(zip(history["seconds"].cumsum(), history["validation_loss"], strict=True))
        reached = (epoch for epoch, (_, loss) in enumerate(pairs) if loss <= target)
        first = next(reached, None)
        if first is not None:
            return pairs[: first + 1]
    return pairs
