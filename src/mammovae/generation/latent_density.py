"""A density fitted to the latent vectors of the training images: what to draw from, so that samples look like them."""

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
_FEWEST_A_COMPONENT = 100
"""A component that fewer images make gives them away, and one of more dimensions than images is no component."""
_PRIOR = 10
"""So many vectors of the whole's variance are added to those of a diagonal component."""
_ROUNDS, _STARTS, _DRAWS = 100, 3, 4


@dataclass(frozen=True)
class LatentDensity:
    """A Gaussian mixture over latent vectors whose mean moves linearly with what is known of an image.

    weights (K,); means (K, d); factors (K, d, d): lower triangular, L L' the covariance; slopes (6, d): how the mean
    moves with the condition; conditions (n, 6): those of the training images, to draw from; held_out: mean
    log-likelihood of a held-out latent vector in nats, by the name of each density that was tried.
    """

    weights: Floats
    means: Floats
    factors: Floats
    slopes: Floats
    conditions: NDArray[np.float32]
    held_out: dict[str, float]

    @classmethod
    def fit(cls, member: Generator, data: Data, parts: dict[str, np.ndarray], batch_size: int, seed: int) -> Self:
        """Fit to the aggregate posterior of the training images, the kind chosen by the validation images' likelihood.

        Tried are full covariances (shrunk) and diagonal ones, with 1, 2, 4 and 8 components as far as there are 100
        images, and as many as dimensions, for each; a density fitted after training in place of N(0, I):
        Ghosh et al., "From variational to deterministic autoencoders" (ICLR 2020). Without validation images, one
        full covariance.
        """
        train = _latents(member, data, parts["train"], batch_size)
        slopes = _slopes(train[0], train[2])
        centred, spread = _pool(train, slopes)
        tried: dict[str, float] = {}
        if not len(parts["validation"]):
            chosen = _mixture(centred, spread, 1, True, seed)
        else:
            held = _pool(_latents(member, data, parts["validation"], batch_size), slopes)
            # Both sides of q(z | x) count: a held-out vector is its mean and draws around it.
            noise = np.random.default_rng(seed).standard_normal((_DRAWS, *held[0].shape))
            draws = (held[0] + np.sqrt(held[1]) * noise).reshape(-1, held[0].shape[1])
            found = {}
            for kind in ("full", "diagonal"):
                for count in COMPONENTS:
                    if count == 1 or len(centred) >= max(_FEWEST_A_COMPONENT, centred.shape[1]) * count:
                        name = f"{kind} {count}"
                        found[name] = _mixture(centred, spread, count, kind == "full", seed)
                        tried[name] = float(_log_density(draws, *found[name]).mean())
            chosen = found[max(tried, key=tried.__getitem__)]
        return cls(*chosen, slopes, data.conditions[parts["train"]], tried)

    def draw(self, conditions: NDArray[np.float32], rng: list[np.random.Generator], temperature: float = 1) -> Floats:
        """Draw a latent vector for each condition (n, 6) with a source of random numbers each, float64 (n, d).

        temperature multiplies the distance from the component's mean: below 1, samples are more alike.
        """
        found = np.empty((len(conditions), self.means.shape[1]))
        for row, each in enumerate(rng):
            component = each.choice(len(self.weights), p=self.weights)
            white = each.standard_normal(self.means.shape[1])
            found[row] = self.means[component] + temperature * (self.factors[component] @ white)
        return found + conditions @ self.slopes

    @property
    def name(self) -> str:
        """The kind that was chosen, "full 1" where there was nothing to choose by."""
        return max(self.held_out, key=self.held_out.__getitem__) if self.held_out else "full 1"

    def save(self, path: Path) -> None:
        """Write to path as safetensors in one step."""
        arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _ARRAYS}
        with atomic_write(path) as partial:
            save_file(arrays, partial, {name: repr(value) for name, value in self.held_out.items()})

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read what save wrote; InputError when it is not there or damaged."""
        try:
            with safe_open(path, "np") as file:
                held_out = {name: float(value) for name, value in (file.metadata() or {}).items()}
                return cls(**{name: file.get_tensor(name) for name in _ARRAYS}, held_out=held_out)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path} holds no fitted density ({error}): train the run again") from error


_ARRAYS = ("weights", "means", "factors", "slopes", "conditions")


def _latents(
    member: Generator, data: Data, positions: np.ndarray, batch_size: int
) -> tuple[Floats, Floats, NDArray[np.float32]]:
    """Return means and variances of the posteriors (n, d) and the conditions (n, 6)."""
    device = next(member.parameters()).device
    with torch.inference_mode():
        found = [member.posterior(batch.to(device)) for _, batch in data.batches(positions, member.size, batch_size)]
    mean, variance = (torch.cat(part).double().cpu().numpy() for part in zip(*found, strict=True))
    return mean, variance, data.conditions[positions]


def _slopes(mean: Floats, conditions: NDArray[np.float32]) -> Floats:
    """Return how the latent mean moves with the condition (6, d), by ridge regression: few images move it little."""
    centred = conditions - conditions.mean(axis=0)
    ridge = 0.1 * len(conditions) * np.eye(centred.shape[1])
    return np.linalg.solve(centred.T @ centred + ridge, centred.T @ (mean - mean.mean(axis=0)))


def _pool(latents: tuple[Floats, Floats, NDArray[np.float32]], slopes: Floats) -> tuple[Floats, Floats]:
    mean, variance, conditions = latents
    return mean - conditions @ slopes, variance


def _mixture(mean: Floats, variance: Floats, count: int, full: bool, seed: int) -> tuple[Floats, Floats, Floats]:
    """Fit a mixture to Gaussians N(mean, variance) by expectation-maximisation; weights, means, Cholesky factors.

    Dempster, Laird & Rubin (J. R. Stat. Soc. B 39, 1977); a posterior enters with its mean and its variance.
    """
    best, chosen = -np.inf, None
    for start in range(_STARTS if count > 1 else 1):
        rng = np.random.default_rng([seed, count, start])
        centres = mean[rng.choice(len(mean), count, replace=False)]
        nearest = ((mean[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        shares = np.eye(count)[nearest]
        before = -np.inf
        for _ in range(_ROUNDS):
            fitted = _maximised(mean, variance, shares, full)
            # What is expected of vectors drawn from the posteriors, not of their means alone.
            logs = np.log(fitted[0]) + _component_logs(mean, *fitted[1:]) - _spread(variance, fitted[2])
            whole = logsumexp(logs, axis=1, keepdims=True)
            now, shares = float(whole.mean()), np.exp(logs - whole)
            if now - before < 1e-4:
                break
            before = now
        if now > best or chosen is None:
            best, chosen = now, fitted
    assert chosen is not None
    return chosen


def _maximised(mean: Floats, variance: Floats, shares: Floats, full: bool) -> tuple[Floats, Floats, Floats]:
    """Return weights, means and Cholesky factors for given shares (n, K) of each vector in each component."""
    totals = shares.sum(axis=0) + 1e-3  # a component that nothing is near to still has a weight
    means = shares.T @ mean / totals[:, None]
    whole = mean.var(axis=0)
    factors = []
    for component, total in enumerate(totals):
        share, centred = shares[:, component], mean - means[component]
        own = np.diag(share @ variance / total)
        if full:
            covariance = own + _shrunk(centred, share, total)
        else:
            spread = share @ centred**2 / total
            weight = total / (total + _PRIOR)
            covariance = own + np.diag(weight * spread + (1 - weight) * whole)
        factors.append(np.linalg.cholesky(covariance + 1e-6 * np.diag(whole + 1e-6)))
    return np.asarray(totals / totals.sum()), np.asarray(means), np.stack(factors).astype(np.float64)


def _shrunk(centred: Floats, share: Floats, total: float) -> Floats:
    """Return the covariance of weighted vectors, shrunk towards its own diagonal, at least by d / (d + n).

    The least intensity keeps few images from giving themselves away: samples of a covariance that n vectors span all
    lie between those very images (docs/generation.md has the measurement). Above it stands the intensity of
    Schäfer & Strimmer (Stat. Appl. Genet. Mol. Biol. 4, 2005, target D): the summed variance of the off-diagonal
    elements over their summed squares.
    """
    covariance = (centred * share[:, None]).T @ centred / total
    squares = (centred**2 * share[:, None]).T @ centred**2 / total
    off = ~np.eye(len(covariance), dtype=bool)
    noise = ((squares - covariance**2) / max(total - 1, 1))[off].sum()
    least = len(covariance) / (len(covariance) + total)
    intensity = np.clip(noise / max((covariance[off] ** 2).sum(), 1e-12), least, 1)
    return (1 - intensity) * covariance + intensity * np.diag(np.diag(covariance))


def _spread(variance: Floats, factors: Floats) -> Floats:
    """Return half the trace of each posterior's covariance times each component's inverse, (n, K)."""
    inverses = [np.square(np.linalg.inv(factor)).sum(axis=0) for factor in factors]
    return 0.5 * np.stack([variance @ inverse for inverse in inverses], axis=1)


def _component_logs(z: Floats, means: Floats, factors: Floats) -> Floats:
    """Return the log-density of vectors (n, d) in each component, (n, K), in nats."""
    found = []
    for mean, factor in zip(means, factors, strict=True):
        white = np.linalg.solve(factor, (z - mean).T)
        found.append(-0.5 * ((white**2).sum(axis=0) + len(mean) * np.log(2 * np.pi)) - np.log(np.diag(factor)).sum())
    return np.stack(found, axis=1)


def _log_density(z: Floats, weights: Floats, means: Floats, factors: Floats) -> Floats:
    return np.asarray(logsumexp(np.log(weights) + _component_logs(z, means, factors), axis=1))
