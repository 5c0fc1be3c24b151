"""Calibration: the scores of healthy images become a scale, and a promise on false positives."""

import tracemalloc
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mammovae as mv
from mammovae.config import UsageError
from mammovae.detection.calibration import (
    CALIBRATION,
    Calibration,
    FusedScore,
    flagged,
    realised_rate_range,
    with_fallback,
)
from mammovae.detection.quality import MEASURES, Quality

NAMES = ["a", "b"]
MEASURED = [*MEASURES][:-5]  # the other five compare with training images, or combine measures


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


IMAGES = {"one": (1,), "two": (2,), "four": (4,), "mixed": (1, 2, 4)}
"""How many images a simulated patient has."""
N_CALIBRATION, N_NEW, SIMULATIONS = 25, 20, 2000
RATES = (1 / 26, 3 / 26, 5 / 26)  # of 25 calibration patients: what could be realised to the last digit


def simulated_patients(
    rng: np.random.Generator, patients: int, images: str, names: Sequence[str], more_is_higher: float = 0.0
) -> dict[str, np.ndarray]:
    """Scores of the images of patients, correlated by 0.7 within a patient, and the patient of each.

    more_is_higher: by how much a score rises with each image that the patient has. A name that ends in _bilateral is
    the difference between a patient's images, NaN of an only one.
    """
    counts = rng.choice(IMAGES[images], patients)
    patient = np.repeat(np.arange(patients), counts)
    shared = rng.normal(size=patients) + more_is_higher * counts
    level = np.sqrt(0.7) * shared[patient]
    columns = {name: np.exp(level + np.sqrt(0.3) * rng.normal(size=len(patient))) for name in names}
    for name in (name for name in names if name.endswith("_bilateral")):
        own = columns[name.removesuffix("_bilateral")]
        first = np.searchsorted(patient, patient)
        other = np.where(np.arange(len(patient)) == first, first + 1, first)
        has_other = counts[patient] > 1
        columns[name] = np.where(has_other, own - own[np.where(has_other, other, 0)], np.nan)
    return columns | {"patient": patient}


def realised_rates(p: np.ndarray, patient: np.ndarray) -> list[float]:
    """Return for each of RATES the mean over patients of the share of their images that it flags.

    No p-value may be finer than the patients are, however many images they have.
    """
    assert p.min() >= RATES[0] * (1 - 1e-9)
    images = np.bincount(patient)
    return [float((np.bincount(patient, flagged(p, rate)) / images).mean()) for rate in RATES]


def check_realised(simulated: Sequence[Sequence[float]], least: float) -> None:
    """Fail unless the mean over simulations is at or under each stated rate, and at least that share of it.

    The margin is the error of a mean of so many simulations: a p-value that exceeds its rate by a tenth is found out.
    """
    shares = np.array(simulated)
    margins = 2.6 * shares.std(axis=0) / np.sqrt(len(shares))
    assert (margins < 0.1 * np.array(RATES) + 0.002).all()
    for rate, mean, margin in zip(RATES, shares.mean(axis=0), margins, strict=True):
        assert least * rate < mean <= rate + margin


@pytest.fixture
def finding_score(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, np.ndarray], mv.TrainSettings], FusedScore]:
    """The finding score of a run with some calibration scores, which spare it the reading of a file."""

    def finding_score(scores: dict[str, np.ndarray], settings: mv.TrainSettings) -> FusedScore:
        monkeypatch.setattr(pd, "read_parquet", lambda _: pd.DataFrame(scores))
        run: Any = SimpleNamespace(path=Path(), settings=settings, score_meanings={})
        return FusedScore(run)

    return finding_score


@pytest.mark.parametrize(
    ("fused", "images"), [(("a",), "two"), (("a",), "four"), (("a",), "mixed"), (("a", "b"), "mixed")]
)
def test_over_2000_calibrations_by_patient_the_finding_score_keeps_the_stated_rate(
    fused: tuple[str, ...], images: str, finding_score: Callable[..., FusedScore]
) -> None:
    rng, settings, simulated = np.random.default_rng(1), mv.TrainSettings(fused=fused), []
    for _ in range(SIMULATIONS):
        healthy, new = (simulated_patients(rng, count, images, fused) for count in (N_CALIBRATION, N_NEW))
        columns = finding_score(healthy, settings).columns(new)
        simulated.append(realised_rates(columns["finding_p"], new["patient"]))
    check_realised(simulated, 0.25)


