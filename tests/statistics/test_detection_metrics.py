"""What an evaluation says of a table of scores."""

import pandas as pd
import pytest
from tests.report.fake_study import table

from mammovae.config import InputError
from mammovae.statistics.bootstrap import auroc
from mammovae.statistics.detection_metrics import DetectionMetrics, detection_metrics, metric_key

SCORES, BASELINES = {"loss": "Loss", "kl": "KL"}, {"grey": "Mean grey"}


@pytest.fixture(scope="module")
def judged() -> DetectionMetrics:
    return detection_metrics(table(), SCORES, BASELINES, resamples=200)


def test_headline_is_the_first_score_against_healthy_images_of_unaffected_patients(judged: DetectionMetrics) -> None:
    known = table().dropna(subset="healthy")
    healthy = known["healthy"].astype(bool)
    affected = known["patient_id"].isin(known["patient_id"][~healthy])
    assert judged.headline.name == "loss"
    assert judged.headline.value == auroc(known["loss"][healthy & ~affected], known["loss"][~healthy])
    second = judged.affected["loss"]
    assert second.value == auroc(known["loss"][healthy & affected], known["loss"][~healthy])
    assert judged.headline.n_healthy + second.n_healthy + second.n_finding + judged.n_unknown == len(table())


def test_a_patient_whose_finding_is_in_an_image_outside_the_table_is_affected(judged: DetectionMetrics) -> None:
    rows = table().assign(patient_affected=False)
    healthy = (rows["healthy"] == True).fillna(False)  # noqa: E712 - nullable column
    assert detection_metrics(rows, SCORES, resamples=50).headline.n_healthy == judged.headline.n_healthy
    known = rows[rows["healthy"].notna()]
    unaffected = ~rows["patient_id"].isin(known.loc[known["healthy"] == False, "patient_id"])  # noqa: E712
    elsewhere = rows.loc[healthy & unaffected, "patient_id"].iloc[0]
    rows.loc[rows["patient_id"] == elsewhere, "patient_affected"] = True
    again = detection_metrics(rows, SCORES, resamples=50)
    moved = int((healthy & (rows["patient_id"] == elsewhere)).sum())
    assert again.headline.n_healthy == judged.headline.n_healthy - moved
    assert again.affected["loss"].n_healthy == judged.affected["loss"].n_healthy + moved


def test_categories_are_judged_against_all_healthy_images_of_each_arm(judged: DetectionMetrics) -> None:
    rows = judged.tables["category"]
    assert {row.name for row in rows} >= {"mass", "suspicious_calcification"}
    assert all(row.n_healthy == judged.headline.n_healthy for row in rows)
    assert sum(row.n_finding for row in rows) == judged.headline.n_finding
    second = judged.affected_tables["category"]
    assert [row.name for row in second] == [row.name for row in rows]
    assert all(row.n_healthy == judged.affected["loss"].n_healthy for row in second)
    assert "auroc_mass_affected_low" in judged.metrics()


def test_densities_are_judged_within_themselves(judged: DetectionMetrics) -> None:
    rows = judged.tables["density"]
    assert [row.label for row in rows] == ["A", "B", "C", "D"]
    assert sum(row.n_healthy for row in rows) < judged.headline.n_healthy


def test_lesions_are_judged_by_their_size_and_those_without_one_nowhere() -> None:
    rows = table()
    rows["size_mm"] = [float(i % 40) if i % 3 else float("nan") for i in range(len(rows))]
    parts = detection_metrics(rows, SCORES, resamples=50).tables["size"]
    known = rows[rows["healthy"].notna()]
    small = known[(known["healthy"] == False) & (known["size_mm"] > 0) & (known["size_mm"] <= 10)]  # noqa: E712
    assert parts[0].label == "up to 10 mm" and parts[0].n_finding == len(small)


def test_metrics_have_the_keys_that_the_design_names(judged: DetectionMetrics) -> None:
    metrics = judged.metrics()
    wanted = ["auroc", "auroc_low", "auroc_high", "average_precision", "n_healthy", "n_finding", "auroc_mass"]
    assert {*wanted, "baseline_grey_auroc", "baseline_grey_auroc_low"} <= set(metrics)
    assert metrics["auroc"] == judged.headline.value


def test_data_without_findings_has_no_figure_but_keeps_its_counts() -> None:
    judged = detection_metrics(table(findings=False), SCORES, BASELINES, resamples=50)
    assert judged.headline.value is None and judged.curve is None
    assert judged.metrics()["auroc"] is None
    assert judged.headline.n_healthy > 0
    assert not judged.affected


def test_no_image_of_known_health_is_counted_and_no_more() -> None:
    judged = detection_metrics(table(20).assign(healthy=None), SCORES, BASELINES, resamples=20)
    assert (judged.n_unknown, judged.headline.n_healthy, judged.headline.value) == (40, 0, None)


def test_the_bare_columns_are_enough() -> None:
    judged = detection_metrics(table()[["patient_id", "healthy", "loss"]], {"loss": "Loss"}, resamples=50)
    assert not judged.tables and judged.differences == ()


def test_a_score_that_is_missing_is_refused_by_name() -> None:
    rows = table()
    rows.loc[1, "loss"] = float("nan")
    with pytest.raises(InputError, match=r"loss is missing \(NaN\)"):
        detection_metrics(rows, SCORES)


def test_folds_are_strata() -> None:
    rows = table()
    rows["fold"] = pd.factorize(rows["patient_id"])[0] % 5
    assert detection_metrics(rows, SCORES, strata="fold", resamples=50).headline.low is not None


def test_keys_are_plain() -> None:
    assert metric_key("Suspicious Calcification") == "suspicious_calcification"
    assert metric_key("Skin/nipple (retraction)") == "skin_nipple_retraction"
