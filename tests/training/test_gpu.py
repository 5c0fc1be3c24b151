"""On a machine with a GPU: training is repeatable there, and what it computes is what the CPU computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.small_members import batch, build, small_settings
from torch import Tensor

import mammovae as mv
from mammovae.config import TrainSettings
from mammovae.data.dataset import Batch
from mammovae.models.noise import StepContext, step_keys
from mammovae.models.precision import float32_products
from mammovae.models.run import MEMBERS, build_members, device
from mammovae.training import loader
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loop import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

COMMON: dict[str, Any] = {"epochs": 3, "limit": 40, "batch_size": 6, "learning_rate": 1e-4}
# A GPU rounds sums in another order; what training makes of it grows with its steps.
SCORES, LOSSES, WEIGHTS = 1e-4, 1e-5, 1e-3


@pytest.fixture(params=MEMBERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def fitted(trapped_data: Path, tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """Train a member as mammovae train does, and return its weights, on the CPU."""
    data, made = mv.Data.open(trapped_data), []

    def train(name: str, **values: Any) -> dict[str, Tensor]:
        settings = TrainSettings(**small_settings(name) | COMMON | values)
        member = build_members(settings)[name]
        made.append(tmp_path / f"{len(made)}" / name)
        fit(member, data, data.for_training(settings), made[-1], settings, ProcessGroup())
        return {key: weights.cpu() for key, weights in member.state_dict().items()}

    return train


def to(images: Batch, where: torch.device) -> Batch:
    return Batch(*(None if part is None else part.to(where) for part in images))  # pyrefly: ignore[bad-argument-type]


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor differs by at most a share of its largest value."""
    assert one.keys() == other.keys()
    for key, values in one.items():
        assert torch.isfinite(values).all()
        difference = (values - other[key]).abs().max()
        assert difference <= tolerance * values.abs().max().clamp(min=1e-6), (key, float(difference))


def test_two_trainings_of_one_seed_give_the_same_bits(name: str, fitted: Callable[..., dict[str, Tensor]]) -> None:
    first, second = fitted(name), fitted(name)
    assert not [key for key, weights in first.items() if not torch.equal(weights, second[key])]


@pytest.mark.parametrize("training", [True, False])
def test_losses_are_those_of_the_cpu(name: str, training: bool) -> None:
    member, images, keys = build(name).train(training), batch(), step_keys(0, 0, np.array([4, 9, 11]), 0)
    with torch.no_grad(), float32_products("ieee"):
        expected = member.losses(images, StepContext.of(keys))
        member = build(name).train(training).to(device())
        losses = member.losses(to(images, device()), StepContext.of(keys.to(device())))
    assert_near({key: values.cpu() for key, values in losses.items()}, expected, LOSSES)


def test_scores_and_maps_are_those_of_the_cpu(name: str) -> None:
    member, images = build(name).eval(), batch()
    with torch.inference_mode(), float32_products("ieee"):
        scores, maps = member.score(images)
        member.to(device())
        there, maps_there = member.score(to(images, device()))
    for key, values in scores.items():
        torch.testing.assert_close(there[key].cpu(), values, rtol=SCORES, atol=1e-5)
    assert_near({key: values.cpu() for key, values in maps_there.items()}, maps, SCORES)


def test_images_held_on_the_gpu_and_batches_of_worker_processes_train_to_the_same_bits(
    name: str, fitted: Callable[..., dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = fitted(name)
    monkeypatch.setattr(loader, "_has_room", lambda device, size: False)
    by_workers = fitted(name)
    monkeypatch.setattr(loader, "_worker_count", lambda device: 0)
    here = fitted(name)
    for other in (by_workers, here):
        assert not [key for key, weights in held.items() if not torch.equal(weights, other[key])]


def test_a_recorded_step_trains_to_the_weights_of_the_plain_one(
    name: str, fitted: Callable[..., dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replayed.append(graph) or replay(graph))
    for schedule in ("constant", "cosine"):
        plain = fitted(name, schedule=schedule)
        assert not replayed
        assert_near(fitted(name, schedule=schedule, cuda_graphs=True), plain, WEIGHTS)
        assert len(replayed) >= 6 and len(set(map(id, replayed))) == 1, "recorded once, and then replayed"
        replayed.clear()


@pytest.mark.parametrize("precision", ["tf32", "bf16-mixed", "16-mixed"])
def test_other_precisions_train_to_finite_weights_and_leave_float32_as_it_was(
    precision: str, fitted: Callable[..., dict[str, Tensor]]
) -> None:
    plain = fitted("vae")
    assert all(torch.isfinite(weights).all() for weights in fitted("vae", precision=precision).values())
    again = fitted("vae")
    assert not [key for key, weights in plain.items() if not torch.equal(weights, again[key])]
