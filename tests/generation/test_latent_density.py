"""The distribution fitted to latent vectors."""

from pathlib import Path

import numpy as np
import pytest

import mammovae as mv
from mammovae.generation.latent_density import LatentDensity, _log_density, _mixture, _shrink
from mammovae.models.run import Run


def samples(density: LatentDensity, count: int, temperature: float = 1) -> np.ndarray:
    nothing = np.zeros((count, 6), np.float32)
    return density.sample(nothing, [np.random.default_rng([9, number]) for number in range(count)], temperature)


def fit_to(mean: np.ndarray, count: int, full: bool) -> LatentDensity:
    weights, means, factors = _mixture(mean, np.zeros_like(mean), count, full, 0)
    return LatentDensity(weights, means, factors, np.zeros((6, mean.shape[1])), np.zeros((1, 6), np.float32), {})


def test_a_full_covariance_gives_back_the_correlation_of_many_vectors() -> None:
    covariance = np.array([[2.0, 1.2], [1.2, 1.0]])
    z = np.random.default_rng(0).multivariate_normal([3, -1], covariance, 4000)
    sample = samples(fit_to(z, 1, True), 4000)
    np.testing.assert_allclose(np.cov(sample.T), covariance, atol=0.15)
    np.testing.assert_allclose(sample.mean(axis=0), [3, -1], atol=0.1)


def test_two_clusters_are_fitted_by_two_components() -> None:
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(-4, 0.5, (200, 3)), rng.normal(4, 0.5, (100, 3))])
    one, two = (_mixture(z, np.zeros_like(z), count, True, 0) for count in (1, 2))
    assert _log_density(z, *two).mean() > _log_density(z, *one).mean() + 1
    assert sorted(two[0].round(2)) == pytest.approx([0.33, 0.67], abs=0.01)


def test_the_log_density_of_one_component_is_the_normal_distribution_s() -> None:
    from scipy.stats import multivariate_normal

    z = np.random.default_rng(1).normal(size=(50, 4))
    weights, means, factors = _mixture(z, np.full_like(z, 0.1), 1, True, 0)
    expected = multivariate_normal(means[0], factors[0] @ factors[0].T).logpdf(z)
    np.testing.assert_allclose(_log_density(z, weights, means, factors), expected, rtol=1e-8)


def test_few_vectors_of_independent_dimensions_are_shrunk_to_a_diagonal_and_strong_ties_stay() -> None:
    rng = np.random.default_rng(2)
    loose = rng.normal(size=(15, 30))
    shrunk = _shrink(loose - loose.mean(axis=0), np.ones(15), 15.0)
    raw = np.cov(loose.T, bias=True)
    off = ~np.eye(30, dtype=bool)
    assert np.abs(shrunk[off]).mean() < 0.3 * np.abs(raw[off]).mean()
    np.testing.assert_allclose(np.diag(shrunk), np.diag(raw))
    tied = np.repeat(rng.normal(size=(200, 1)), 3, axis=1)
    assert _shrink(tied - tied.mean(axis=0), np.ones(200), 200.0)[0, 1] > 0.9 * tied[:, 0].var()


def test_a_lower_temperature_samples_nearer_to_the_means() -> None:
    density = fit_to(np.random.default_rng(3).normal(size=(100, 5)), 1, True)
    assert samples(density, 300, 0.5).std() == pytest.approx(0.5 * samples(density, 300).std(), rel=0.1)
    assert np.ptp(samples(density, 5, 0.0), axis=0).max() == 0


def test_a_run_keeps_its_density_and_a_damaged_one_is_named(run: Path, tmp_path: Path) -> None:
    opened = Run.open(run)
    density = LatentDensity.open(opened.path / "density.safetensors")
    density.save(tmp_path / "copy.safetensors")
    again = LatentDensity.open(tmp_path / "copy.safetensors")
    np.testing.assert_array_equal(again.factors, density.factors)
    assert again.held_out == density.held_out and again.name == density.name
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(mv.InputError, match="train the run again"):
        LatentDensity.open(tmp_path / "broken.safetensors")
