"""The distribution fitted to the latent vectors of training images, from which new latent vectors are sampled."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from mammovae.config import InputError
from mammovae.data.dataset import Data
from mammovae.generation.gaussian_mixture import ONLY, Posteriors, choose_mixture
from mammovae.models.base import Generator
from mammovae.statistics import Floats, Integers
from mammovae.storage import atomic_write

DENSITY = "density.safetensors"
_MOST_IMAGES, _MOST_PIXELS, _MOST_NUMBERS = 20_000, 2**26, 2**27
"""Of the training images that are encoded, drawn at random: 4,096 of 128 px, and latent numbers of 1 GB in all."""


@dataclass(frozen=True)
class LatentDensity:
    """A Gaussian mixture over latent vectors whose mean is linear in the condition (side, view, breast density).

    weights (K,); means (K, d); loadings (K, d, q) and diagonal (K, d): W and D of a component's covariance
    W W' + diag(D); slopes (6, d): change of the mean with the condition; conditions (m, 6): each that a training image
    has, and counts (m,): how many have it; held_out: mean log-likelihood of a validation latent vector in nats, by the
    name of each distribution that was tried.
    """

    weights: Floats
    means: Floats
    loadings: Floats
    diagonal: Floats
    slopes: Floats
    conditions: NDArray[np.float32]
    counts: Integers
    held_out: dict[str, float]

    @classmethod
    def fit(cls, member: Generator, data: Data, parts: dict[str, np.ndarray], batch_size: int, seed: int) -> Self:
        """Fit to the aggregate posterior of the training images, and choose by the likelihood of validation images.

        Where there are more images than can be encoded in some seconds, that many are drawn at random. A distribution
        fitted after training in place of N(0, I): Ghosh et al., "From variational to deterministic autoencoders" (ICLR
        2020).
        """
        most = min(_MOST_IMAGES, max(1, _MOST_PIXELS // member.size**2), max(1, _MOST_NUMBERS // member.dimensions))
        drawn = _thin(parts["train"], most, seed)
        posteriors = _posteriors(member, data, drawn, batch_size)
        slopes = _slopes(posteriors.mean, data.conditions[drawn])
        _subtract(posteriors.mean, data.conditions[drawn], slopes)
        held_out = None
        if len(parts["validation"]):
            positions = _thin(parts["validation"], max(1, most // 2), seed)
            held_out = _posteriors(member, data, positions, batch_size)
            _subtract(held_out.mean, data.conditions[positions], slopes)
        mixture, likelihoods = choose_mixture(posteriors, held_out, seed)
        fitted = {name: getattr(mixture, name).cpu().numpy() for name in _OF_MIXTURE}
        known, counts = np.unique(data.conditions[parts["train"]], axis=0, return_counts=True)
        return cls(**fitted, slopes=slopes, conditions=known, counts=counts, held_out=likelihoods)

    def sample_conditions(self, rngs: list[np.random.Generator]) -> NDArray[np.float32]:
        """Sample the condition of a training image with each random generator, (n, 6)."""
        ends = np.cumsum(self.counts)
        places = np.array([rng.integers(ends[-1]) for rng in rngs])
        return self.conditions[np.searchsorted(ends, places, side="right")]

    def sample(self, conditions: NDArray[np.float32], rngs: list[np.random.Generator], temperature: float) -> Floats:
        """Sample a latent vector for each condition (n, 6) with a random generator each, float64 (n, d).

        temperature multiplies the distance from the component's mean: below 1, samples are more alike.
        """
        dimensions, rank = self.loadings.shape[1:]
        components = np.array([rng.choice(len(self.weights), p=self.weights) for rng in rngs])
        noise = np.stack([rng.standard_normal(rank + dimensions) for rng in rngs])
        latents = np.sqrt(self.diagonal[components]) * noise[:, rank:]
        for component in np.unique(components):
            rows = components == component
            # Matrix times vector for each row: a product of matrices would round by how many rows it has.
            latents[rows] += (self.loadings[component] @ noise[rows, :rank, None])[:, :, 0]
        return self.means[components] + temperature * latents + conditions @ self.slopes

    @property
    def name(self) -> str:
        """The chosen kind of covariance and number of components."""
        return max(self.held_out, key=self.held_out.__getitem__) if self.held_out else ONLY

    def save(self, path: Path) -> None:
        """Write to path as safetensors in one step."""
        with atomic_write(path) as partial:
            partial.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return what save writes: the same distribution gives the same bytes."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        content = save(arrays, {name: repr(value) for name, value in self.held_out.items()})
        # safetensors writes the notes in an order that differs from one call to the next.
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + content[end:]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read what save wrote; InputError when it is missing or damaged."""
        try:
            with safe_open(path, "np") as file:
                held_out = {name: float(value) for name, value in (file.metadata() or {}).items()}
                return cls(**{name: file.get_tensor(name) for name in _ARRAYS}, held_out=held_out)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path} holds no fitted distribution ({error}): train the run again") from error


_OF_MIXTURE = ("weights", "means", "loadings", "diagonal")
_ARRAYS = (*_OF_MIXTURE, "slopes", "conditions", "counts")


def _thin(positions: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most so many positions, in order, each as likely as the other."""
    if len(positions) <= most:
        return positions
    return np.sort(np.random.default_rng(seed).choice(positions, most, replace=False))


def _posteriors(member: Generator, data: Data, positions: np.ndarray, batch_size: int) -> Posteriors:
    """Return the posteriors of the images at positions, on the member's device."""
    device = next(member.parameters()).device
    # Convolutions are twice as fast with the channels last, and stay so once the weights are.
    member.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
    posteriors = Posteriors(*(torch.empty(len(positions), member.dimensions, device=device) for _ in range(2)))
    with torch.inference_mode():
        for start, (_, batch) in enumerate(data.batches(positions, member.size, batch_size)):
            rows = slice(start * batch_size, (start + 1) * batch_size)
            for array, values in zip(posteriors, member.posterior(batch.to(device)), strict=True):
                array[rows] = values
    return posteriors


def _slopes(mean: Tensor, conditions: NDArray[np.float32]) -> Floats:
    """Return the change of the latent mean with the condition, float64 (6, d), by ridge regression."""
    centred = (conditions - conditions.mean(axis=0)).astype(np.float64)
    products = np.zeros((centred.shape[1], mean.shape[1]))
    for start in range(0, len(mean), 1024):
        rows = slice(start, start + 1024)
        products += centred[rows].T @ mean[rows].double().cpu().numpy()
    ridge = 0.1 * len(conditions) * np.eye(centred.shape[1])
    return np.linalg.solve(centred.T @ centred + ridge, products)


def _subtract(mean: Tensor, conditions: NDArray[np.float32], slopes: Floats) -> None:
    """Take from latent means (n, d), in place, what their conditions (n, 6) explain."""
    mean.addmm_(torch.from_numpy(conditions).to(mean), torch.from_numpy(slopes).to(mean), alpha=-1)
