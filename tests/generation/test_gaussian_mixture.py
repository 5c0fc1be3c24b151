"""Gaussian mixtures fitted to posteriors, against dense covariances."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from mammovae.generation import gaussian_mixture
from mammovae.generation.gaussian_mixture import RANK, GaussianMixture, Posteriors, choose_mixture

Array = np.ndarray[Any, np.dtype[Any]]


def posteriors(mean: Array, variance: float = 0.1) -> Posteriors:
    return Posteriors(torch.from_numpy(mean).float(), torch.full(mean.shape, variance))


def covariances(mixture: GaussianMixture) -> Array:
    return (mixture.loadings @ mixture.loadings.mT + torch.diag_embed(mixture.diagonal)).numpy()


def correlated(images: int, dimensions: int, seed: int = 0, strength: float = 1) -> Array:
    rng = np.random.default_rng(seed)
    factors = strength * np.random.default_rng(99).standard_normal((dimensions, 6)) * 0.7 ** np.arange(6)
    return rng.standard_normal((images, 6)) @ factors.T + 0.5 * rng.standard_normal((images, dimensions)) + 1


def two_clusters(first: int, second: int, dimensions: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(-4, 0.5, (first, dimensions)), rng.normal(4, 0.5, (second, dimensions))])


def dense_covariance(mean: Array, variance: float) -> Array:
    """The covariance of vectors shrunk towards its diagonal, element by element, and the posteriors' own."""
    total = len(mean) + 1e-3
    centred = mean - mean.sum(axis=0) / total
    products = centred[:, :, None] * centred[:, None, :]
    covariance, squares = products.sum(axis=0) / total, (products**2).sum(axis=0) / total
    off = ~np.eye(len(covariance), dtype=bool)
    noise = ((squares - covariance**2) / (total - 1))[off].sum()
    lowest = len(covariance) / (len(covariance) + total)
    kept = 1 - np.clip(noise / (covariance[off] ** 2).sum(), lowest, 1)
    shrunk = kept * covariance + (1 - kept) * np.diag(np.diag(covariance))
    own = variance * len(mean) / total + 1e-6 * (mean.var(axis=0) + 1e-6)
    return shrunk + np.diag(own)


@pytest.mark.parametrize("strength", [1, 0.1])
@pytest.mark.parametrize(("images", "dimensions"), [(76, 64), (400, 16), (300, RANK), (60, 200)])
def test_with_few_dimensions_or_few_images_a_full_covariance_is_the_dense_one(
    images: int, dimensions: int, strength: float
) -> None:
    z = correlated(images, dimensions, strength=strength).astype(np.float32)
    mixture, _ = choose_mixture(posteriors(z), None, 0)
    np.testing.assert_allclose(covariances(mixture)[0], dense_covariance(z.astype(float), 0.1), rtol=1e-5, atol=1e-6)


def test_a_full_covariance_gives_back_the_correlation_of_many_vectors() -> None:
    covariance = np.array([[2.0, 1.2], [1.2, 1.0]])
    z = np.random.default_rng(0).multivariate_normal([3, -1], covariance, 4000)
    mixture, _ = choose_mixture(posteriors(z, 0), None, 0)
    np.testing.assert_allclose(covariances(mixture)[0], covariance, atol=0.1)
    np.testing.assert_allclose(mixture.means[0], [3, -1], atol=0.1)


def test_in_many_dimensions_the_strongest_ties_are_kept_and_each_variance_is_right() -> None:
    z = correlated(1500, 300)
    mixture, _ = choose_mixture(posteriors(z, 0.2), None, 0)
    assert mixture.loadings.shape == (1, 300, RANK)
    covariance, expected = covariances(mixture)[0], dense_covariance(z, 0.2)
    np.testing.assert_allclose(np.diag(covariance), np.diag(expected), rtol=1e-5)
    assert np.linalg.norm(covariance - expected) < 0.03 * np.linalg.norm(expected)


def test_few_vectors_of_independent_dimensions_are_shrunk_to_a_diagonal_and_strong_ties_stay() -> None:
    rng = np.random.default_rng(2)
    loose = rng.normal(size=(15, 30))
    shrunk = covariances(choose_mixture(posteriors(loose, 0), None, 0)[0])[0]
    off = ~np.eye(30, dtype=bool)
    assert np.abs(shrunk[off]).mean() < 0.3 * np.abs(np.cov(loose.T, bias=True)[off]).mean()
    tied = np.repeat(rng.normal(size=(200, 1)), 3, axis=1)
    assert covariances(choose_mixture(posteriors(tied, 0), None, 0)[0])[0, 0, 1] > 0.9 * tied[:, 0].var()


def any_mixture(dimensions: int, rank: int) -> GaussianMixture:
    rng = np.random.default_rng(5)
    shapes = ((3, dimensions), (3, dimensions, rank))
    means, loadings = (torch.from_numpy(rng.standard_normal(shape)) for shape in shapes)
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2]).double(), means, loadings, means.square() + 0.3)


@pytest.mark.parametrize("rank", [0, 2, 7])
def test_the_log_density_is_that_of_normal_distributions_with_dense_covariances(rank: int) -> None:
    mixture, z = any_mixture(7, rank), np.random.default_rng(1).normal(size=(50, 7))
    components = zip(mixture.weights.numpy(), mixture.means.numpy(), covariances(mixture), strict=True)
    logs = [np.log(weight) + multivariate_normal(mean, one).logpdf(z) for weight, mean, one in components]
    np.testing.assert_allclose(mixture.log_density(torch.from_numpy(z)), logsumexp(logs, axis=0), rtol=1e-9)


