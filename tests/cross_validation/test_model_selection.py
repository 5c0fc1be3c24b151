"""selection.json: what inserted lesions say of each score, with intervals over patients."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mammovae.cross_validation import model_selection
from mammovae.perturbations.lesions import LESION_KINDS
from mammovae.statistics.bootstrap import auroc

FOLDS, PATIENTS = 3, 14


@pytest.fixture
def tables() -> list[pd.DataFrame]:
    """Of each fold's patients two images: untouched, with each kind of lesion, and a sham; patients differ a lot."""
    rng, tables = np.random.default_rng(0), []
    for fold in range(FOLDS):
        positions = np.repeat(2 * PATIENTS * fold + np.arange(2 * PATIENTS), len(LESION_KINDS) + 2)
        kinds = np.tile(["", *LESION_KINDS, "sham"], 2 * PATIENTS)
        inserted = ~np.isin(kinds, ["", "sham"])
        level = rng.normal(size=FOLDS * PATIENTS)[positions // 2]
        known = rng.random(FOLDS * 2 * PATIENTS)[positions] < 0.7
        rows: dict[str, Any] = {
            "position": positions,
            "kind": kinds,
            "diameter_mm": 5.0,
            "contrast": 0.4,
            "chance": 0.03,
        }
        rows["peak"] = level + 0.8 * inserted + 0.2 * rng.normal(size=len(kinds))
        rows["peak_bilateral"] = np.where(known, rows["peak"], np.nan)
        # Whether a lesion is pointed at depends on the patient alone.
        rows["hit"] = np.where(inserted, level > 0, np.nan)
        tables.append(pd.DataFrame(rows))
    return tables


@pytest.fixture
def summarise(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(model_selection, "_last_validation", lambda *_: {})

    def summarise(tables: list[pd.DataFrame], patients: np.ndarray) -> dict[str, Any]:
        index = pd.DataFrame({"image_id": [f"i{n}" for n in range(len(patients))], "patient_id": patients.astype(str)})
        data, run = SimpleNamespace(index=index), SimpleNamespace(members=())
        return model_selection.summarise_selection(tables, data, [run] * FOLDS)  # pyrefly: ignore[bad-argument-type]

    return summarise


def test_every_auroc_and_share_has_its_interval_and_numbers(tables: list[pd.DataFrame], summarise: Any) -> None:
    selection = summarise(tables, np.arange(2 * FOLDS * PATIENTS) // 2)
    images = 2 * FOLDS * PATIENTS
    assert (selection["n_untouched"], selection["n_patients"]) == (images, FOLDS * PATIENTS)
    assert selection["n_inserted"] == images * len(LESION_KINDS)
    assert set(selection["scores"]["peak"]) == {"all", "sham", *LESION_KINDS}
    for parts in selection["scores"].values():
        for part, entry in parts.items():
            assert entry["low"] < entry["auroc"] < entry["high"]
            assert entry["n_inserted"] == entry["n_untouched"] * (len(LESION_KINDS) if part == "all" else 1)
    assert selection["scores"]["peak_bilateral"]["all"]["n_untouched"] < images  # those that have the other breast
    for parts in selection["pointing"].values():
        assert set(parts) == {"all", *LESION_KINDS}
        assert all(entry["low"] - 1e-9 <= entry["share"] <= entry["high"] + 1e-9 for entry in parts.values())


def test_the_interval_is_that_of_whole_patients_drawn_fold_by_fold(tables: list[pd.DataFrame], summarise: Any) -> None:
    selection = summarise(tables, np.arange(2 * FOLDS * PATIENTS) // 2)
    rng, values, shares = np.random.default_rng(1), [], []
    standard = [(table["peak"] - table["peak"][table["kind"] == ""].mean()) for table in tables]
    standard = [one / one[table["kind"] == ""].std() for one, table in zip(standard, tables, strict=True)]
    of_patient = [table.groupby(table["position"] // 2).indices for table in tables]
    for _ in range(600):
        untouched, inserted, hits = [], [], []
        for table, score, rows_of in zip(tables, standard, of_patient, strict=True):
            drawn = np.concatenate([rows_of[name] for name in rng.choice(list(rows_of), len(rows_of))])
            kinds, scores = table["kind"].to_numpy()[drawn], score.to_numpy()[drawn]
            is_inserted = ~np.isin(kinds, ["", "sham"])
            untouched.append(scores[kinds == ""])
            inserted.append(scores[is_inserted])
            hits.append(table["hit"].to_numpy()[drawn][is_inserted].astype(float))
        values.append(auroc(np.concatenate(untouched), np.concatenate(inserted)))
        shares.append(np.concatenate(hits).mean())
    for entry, draws in ((selection["scores"]["peak"]["all"], values), (selection["pointing"]["hit"]["all"], shares)):
        width = entry["high"] - entry["low"]
        np.testing.assert_allclose([entry["low"], entry["high"]], np.percentile(draws, [2.5, 97.5]), atol=0.15 * width)
    # Images taken for patients would look more certain than they are.
    by_image = summarise(tables, np.arange(2 * FOLDS * PATIENTS))["pointing"]["hit"]["all"]
    assert by_image["high"] - by_image["low"] < 0.85 * width


def test_a_patient_may_be_in_the_validation_images_of_two_folds(tables: list[pd.DataFrame], summarise: Any) -> None:
    again = [table.assign(position=tables[0]["position"]) for table in tables]
    selection = summarise(again, np.arange(2 * PATIENTS) // 2)
    assert selection["n_patients"] == PATIENTS and selection["scores"]["peak"]["all"]["low"] is not None


def test_too_few_patients_give_no_interval(tables: list[pd.DataFrame], summarise: Any) -> None:
    few = [table[table["position"] % (2 * PATIENTS) < 6].reset_index(drop=True) for table in tables]
    entry = summarise(few, np.arange(2 * FOLDS * PATIENTS) // 2)["scores"]["peak"]["mass"]
    assert entry["auroc"] is not None and entry["low"] is entry["high"] is None
