"""Figures of merit against brute force, and intervals that hold what they promise for whole patients."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mammovae.config import InputError
from mammovae.statistics.bootstrap import (
    Estimate,
    PatientBootstrap,
    auroc,
    average_precision,
    pearson,
    roc_curve,
    signed,
    spearman,
)

scores = arrays(np.float64, st.integers(1, 30), elements=st.integers(-5, 5).map(float))


def pairs(negative: np.ndarray, positive: np.ndarray) -> float:
    higher = positive[:, None] > negative[None]
    return float((higher + 0.5 * (positive[:, None] == negative[None])).mean())


def clustered(
    patients: int, seed: int, shift: float = 0.8, images: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return patients, findings (the same for a patient's images) and scores that a patient's images share in part."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), images)
    finding = patient % 2 == 0
    score = rng.normal(size=patients)[patient] + 0.5 * rng.normal(size=patient.size) + shift * finding
    return patient, finding, score.astype(np.float64)


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_won_with_ties_as_half(negative: np.ndarray, positive: np.ndarray) -> None:
    assert auroc(negative, positive) == pytest.approx(pairs(negative, positive))


@given(scores, scores)
def test_auroc_knows_only_the_order(negative: np.ndarray, positive: np.ndarray) -> None:
    assert auroc(np.exp(negative), np.exp(positive)) == auroc(negative, positive)
    assert auroc(-positive, -negative) == auroc(negative, positive)


@given(scores, scores)
def test_area_under_the_roc_curve_is_the_auroc(negative: np.ndarray, positive: np.ndarray) -> None:
    false, true, thresholds = roc_curve(negative, positive)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(auroc(negative, positive))
    assert (np.diff(thresholds) < 0).all()


def test_average_precision_of_a_known_ranking() -> None:
    assert average_precision([True, False, True, False], [4, 3, 2, 1]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision([True, False, False, False], [1, 1, 1, 1]) == 0.25


def test_degenerate_scores_have_a_plain_answer() -> None:
    assert auroc([1, 1, 1], [1, 1]) == 0.5
    assert auroc([], [1]) is None
    assert average_precision([True, True], [1, 2]) is None
    assert pearson([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(InputError, match=r"missing \(NaN\) in 1 of 3 rows, first in row 1"):
        auroc([1.0, np.nan, 2.0], [1.0])


def test_correlations_of_ranks_give_ties_their_mean_rank() -> None:
    assert spearman([10, 20, 10, 30], [0, 1, 0, 2]) == spearman([1.5, 3, 1.5, 4], [5, 6, 5, 7]) == pytest.approx(1)
    assert spearman([10, 20, 10, 30], [1, 2, 3, 4]) == pytest.approx(pearson([1.5, 3, 1.5, 4], [1, 2, 3, 4]))
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]) == pytest.approx(1)
    assert pearson([1, 2, 3], [-1, -2, -3]) == pytest.approx(-1)


def test_resampled_aurocs_equal_those_of_repeated_images() -> None:
    patient, finding, score = clustered(24, seed=1)
    score = np.round(score).astype(float)
    bootstrap = PatientBootstrap(patient, finding, resamples=40)
    everything = np.ones(score.size, bool)
    values = np.concatenate([*bootstrap._aurocs(score, everything)])
    for counts, value in zip(bootstrap._counts, values, strict=True):
        repeats = counts[bootstrap._patient]
        drawn, sick = np.repeat(score, repeats), np.repeat(finding, repeats)
        assert value == pytest.approx(pairs(drawn[~sick], drawn[sick]))


def test_images_of_a_patient_are_drawn_together_and_strata_keep_their_size() -> None:
    patient = np.repeat(np.arange(30), 2)
    fold = patient % 3
    bootstrap = PatientBootstrap(patient, patient % 2 == 0, strata=fold, resamples=50)
    weights = next(bootstrap._weights(np.arange(60)))
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    assert all((weights[:, fold == name].sum(axis=1) == 20).all() for name in range(3))


def test_a_patient_in_two_strata_is_refused() -> None:
    with pytest.raises(InputError, match="in two strata: split by patient"):
        PatientBootstrap(["a", "a"], np.array([True, False]), strata=[0, 1])


def test_unknown_health_is_refused() -> None:
    with pytest.raises(InputError, match="leave out the unknown"):
        PatientBootstrap(["a", "b"], np.array([True, None]))


def test_doubling_every_image_does_not_narrow_the_interval() -> None:
    patient, finding, score = clustered(60, seed=2, images=1)
    once = PatientBootstrap(patient, finding).auroc(score)
    twice = PatientBootstrap(np.tile(patient, 2), np.tile(finding, 2)).auroc(np.tile(score, 2))
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    assert (twice.n_healthy, twice.n_finding) == (60, 60)


def test_interval_agrees_with_delong_for_independent_images() -> None:
    patient, finding, score = clustered(300, seed=3, images=1)
    estimate = PatientBootstrap(patient, finding).auroc(score)
    wins = (score[finding][:, None] > score[~finding][None]).astype(float)
    error = np.sqrt(wins.mean(1).var(ddof=1) / finding.sum() + wins.mean(0).var(ddof=1) / (~finding).sum())
    assert estimate.low is not None and estimate.high is not None
    assert (estimate.high - estimate.low) / (2 * 1.96) == pytest.approx(error, rel=0.12)


def test_intervals_hold_the_truth_nearly_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = float((rng.normal(0.8, np.sqrt(2.5), 400_000) > 0).mean())
    held = 0
    for seed in range(150):
        patient, finding, score = clustered(60, seed)
        estimate = PatientBootstrap(patient, finding, resamples=300, seed=seed).auroc(score)
        assert estimate.low is not None and estimate.high is not None
        held += estimate.low <= truth <= estimate.high
    assert held / 150 >= 0.88


def test_fewer_than_ten_patients_in_a_class_give_no_interval() -> None:
    patient, finding, score = clustered(18, seed=4)
    estimate = PatientBootstrap(patient, finding).auroc(score)
    assert estimate.value is not None and estimate.low is None
    assert estimate.text.endswith("(too few)")
    assert PatientBootstrap(patient, finding).roc(score).low is None


def test_a_class_without_images_gives_no_figure() -> None:
    estimate = PatientBootstrap(["a", "b"], np.array([False, False])).auroc([1, 2])
    assert (estimate.value, estimate.low, estimate.text) == (None, None, "not defined")


def test_identical_scores_differ_by_nothing_in_every_resample() -> None:
    patient, finding, score = clustered(40, seed=5)
    difference = PatientBootstrap(patient, finding).difference(score, 3 * score + 1)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_pairing_makes_the_interval_of_a_difference_narrow() -> None:
    patient, finding, score = clustered(80, seed=6)
    bootstrap = PatientBootstrap(patient, finding)
    near = score + 0.05 * np.random.default_rng(0).normal(size=score.size)
    paired, single = bootstrap.difference(score, near), bootstrap.auroc(score)
    assert paired.high is not None and paired.low is not None and single.high is not None and single.low is not None
    assert paired.high - paired.low < 0.3 * (single.high - single.low)


def test_roc_band_surrounds_the_curve_and_repeats() -> None:
    patient, finding, score = clustered(80, seed=7)
    first, again = (PatientBootstrap(patient, finding, resamples=200).roc(score) for _ in range(2))
    assert first.low is not None and first.high is not None and again.low is not None
    curve = np.interp(first.grid, first.false, first.true)
    assert ((first.low <= curve + 1e-9) & (curve <= first.high + 1e-9)).mean() > 0.95
    assert (first.low == again.low).all()


def test_infinite_scores_are_ties_in_any_order() -> None:
    score, finding = (
        np.array([np.inf, np.inf, np.inf, np.inf, 1.0, -np.inf, -np.inf]),
        np.array([1, 0, 0, 1, 0, 1, 0]) > 0,
    )
    expected = 2 / 3 * 2 / 4 + 1 / 3 * 3 / 7
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(7)
        assert average_precision(finding[order], score[order]) == pytest.approx(expected)


def test_infinite_scores_have_the_intervals_and_curves_of_the_largest_finite_ones() -> None:
    patient, finding, score = clustered(40, seed=8)
    finite, infinite = np.clip(score, -0.5, 0.5), np.where(abs(score) > 0.5, np.sign(score) * np.inf, score)
    bootstrap = PatientBootstrap(patient, finding, resamples=100)
    assert bootstrap.average_precision(infinite) == bootstrap.average_precision(finite)
    assert bootstrap.auroc(infinite) == bootstrap.auroc(finite)
    curve, other = bootstrap.roc(infinite), bootstrap.roc(finite)
    assert curve.low is not None
    np.testing.assert_array_equal(curve.low, other.low)
    np.testing.assert_array_equal(curve.high, other.high)
    assert pearson(infinite, score) is None and spearman(infinite, score) == spearman(finite, score)


def test_resampling_many_images_takes_little_memory() -> None:
    patient, finding, score = clustered(10_000, seed=9)
    bootstrap = PatientBootstrap(patient, finding, resamples=100)
    tracemalloc.start()
    bootstrap.roc(score)
    bootstrap.average_precision(score)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_average_precision_of_a_resample_equals_that_of_repeated_images(seed: int) -> None:
    patient, finding, score = clustered(24, seed)
    bootstrap = PatientBootstrap(patient, finding, resamples=1, seed=seed)
    repeats = bootstrap._counts[0][bootstrap._patient]
    wanted = average_precision(np.repeat(finding, repeats), np.repeat(score, repeats))
    assert bootstrap.average_precision(score).low == pytest.approx(wanted)


def test_numbers_are_written_for_people() -> None:
    assert Estimate(0.634, 0.551, 0.712, 10, 10).text == "0.63 (0.55–0.71)"
    assert Estimate(0.02, -0.04, 0.07, 10, 10).text == "0.02 (−0.04 to 0.07)"
    assert signed(-0.001) == "0.00"
