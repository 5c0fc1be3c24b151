"""What an epoch adds up to: sums over its images, and the row of history.csv that is made of them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mammovae.models.base import Member
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loader import StepRows

ACTIVE_NATS = 0.01
"""A latent dimension whose mean divergence is below this carries nothing."""
LISTED_DIMENSIONS = 256
"""A larger latent is counted in history.csv, not listed."""


class EpochSums:
    """Sums over an epoch's images of what a member's losses returned, in each process of the group over its own.

    They are float64 and stay on their device, so that a GPU is not waited for.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._group, self._shapes = group, dict[str, list[int]]()
        self._sums = torch.zeros(0, dtype=torch.float64)
        self.steps, self.images = 0, 0  # of all processes

    def add(self, losses: Mapping[str, Tensor], rows: StepRows) -> None:
        """Add the losses of this process's rows of a batch."""
        columns = torch.cat([values.reshape(len(values), -1) for values in losses.values()], dim=1)
        sums = columns[: rows.own].double().sum(dim=0)
        if not self.steps:
            self._shapes = {name: list(values.shape[1:]) for name, values in losses.items()}
            self._sums = torch.zeros_like(sums)
        self._sums += sums
        self.steps, self.images = self.steps + 1, self.images + rows.count

    def means(self) -> dict[str, Tensor]:
        """Return the means over all images, float64 on the CPU; all processes must call this."""
        return self._named(self._group.all_reduce(self._sums).cpu() / self.images)

    def loss(self) -> Tensor:
        """Return this process's sum of what is minimised, on its device; not finite once it has not been so."""
        return self._named(self._sums)["loss"]

    def _named(self, values: Tensor) -> dict[str, Tensor]:
        parts = values.split([torch.Size(shape).numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def state(self) -> dict[str, Any]:
        """Return the sums of every process, for a checkpoint; all processes must call this."""
        sums = self._sums.new_zeros(self._group.size, len(self._sums))
        sums[self._group.rank] = self._sums
        counts = {"steps": self.steps, "images": self.images, "shapes": self._shapes}
        return counts | {"sums": self._group.all_reduce(sums)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: to the same bits with as many processes as wrote it."""
        self.steps, self.images, self._shapes = state["steps"], state["images"], state["shapes"]
        self._sums = state["sums"][self._group.rank :: self._group.size].sum(dim=0)


def history_row(member: Member, sums: EpochSums) -> dict[str, float]:
    """Return what history.csv says of an epoch, each dimension of a divergence by its own name."""
    row: dict[str, float] = {}
    for name, value in member.epoch_losses(sums.means()).items():
        if name == "kl_dimensions":
            row["active_units"] = float((value > ACTIVE_NATS).sum())
            if len(value) <= LISTED_DIMENSIONS:
                row |= {f"kl_{number}": float(nats) for number, nats in enumerate(value)}
        else:
            row[name] = float(value)
    return row
