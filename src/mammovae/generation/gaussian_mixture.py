"""Gaussian mixtures whose covariances are of low rank plus a diagonal, fitted to the posteriors of images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, pi
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Kind = Literal["full", "diagonal"]
KINDS: tuple[Kind, ...] = ("full", "diagonal")
ONLY = "full 1"
"""The mixture that is fitted where none can be chosen."""
COMPONENTS = (1, 2, 4, 8)
"""Numbers of components tried; 1 with a full covariance is the multivariate normal distribution."""
RANK = 128
"""Most columns of a full covariance's loadings: at this many dimensions or images, or fewer, it is exact."""
_MIN_IMAGES = 100  # a component of fewer images would reveal them; nor may it have fewer images than dimensions
_PRIOR = 10  # so many vectors of the overall variance are added to those of a diagonal component
_STARTS, _SAMPLES = 3, 4
_TOLERANCE = 1e-6  # in nats a dimension
_ITERATIONS, _LAST_ITERATIONS = 100, 2
_MOST_NUMBERS = 2**21  # of the images that starts iterate over; the best one ends with iterations over all
_MOST_WORK = 1e11  # multiply-adds of a mixture's starts: seconds on two cores, whatever the size
_OTHER_WORK = 400  # what an iteration does with a number besides matrix products, as multiply-adds that take as long
_OVERSAMPLING, _POWER_ITERATIONS = 16, 2
_CHUNK, _FEWEST_ROWS = 2**18, 128  # numbers in float64 that a cache holds; of fewer rows matrix products are slow


class Posteriors(NamedTuple):
    """Posteriors N(mean, diag(variance)) of n images, float32 (n, d) each, on the device that computes with them."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of normal distributions, float64.

    weights (K,); means (K, d); loadings (K, d, q) and diagonal (K, d): W and D of each covariance W W' + diag(D), as in
    factor analysis. Without loadings (q = 0) it is diagonal. Nothing here inverts a d x d matrix: Woodbury's identity
    gives (W W' + D)^-1 = D^-1 - A A' with A (d, q).
    """

    weights: Tensor
    means: Tensor
    loadings: Tensor
    diagonal: Tensor

    @cached_property
    def _projections(self) -> tuple[Tensor, Tensor]:
        """A (K, d, q) of each component, and the logarithm of its covariance's determinant (K,)."""
        scaled = self.loadings / self.diagonal[:, :, None]
        capacitance = self.loadings.mT @ scaled
        capacitance.diagonal(dim1=1, dim2=2).add_(1)
        factor = torch.linalg.cholesky(capacitance)
        projections = torch.linalg.solve_triangular(factor, scaled.mT, upper=False).mT
        log_determinants = factor.diagonal(dim1=1, dim2=2).log().sum(dim=1) * 2 + self.diagonal.log().sum(dim=1)
        return projections, log_determinants

    @cached_property
    def _precisions(self) -> Tensor:
        """The diagonals of the covariances' inverses, (K, d)."""
        return 1 / self.diagonal - self._projections[0].square().sum(dim=2)

    def component_logs(self, z: Tensor, variance: Tensor | None = None) -> Tensor:
        """Return the logarithm of weight times density of vectors z (n, d) in each component, (n, K), in nats.

        With variance (n, d), its expectation over vectors around z.
        """
        projections, log_determinants = self._projections
        scaled = self.means / self.diagonal
        squares = z.square() @ (1 / self.diagonal).T - 2 * z @ scaled.T + (scaled * self.means).sum(dim=1)
        factors = (z @ projections.transpose(0, 1).flatten(1)).unflatten(1, projections.shape[::2])
        factors -= (self.means[:, None] @ projections)[:, 0]
        squares -= factors.square_().sum(dim=2)
        if variance is not None:
            squares += variance @ self._precisions.T
        return self.weights.log() - 0.5 * (squares + log_determinants + z.shape[1] * log(2 * pi))

    def log_density(self, z: Tensor) -> Tensor:
        """Return the log-density of vectors z, float64 (n, d), in nats, (n,)."""
        return self.component_logs(z).logsumexp(dim=1)