def test_with_the_other_breast_the_finding_score_keeps_the_stated_rate_too(
    finding_score: Callable[..., FusedScore],
) -> None:
    names = ("a", "a_bilateral")
    rng, settings, simulated = (
        np.random.default_rng(1),
        mv.TrainSettings(fused=names[:1], fused_bilateral=names[1:]),
        [],
    )
    for _ in range(SIMULATIONS // 4):  # the same code as above, on two calibrations
        healthy, new = (simulated_patients(rng, count, "mixed", names) for count in (N_CALIBRATION, N_NEW))
        columns = finding_score(healthy, settings).columns(new)
        assert {"used", "missing"} >= set(columns["other"])
        simulated.append(realised_rates(columns["finding_bilateral_p"], new["patient"]))
    check_realised(simulated, 0.1)  # of the 25 some 17 have both breasts, which makes k / (n + 1) coarser


def test_the_rate_is_promised_for_patients_not_for_images_where_many_images_go_with_high_scores() -> None:
    rng, by_patient, by_image = np.random.default_rng(1), [], []
    for _ in range(SIMULATIONS):
        healthy, new = (simulated_patients(rng, count, "mixed", ["a"], 0.5) for count in (N_CALIBRATION, N_NEW))
        p = Calibration(healthy, ["a"]).p_value(new)
        by_patient.append(realised_rates(p, new["patient"]))
        by_image.append(float(flagged(p, RATES[1]).mean()))
    check_realised(by_patient, 0.25)
    assert np.mean(by_image) > 1.1 * RATES[1]


def test_images_of_a_patient_taken_for_independent_would_flag_too_many() -> None:
    rng, shares = np.random.default_rng(1), []
    for _ in range(SIMULATIONS):
        healthy, new = (simulated_patients(rng, count, "four", ["a"]) for count in (N_CALIBRATION, N_NEW))
        p = Calibration({"a": healthy["a"]}, ["a"]).p_value(new)
        shares.append(flagged(p, 1 / 101).mean())
    assert np.mean(shares) > 1 / 101 + 2.6 * np.std(shares) / np.sqrt(SIMULATIONS)


@pytest.fixture(scope="module")
def quality_pool() -> tuple[Quality, pd.DataFrame, np.ndarray]:
    """A fitted quality score, and the normal scores and patients of 1,500 others with one, two or four images."""
    rng = np.random.default_rng(0)

    def draw(patients: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
        patient = np.repeat(np.arange(patients), rng.choice(IMAGES["mixed"], patients))

        def correlated(*shape: int) -> np.ndarray:
            shared = rng.normal(size=(patients, *shape))[patient]
            return np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.normal(size=shared.shape)

        measures = pd.DataFrame(correlated(len(MEASURED)), columns=list(MEASURED))
        coarse = [np.kron(correlated(8, 8), np.ones((1, 4, 4))) for _ in range(2)]
        images = (coarse[0] - coarse[0].mean(axis=(1, 2), keepdims=True)) / coarse[0].std(axis=(1, 2), keepdims=True)
        return measures, images, (coarse[1] > 0).astype(float), patient

    quality = Quality.fit(*draw(40)[:3])
    measures, thumbnails, outlines, patient = draw(1500)
    return quality, quality.normal_scores(measures, thumbnails, outlines), patient


@pytest.mark.parametrize("images", ["two", "four", "mixed"])
def test_over_2000_calibrations_by_patient_the_quality_score_keeps_the_stated_rate(
    quality_pool: tuple[Quality, pd.DataFrame, np.ndarray], images: str
) -> None:
    quality, normal_scores, patient = quality_pool
    rng, simulated, scores = np.random.default_rng(1), [], quality.score(normal_scores)
    counts = np.bincount(patient)
    starts, fitting = np.cumsum(counts) - counts, np.flatnonzero(np.isin(counts, IMAGES[images]))
    for _ in range(SIMULATIONS):
        drawn = rng.choice(fitting, N_CALIBRATION + N_NEW, replace=False)
        rows = [
            np.concatenate([np.arange(counts[one]) + starts[one] for one in part]) for part in np.split(drawn, [25])
        ]
        healthy = {"quality": scores[rows[0]], "patient": patient[rows[0]]}
        calibrated = copy(quality)
        calibrated.calibration = Calibration(healthy, ["quality"])
        p = calibrated.columns(normal_scores.iloc[rows[1]])["quality_p"]
        simulated.append(realised_rates(p, np.unique(patient[rows[1]], return_inverse=True)[1]))
    check_realised(simulated, 0.25)


def test_the_quality_score_of_a_run_counts_patients(
    quality_pool: tuple[Quality, pd.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    quality, normal_scores, patient = quality_pool
    quality.save(tmp_path)
    pd.DataFrame({"quality": quality.score(normal_scores), "patient": patient}).to_parquet(tmp_path / CALIBRATION)
    opened = Quality.open(tmp_path)
    assert opened is not None and len(patient) > 3000
    p = opened.columns(normal_scores + 100)["quality_p"]
    np.testing.assert_allclose(p, 1 / 1501)


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
