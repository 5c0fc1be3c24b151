"""Images as a DATA folder stores them, from the memory map or held on a device, on the way to a network."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from mammovae.data.dataset import Batch, Data, area_means

_AT_ONCE = 2**28  # bytes that are read from the memory map before they go to a device


class StoredBatch(NamedTuple):
    """What a Batch is made of: the bits of uint16 as int16, which every operation knows, and uint8, (n, S, S) each."""

    images: Tensor
    masks: Tensor
    others: Tensor | None = None
    other_masks: Tensor | None = None
    condition: Tensor | None = None  # float32 (n, 6)
    mm_per_pixel: Tensor | None = None  # float32 (n,)

    @classmethod
    def of(cls, images: np.ndarray, masks: np.ndarray) -> Self:
        """Return images and masks, (n, S, S), copied from a memory map, as a batch that shares their memory."""
        return cls(torch.from_numpy(images.view(np.int16)), torch.from_numpy(masks))

    def to(self, device: torch.device) -> "StoredBatch":
        """Return the batch on a device."""
        parts = [part if part is None or device.type != "cuda" else part.pin_memory() for part in self]
        # From pinned memory a GPU fetches while Python goes on, behind what it is still computing.
        parts = [part if part is None else part.to(device, non_blocking=True) for part in parts]
        return StoredBatch(*parts)  # pyrefly: ignore[bad-argument-type]

    def to_batch(self, size: int) -> Batch:
        """Return the batch for a network of size pixels, computed where this one is."""
        image, mask = area_means(_values(self.images), self.masks.float(), size)
        batch = Batch(image, mask, condition=self.condition)
        if self.others is not None and self.other_masks is not None:
            other, other_mask = area_means(_values(self.others), self.other_masks.float(), size)
            batch = batch._replace(other=other, other_mask=other_mask)
        if self.mm_per_pixel is not None:
            batch = batch._replace(mm_per_pixel=self.mm_per_pixel * (self.images.shape[-1] // size))
        return batch


def stored_batch(data: Data, positions: np.ndarray, bilateral: bool) -> StoredBatch:
    """Return the images at positions from the memory map; if bilateral, with their other breasts."""
    batch = StoredBatch.of(data.images[positions], data.masks[positions])
    batch = batch._replace(condition=torch.from_numpy(data.conditions[positions]), mm_per_pixel=_sizes(data, positions))
    if bilateral:
        others = StoredBatch.of(*data.other_breasts(positions))
        batch = batch._replace(others=others.images, other_masks=others.masks)
    return batch


class HeldImages:
    """Images of a DATA folder on a device, as they are stored, from which batches are gathered there."""

    def __init__(self, data: Data, positions: np.ndarray, device: torch.device, bilateral: bool) -> None:
        """Read the images at positions, sorted; if bilateral, with the other breast of each that has one."""
        self._positions, self._device = positions, device
        shape = (len(positions), data.size, data.size)
        self._images = torch.empty(shape, dtype=torch.int16, device=device)
        self._masks = torch.empty(shape, dtype=torch.uint8, device=device)
        for rows in np.array_split(np.arange(len(positions)), -(-self.size_of(data, positions) // _AT_ONCE)):
            part = StoredBatch.of(data.images[positions[rows]], data.masks[positions[rows]])
            self._images[rows[0] : rows[-1] + 1] = part.images.to(device)
            self._masks[rows[0] : rows[-1] + 1] = part.masks.to(device)
        self._conditions = torch.from_numpy(data.conditions[positions]).to(device)
        self._mm_per_pixel = _sizes(data, positions).to(device)
        self._others = torch.from_numpy(self._rows(data.others[positions])).to(device) if bilateral else None

    @staticmethod
    def size_of(data: Data, positions: np.ndarray) -> int:
        """Return the bytes of the images and masks at positions."""
        return len(positions) * data.size**2 * 3

    def batches(self, steps: Sequence[np.ndarray]) -> Iterator[StoredBatch]:
        """Yield the images at each step's positions."""
        # Of all steps at once, for a GPU waits for each thing that it is sent.
        places = torch.from_numpy(self._rows(np.concatenate(steps))).to(self._device)
        for rows in places.split([len(positions) for positions in steps]):
            batch = StoredBatch(self._images[rows], self._masks[rows])
            batch = batch._replace(condition=self._conditions[rows], mm_per_pixel=self._mm_per_pixel[rows])
            if self._others is not None:
                others = self._others[rows]
                known, others = (others >= 0)[:, None, None], others.clamp(min=0)
                batch = batch._replace(others=self._images[others] * known, other_masks=self._masks[others] * known)
            yield batch

    def _rows(self, positions: np.ndarray) -> np.ndarray:
        """Return where positions are held, int64 (n,), -1 for -1."""
        return np.where(positions < 0, -1, np.searchsorted(self._positions, positions))


def _sizes(data: Data, positions: np.ndarray) -> Tensor:
    """Return the size of each image's prepared pixels, float32 (n,), in mm."""
    return torch.from_numpy(data.mm_per_pixel(positions).astype(np.float32))


def _values(bits: Tensor) -> Tensor:
    """Return the stored values, float32, of the bits of uint16 in int16."""
    return (bits.int() & 0xFFFF).float()
