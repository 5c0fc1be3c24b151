"""Random numbers that belong to an image: the same whatever else is in its batch, on any device, in any process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi, prod

import numpy as np
import torch
from torch import Tensor

_GAMMA, _MIX_1, _MIX_2 = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

_CALLS_AT_ONCE = 8  # whose streams are begun together: on a GPU each small operation costs as much as a large one


def image_keys(seed: int, epoch: int, positions: Sequence[int] | np.ndarray) -> Tensor:
    """Return a key, int64 (n,), for the image at each position of the data, in one epoch of a training with a seed."""
    epoch_key = _mix(_mix(torch.tensor(seed % 2**63)) + epoch)
    return _mix(epoch_key + torch.as_tensor(positions, dtype=torch.int64))


def step_keys(seed: int, epoch: int, positions: np.ndarray, step: int) -> Tensor:
    """Return the keys of a batch's images and, behind them, one for what all of the step's images share, (n + 1,)."""
    return image_keys(seed, epoch, step_places(positions, step))


def step_places(positions: np.ndarray, step: int) -> np.ndarray:
    """Return the positions of a batch's images and, behind them, what stands for the step itself, (n + 1,)."""
    return np.append(positions, -1 - step)


class ImageNoise:
    """Draws for n images at once, on the device of keys, int64 (n,); every call continues the images' streams.

    A number is the hash of its image's key, of the number of the call, and of its place in the image: SplitMix64
    (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), begun at a hash of the first
    two and read at the third.
    """

    def __init__(self, keys: Tensor) -> None:
        self._keys, self._calls = keys, 0
        self._streams: tuple[Tensor, ...] = ()

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1) in steps of 2^-24, float32 (n, *shape)."""
        count = prod(shape)
        words = self._bits((count + 1) // 2).view(torch.int32)[:, :count]
        return ((words >> 8).bitwise_and_(2**24 - 1) * 2.0**-24).view(-1, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw whole numbers from 0 to high - 1, int64 (n, *shape)."""
        return self._bits(prod(shape)).bitwise_and_(2**63 - 1).remainder_(high).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Draw from N(0, 1), float32 (n, *shape): Box & Muller (Ann. Math. Statist. 29:610, 1958)."""
        count = prod(shape)
        words = self._bits((count + 1) // 2).view(torch.int32)
        # The first word without its sign gives a number in (0, 1], the second one an angle between -pi and pi.
        radius = words[:, ::2].float().abs_().add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
        angle = words[:, 1::2].float().mul_(pi * 2.0**-31)
        pairs = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)
        return pairs[:, :count].reshape(-1, *shape)

    def _bits(self, count: int) -> Tensor:
        """Return 64 random bits for each place of an image, int64 (n, count)."""
        place = self._calls % _CALLS_AT_ONCE
        if not place:
            calls = torch.arange(1, _CALLS_AT_ONCE + 1, device=self._keys.device) + self._calls
            self._streams = _mix(self._keys + calls[:, None]).unbind()
        self._calls += 1
        places = torch.arange(count, device=self._keys.device).mul_(_GAMMA)
        return _mix(self._streams[place][:, None] + places)


@dataclass(frozen=True)
class StepContext:
    """What a member needs beside a batch to compute its losses, so that any number of processes computes the same."""

    noise: ImageNoise  # for each of this process's rows of the batch
    batch_noise: ImageNoise  # (1, ...), for what the whole batch shares
    batch_sum: Callable[[Tensor], Tensor]  # adds up values (n, ...) over the whole batch; gradients pass

    @classmethod
    def of(cls, keys: Tensor, batch_sum: Callable[[Tensor], Tensor] | None = None) -> "StepContext":
        """Return the context for step_keys; without batch_sum, that of a batch which is here as a whole."""
        return cls(ImageNoise(keys[:-1]), ImageNoise(keys[-1:]), batch_sum or (lambda values: values.sum(dim=0)))


def uniform_places(region: Tensor, shares: Tensor) -> Tensor:
    """Return for shares (n, k) from [0, 1) places of regions, bool (n, m): int64 (n, k); 0 where there is none."""
    # The k-th place of a region is where the running count of its places reaches k.
    running = region.cumsum(dim=1)
    kth = (shares * running[:, -1:]).long() + 1
    return torch.searchsorted(running, kth) * (running[:, -1:] > 0)


def _mix(state: Tensor) -> Tensor:
    """Return the hash of each state, int64, in its place: SplitMix64's next step and finaliser, modulo 2^64."""
    state, scratch = state.add_(_GAMMA), torch.empty_like(state)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, None)):
        # torch's >> carries the sign along: what it brings in is masked off.
        torch.bitwise_right_shift(state, shift, out=scratch).bitwise_and_(2 ** (64 - shift) - 1)
        state.bitwise_xor_(scratch)
        if factor is not None:
            state.mul_(factor)
    return state
