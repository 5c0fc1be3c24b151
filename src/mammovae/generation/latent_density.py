"""The distribution fitted to the latent vectors of training images, from which new latent vectors are sampled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.special import logsumexp

from mammovae.config import InputError
from mammovae.data.dataset import Data
from mammovae.models.base import Generator
from mammovae.statistics import Floats
from mammovae.storage import atomic_write

DENSITY = "density.safetensors"
COMPONENTS = (1, 2, 4, 8)
"""Numbers of components tried; 1 with a full covariance is the multivariate normal distribution."""
_MIN_IMAGES = 100  # a component of fewer images would reveal them; nor may it have fewer images than dimensions
_PRIOR = 10  # so many vectors of the overall variance are added to those of a diagonal component
_ITERATIONS, _STARTS, _SAMPLES = 100, 3, 4


@dataclass(frozen=True)
class LatentDensity:
    """A Gaussian mixture over latent vectors whose mean is linear in the condition (side, view, breast density).

    weights (K,); means (K, d); factors (K, d, d): lower triangular, L L' the covariance; slopes (6, d): change of the
    mean with the condition; conditions (n, 6): those of the training images, to sample from; held_out: mean
    log-likelihood of a validation latent vector in nats, by the name of each distribution that was tried.
    """

    weights: Floats
    means: Floats
    factors: Floats
    slopes: Floats
    conditions: NDArray[np.float32]
    held_out: dict[str, float]

    @classmethod
    def fit(cls, member: Generator, data: Data, parts: dict[str, np.ndarray], batch_size: int, seed: int) -> Self:
        """Fit to the aggregate posterior of the training images, and choose by the likelihood of validation images.

        Full (shrunk) and diagonal covariances are tried, with 1, 2, 4 and 8 components while each has 100 images and as
        many images as dimensions; one full covariance without validation images. A distribution fitted after training
        in place of N(0, I): Ghosh et al., "From variational to deterministic autoencoders" (ICLR 2020).
        """
        mean, variance = _latents(member, data, parts["train"], batch_size)
        conditions = data.conditions[parts["train"]]
        slopes = _slopes(mean, conditions)
        centred = mean - conditions @ slopes
        if not len(parts["validation"]):
            return cls(*_mixture(centred, variance, 1, True, seed), slopes, conditions, {})
        held_mean, held_variance = _latents(member, data, parts["validation"], batch_size)
        held_mean = held_mean - data.conditions[parts["validation"]] @ slopes
        # Both parts of q(z | x) matter: a validation vector is sampled around its mean.
        noise = np.random.default_rng(seed).standard_normal((_SAMPLES, *held_mean.shape))
        samples = (held_mean + np.sqrt(held_variance) * noise).reshape(-1, held_mean.shape[1])
        most = len(centred) // max(_MIN_IMAGES, centred.shape[1])
        tried = [(kind, count) for kind in ("full", "diagonal") for count in COMPONENTS if count <= max(1, most)]
        fits = {f"{kind} {count}": _mixture(centred, variance, count, kind == "full", seed) for kind, count in tried}
        held_out = {name: float(_log_density(samples, *fit).mean()) for name, fit in fits.items()}
        return cls(*fits[max(held_out, key=held_out.__getitem__)], slopes, conditions, held_out)

    def sample(self, conditions: NDArray[np.float32], rngs: list[np.random.Generator], temperature: float) -> Floats:
        """Sample a latent vector for each condition (n, 6) with a random generator each, float64 (n, d).

        temperature multiplies the distance from the component's mean: below 1, samples are more alike.
        """
        latents = np.empty((len(conditions), self.means.shape[1]))
        for row, rng in enumerate(rngs):
            component = rng.choice(len(self.weights), p=self.weights)
            noise = rng.standard_normal(self.means.shape[1])
            latents[row] = self.means[component] + temperature * (self.factors[component] @ noise)
        return latents + conditions @ self.slopes

    @property
    def name(self) -> str:
        """The chosen covariance and number of components, "full 1" without validation images."""
        return max(self.held_out, key=self.held_out.__getitem__) if self.held_out else "full 1"

    def save(self, path: Path) -> None:
        """Write to path as safetensors in one step."""
        arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _ARRAYS}
        with atomic_write(path) as partial:
            save_file(arrays, partial, {name: repr(value) for name, value in self.held_out.items()})

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read what save wrote; InputError when it is missing or damaged."""
        try:
            with safe_open(path, "np") as file:
                held_out = {name: float(value) for name, value in (file.metadata() or {}).items()}
                return cls(**{name: file.get_tensor(name) for name in _ARRAYS}, held_out=held_out)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path} holds no fitted distribution ({error}): train the run again") from error


_ARRAYS = ("weights", "means", "factors", "slopes", "conditions")


def _latents(member: Generator, data: Data, positions: np.ndarray, batch_size: int) -> tuple[Floats, Floats]:
    """Return means and variances of the posteriors, (n, d) each."""
    device = next(member.parameters()).device
    with torch.inference_mode():
        batches = data.batches(positions, member.size, batch_size)
        posteriors = [member.posterior(batch.to(device)) for _, batch in batches]
    mean, variance = (torch.cat(part).double().cpu().numpy() for part in zip(*posteriors, strict=True))
    return mean, variance


