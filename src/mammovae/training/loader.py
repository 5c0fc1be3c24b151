"""What a training is given: an epoch's batches with their random keys, on its device, the same for a seed anywhere."""

import multiprocessing
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mammovae.data.dataset import Batch, Data
from mammovae.models.base import Member
from mammovae.models.noise import image_keys, step_places
from mammovae.models.stored_batch import HeldImages, StoredBatch, stored_batch
from mammovae.parallel.pool import count_cores
from mammovae.training.distributed import ProcessGroup, without_main_module

_SHARE_HELD = 0.6  # of a GPU's free memory: the rest is for the network
_MOST_WORKERS = 8


class StepRows(NamedTuple):
    """A process's rows of the batch of one step: their positions in the data, and which epoch and step it is."""

    positions: np.ndarray
    epoch: int
    step: int
    own: int  # how many of the rows count: see ProcessGroup.rows_of
    count: int  # images of the whole batch


def shard_epoch(order: np.ndarray, batch_size: int, epoch: int, group: ProcessGroup) -> list[StepRows]:
    """Cut positions into batches, one a step, and return this process's rows of each."""
    steps = []
    for step, start in enumerate(range(0, len(order), batch_size)):
        # Sorted, so that the memory map is read forwards; the order inside a batch changes no loss.
        batch = np.sort(order[start : start + batch_size])
        rows, own = group.rows_of(len(batch))
        steps.append(StepRows(batch[rows], epoch, step, own, len(batch)))
    return steps


class BatchDataset:
    """Batches with their random keys on a device, from images held there or from the memory map.

    From the memory map, batches for a GPU are made by worker processes, and cross over from pinned memory as they are
    stored, while the GPU computes; what is gathered for a CPU would be taken from the network's own time, and is done
    in between.
    """

    def __init__(self, data: Data, member: Member, seed: int, device: torch.device) -> None:
        self._data, self._seed, self._size, self._device = data, seed, member.size, device
        self._disk, self._bilateral = _ImagesOnDisk(data, member), member.bilateral
        self._held: HeldImages | None = None
        self._steps: list[StepRows] = []  # what the workers are asked for next

    def hold(self, positions: np.ndarray) -> None:
        """Put the images at positions, all that will be asked for, on the device, if it is a GPU with room for them."""
        if self._bilateral:
            positions = np.concatenate([positions, self._data.others[positions]])
        positions = np.unique(positions[positions >= 0])
        if _has_room(self._device, HeldImages.size_of(self._data, positions)):
            self._held = HeldImages(self._data, positions, self._device, self._bilateral)

    def on_device(self, steps: Sequence[StepRows]) -> Iterator[tuple[StepRows, Batch, Tensor]]:
        """Yield the rows of each step of one epoch with their batch and their keys, as step_keys gives them."""
        if not steps:
            return
        # Of all steps at once, for a GPU waits for each thing that it is sent.
        places = np.concatenate([step_places(rows.positions, rows.step) for rows in steps])
        keys = image_keys(self._seed, steps[0].epoch, places).to(self._device)
        ends = np.cumsum([len(rows.positions) + 1 for rows in steps]).tolist()
        for rows, batch, end in zip(steps, self._stored(steps), ends, strict=True):
            yield rows, batch.to_batch(self._size), keys[end - len(rows.positions) - 1 : end]

    def _stored(self, steps: Sequence[StepRows]) -> Iterator[StoredBatch]:
        """Yield each step's images as they are stored, on the device."""
        if self._held is not None:
            yield from self._held.batches([rows.positions for rows in steps])
        elif _worker_count(self._device):
            self._steps[:] = steps
            with without_main_module():  # starts the workers, the first time
                batches = iter(self._loader)
            for batch in batches:
                yield batch.to(self._device)
        else:
            for rows in steps:
                yield self._disk[rows].to(self._device)

    @cached_property
    def _loader(self) -> DataLoader:
        # A server that has imported all and never touched a GPU forks the workers: this process is not safe to fork.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return DataLoader(
            self._disk,
            batch_size=None,
            sampler=self._steps,
            num_workers=_worker_count(self._device),
            pin_memory=self._device.type == "cuda",
            persistent_workers=True,
            multiprocessing_context=context,
            generator=torch.Generator(),  # the caller's random numbers go on undisturbed
        )


class _ImagesOnDisk(Dataset):
    """Images straight from the memory map."""

    def __init__(self, data: Data, member: Member) -> None:
        self._data, self._bilateral = data, member.bilateral

    def __getitem__(self, index: StepRows) -> StoredBatch:
        """Return the images of a step."""
        return stored_batch(self._data, index.positions, self._bilateral)


def _has_room(device: torch.device, size: int) -> bool:
    """Say whether a device is a GPU with room for so many bytes beside a network."""
    if device.type != "cuda":
        return False
    torch.cuda.empty_cache()  # what an earlier member's images took is free, and the device does not know it
    return size <= _SHARE_HELD * torch.cuda.mem_get_info(device)[0]


def _worker_count(device: torch.device) -> int:
    """Return how many processes make batches for a GPU: of its share of the cores, all but one."""
    if device.type != "cuda":
        return 0
    return min(_MOST_WORKERS, max(1, count_cores() // torch.cuda.device_count() - 1))
