"""Calibration: the scores of healthy images become a scale, and a promise on false positives."""

import numpy as np
import pytest

from mammovae.config import UsageError
from mammovae.detection.calibration import Calibration, ScoreDistribution, flagged, realised_rate_range, with_fallback

NAMES = ["a", "b"]


def random_scores(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Two correlated scores of different shapes, as healthy images have them."""
    common = rng.normal(size=count)
    return {"a": np.exp(common + rng.normal(size=count)), "b": common + rng.standard_t(4, size=count)}


def test_a_healthy_distribution_is_strictly_increasing_far_beyond_its_data_and_knows_its_median() -> None:
    values = np.random.default_rng(0).gamma(2, size=60)
    x = np.linspace(-50, 300, 4000)
    assert (np.diff(ScoreDistribution(values).to_normal_score(x)) > 0).all()
    assert abs(ScoreDistribution(values).to_normal_score(np.array([np.median(values)]))[0]) < 0.15


def test_normal_scores_of_many_normal_values_are_those_values() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    x = np.linspace(-2, 2, 41)
    np.testing.assert_allclose(ScoreDistribution(values).to_normal_score(x), x, atol=0.12)


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


@pytest.mark.parametrize("names", [["a"], NAMES])
def test_over_2000_simulated_calibrations_the_false_positive_rate_stays_at_or_under_the_stated_one(
    names: list[str],
) -> None:
    rng = np.random.default_rng(7)
    p = np.array([Calibration(random_scores(rng, 22), names).p_value(random_scores(rng, 1))[0] for _ in range(2000)])
    for rate in (0.05, 0.1, 0.2):
        realised, exact = (p <= rate).mean(), np.floor(rate * 23) / 23
        margin = 2.6 * np.sqrt(rate * (1 - rate) / len(p))
        assert realised <= rate + margin
        # Not by flagging nothing: with n + 1 = 23 exchangeable images the exact rate is k / 23.
        assert abs(realised - exact) <= margin


def test_many_calibration_images_are_split_and_keep_the_rate_too() -> None:
    rng = np.random.default_rng(3)
    rates = [
        flagged(Calibration(random_scores(rng, 240), NAMES).p_value(random_scores(rng, 20)), 0.05).mean()
        for _ in range(100)
    ]
    assert np.mean(rates) <= 0.05 + 2.6 * np.std(rates) / np.sqrt(100)


def test_a_rate_that_cannot_be_promised_is_refused_with_what_is_needed() -> None:
    calibration = Calibration(random_scores(np.random.default_rng(0), 20), NAMES)
    with pytest.raises(UsageError, match=r"20 healthy calibration patients: choose 0\.0476 or more, or calibrate on 99"):
        calibration.check_rate(0.01)
    calibration.check_rate(1 / 21)


def test_percentiles_follow_the_fused_score() -> None:
    rng = np.random.default_rng(2)
    calibration, new = Calibration(random_scores(rng, 50), NAMES), random_scores(rng, 200)
    order = np.argsort(calibration.fuse(new))
    assert (np.diff(calibration.percentile(new)[order]) >= 0).all()
    assert 40 < calibration.percentile(random_scores(rng, 2000)).mean() < 60


def test_the_score_that_stands_out_has_the_largest_normal_score() -> None:
    rng = np.random.default_rng(3)
    healthy = random_scores(rng, 50)
    middling = {name: np.full(2, np.median(values)) for name, values in healthy.items()}
    middling[NAMES[1]] = middling[NAMES[1]] + np.array([0, 5 * np.std(healthy[NAMES[1]])])
    normal = Calibration(healthy, NAMES).normal_scores(middling)
    assert normal.shape == (2, len(NAMES)) and np.abs(normal[0]).max() < 0.3
    assert normal[1].argmax() == 1 and normal[1, 1] > 2


def test_one_score_alone_is_its_own_fused_score() -> None:
    scores = random_scores(np.random.default_rng(0), 9)
    np.testing.assert_array_equal(Calibration(scores, ["a"]).fuse(scores), scores["a"])


def test_images_without_the_other_breast_fall_back_to_the_one_sided_calibration() -> None:
    rng = np.random.default_rng(5)
    healthy = random_scores(rng, 40) | {"pair": rng.normal(size=40)}
    one, two = Calibration(healthy, NAMES), Calibration(healthy, [*NAMES, "pair"])
    new = random_scores(rng, 6) | {"pair": np.array([0.1, np.nan, 2.0, np.nan, -1.0, 0.0])}
    fused, percentile, p, used = with_fallback(two, one, new)
    assert used.tolist() == [True, False, True, False, True, True]
    np.testing.assert_array_equal(fused[~used], one.fuse(new)[~used])
    np.testing.assert_array_equal(p[~used], one.p_value(new)[~used])
    np.testing.assert_array_equal(percentile[used], two.percentile(new)[used])


def test_without_calibration_images_there_is_no_score_and_no_p_value() -> None:
    empty = Calibration({"a": np.empty(0), "b": np.empty(0)}, NAMES)
    new = random_scores(np.random.default_rng(0), 3)
    assert np.isnan(empty.fuse(new)).all() and np.isnan(empty.p_value(new)).all()


def test_the_range_of_realised_rates_holds_99_of_100_simulated_ones() -> None:
    rng = np.random.default_rng(0)
    low, high = realised_rate_range(22, 60, 0.1)
    rates = []
    for _ in range(2000):
        calibration = {"a": rng.normal(size=22)}
        rates.append(flagged(Calibration(calibration, ["a"]).p_value({"a": rng.normal(size=60)}), 0.1).mean())
    assert np.mean([(low <= rate <= high) for rate in rates]) >= 0.985
