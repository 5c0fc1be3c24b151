"""What inserted lesions say of a run: shares by size and contrast, AUROCs by kind, each with its number of images."""

import pandas as pd
import pytest

from mammovae.evaluation.stress import lesion_metrics


def test_kinds_are_distinguished_over_all_lesions_and_at_10_mm_for_each_contrast() -> None:
    untouched = [("", float("nan"), float("nan"), score, None) for score in (0.0, 1.0, 2.0, 3.0)]
    lesions = [
        ("mass", 10.0, 0.4, 4.0, True),
        ("mass", 20.0, 0.4, 1.5, False),
        ("calcification", 10.0, 0.4, 0.5, False),
        ("calcification", 10.0, 0.8, 1.0, True),
    ]
    rows = pd.DataFrame([*untouched, *lesions], columns=["kind", "diameter_mm", "contrast", "finding", "hit"])
    rows = rows.assign(patient_id=[*"abcd", *"abcd"], fold=0)
    metrics = lesion_metrics(rows)
    assert metrics["lesion_auroc_mass"] == pytest.approx((4 + 2) / 8) and metrics["lesion_n_mass"] == 2
    assert metrics["lesion_auroc_mass_10mm_0_4"] == 1 and metrics["lesion_n_mass_10mm_0_4"] == 1
    assert "lesion_auroc_mass_20mm_0_4" not in metrics and "lesion_auroc_mass_10mm_0_8" not in metrics
    assert metrics["lesion_auroc_calcification_10mm_0_4"] == pytest.approx(1 / 4)
    assert metrics["lesion_auroc_calcification_10mm_0_8"] == pytest.approx((1 + 0.5) / 4)
    assert metrics["lesion_hit_10mm_0_4"] == pytest.approx(1 / 2) and metrics["lesion_n_10mm_0_4"] == 2
