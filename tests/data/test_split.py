"""Splits by patient: shares, strata, a set's own test part, and what unknown health means."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from mammovae.data import index
from mammovae.data.split import assign_folds, assign_splits, include_unlabelled, split_fold, usable_rows


def study(patients: int, findings: set[int] = frozenset(), unknown: set[int] = frozenset(), **fixed) -> pd.DataFrame:  # type: ignore[assignment]
    """Two images a patient; in patients of findings the left one has a lesion, in those of unknown none is known."""
    rows = []
    for patient in range(patients):
        for side in "LR":
            healthy = None if patient in unknown else not (patient in findings and side == "L")
            rows.append({"image_id": f"{patient}{side}", "patient_id": str(patient), "side": side, "healthy": healthy})
    return index.table([row | fixed for row in rows])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31), st.data())
def test_left_and_right_breast_of_a_patient_never_split(patients: int, seed: int, data: st.DataObject) -> None:
    findings = data.draw(st.sets(st.integers(0, patients - 1)))
    frame = assign_splits(study(patients, findings), seed)
    used = frame[frame["split"] != "unused"]
    assert (used.groupby("patient_id")["split"].nunique() == 1).all()
    assert index.check(frame) is frame


def test_patients_are_dealt_in_the_stated_shares_in_both_strata() -> None:
    frame = assign_splits(study(200, findings=set(range(100))), seed=1)
    for stratum in (frame[:200], frame[200:]):
        by_patient = stratum[stratum["split"] != "unused"].groupby("patient_id")["split"].first()
        assert by_patient.value_counts().to_dict() == {"train": 50, "validation": 10, "calibration": 20, "test": 20}


def test_findings_are_nowhere_but_in_test_and_healthy_images_of_their_patients_stay() -> None:
    frame = assign_splits(study(100, findings=set(range(50))), seed=1)
    with_finding = frame[~frame["healthy"].to_numpy(bool)]
    assert set(with_finding["split"]) == {"test", "unused"}
    partners = frame[(frame["side"] == "R") & (frame["patient_id"].astype(int) < 50)]
    assert "train" in set(partners["split"]) and "unused" not in set(partners["split"])


def test_the_sets_own_test_part_is_kept_and_the_rest_is_carved() -> None:
    frame = study(100)
    own = np.where(frame["patient_id"].astype(int) < 20, "test", "train")
    split = assign_splits(frame.assign(split=pd.array(list(own), dtype="string")), seed=1)["split"]
    assert (split[own == "test"] == "test").all()
    assert split[own == "train"].value_counts().to_dict() == {"train": 100, "validation": 20, "calibration": 40}


def test_a_patient_listed_in_both_parts_belongs_to_test() -> None:
    frame = study(30)
    own = ["test" if image == "3L" else "train" for image in frame["image_id"]]
    split = assign_splits(frame.assign(split=pd.array(list(own), dtype="string")), seed=0)
    assert split.loc[split["patient_id"] == "3", "split"].tolist() == ["test", "test"]


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    frame = study(50, findings={1, 2, 3})
    first = assign_splits(frame, 7).set_index("image_id")["split"]
    shuffled = assign_splits(frame.sample(frac=1, random_state=0), 7).set_index("image_id")["split"]
    assert first.to_dict() == shuffled.to_dict()
    assert first.to_dict() != assign_splits(frame, 8).set_index("image_id")["split"].to_dict()


def test_unknown_health_is_used_only_when_asked_for() -> None:
    frame = assign_splits(study(100, unknown=set(range(100))), seed=0)
    assert set(frame["split"]) == {"unused", "test"}
    asked = include_unlabelled(frame, seed=0, aside=set())
    assert (asked["split"] == "unused").sum() == 0
    assert (asked.groupby("patient_id")["split"].nunique() == 1).all()
    assert (asked.loc[frame["split"] == "test", "split"] == "test").all()


def test_what_is_set_aside_is_never_put_back_to_work() -> None:
    frame = assign_splits(study(20, unknown=set(range(20))), seed=0)
    aside = {"3L", "4R"}
    asked = include_unlabelled(frame, seed=0, aside=aside).set_index("image_id")["split"]
    assert all(asked[name] in ("unused", "test") for name in aside)


def test_patients_named_for_training_stay_out_of_test_and_what_a_set_leaves_unused_stays_unused() -> None:
    frame = study(60)
    own = ["train" if int(patient) < 30 else None for patient in frame["patient_id"]]
    own[-1] = "unused"
    split = assign_splits(frame.assign(split=pd.array(own, dtype="string")), seed=0)["split"]
    assert "test" not in set(split[:60]) and "test" in set(split[60:])
    assert split.iloc[-1] == "unused"


def test_a_single_patient_trains() -> None:
    assert set(assign_splits(study(1), seed=0)["split"]) == {"train"}


def test_splits_are_drawn_over_patients_with_an_image_that_is_there() -> None:
    frame = study(100)
    is_there = np.array([int(patient) % 10 == 0 for patient in frame["patient_id"]])
    frame["status"] = frame["status"].mask(~is_there, "missing")
    split = assign_splits(frame, seed=0)["split"]
    assert set(split[~is_there]) == {"unused"}
    assert split[is_there].value_counts().to_dict() == {"train": 10, "validation": 2, "calibration": 4, "test": 4}


def test_only_images_of_the_chosen_kinds_are_drawn() -> None:
    frame = study(40)
    is_magnified = np.array([int(patient) % 2 == 0 for patient in frame["patient_id"]])
    frame["kind"] = frame["kind"].mask(is_magnified, "magnified")
    split = assign_splits(frame, 0, usable_rows(frame, ["mammogram"]))["split"]
    assert set(split[is_magnified]) == {"unused"}
    assert split[~is_magnified].value_counts().to_dict() == {"train": 20, "validation": 4, "calibration": 8, "test": 8}
    both = assign_splits(frame, 0, usable_rows(frame, ["mammogram", "magnified"]))["split"]
    pd.testing.assert_series_equal(both, assign_splits(study(40), 0)["split"])


def test_healthy_patients_reach_every_split_however_many_are_unknown() -> None:
    frame = assign_splits(study(110, unknown=set(range(10, 110))), seed=0)
    healthy = frame[frame["healthy"].fillna(False)]
    assert healthy["split"].value_counts().to_dict() == {"train": 10, "validation": 2, "calibration": 4, "test": 4}


def test_patients_of_unknown_health_do_not_change_where_the_others_are_drawn() -> None:
    known = assign_splits(study(40, findings={3, 4, 5}), seed=2).set_index("image_id")["split"]
    more = assign_splits(study(60, findings={3, 4, 5}, unknown=set(range(40, 60))), seed=2).set_index("image_id")[
        "split"
    ]
    pd.testing.assert_series_equal(more[known.index], known)


def test_a_patient_with_an_image_in_the_sets_test_part_is_test_even_where_that_image_is_missing() -> None:
    frame = study(20)
    frame["split"] = pd.array(["test" if name == "3L" else "train" for name in frame["image_id"]], frame["split"].dtype)
    frame.loc[frame["image_id"] == "3L", "status"] = "missing"
    split = assign_splits(frame, seed=0).set_index("image_id")["split"]
    assert (split["3L"], split["3R"]) == ("unused", "test")


def test_unlabelled_images_that_failed_stay_unused() -> None:
    frame = study(20, unknown=set(range(20)))
    frame.loc[0, "status"] = "failed"
    asked = include_unlabelled(assign_splits(frame, seed=0), seed=0, aside=set())
    assert asked["split"].iloc[0] == "unused" and (asked["split"] == "unused").sum() == 1


def test_what_is_set_aside_or_not_there_is_in_no_fold_and_never_used() -> None:
    frame = study(12, unknown={11})
    frame.loc[frame["image_id"] == "0L", "status"] = "missing"
    folds = assign_folds(frame, 3, seed=0, aside={"1L", "1R"})
    outside = np.flatnonzero(folds < 0)
    assert set(frame["image_id"].iloc[outside]) == {"0L", "1L", "1R"}
    assert np.ptp(np.bincount(folds[folds >= 0])) <= 2
    for fold in range(3):
        split = split_fold(frame, folds, fold, seed=0)["split"]
        assert set(split.iloc[outside]) == {"unused"}
        assert (split[folds == fold] == "test").all()
