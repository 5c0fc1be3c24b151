"""What a training is given: an epoch's batches straight from the memory map, the same for a seed in any process."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import max_pool2d
from torch.utils.data import DataLoader, Dataset

from mammovae.data.dataset import Batch, Data, to_tensors
from mammovae.models.base import Member
from mammovae.models.noise import step_keys
from mammovae.perturbations.lesions import insert_random_lesion
from mammovae.training.distributed import ProcessGroup


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


class BatchDataset(Dataset):
    """Batches straight from the memory map with their random keys: an item is a whole step's rows."""

    def __init__(self, data: Data, member: Member, seed: int, device: torch.device) -> None:
        self._data, self._seed, self._size, self._device = data, seed, member.size, device
        self._kinds, self._bilateral = member.inserted_kinds, member.bilateral

    def on_device(self, steps: Sequence[StepRows]) -> Iterator[tuple[StepRows, Batch, torch.Tensor]]:
        """Yield each step's rows with its batch and keys, on the device."""
        loader = DataLoader(self, None, sampler=steps, pin_memory=self._device.type == "cuda")
        for rows, (batch, keys) in zip(steps, loader, strict=True):
            yield rows, batch.to(self._device), keys.to(self._device)

    def __getitem__(self, index: StepRows) -> tuple[Batch, torch.Tensor]:
        """Return the batch and its keys."""
        keys = step_keys(self._seed, index.epoch, index.positions, index.step)
        if self._kinds:
            return self._with_lesions(index.positions, index.epoch), keys
        return self._data.batch(index.positions, self._size, self._bilateral), keys

    def _with_lesions(self, positions: np.ndarray, epoch: int) -> Batch:
        """Return a batch with none, one or two lesions inserted into each image."""
        data, lesions = self._data, np.zeros((len(positions), self._data.size, self._data.size), np.uint8)
        images, masks = np.array(data.images[positions]), data.masks[positions]
        for number, position in enumerate(map(int, positions)):
            key, mm = [self._seed, epoch, position], data.mm_per_pixel(position)
            for lesion in range(int(np.random.default_rng(key).integers(3))):
                seed = [*key, lesion]
                insertion = insert_random_lesion(images[number], masks[number], mm, "train", seed, self._kinds)
                if insertion is not None:
                    images[number] = insertion.image
                    lesions[number] |= insertion.lesion
        image, mask = to_tensors(images, masks, self._size)
        # A pixel that a lesion touches counts, so that small things do not vanish from the target.
        lesion = max_pool2d(torch.from_numpy(lesions).float()[:, None], data.size // self._size)
        return Batch(image, mask, lesion=lesion * mask)
