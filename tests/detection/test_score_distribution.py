"""The distribution of a score among healthy images: smooth, strictly increasing, and a table at any number of them."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import norm

from mammovae.config import InputError
from mammovae.detection.score_distribution import ScoreDistribution, to_normal_scores


def percentiles(values: np.ndarray, x: list[float] | np.ndarray, floor: float = 0.0) -> np.ndarray:
    return 100 * norm.cdf(ScoreDistribution(values, floor).to_normal_score(np.array(x)))


def test_it_is_strictly_increasing_far_beyond_its_data_and_knows_its_median() -> None:
    values = np.random.default_rng(0).gamma(2, size=60)
    x = np.linspace(-50, 300, 4000)
    assert (np.diff(ScoreDistribution(values).to_normal_score(x)) > 0).all()
    assert abs(ScoreDistribution(values).to_normal_score(np.array([np.median(values)]))[0]) < 0.15


def test_normal_scores_of_many_normal_values_are_those_values_into_the_tails() -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    x = np.linspace(-3, 3, 41)
    np.testing.assert_allclose(ScoreDistribution(values).to_normal_score(x), x, atol=0.12)


@pytest.mark.parametrize("count", [8, 22, 300, 5000])
def test_between_its_tails_the_table_is_the_kernel_estimate(count: int) -> None:
    values = np.random.default_rng(count).gamma(2, size=count)
    quartiles = np.subtract(*np.percentile(values, (75, 25))) / 1.349
    width = 1.06 * min(values.std(), quartiles) * count**-0.2
    x = np.linspace(values.min(), values.max(), 200)
    exact = 100 * norm.cdf((x[:, None] - values) / width).mean(axis=1)
    inside = (exact > 20) & (exact < 80)
    assert inside.sum() > 10
    np.testing.assert_allclose(percentiles(values, x)[inside], exact[inside], atol=0.1)


def test_an_affine_change_of_a_score_changes_nothing() -> None:
    values = np.random.default_rng(1).normal(size=30)
    x = np.linspace(-4, 9, 50)
    np.testing.assert_allclose(
        ScoreDistribution(values).to_normal_score(x),
        ScoreDistribution(5 * values - 3).to_normal_score(5 * x - 3),
        atol=1e-9,
    )


def test_equal_values_have_the_width_of_the_floor() -> None:
    healthy = ScoreDistribution(np.zeros(40), floor=0.1)
    near, far = healthy.to_normal_score(np.array([0.02, 1.0]))
    assert 0 < near < 1 and far > 4


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", [100, 2000])
@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_where_most_values_tie_it_rises_without_a_jump_and_the_tie_has_the_middle_of_its_ranks(
    sign: int, count: int, floor: float
) -> None:
    ties, others = np.zeros(8 * count // 10), np.linspace(0.5, 1, 2 * count // 10)
    values, x = sign * np.concatenate([ties, others]), np.linspace(-2, 3, 20_001)
    steps = np.diff(sign * ScoreDistribution(values, floor).to_normal_score(sign * x))
    assert (steps > 0).all() and steps.max() < 0.1
    at = percentiles(values, sign * np.array([0.0, 0.45, 0.75, 0.99]), floor)
    at = at if sign > 0 else 100 - at
    assert at[0] == pytest.approx(40, abs=0.7)
    assert 79 < at[1] < 89 and at[1] < at[2] < at[3] and at[2] == pytest.approx(90, abs=3) and at[3] > 94


def test_a_gap_between_two_groups_is_crossed_evenly() -> None:
    values = np.concatenate([np.zeros(50), np.ones(50)])
    near = percentiles(np.concatenate([values, values + 1e-6]), [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(near, 100 - near[::-1], atol=0.5)
    assert (np.diff(near) > 0).all() and near[0] == pytest.approx(25, abs=3)


def test_one_value_alone_is_the_middle() -> None:
    assert percentiles(np.array([3.0]), [2.0, 3.0, 4.0]).round(1).tolist() == [0.0, 50.0, 100.0]


def test_infinite_healthy_values_count_as_the_outermost_and_missing_ones_not_at_all() -> None:
    values, x = np.random.default_rng(0).normal(size=50), np.linspace(-3, 3, 20)
    expected = percentiles(np.append(values, [values.max(), values.max()]), x)
    np.testing.assert_allclose(percentiles(np.append(values, [np.inf, np.inf, np.nan]), x), expected)
    with pytest.raises(InputError, match="not finite for any healthy image: train again"):
        ScoreDistribution(np.array([np.nan, np.inf]))


def test_an_infinite_score_lies_beyond_all_and_a_missing_one_has_no_place() -> None:
    low, high, missing = ScoreDistribution(np.arange(9.0)).to_normal_score(np.array([-np.inf, np.inf, np.nan]))
    assert (low, high) == (-np.inf, np.inf) and np.isnan(missing)


def test_several_distributions_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(0)
    fits, table = [ScoreDistribution(rng.gamma(k + 1, size=40)) for k in range(3)], rng.normal(3, 4, size=(50, 3))
    alone = [one.to_normal_score(column) for one, column in zip(fits, table.T, strict=True)]
    np.testing.assert_array_equal(to_normal_scores(fits, table), np.stack(alone, axis=1))


def test_fitting_is_linear_in_memory_and_asking_does_not_depend_on_how_many_there_were() -> None:
    values, x = np.random.default_rng(0).normal(size=100_000), np.zeros(64)
    tracemalloc.start()
    healthy = ScoreDistribution(values)
    fitting = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    held = tracemalloc.get_traced_memory()[0]
    healthy.to_normal_score(x)
    asking = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()
    assert fitting < 20 * values.nbytes and held < values.nbytes / 10 and asking < 100_000
