"""A member's weights depend on its images, its settings and the seed, and on nothing that happens beside or before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.small_members import small_settings
from torch import Tensor

import mammovae as mv
from mammovae.config import TrainSettings
from mammovae.data.dataset import Batch
from mammovae.models.base import Member
from mammovae.models.noise import StepContext
from mammovae.models.run import MEMBERS, build_members
from mammovae.training import loop
from mammovae.training.distributed import ProcessGroup

# Two steps an epoch, the second of a smaller batch.
COMMON: dict[str, Any] = {"epochs": 3, "limit": 21, "batch_size": 11, "checkpoint_seconds": 0.0}
Weights = dict[str, dict[str, Tensor]]


def settings(*names: str) -> TrainSettings:
    return TrainSettings(**small_settings(*names), **COMMON)


def fit(members: dict[str, Member], data: Path, folder: Path, chosen: TrainSettings) -> Weights:
    opened = mv.Data.open(data)
    parts = opened.for_training(chosen)
    for name, member in members.items():
        loop.fit(member, opened, parts, folder / name, chosen, ProcessGroup())
    return {name: member.state_dict() for name, member in members.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [key for key, values in one.items() if not torch.equal(values, other[key])]


@pytest.fixture(scope="module")
def beside(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """All members, trained one after the other in one run."""
    chosen = settings(*MEMBERS)
    return fit(build_members(chosen), trapped_data, tmp_path_factory.mktemp("beside"), chosen)


@pytest.mark.parametrize("name", MEMBERS)
def test_trained_alone_after_it_was_scored_a_member_is_what_it_becomes_beside_others(
    name: str, beside: Weights, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(name)
    members, data = build_members(chosen), mv.Data.open(trapped_data)
    modes: list[bool] = []
    for member in members.values():
        member.eval()
        with torch.inference_mode():
            member.score(data.batch(data.select("train")[:1], member.size, member.bilateral))
    losses = members[name].losses

    def noted(batch: Batch, context: StepContext) -> dict[str, Tensor]:
        modes.append(members[name].training)
        return losses(batch, context)

    monkeypatch.setattr(members[name], "losses", noted)
    torch.manual_seed(8)
    assert_same(fit(members, trapped_data, tmp_path, chosen)[name], beside[name])
    assert modes.index(False) >= 1 and modes[0], "an epoch is some steps in training mode, then validation"


@pytest.mark.parametrize("name", MEMBERS)
def test_interrupted_and_resumed_a_member_is_what_it_becomes_undisturbed(
    name: str, beside: Weights, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(name)
    save = loop._Training._save

    def stop(training: loop._Training) -> None:
        save(training)
        if training.member is interrupted[name]:
            raise KeyboardInterrupt

    interrupted = build_members(chosen)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Training, "_save", stop)
        fit(interrupted, trapped_data, tmp_path, chosen)
    assert (tmp_path / name / loop.CHECKPOINT).exists()
    torch.manual_seed(8)
    resumed = {key: member.eval() for key, member in build_members(chosen).items()}
    assert_same(fit(resumed, trapped_data, tmp_path, chosen)[name], beside[name])
