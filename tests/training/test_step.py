"""A training step: what is recorded computes what is not, and arithmetic is as asked for."""

from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tests.models.small_members import small_settings
from torch import Tensor

import mammovae as mv
from mammovae.config import TrainSettings
from mammovae.models.precision import _flags
from mammovae.models.run import MEMBERS, build_members
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loader import BatchDataset, shard_epoch
from mammovae.training.loop import fit
from mammovae.training.step import RecordedStep, TrainingStep

CPU = torch.device("cpu")


def trained(name: str, data: mv.Data, **settings: Any) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Weights and losses after two epochs of two whole batches and a smaller one."""
    chosen = TrainSettings(**small_settings(name), batch_size=6, **settings)
    member = build_members(chosen)[name].train()
    step, batches = TrainingStep(member, chosen, ProcessGroup(), CPU), BatchDataset(data, member, 0, CPU)
    positions = data.select("train")
    rows = positions[np.isin(data.others[positions], positions)][:14] if member.bilateral else positions[:14]
    losses = []
    for epoch in range(2):
        for place, batch, keys in batches.on_device(shard_epoch(rows, 6, epoch, ProcessGroup())):
            losses.append(step(batch, keys, place)["loss"].clone())
    return member.state_dict(), losses


@pytest.mark.parametrize("name", MEMBERS)
def test_a_step_whose_inputs_lie_in_the_same_memory_every_time_is_the_plain_step(
    name: str, trapped_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, places = mv.Data.open(trapped_data), set[tuple[int, ...]]()
    change = RecordedStep.__call__

    def seen(self: RecordedStep, *arguments: Any) -> dict[str, Tensor]:
        losses = change(self, *arguments)
        assert self._inputs is not None
        batch, keys = self._inputs
        places.add(tuple(part.data_ptr() for part in (*batch, keys) if part is not None))
        return losses

    plain = trained(name, data)
    monkeypatch.setattr(RecordedStep, "__call__", seen)
    recorded = trained(name, data, cuda_graphs=True)
    assert len(places) == 1, "whole batches lie in the same memory"
    torch.testing.assert_close(recorded, plain, rtol=0, atol=0)


def test_a_checkpoint_of_another_kind_of_device_goes_on_as_its_own(trapped_data: Path) -> None:
    data, steps = mv.Data.open(trapped_data), list[TrainingStep]()
    chosen = TrainSettings(**small_settings("vae"), batch_size=6)
    for _ in range(2):
        member = build_members(chosen)["vae"].train()
        steps.append(TrainingStep(member, chosen, ProcessGroup(), CPU))
    own, other = steps
    rows = shard_epoch(data.select("train")[:12], 6, 0, ProcessGroup())
    first, second = (
        (batch, keys, place) for place, batch, keys in BatchDataset(data, own.member, 0, CPU).on_device(rows)
    )
    own(*first)
    # As a GPU leaves it: contiguous, the rate on the device, and made to be recorded.
    states = deepcopy({name: part.state_dict() for name, part in own.parts.items()})
    adam = states["optimizer"]
    for moments in adam["state"].values():
        moments |= {
            name: moments[name].clone(memory_format=torch.contiguous_format) for name in ("exp_avg", "exp_avg_sq")
        }
    adam["param_groups"][0] |= {"lr": torch.tensor(chosen.learning_rate), "capturable": True}
    other.load(states)
    for step in steps:
        step(*second)
    torch.testing.assert_close(other.member.state_dict(), own.member.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["32", "tf32"])
def test_products_are_tf32_in_training_steps_alone_and_only_where_asked_for(
    precision: Literal["32", "tf32"], trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = mv.Data.open(trapped_data), set[tuple[bool, bool]]()
    settings = TrainSettings(**small_settings("vae"), epochs=1, precision=precision, limit=20)
    (member,) = build_members(settings).values()
    losses = member.losses

    def noted(*arguments: Any) -> dict[str, Tensor]:
        kinds = {getattr(*flag) in ("tf32", True) for flag in _flags()}
        assert len(kinds) == 1
        seen.add((member.training, kinds.pop()))
        return losses(*arguments)

    monkeypatch.setattr(member, "losses", noted)
    fit(member, data, data.for_training(settings), tmp_path / "vae", settings, ProcessGroup())
    assert seen == {(True, precision == "tf32"), (False, False)}
