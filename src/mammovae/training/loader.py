"""What a training is fed: an epoch's batches straight from the memory map, the same for a seed in any process."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from mammovae.data.dataset import Batch, Data, to_tensors
from mammovae.models.base import Member
from mammovae.perturbations.random_lesions import insert_random_lesion
from mammovae.training.distributed import ProcessGroup


class BatchDataset(Dataset):
    """Batches straight from the memory map: an item is a whole batch, its index (positions, epoch)."""

    def __init__(self, data: Data, member: Member, seed: int) -> None:
        self._data, self._seed, self._size = data, seed, member.size
        self._kinds, self._bilateral = member.kinds, member.bilateral

    def __getitem__(self, index: tuple[np.ndarray, int]) -> Batch:
        positions, epoch = index
        if not self._kinds:
            return self._data.batch(positions, self._size, self._bilateral)
        data, lesions = self._data, np.zeros((len(positions), self._data.size, self._data.size), np.uint8)
        images, masks = np.array(data.images[positions]), data.masks[positions]
        for number, position in enumerate(positions):
            key = [self._seed, epoch, int(position)]
            for lesion in range(int(np.random.default_rng(key).integers(3))):  # none, one or two
                planting = insert_random_lesion(
                    images[number],
                    masks[number],
                    data.mm_per_pixel(int(position)),
                    "train",
                    [*key, lesion],
                    self._kinds,
                )
                if planting is not None:
                    images[number] = planting.image
                    lesions[number] |= planting.lesion
        image, mask = to_tensors(images, masks, self._size)
        # A pixel that a lesion touches counts, so that small things do not vanish from the target.
        ratio = data.size // self._size
        lesion = torch.nn.functional.max_pool2d(torch.from_numpy(lesions).float()[:, None], ratio)
        return Batch(image, mask, lesion=lesion * mask)


class EpochSampler(Sampler):
    """A process's rows of the batches of an epoch as (positions, epoch), shuffled by seed and epoch alone."""

    def __init__(self, positions: np.ndarray, batch_size: int, seed: int, team: ProcessGroup) -> None:
        self._positions, self._batch_size, self._seed, self._epoch = positions, batch_size, seed, 0
        self._team = team

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self._positions) / self._batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(self._positions)
        for start in range(0, len(order), self._batch_size):
            # Sorted, so that the memory map is read forwards; the order inside a batch changes no loss.
            batch = np.sort(order[start : start + self._batch_size])
            yield batch[self._team.share(len(batch))[0]], self._epoch
