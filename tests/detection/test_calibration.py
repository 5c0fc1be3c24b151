"""Calibration: the scores of healthy images become a scale, and a promise on false positives."""

import tracemalloc

import numpy as np
import pytest

from mammovae.config import UsageError
from mammovae.detection.calibration import Calibration, flagged, realised_rate_range, with_fallback

NAMES = ["a", "b"]


def random_scores(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Two correlated scores of different shapes, as healthy images have them."""
    common = rng.normal(size=count)
    return {"a": np.exp(common + rng.normal(size=count)), "b": common + rng.standard_t(4, size=count)}


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


def test_many_calibration_images_keep_the_rate_too() -> None:
    rng = np.random.default_rng(3)
    rates = [
        flagged(Calibration(random_scores(rng, 240), NAMES).p_value(random_scores(rng, 20)), 0.05).mean()
        for _ in range(100)
    ]
    assert np.mean(rates) <= 0.05 + 2.6 * np.std(rates) / np.sqrt(100)
    assert np.mean(rates) >= 0.03


def clustered_scores(rng: np.random.Generator, patients: int, images: int, names: list[str]) -> dict[str, np.ndarray]:
    """Scores of several images a patient, correlated by 0.7, and the patient of each."""
    shared = rng.normal(size=(patients, 1, len(names)))
    values = np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.normal(size=(patients, images, len(names)))
    columns = np.exp(values).reshape(-1, len(names)).T
    return dict(zip(names, columns, strict=True)) | {"patient": np.repeat(np.arange(patients), images)}


@pytest.mark.parametrize(("names", "simulations"), [(["a"], 2000), (["a", "b", "c"], 400)])
def test_the_rate_holds_for_several_alike_images_a_patient(names: list[str], simulations: int) -> None:
    rng, by_patient, by_image = np.random.default_rng(1), [], []
    for _ in range(simulations):
        healthy, new = clustered_scores(rng, 25, 4, names), clustered_scores(rng, 20, 1, names)
        by_patient.append(Calibration(healthy, names).p_value(new))
        if len(names) == 1:
            by_image.append(Calibration({"a": healthy["a"]}, names).p_value(new))
    for rate in (1 / 26, 0.1, 0.2):
        shares = flagged(np.array(by_patient), rate).mean(axis=1)
        assert rate / 3 < shares.mean() <= rate + 2.6 * shares.std() / np.sqrt(simulations)
    if by_image:  # what counting images as independent would do
        shares = flagged(np.array(by_image), 1 / 101).mean(axis=1)
        assert shares.mean() > 1 / 101 + 2.6 * shares.std() / np.sqrt(simulations)


def test_the_rate_holds_where_few_patients_have_many_scores() -> None:
    rng, names = np.random.default_rng(0), ["a", "b", "c", "d"]
    shares = []
    for _ in range(300):
        healthy, new = ({name: rng.standard_t(3, size=count) for name in names} for count in (8, 50))
        shares.append(flagged(Calibration(healthy, names).p_value(new), 1 / 9).mean())
    # Fitted to the calibration images themselves, the distributions would give 0.165.
    assert 0.06 < np.mean(shares) <= 1 / 9 + 2.6 * np.std(shares) / np.sqrt(300)


def test_a_p_value_adds_up_the_share_of_each_patients_images_at_or_above() -> None:
    healthy = {"a": np.array([1.0, 5.0, 2.0, 3.0, 4.0, 9.0]), "patient": np.array([7, 7, 3, 3, 3, 5])}
    p = Calibration(healthy, ["a"]).p_value({"a": np.array([0.0, 4.0, 4.5, 10.0])})
    np.testing.assert_allclose(p, [1.0, (1 + 1 / 2 + 1 / 3 + 1) / 4, (1 + 1 / 2 + 0 + 1) / 4, 1 / 4])


def test_with_an_image_each_a_p_value_is_the_rank() -> None:
    rng = np.random.default_rng(0)
    healthy, new = rng.normal(size=30).round(1), rng.normal(size=50).round(1)
    p = Calibration({"a": healthy}, ["a"]).p_value({"a": new})
    np.testing.assert_allclose(p, [(1 + (healthy >= value).sum()) / 31 for value in new])


@pytest.mark.parametrize("names", [["a"], NAMES])
def test_twelve_patients_tell_no_percentile_above_92_and_the_deviation_goes_on(names: list[str]) -> None:
    calibration = Calibration(random_scores(np.random.default_rng(0), 12), names)
    new = {name: np.array([-1e4, 0.5, 1e4, 1e5, np.inf]) for name in NAMES}
    percentile, deviation = calibration.percentile(new), calibration.deviation(new)
    np.testing.assert_allclose(percentile[[0, 2, 3, 4]], [100 / 13, 1200 / 13, 1200 / 13, 1200 / 13])
    assert 100 / 13 < percentile[1] < 1200 / 13 and deviation[2] < deviation[3] < deviation[4]


def test_a_missing_score_has_no_p_value_and_an_infinite_one_the_smallest() -> None:
    calibration = Calibration(random_scores(np.random.default_rng(0), 12), NAMES)
    p = calibration.p_value({"a": np.array([np.nan, np.inf]), "b": np.array([0.0, np.inf])})
    assert np.isnan(p[0]) and p[1] == 1 / 13


def test_a_single_patient_gives_a_p_value_of_a_half_at_the_least() -> None:
    healthy = random_scores(np.random.default_rng(0), 4) | {"patient": np.zeros(4, int)}
    p = Calibration(healthy, NAMES).p_value({"a": np.array([1e6, -1e6]), "b": np.array([1e6, -1e6])})
    assert p.tolist() == [0.5, 1.0]


def test_asking_takes_little_memory_however_many_were_calibrated_on() -> None:
    rng = np.random.default_rng(0)
    calibration, new = Calibration(random_scores(rng, 20_000), NAMES), random_scores(rng, 64)
    calibration.columns("", new)
    tracemalloc.start()
    calibration.columns("", new)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_a_rate_that_cannot_be_promised_is_refused_with_what_is_needed() -> None:
    calibration = Calibration(random_scores(np.random.default_rng(0), 20), NAMES)
    for rate in (0.01, 0.0476):
        with pytest.raises(UsageError, match=r"20 healthy calibration patients: choose 0\.0477 or more"):
            calibration.check_rate(rate)
    with pytest.raises(UsageError, match="or calibrate on 99"):
        calibration.check_rate(0.01)
    for rate in (0.0477, 1 / 21):
        calibration.check_rate(rate)


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