def test_the_expected_log_density_of_a_posterior_is_lower_by_half_the_trace() -> None:
    mixture, rng = any_mixture(7, 3), np.random.default_rng(1)
    z, variance = torch.from_numpy(rng.normal(size=(20, 7))), torch.from_numpy(rng.random((20, 7)))
    lower = mixture.component_logs(z) - mixture.component_logs(z, variance)
    precisions = np.diagonal(np.linalg.inv(covariances(mixture)), axis1=1, axis2=2)
    np.testing.assert_allclose(lower, 0.5 * variance.numpy() @ precisions.T, rtol=1e-9)


@pytest.mark.parametrize("most_numbers", [gaussian_mixture._MOST_NUMBERS, 900])
def test_two_clusters_are_fitted_by_two_components(monkeypatch: pytest.MonkeyPatch, most_numbers: int) -> None:
    monkeypatch.setattr(gaussian_mixture, "_MOST_NUMBERS", most_numbers)  # 900: by starts with a part of the images
    held_out = posteriors(two_clusters(40, 20, 3, seed=1))
    mixture, likelihoods = choose_mixture(posteriors(two_clusters(400, 200, 3)), held_out, 0)
    assert len(mixture.weights) >= 2 and likelihoods["full 2"] > likelihoods["full 1"] + 1
    two = gaussian_mixture._Fit(posteriors(two_clusters(400, 200, 3)), torch.ones(3), "diagonal", 2, 0).mixture()
    assert two is not None
    assert sorted(two.weights.tolist()) == pytest.approx([1 / 3, 2 / 3], abs=1e-4)
    np.testing.assert_allclose(two.means[two.weights.argmin()], [4, 4, 4], atol=0.1)
    # To the 200 vectors' own variance come ten of the overall one, which is 1 here, and the posteriors'.
    spread = np.var(two_clusters(400, 200, 3)[400:], axis=0)
    np.testing.assert_allclose(two.diagonal[two.weights.argmin()], (200 * spread + 10) / 210 + 0.1, rtol=1e-3)


@pytest.mark.parametrize(("few", "is_tried"), [(99, False), (101, True)])
def test_a_component_with_fewer_than_100_images_is_refused(few: int, is_tried: bool) -> None:
    held_out = posteriors(two_clusters(40, 20, 2, seed=1))
    _, likelihoods = choose_mixture(posteriors(two_clusters(299, few, 2)), held_out, 0)
    assert ("full 2" in likelihoods) == ("diagonal 2" in likelihoods) == is_tried


@pytest.mark.parametrize("seed", [0, 3])
def test_a_few_images_far_from_all_others_do_not_get_a_component_of_their_own(seed: int) -> None:
    # The likeliest start gives them one; another start does not.
    far = np.random.default_rng(0).normal([40, -40], 0.1, (60, 2))
    z = np.concatenate([two_clusters(250, 250, 2), far])
    _, likelihoods = choose_mixture(posteriors(z), posteriors(z[::10]), seed)
    assert "full 2" in likelihoods


def test_too_few_images_are_refused_also_where_starts_with_a_part_of_the_images_did_not_show_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gaussian_mixture, "_MOST_NUMBERS", 60)  # 30 images of 2 dimensions
    z = two_clusters(299, 80, 2)
    _, likelihoods = choose_mixture(posteriors(z), posteriors(z[::10]), 6)
    assert "full 2" not in likelihoods


def test_a_mixture_needs_as_many_images_a_component_as_dimensions() -> None:
    z = two_clusters(300, 300, 310)
    _, likelihoods = choose_mixture(posteriors(z), posteriors(z[::20]), 0)
    assert set(likelihoods) == {"full 1", "diagonal 1"}


@pytest.mark.parametrize(("tied", "chosen"), [(True, "full 1"), (False, "diagonal 1")])
def test_held_out_vectors_choose_between_tied_and_independent_dimensions(tied: bool, chosen: str) -> None:
    rng = np.random.default_rng(3)
    z = correlated(96, 64) if tied else rng.standard_normal((96, 64)) * np.array([1.0, 3.0] * 32)
    _, likelihoods = choose_mixture(posteriors(z[:76]), posteriors(z[76:]), 0)
    # Where nothing is tied, a full covariance is shrunk to nearly the same.
    assert tied == (likelihoods["full 1"] > likelihoods["diagonal 1"] + 0.1)
    assert tied or likelihoods[chosen] == pytest.approx(max(likelihoods.values()), abs=0.05)


def test_the_same_seed_gives_the_same_mixture_and_another_seed_starts_elsewhere() -> None:
    z, held_out = posteriors(correlated(320, 140)), posteriors(correlated(60, 140, seed=1))
    first, again, other = (choose_mixture(z, held_out, seed) for seed in (0, 0, 1))
    assert first[1] == again[1] and torch.equal(first[0].loadings, again[0].loadings)
    assert first[1] != other[1]


def test_latents_that_never_change_are_fitted_too() -> None:
    z = np.ones((250, 4)) * [0, 1, -2, 3]
    mixture, likelihoods = choose_mixture(posteriors(z), posteriors(z[:20]), 0)
    assert np.isfinite(list(likelihoods.values())).all()
    np.testing.assert_allclose(mixture.means[0], [0, 1, -2, 3], atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_fits_the_same_mixture() -> None:
    z, held_out = posteriors(correlated(700, 150)), posteriors(correlated(60, 150, seed=1))
    here, likelihoods = choose_mixture(z, held_out, 0)
    z_there, held_out_there = (Posteriors(*(part.cuda() for part in each)) for each in (z, held_out))
    on_gpu, likelihoods_on_gpu = choose_mixture(z_there, held_out_there, 0)
    assert likelihoods_on_gpu == pytest.approx(likelihoods, rel=1e-6) and on_gpu.means.is_cuda
    np.testing.assert_allclose(on_gpu.diagonal.cpu(), here.diagonal, rtol=1e-4)