def choose_mixture(
    posteriors: Posteriors, held_out: Posteriors | None, seed: int
) -> tuple[GaussianMixture, dict[str, float]]:
    """Fit mixtures to posteriors and return the one that makes held-out vectors likeliest.

    Also returned: the mean log-likelihood of a held-out vector in nats by the name of each mixture, "full 1" and so on.
    Full and diagonal covariances are tried with 1, 2, 4 and 8 components, as long as each component has 100 images and
    as many images as dimensions. Without held-out posteriors it is one full covariance.
    """
    (images, dimensions), overall = posteriors.mean.shape, _variance(posteriors.mean)
    tried: list[tuple[Kind, int]] = [("full", 1)]
    if held_out is not None:
        most = max(1, images // max(_MIN_IMAGES, dimensions))
        tried = [(kind, count) for kind in KINDS for count in COMPONENTS if count <= most]
    fits = {f"{kind} {count}": _Fit(posteriors, overall, kind, count, seed).mixture() for kind, count in tried}
    mixtures = {name: mixture for name, mixture in fits.items() if mixture is not None}
    if held_out is None:
        return mixtures[ONLY], {}
    likelihoods = _held_out_likelihoods(mixtures, held_out, seed)
    return mixtures[max(likelihoods, key=likelihoods.__getitem__)], likelihoods


def _held_out_likelihoods(mixtures: dict[str, GaussianMixture], held_out: Posteriors, seed: int) -> dict[str, float]:
    """Return the mean log-density of vectors drawn from held-out posteriors under each mixture."""
    # Both parts of q(z | x) matter: a held-out vector is sampled around its mean.
    rng, sums = np.random.default_rng(seed), dict.fromkeys(mixtures, 0.0)
    for _ in range(_SAMPLES):
        for rows in _chunks(*held_out.mean.shape):
            mean, variance = held_out.mean[rows].double(), held_out.variance[rows].double()
            noise = torch.from_numpy(rng.standard_normal(mean.shape)).to(mean.device)
            z = noise.mul_(variance.sqrt_()).add_(mean)
            for name, mixture in mixtures.items():
                sums[name] += float(mixture.log_density(z).sum())
    return {name: total / (_SAMPLES * len(held_out.mean)) for name, total in sums.items()}


class _Run(NamedTuple):
    """What a start ends with: the mixture, the mean log-likelihood of a vector, and the shares (n, K)."""

    mixture: GaussianMixture
    likelihood: float
    shares: Tensor


@dataclass(frozen=True)
class _Fit:
    """The fit of one mixture by expectation-maximisation: Dempster, Laird & Rubin (J. R. Stat. Soc. B 39, 1977)."""

    posteriors: Posteriors
    overall: Tensor  # the variance of all images' means, (d,)
    kind: Kind
    count: int
    seed: int

    @cached_property
    def _rank(self) -> int:
        return 0 if self.kind == "diagonal" else min(RANK, *self.posteriors.mean.shape)

    @cached_property
    def _iterations(self) -> int:
        """The most iterations of a start."""
        images, dimensions = self.posteriors.mean.shape
        block = self._rank + _OVERSAMPLING if self._rank else 0
        work = images * dimensions * (self.count * self._rank + 2 * (1 + _POWER_ITERATIONS) * block + _OTHER_WORK)
        return min(_ITERATIONS, int(_MOST_WORK / (_STARTS * work)))

    def mixture(self) -> GaussianMixture | None:
        """Return the best of three starts; None where each leaves a component with too few images."""
        mean = self.posteriors.mean
        if self.count == 1:
            return self._maximise(torch.ones(len(mean), 1, dtype=torch.float64, device=mean.device))
        starts = [self._thinned._run(np.random.default_rng([self.seed, self.count, start])) for start in range(_STARTS)]
        runs = [run for run in starts if self._is_safe(run.shares)]
        if not runs:
            return None
        mixture, _, shares = max(runs, key=lambda run: run.likelihood)
        if self._thinned is not self:
            for _ in range(_LAST_ITERATIONS):
                shares = self._expect(mixture)[1]
                mixture = self._maximise(shares)
        return mixture if self._is_safe(shares) else None

    @cached_property
    def _thinned(self) -> "_Fit":
        """The same fit to no more images than starts can iterate over, evenly drawn."""
        images, dimensions = self.posteriors.mean.shape
        few = max(_MOST_NUMBERS // dimensions, self.count)
        if few >= images:
            return self
        drawn = np.sort(np.random.default_rng([self.seed, self.count]).choice(images, few, replace=False))
        rows = torch.from_numpy(drawn).to(self.posteriors.mean.device)
        return replace(self, posteriors=Posteriors(*(part[rows] for part in self.posteriors)))

    def _is_safe(self, shares: Tensor) -> bool:
        """Say whether each component has enough of all images, going by shares of some."""
        images, dimensions = self.posteriors.mean.shape
        return round(float(shares.mean(dim=0).min()) * images) >= max(_MIN_IMAGES, dimensions)

    def _run(self, rng: np.random.Generator) -> "_Run":
        """Iterate from vectors drawn as centres until the likelihood hardly grows."""
        shares, previous = self._nearest(rng), -np.inf
        for _ in range(self._iterations):
            mixture = self._maximise(shares)
            likelihood, shares = self._expect(mixture)
            if likelihood - previous < _TOLERANCE * mixture.means.shape[1]:
                break
            previous = likelihood
        return _Run(mixture, likelihood, shares)

    def _nearest(self, rng: np.random.Generator) -> Tensor:
        """Return shares (n, K) of 0 or 1: each vector in the component of the nearest of K vectors drawn as centres."""
        mean = self.posteriors.mean
        drawn = torch.from_numpy(rng.choice(len(mean), self.count, replace=False)).to(mean.device)
        centres = mean[drawn].double()
        squares, places = centres.square().sum(dim=1), torch.arange(self.count, device=mean.device)
        chunks = [mean[rows].double() @ centres.T for rows in _chunks(*mean.shape)]
        nearest = (squares - 2 * torch.cat(chunks)).argmin(dim=1)
        return (nearest[:, None] == places).double()

    def _expect(self, mixture: GaussianMixture) -> tuple[float, Tensor]:
        """Return the mean log-likelihood of a vector, and each vector's shares in the components, (n, K)."""
        width = max(self.posteriors.mean.shape[1], self.count * self._rank)
        parts = (
            (part[rows].double() for part in self.posteriors) for rows in _chunks(len(self.posteriors.mean), width)
        )
        # The expectation over vectors drawn from the posteriors, not the value at their means alone.
        logs = torch.cat([mixture.component_logs(*part) for part in parts])
        sums = logs.logsumexp(dim=1, keepdim=True)
        return float(sums.mean()), (logs - sums).exp()

    def _maximise(self, shares: Tensor) -> GaussianMixture:
        """Return the mixture for given shares (n, K) of each vector in each component."""
        totals = shares.sum(dim=0) + 1e-3  # an empty component still has a weight
        sums, squares, within = (totals.new_zeros(self.count, self.posteriors.mean.shape[1]) for _ in range(3))
        for rows in _chunks(*self.posteriors.mean.shape):
            mean, variance = (part[rows].double() for part in self.posteriors)
            sums.addmm_(shares[rows].T, mean)
            within.addmm_(shares[rows].T, variance)
            squares.addmm_(shares[rows].T, mean.square_())
        means = sums / totals[:, None]
        spread = (squares - 2 * means * sums + means.square() * shares.sum(dim=0)[:, None]) / totals[:, None]
        diagonal = within / totals[:, None] + 1e-6 * (self.overall + 1e-6)
        if not self._rank:
            weight = (totals / (totals + _PRIOR))[:, None]
            diagonal += weight * spread + (1 - weight) * self.overall
            return GaussianMixture(totals / totals.sum(), means, diagonal.new_zeros(*means.shape, 0), diagonal)
        loadings = torch.stack([self._loadings(*part) for part in zip(shares.T, means, totals, spread, strict=True)])
        # The variance that the loadings leave out, so that the covariance's diagonal is right.
        diagonal += (spread - loadings.square().sum(dim=2)).clamp(min=0)
        return GaussianMixture(totals / totals.sum(), means, loadings, diagonal)

    def _loadings(self, share: Tensor, centre: Tensor, total: Tensor, spread: Tensor) -> Tensor:
        """Return the loadings (d, q) of a component's covariance S, shrunk towards its own diagonal.

        They are the leading eigenvectors of S, found in the span of as many and a few more random vectors that S was
        applied to: Halko, Martinsson & Tropp (SIAM Rev. 53, 2011); in few dimensions that is the whole space.
        """
        dimensions, images = len(centre), torch.nonzero(share > 1e-9).squeeze(1)
        block = min(dimensions, self._rank + _OVERSAMPLING)
        if block == dimensions:
            basis = torch.eye(dimensions, dtype=centre.dtype, device=centre.device)
        else:
            noise = np.random.default_rng([self.seed, self.count]).standard_normal((dimensions, block))
            basis = torch.from_numpy(noise).to(centre.device)
            for _ in range(_POWER_ITERATIONS):
                image = torch.zeros_like(basis)
                for weight, centred in self._centred(images, share, centre):
                    image.addmm_(centred.T, weight * (centred @ basis))
                basis = torch.linalg.qr(image).Q
        inner, fourth = centre.new_zeros(block, block), centre.new_zeros(())
        for weight, centred in self._centred(images, share, centre):
            projected = centred @ basis
            inner.addmm_(projected.T, weight * projected)
            energy = centred.square_()
            fourth += (weight[:, 0] * (energy.sum(dim=1).square() - energy.square().sum(dim=1))).sum()
        values, vectors = torch.linalg.eigh(inner / total)
        rest = max(min(dimensions, len(images)) - block, 1)
        kept = 1 - _shrinkage(values, spread, fourth / total, total, rest)
        return (basis @ vectors[:, -self._rank :]) * (kept * values[-self._rank :].clamp(min=0)).sqrt()

    def _centred(self, images: Tensor, share: Tensor, centre: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield shares (m, 1) and centred vectors (m, d) of images in turn: most have no share in a component."""
        for rows in _chunks(len(images), len(centre)):
            yield share[images[rows], None], self.posteriors.mean[images[rows]] - centre


def _shrinkage(values: Tensor, spread: Tensor, fourth: Tensor, total: Tensor, rest: int) -> Tensor:
    """Return how far a covariance of total vectors is shrunk towards its diagonal, at least d / (d + total), 0 to 1.

    The lower bound protects small training sets: samples of a covariance that n vectors span all lie between those
    very images (measured in docs/results/generation.md). Above it the intensity is that of Schäfer & Strimmer (Stat.
    Appl. Genet. Mol. Biol. 4, 2005, target D): the summed variance of the off-diagonal elements over their summed
    squares.

    Parameters
    ----------
    values : the covariance's largest eigenvalues; its other ones, rest of them, are taken to be equal
    spread : its diagonal, (d,)
    fourth : the mean of x_i^2 x_j^2 over the vectors, summed over all i and j that differ
    """
    left = (spread.sum() - values.sum()).clamp(min=0)
    off_diagonal = (values.square().sum() + left.square() / rest - spread.square().sum()).clamp(min=1e-12)
    noise = (fourth - off_diagonal) / (total - 1).clamp(min=1)
    return torch.maximum(noise / off_diagonal, len(spread) / (len(spread) + total)).clamp(max=1)


def _variance(mean: Tensor) -> Tensor:
    """Return the variance of vectors (n, d) in each dimension, float64 (d,)."""
    sums, squares = (torch.zeros(mean.shape[1], dtype=torch.float64, device=mean.device) for _ in range(2))
    for rows in _chunks(*mean.shape):
        sums += mean[rows].sum(dim=0, dtype=torch.float64)
    for rows in _chunks(*mean.shape):
        squares += (mean[rows] - sums / len(mean)).square_().sum(dim=0)
    return squares / len(mean)


def _chunks(length: int, width: int) -> Iterator[slice]:
    """Return slices of rows of width numbers, which are computed with at a time."""
    rows = max(_FEWEST_ROWS, _CHUNK // width)
    return (slice(start, start + rows) for start in range(0, length, rows))