def _slopes(mean: Floats, conditions: NDArray[np.float32]) -> Floats:
    """Return the change of the latent mean with the condition, (6, d), by ridge regression."""
    centred = conditions - conditions.mean(axis=0)
    ridge = 0.1 * len(conditions) * np.eye(centred.shape[1])
    return np.linalg.solve(centred.T @ centred + ridge, centred.T @ (mean - mean.mean(axis=0)))


def _mixture(mean: Floats, variance: Floats, count: int, full: bool, seed: int) -> tuple[Floats, Floats, Floats]:
    """Return weights, means and Cholesky factors of a mixture fitted to posteriors N(mean, variance), (n, d) each.

    Expectation-maximisation, best of three starts: Dempster, Laird & Rubin (J. R. Stat. Soc. B 39, 1977).
    """
    fits = []
    for start in range(_STARTS if count > 1 else 1):
        rng = np.random.default_rng([seed, count, start])
        centres = mean[rng.choice(len(mean), count, replace=False)]
        nearest = ((mean[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        shares, previous = np.eye(count)[nearest], -np.inf
        for _ in range(_ITERATIONS):
            fit = _maximise(mean, variance, shares, full)
            # The expectation over vectors drawn from the posteriors, not the value at their means alone.
            logs = np.log(fit[0]) + _component_logs(mean, *fit[1:]) - _expected_excess(variance, fit[2])
            log_sums = logsumexp(logs, axis=1, keepdims=True)
            likelihood, shares = float(log_sums.mean()), np.exp(logs - log_sums)
            if likelihood - previous < 1e-4:
                break
            previous = likelihood
        fits.append((likelihood, fit))
    return max(fits, key=lambda entry: entry[0])[1]


def _maximise(mean: Floats, variance: Floats, shares: Floats, full: bool) -> tuple[Floats, Floats, Floats]:
    """Return weights, means and Cholesky factors for given shares (n, K) of each vector in each component."""
    totals = shares.sum(axis=0) + 1e-3  # an empty component still has a weight
    means = shares.T @ mean / totals[:, None]
    overall = mean.var(axis=0)
    factors = []
    for component, total in enumerate(totals):
        share, centred = shares[:, component], mean - means[component]
        within = np.diag(share @ variance / total)
        if full:
            covariance = within + _shrink(centred, share, total)
        else:
            spread = share @ centred**2 / total
            weight = total / (total + _PRIOR)
            covariance = within + np.diag(weight * spread + (1 - weight) * overall)
        factors.append(np.linalg.cholesky(covariance + 1e-6 * np.diag(overall + 1e-6)))
    return np.asarray(totals / totals.sum()), np.asarray(means), np.stack(factors).astype(np.float64)


def _shrink(centred: Floats, share: Floats, total: float) -> Floats:
    """Return the covariance of weighted vectors, shrunk towards its own diagonal, at least by d / (d + n).

    The lower bound protects small training sets: samples of a covariance that n vectors span all lie between those
    very images (measured in docs/generation-results.md). Above it the intensity is that of Schäfer & Strimmer (Stat.
    Appl. Genet. Mol. Biol. 4, 2005, target D): the summed variance of the off-diagonal elements over their summed
    squares.
    """
    covariance = (centred * share[:, None]).T @ centred / total
    squares = (centred**2 * share[:, None]).T @ centred**2 / total
    off_diagonal = ~np.eye(len(covariance), dtype=bool)
    noise = ((squares - covariance**2) / max(total - 1, 1))[off_diagonal].sum()
    lowest = len(covariance) / (len(covariance) + total)
    intensity = np.clip(noise / max((covariance[off_diagonal] ** 2).sum(), 1e-12), lowest, 1)
    return (1 - intensity) * covariance + intensity * np.diag(np.diag(covariance))


def _expected_excess(variance: Floats, factors: Floats) -> Floats:
    """Return half the trace of each posterior's covariance times each component's inverse, (n, K)."""
    inverses = [np.square(np.linalg.inv(factor)).sum(axis=0) for factor in factors]
    return 0.5 * np.stack([variance @ inverse for inverse in inverses], axis=1)


def _component_logs(z: Floats, means: Floats, factors: Floats) -> Floats:
    """Return the log-density of vectors (n, d) in each component, (n, K), in nats."""
    logs = []
    for mean, factor in zip(means, factors, strict=True):
        white = np.linalg.solve(factor, (z - mean).T)
        logs.append(-0.5 * ((white**2).sum(axis=0) + len(mean) * np.log(2 * np.pi)) - np.log(np.diag(factor)).sum())
    return np.stack(logs, axis=1)


def _log_density(z: Floats, weights: Floats, means: Floats, factors: Floats) -> Floats:
    return np.asarray(logsumexp(np.log(weights) + _component_logs(z, means, factors), axis=1))
