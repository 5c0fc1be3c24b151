"""The distribution fitted to latent vectors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mammovae as mv
from mammovae.generation import latent_density
from mammovae.generation.gaussian_mixture import Posteriors, choose_mixture
from mammovae.generation.latent_density import LatentDensity
from mammovae.models.run import Run


def samples(density: LatentDensity, numbers: range, temperature: float = 1) -> np.ndarray:
    rngs = [np.random.default_rng([9, number]) for number in numbers]
    return density.sample(np.zeros((len(numbers), 6), np.float32), rngs, temperature)


def density_of(
    mean: np.ndarray, conditions: np.ndarray | None = None, counts: np.ndarray | None = None
) -> LatentDensity:
    mixture, _ = choose_mixture(Posteriors(torch.from_numpy(mean).float(), torch.zeros(mean.shape)), None, 0)
    names = ("weights", "means", "loadings", "diagonal")
    fitted = {name: getattr(mixture, name).numpy() for name in names}
    known = np.zeros((1, 6), np.float32) if conditions is None else conditions
    counts = np.array([1]) if counts is None else counts
    slopes = np.zeros((6, mean.shape[1]))
    return LatentDensity(**fitted, slopes=slopes, conditions=known, counts=counts, held_out={})


@pytest.fixture
def two_components() -> LatentDensity:
    """A mixture of one component along a diagonal and one without loadings."""
    means, diagonal = np.array([[5.0, 5.0, 0.0], [-5.0, -5.0, 0.0]]), np.array([[0.1, 0.2, 0.3], [1.0, 1.0, 4.0]])
    loadings = np.array([[[1.0], [-1.0], [2.0]], [[0.0], [0.0], [0.0]]])
    nothing = np.zeros((6, 3)), np.zeros((1, 6), np.float32), np.array([1])
    return LatentDensity(np.array([0.7, 0.3]), means, loadings, diagonal, *nothing, {})


def test_samples_have_the_shares_means_and_covariances_of_the_components(two_components: LatentDensity) -> None:
    drawn = samples(two_components, range(6000))
    first = drawn[:, 0] + drawn[:, 1] > 0
    assert first.mean() == pytest.approx(0.7, abs=0.02)
    for component, rows in enumerate((first, ~first)):
        loadings, diagonal = two_components.loadings[component], two_components.diagonal[component]
        np.testing.assert_allclose(drawn[rows].mean(axis=0), two_components.means[component], atol=0.15)
        np.testing.assert_allclose(np.cov(drawn[rows].T), loadings @ loadings.T + np.diag(diagonal), atol=0.35)


def test_a_sample_depends_on_its_own_random_numbers_alone() -> None:
    rng = np.random.default_rng(4)
    density = density_of(rng.normal(size=(150, 8)) @ rng.normal(size=(8, 120)))
    together = samples(density, range(64))
    alone = [samples(density, range(number, number + 1)) for number in range(64)]
    np.testing.assert_array_equal(together, np.concatenate(alone))
    assert len(np.unique(together, axis=0)) == 64


def test_a_lower_temperature_samples_nearer_to_the_means(two_components: LatentDensity) -> None:
    density = density_of(np.random.default_rng(3).normal(size=(100, 5)))
    numbers = range(300)
    assert samples(density, numbers, 0.5).std() == pytest.approx(0.5 * samples(density, numbers).std(), rel=0.1)
    assert np.ptp(samples(density, numbers, 0.0), axis=0).max() == 0
    assert len(np.unique(samples(two_components, numbers, 0.0), axis=0)) == 2


def test_conditions_are_sampled_as_often_as_training_images_have_them() -> None:
    known = np.eye(3, 6, dtype=np.float32)
    density = density_of(np.random.default_rng(0).normal(size=(30, 4)), known, np.array([1, 1, 2]))
    drawn = density.sample_conditions([np.random.default_rng([1, number]) for number in range(4000)])
    np.testing.assert_allclose(drawn.mean(axis=0), [0.25, 0.25, 0.5, 0, 0, 0], atol=0.03)


def test_a_run_keeps_its_density_and_a_damaged_one_is_named(run: Path, tmp_path: Path) -> None:
    opened = Run.open(run)
    density = LatentDensity.open(opened.path / "density.safetensors")
    density.save(tmp_path / "copy.safetensors")
    again = LatentDensity.open(tmp_path / "copy.safetensors")
    np.testing.assert_array_equal(again.loadings, density.loadings)
    assert again.held_out == density.held_out and again.name == density.name
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(mv.InputError, match="train the run again"):
        LatentDensity.open(tmp_path / "broken.safetensors")


def test_the_mean_changes_with_the_condition_as_ridge_regression_says(run: Path, trapped_data: Path) -> None:
    opened, data = Run.open(run), mv.Data.open(trapped_data)
    assert opened.generator is not None
    member, train = opened.generator[1], data.for_training(opened.settings)["train"]
    with torch.inference_mode():
        mean = member.posterior(data.batch(train, member.size))[0].double().numpy()
    known = data.conditions[train].astype(float)
    centred = known - known.mean(axis=0)
    ridge = centred.T @ centred + 0.1 * len(train) * np.eye(6)
    density = LatentDensity.fit(member, data, {"train": train, "validation": train[:0]}, 8, 0)
    expected = np.linalg.solve(ridge, centred.T @ (mean - mean.mean(axis=0)))
    np.testing.assert_allclose(density.slopes, expected, atol=1e-4)
    np.testing.assert_allclose(density.means[0], (mean - known @ expected).mean(axis=0), atol=1e-3)
    assert density.name == "full 1" and density.held_out == {}
    rows, counts = np.unique(data.conditions[train], axis=0, return_counts=True)
    assert np.array_equal(density.conditions, rows) and np.array_equal(density.counts, counts)


def test_no_more_images_are_encoded_than_the_fit_needs_and_all_of_their_conditions_count(
    run: Path, trapped_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, data = Run.open(run), mv.Data.open(trapped_data)
    assert opened.generator is not None
    member, parts = opened.generator[1], data.for_training(opened.settings)
    encoded: list[int] = []

    def counted(batch: mv.data.dataset.Batch) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(len(batch.image))
        return type(member).posterior(member, batch)

    monkeypatch.setattr(member, "posterior", counted)
    many = np.tile(parts["train"], 20)
    monkeypatch.setattr(latent_density, "_MOST_IMAGES", 40)
    first, again, other = (
        LatentDensity.fit(member, data, {"train": many, "validation": many}, 8, seed) for seed in (0, 0, 1)
    )
    assert sum(encoded) == 3 * (40 + 20) and first.counts.sum() == len(many)
    np.testing.assert_array_equal(first.means, again.means)
    assert not np.array_equal(first.means, other.means)


def test_a_condition_moves_the_mean_of_samples() -> None:
    density = density_of(np.random.default_rng(0).normal(size=(30, 4)))
    slopes = np.arange(24.0).reshape(6, 4)
    condition, rng = np.array([[1, -1, 0, 0, 1, 0]], np.float32), np.random.default_rng
    moved = replace(density, slopes=slopes).sample(condition, [rng(1)], 1) - density.sample(condition, [rng(1)], 1)
    np.testing.assert_allclose(moved, condition @ slopes)
