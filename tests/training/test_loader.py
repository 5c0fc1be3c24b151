"""Batches are the same from the memory map, from worker processes, and from images held on a device."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.small_members import build

import mammovae as mv
from mammovae.data.dataset import Batch
from mammovae.models.base import Member
from mammovae.models.noise import step_keys
from mammovae.models.run import MEMBERS
from mammovae.training import loader
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loader import BatchDataset, StepRows, shard_epoch

CPU = torch.device("cpu")
Stream = list[tuple[StepRows, Batch, torch.Tensor]]


@pytest.fixture(scope="module")
def data(trapped_data: Path) -> mv.Data:
    return mv.Data.open(trapped_data)


def positions(data: mv.Data, member: Member) -> np.ndarray:
    chosen = data.select("train")
    return chosen[np.isin(data.others[chosen], chosen)][:14] if member.bilateral else chosen[:14]


def batches(dataset: BatchDataset, rows: np.ndarray, epochs: int = 2) -> Stream:
    """Two epochs of three batches, the last of which is smaller."""
    return [
        item
        for epoch in range(epochs)
        for item in dataset.on_device(
            shard_epoch(np.random.default_rng(epoch).permutation(rows), 6, epoch, ProcessGroup())
        )
    ]


def assert_same(one: Stream, other: Stream) -> None:
    assert len(one) == len(other) == 6
    for (rows, batch, keys), (others, same, their_keys) in zip(one, other, strict=True):
        np.testing.assert_array_equal(rows.positions, others.positions)
        assert torch.equal(keys, their_keys)
        assert torch.equal(keys, step_keys(3, rows.epoch, rows.positions, rows.step))
        same_batch(batch, same)


def same_batch(one: Batch, other: Batch) -> None:
    torch.testing.assert_close(one._asdict(), other._asdict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", MEMBERS)
def test_images_held_on_a_device_give_the_batches_of_the_memory_map(
    name: str, data: mv.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = build(name)  # of half the data's size: area means are taken on the way
    rows = positions(data, member)
    expected = batches(BatchDataset(data, member, 3, CPU), rows)
    for place, batch, _ in expected:
        same_batch(batch, data.batch(place.positions, member.size, member.bilateral))
    monkeypatch.setattr(loader, "_has_room", lambda device, size: True)
    held = BatchDataset(data, member, 3, CPU)
    held.hold(rows)
    monkeypatch.setattr(held, "_disk", None)  # nor is it asked
    assert_same(batches(held, rows), expected)


@pytest.mark.parametrize("name", ["bilateral_vae", "lesion_segmenter"])
def test_worker_processes_give_the_batches_of_this_one_in_one_epoch_after_the_other(
    name: str, data: mv.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = build(name)
    rows = positions(data, member)
    expected = batches(BatchDataset(data, member, 3, CPU), rows)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    monkeypatch.setattr(loader, "_worker_count", lambda device: 2)
    assert_same(batches(BatchDataset(data, member, 3, CPU), rows), expected)
    assert torch.equal(torch.get_rng_state(), state), "draws from torch's own generator"


def test_images_are_held_where_they_fit_and_as_large_as_they_are_stored(
    data: mv.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(loader, "_has_room", lambda device, size: asked.append(size) or False)
    member = build("denoiser")
    dataset, rows = BatchDataset(data, member, 0, CPU), positions(data, member)
    dataset.hold(np.concatenate([rows, rows]))
    assert asked == [len(rows) * data.size**2 * 3], "uint16 and uint8 of each image, once"
    assert not list(dataset.on_device([]))
