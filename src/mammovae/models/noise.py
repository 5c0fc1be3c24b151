"""Random numbers that belong to an image: the same whatever else is in its batch, on any device, in any process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi, prod

import numpy as np
import torch
from torch import Tensor

_GAMMA, _MIX_1, _MIX_2 = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def image_keys(seed: int, epoch: int, positions: Sequence[int] | np.ndarray) -> Tensor:
    """Return a key, int64 (n,), for the image at each position of the data, in one epoch of a training with a seed."""
    epoch_key = _mix(_mix(torch.tensor(seed % 2**63)) + epoch)
    return _mix(epoch_key + torch.as_tensor(positions, dtype=torch.int64))


def step_keys(seed: int, epoch: int, positions: np.ndarray, step: int) -> Tensor:
    """Return the keys of a batch's images and, behind them, one for what all of the step's images share, (n + 1,)."""
    return image_keys(seed, epoch, np.append(positions, -1 - step))


class ImageNoise:
    """Draws for n images at once, (n, ...) each; every call goes on in the images' streams.

    A number is the hash of its image's key, of the number of the call, and of its place in the image: SplitMix64
    (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), begun at a hash of the first
    two and read at the third. The draws lie where keys, int64 (n,), lie.

        noise = ImageNoise(image_keys(seed, epoch, positions))
        z = mean + deviation * noise.normal(*mean.shape[1:])
    """

    def __init__(self, keys: Tensor) -> None:
        self._keys, self._calls = keys, 0

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1) in steps of 2^-24, float32 (n, *shape)."""
        return (self._bits(*shape) >> 40 & 0xFFFFFF) * 2.0**-24

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw whole numbers from 0 to high - 1, int64 (n, *shape)."""
        return (self._bits(*shape) & 2**63 - 1) % high

    def normal(self, *shape: int) -> Tensor:
        """Draw from N(0, 1), float32 (n, *shape), two from each 64 bits.

        Box & Muller, "A note on the generation of random normal deviates" (Ann. Math. Statist. 29:610, 1958).
        """
        count = prod(shape)
        bits = self._bits((count + 1) // 2)
        radius = ((bits >> 32 & 0xFFFFFFFF) + 1).float().mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = (bits & 0xFFFFFFFF).float().mul_(2 * pi * 2.0**-32)
        pairs = torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], dim=1)
        return pairs[:, :count].reshape(len(bits), *shape)

    def _bits(self, *shape: int) -> Tensor:
        """Return 64 random bits for each place, int64 (n, *shape)."""
        self._calls += 1
        places = torch.arange(prod(shape), device=self._keys.device).mul_(_GAMMA)
        return _mix(_mix(self._keys + self._calls)[:, None] + places).view(len(self._keys), *shape)


@dataclass(frozen=True)
class StepContext:
    """What a member needs beside a batch to compute its losses, so that any number of processes computes the same.

    Each process may hold some rows of a batch: noise draws for each of them; batch_noise, (1, ...), for what the whole
    batch shares; batch_sum adds up values (n, ...) over the images of the whole batch, and lets gradients pass.
    """

    noise: ImageNoise
    batch_noise: ImageNoise
    batch_sum: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, keys: Tensor, batch_sum: Callable[[Tensor], Tensor] | None = None) -> "StepContext":
        """Return the context for step_keys; without batch_sum, that of a batch which is here as a whole."""
        return cls(ImageNoise(keys[:-1]), ImageNoise(keys[-1:]), batch_sum or _sum_images)


def _sum_images(values: Tensor) -> Tensor:
    return values.sum(dim=0)


def _mix(state: Tensor) -> Tensor:
    """Return the hash of each state, int64: the next step and the finaliser of SplitMix64, all modulo 2^64."""
    # torch's >> carries the sign along: what it brings in is masked off.
    state = state + _GAMMA
    state = state.bitwise_xor_(state >> 30 & 2**34 - 1).mul_(_MIX_1)
    state = state.bitwise_xor_(state >> 27 & 2**37 - 1).mul_(_MIX_2)
    return state.bitwise_xor_(state >> 31 & 2**33 - 1)
