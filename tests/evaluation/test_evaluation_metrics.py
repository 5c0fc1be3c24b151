"""The figures of scored images, of one run or of several: flat keys, realised rates by patient, what may be absent."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mammovae as mv
from mammovae.config import preset
from mammovae.evaluation.evaluation_metrics import evaluation_metrics
from mammovae.evaluation.evaluation_sections import metrics_sections
from mammovae.evaluation.reference import has_reference
from mammovae.evaluation.scored_images import BASELINES

DETECT = preset("detect")


def run(settings: mv.TrainSettings, patients: int = 19) -> Any:
    members = {name: SimpleNamespace(reported={}) for name in settings.members}
    return SimpleNamespace(settings=settings, members=members, manifest={"calibration_patients": patients})


@pytest.fixture
def table() -> pd.DataFrame:
    """Forty healthy patients, the first with eight images and the others with one, and twenty with a finding."""
    rng = np.random.default_rng(0)
    patient = np.concatenate([np.zeros(8, int), np.arange(1, 60)])
    healthy = patient < 40
    rows: dict[str, Any] = {"patient_id": patient.astype(str), "healthy": pd.array(healthy, dtype="boolean")}
    rows |= {
        "finding": rng.normal(size=len(patient)) + ~healthy,
        **{name: rng.normal(size=67) for name in (*BASELINES, *DETECT.fused)},
    }
    # All images of the first patient are flagged, and none of another healthy one.
    rows |= {"finding_p": np.where(patient == 0, 0.05, np.where(healthy, 0.9, 0.1)), "blob_hit": np.nan}
    rows |= dict.fromkeys(("hit", "pixel_precision", "lesion_share"), np.nan)
    rows |= {"lesion_marks": [np.empty(0)] * 67, "marks": [np.empty(0)] * 67}
    return pd.DataFrame(rows)


def test_a_rate_is_realised_by_patient_as_it_is_promised(table: pd.DataFrame) -> None:
    metrics = evaluation_metrics(table, table, [run(DETECT)])
    assert [row["stated"] for row in metrics.calibration] == [0.05, 0.1, 0.2]
    assert metrics.calibration[0]["realised"] == pytest.approx(1 / 40)  # by image it would be 8 of 47
    flat = metrics.metrics()
    assert flat["rate_0_05_realised"] == pytest.approx(1 / 40) and flat["rate_0_2_n_calibration"] == 19
    assert flat["auroc_patients"] is not None and "pointing" not in flat


def test_a_rate_that_no_calibration_supports_is_left_out_and_said(table: pd.DataFrame) -> None:
    metrics = evaluation_metrics(table, table, [run(DETECT, 3)])
    assert metrics.calibration == metrics.predictive == []
    _, calibration, localisation = metrics_sections(metrics, "finding score", by_patient=True)
    assert "too few calibration patients to promise a rate of 0.2" in calibration.absent
    assert localisation.absent == "No image has an annotated position."


def test_folds_are_resampled_within_themselves(table: pd.DataFrame) -> None:
    folds = table.assign(fold=table["patient_id"].astype(int) % 2)
    pooled, single = (evaluation_metrics(rows, rows, [run(DETECT)]).metrics() for rows in (folds, table))
    assert pooled["auroc"] == single["auroc"] and pooled["auroc_low"] != single["auroc_low"]
    mixed = table.assign(fold=np.arange(len(table)) % 2)
    with pytest.raises(mv.InputError, match="in two strata"):
        evaluation_metrics(mixed, mixed, [run(DETECT)])


def test_the_original_presets_loss_is_compared_where_a_run_has_that_network_beside_its_finding_score() -> None:
    assert has_reference(run(DETECT.merged({"members": ("vae", *DETECT.members)})))
    assert not has_reference(run(DETECT))
    assert not has_reference(run(preset("original")))  # there the loss is the finding score
    other = DETECT.merged({"members": ("vae", *DETECT.members), "vae": {"latent": 8}})
    assert not has_reference(run(other))
