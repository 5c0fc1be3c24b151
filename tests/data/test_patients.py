"""Who is one patient: what shares an id, a study or its pixels, and which ids say nothing."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammovae.data import index
from mammovae.data.patients import Patients, find_patients

Identity = tuple[str | None, str | None, str | None]  # patient id, study id, digest


def found(identities: Sequence[Identity], status: str = "ok") -> Patients:
    rows = [
        {"image_id": f"i{row:03d}", "patient_id": patient, "study_id": study, "status": status}
        for row, (patient, study, _) in enumerate(identities)
    ]
    return find_patients(index.table(rows), np.array([digest for *_, digest in identities], object))


def groups(patients: Patients) -> list[list[int]]:
    """The rows of each patient."""
    return [
        rows.tolist() for rows in pd.Series(range(len(patients.names))).groupby(patients.names.tolist()).groups.values()
    ]


def test_a_file_without_a_patient_id_belongs_to_the_patient_of_its_study() -> None:
    patients = found([("p", "s", None), (None, "s", None), ("q", "t", None), (None, "t", None)])
    assert patients.names.tolist() == ["p", "p", "q", "q"]
    assert patients.are_known and not patients.notes
    assert patients.remarks.isna().all()


def test_the_same_pixels_under_two_patient_ids_are_one_patient_with_all_its_images_and_that_is_said() -> None:
    patients = found([("b", "s", "x"), ("b", "s", "y"), ("a", "t", "x"), ("a", "t", "z"), ("c", "u", "w")])
    assert patients.names.tolist() == ["a", "a", "a", "a", "c"]
    assert patients.remarks.notna().tolist() == [True, True, False, False, False]
    assert "patient id is b" in patients.remarks[0] and "patient a" in patients.remarks[0]
    assert patients.are_known and "3 patient ids are those of 2 patients" in patients.notes[0]


def test_one_study_under_two_patient_ids_is_one_patient() -> None:
    patients = found([(f"{'AB'[row % 2]}{row // 4}", f"study{row // 4}", None) for row in range(80)])
    assert (
        groups(patients) == [list(range(first, first + 4)) for first in range(0, 80, 4)] or len(groups(patients)) == 20
    )
    assert patients.names.str.startswith("A").all()


@pytest.mark.parametrize("word", ["ANONYMOUS", "0", "Anon.", "N/A", "unknown", "00000", "XXXX", "Jane^Doe"])
def test_one_id_on_all_of_several_studies_counts_as_none_and_that_is_said_once(word: str) -> None:
    patients = found([(word, f"s{row // 2}", None) for row in range(8)])
    assert len(groups(patients)) == 4
    assert not patients.are_known
    assert word in patients.notes[0] and "4 studies" in patients.notes[0]
    assert patients.remarks.isna().all()


@pytest.mark.parametrize("word", ["anonymous", "ANON", "Unknown", "none", "n/a", "0", "de-identified"])
def test_a_placeholder_on_several_studies_counts_as_none_beside_real_ids(word: str) -> None:
    patients = found([(word, "s1", None), (word, "s2", None), ("p7", "s3", None), ("p9", "s4", None)])
    assert len(set(patients.names)) == 4 and set(patients.names[2:]) == {"p7", "p9"}
    assert not patients.are_known and word in patients.notes[0]


def test_a_placeholder_without_studies_makes_no_patient_of_many_images() -> None:
    patients = found([("anonymous", None, None), ("anonymous", None, None), ("p", None, None)])
    assert len(groups(patients)) == 3 and not patients.are_known


@pytest.mark.parametrize(
    "identities",
    [
        [("p", "s", None), ("p", "s", None)],  # one study
        [("p", None, None), ("p", None, None)],  # no study known
        [("p", "s", None), ("p", "t", None), (None, "u", None)],  # two examinations, and files of nobody known
        [("0", "s", None), ("0", "t", None), ("1", "u", None)],  # patients counted from 0
        [
            ("\u60a3\u8005", "s", None),
            ("\u60a3\u8005", "t", None),
            ("\u60a3\u8005\u4e8c", "u", None),
        ],  # no Latin letters
    ],
)
def test_an_id_that_may_be_true_is_kept(identities: list[Identity]) -> None:
    patients = found(identities)
    assert patients.names[0] == patients.names[1] == identities[0][0]
    assert not patients.notes


def test_a_file_that_could_not_be_read_does_not_make_one_id_on_all_studies_true() -> None:
    patients = found([("P", "s", None), ("P", "t", None), (None, None, None)])
    assert len(groups(patients)) == 3


def test_one_study_id_on_all_of_several_patients_counts_as_none() -> None:
    patients = found([("p", "s", None), ("q", "s", None), ("q", "s", None)])
    assert patients.names.tolist() == ["p", "q", "q"] and patients.are_known
    assert "study id s" in patients.notes[0]


def test_an_unknown_patient_is_the_study_else_the_image() -> None:
    patients = found([(None, "s", None), (None, "s", None), (None, None, None), (" ", "", None)])
    assert patients.names.tolist() == ["s", "s", "i002", "i003"]
    assert not patients.are_known


def test_what_failed_or_is_missing_does_not_decide_whether_patients_are_known() -> None:
    frame = index.table([{"image_id": "a", "patient_id": "p"}, {"image_id": "b", "status": "failed"}])
    assert find_patients(frame, np.array([None, None], object)).are_known


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_patients_are_the_connected_components_of_ids_studies_and_pixels(data: st.DataObject) -> None:
    names = st.one_of(st.none(), st.sampled_from("abcdefgh"))
    identities = data.draw(st.lists(st.tuples(names, names, names), min_size=1, max_size=12))
    prefixed: list[Identity] = [
        (patient and f"p{patient}", study and f"s{study}", digest and f"d{digest}")
        for patient, study, digest in identities
    ]
    patients = found([*prefixed, ("pz", "sz", None), ("py", "sy", None)])  # so that no id is on all of an archive
    joined = [{row} for row in range(len(prefixed))]
    for first in range(len(prefixed)):
        for second in range(first):
            if any(a == b is not None for a, b in zip(prefixed[first], prefixed[second], strict=True)):
                union = joined[first] | joined[second]
                for row in union:
                    joined[row] = union
    assert {frozenset(rows) for rows in groups(patients)} >= {frozenset(rows) for rows in joined}


def test_a_hundred_thousand_images_take_seconds() -> None:
    count = 100_000
    rows = np.arange(count).astype(str).astype(object)
    frame = index.table(
        [{"image_id": name, "patient_id": f"p{int(name) // 4}", "study_id": f"s{int(name) // 2}"} for name in rows]
    )
    start = perf_counter()
    patients = find_patients(frame, rows)
    assert perf_counter() - start < 10
    assert patients.names.nunique() == count // 4
