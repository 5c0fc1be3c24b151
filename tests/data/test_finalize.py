"""The end of a prepare: patients, copies, kinds and splits from a listing and what the files gave."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammovae.config import PrepareSettings
from mammovae.data import index
from mammovae.data.copies import set_aside
from mammovae.data.finalize import FileResults, finalize
from mammovae.data.split import include_unlabelled

Row = dict[str, Any]


def entry(row: int, digest: str | None = None, **fields: Any) -> Row:
    """The journal's line about a file that was prepared; left and right breasts take turns."""
    wall = {"chest_wall": "right" if row % 2 else "left", "digest": digest or f"own{row}"}
    return {"row": row, "fields": {"rows": 8, "columns": 8, **fields}, "measurements": {"area": 0.5}, **wall}


def finished(
    out: Path, rows: Sequence[Row], entries: Sequence[Row] | None = None, **chosen: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The index and the manifest's facts of a listing, whose files all were prepared unless entries are given."""
    images = np.zeros((len(rows), 16, 16), np.uint16)
    frame = index.table(rows)
    done = [entry(row) for row in range(len(rows))] if entries is None else entries
    given_settings = PrepareSettings(**chosen)
    facts = finalize(out, frame, done, images, images.astype(np.uint8), given_settings)
    return index.read(out / "index.parquet"), facts | {"settings": given_settings.model_dump()}


def pairs(count: int, **fields: Any) -> list[Row]:
    """Two healthy images a patient."""
    return [
        {"image_id": f"{number}{side}", "patient_id": f"p{number:02d}", "study_id": f"s{number:02d}", "side": side}
        | {"healthy": True, **fields}
        for number in range(count)
        for side in "LR"
    ]


def test_copies_that_contradict_each_other_are_of_unknown_health_unused_and_said_on_every_row(tmp_path: Path) -> None:
    rows = pairs(20)
    for row in range(0, 40, 2):
        rows[row]["healthy"] = row % 4 == 0
    done = [entry(row, f"same{row // 4}" if row % 2 == 0 else None) for row in range(40)]
    frame, facts = finished(tmp_path, rows, done)
    group = frame.iloc[::2]
    assert group["healthy"].isna().all() and (group["split"] == "unused").all()
    assert group["reason"].str.contains("with another health: neither is used").all()
    assert len(facts["contradictions"]) == 10 and facts["duplicates"] == []
    asked = include_unlabelled(frame, 0, set_aside(frame, facts))
    assert (asked["split"].iloc[::2] == "unused").all()


def test_the_patients_of_copies_are_one_and_one_copy_is_used(tmp_path: Path) -> None:
    done = [entry(row, "same" if row in (0, 39) else None) for row in range(40)]
    frame, facts = finished(tmp_path, pairs(20), done)
    joined = frame.iloc[[0, 1, 38, 39]]
    assert set(joined["patient_id"]) == {"p00"} and facts["duplicates"] == [["0L", "19R"]]
    assert joined["split"].iloc[3] == "unused" and joined["split"].iloc[:3].nunique() == 1
    assert "patient id is p19" in joined["reason"].iloc[2] and "same pixels as 0L" in joined["reason"].iloc[3]
    assert facts["by_patient"] and "20 patient ids are those of 19 patients" in facts["notes"][0]


def test_kinds_come_from_the_list_else_the_file_else_are_mammograms_and_others_are_unused(tmp_path: Path) -> None:
    rows = pairs(10)
    rows[0]["kind"] = "spot"
    done = [entry(row, kind={0: "mammogram", 1: "magnified", 2: "implant"}.get(row)) for row in range(20)]
    frame, facts = finished(tmp_path / "a", rows, done)
    assert frame["kind"].tolist()[:4] == ["spot", "magnified", "implant", "mammogram"]
    assert (frame["split"].iloc[:3] == "unused").all() and "unused" not in set(frame["split"].iloc[3:])
    assert frame["reason"].iloc[1] == "kind magnified: unused, see --kinds"
    assert facts["counts"]["kinds"] == {"mammogram": 17, "spot": 1, "magnified": 1, "implant": 1}
    asked, facts = finished(tmp_path / "b", rows, done, kinds=("mammogram", "spot", "magnified", "implant"))
    assert "unused" not in set(asked["split"]) and asked["reason"].isna().all()
    assert set_aside(frame, {"duplicates": [], "settings": {"kinds": ["mammogram"]}}) == {"0L", "0R", "1L"}


def test_unlabelled_images_of_other_kinds_stay_unused(tmp_path: Path) -> None:
    frame, facts = finished(
        tmp_path, pairs(10, healthy=None), [entry(n, kind="other" if n < 4 else None) for n in range(20)]
    )
    asked = include_unlabelled(frame, 0, set_aside(frame, facts))
    assert (asked["split"].iloc[:4] == "unused").all() and "unused" not in set(asked["split"].iloc[4:])


def test_one_id_on_all_studies_is_said_in_the_manifest_and_splits_are_drawn_by_study(tmp_path: Path) -> None:
    frame, facts = finished(tmp_path, pairs(20, patient_id="ANONYMOUS"))
    assert not facts["by_patient"] and "ANONYMOUS stands on all 20 studies" in facts["notes"][0]
    assert facts["counts"]["splits"] == {"train": 20, "validation": 4, "calibration": 8, "test": 8, "unused": 0}
    assert frame["patient_id"].tolist() == frame["study_id"].tolist()


def test_a_set_that_names_test_images_under_one_empty_id_is_not_refused(tmp_path: Path) -> None:
    rows = [row | {"split": "test" if number % 2 else "train"} for number, row in enumerate(pairs(10, study_id=None))]
    for number, row in enumerate(rows):
        row |= {"patient_id": "0", "study_id": f"s{number}"}
    frame, _ = finished(tmp_path, rows)
    assert (frame["split"].iloc[1::2] == "test").all() and "test" not in set(frame["split"].iloc[::2])


def test_names_and_reasons_with_line_breaks_harm_neither_the_contact_sheet_nor_the_index(tmp_path: Path) -> None:
    rows = [{"image_id": name} for name in ("a\nb", "\u4e2d\u6587\u200f", "\x1b[2J")]
    frame, _ = finished(tmp_path, rows, [entry(0, reason="a line\nbreak"), entry(1), entry(2)])
    assert (tmp_path / "contact_sheet.png").exists()
    assert frame["reason"].iloc[0] == "a line\\nbreak"


def test_what_was_noted_of_a_listing_ends_in_the_facts(tmp_path: Path) -> None:
    frame = index.table(pairs(2))
    index.add_note(frame, "not used as labels: x.csv")
    images = np.zeros((4, 16, 16), np.uint16)
    done = [entry(row) for row in range(4)]
    facts = finalize(tmp_path, frame, done, images, images.astype(np.uint8), PrepareSettings())
    assert facts["notes"] == ["not used as labels: x.csv"]


def test_what_files_gave_is_gathered_at_a_cost_that_grows_with_their_number_alone() -> None:
    count, names = 50_000, [f"measure{number}" for number in range(10)]
    entries = (entry(row) | {"measurements": dict.fromkeys(names, 0.5)} for row in range(count))
    start = perf_counter()
    results = FileResults.collect(entries, count)
    assert perf_counter() - start < 8
    assert all((results.measurements[name] == 0.5).all() for name in names)


def test_a_row_that_failed_in_the_listing_is_among_the_failures(tmp_path: Path) -> None:
    rows = [*pairs(2), {"image_id": "x", "source": "x.dcm", "status": "failed", "reason": "cannot read the folder"}]
    frame, facts = finished(tmp_path, rows, [entry(row) for row in range(4)])
    assert pd.read_csv(tmp_path / "failures.csv")["image_id"].tolist() == ["x"]
    assert facts["counts"]["failed"] == 1 and frame["split"].iloc[4] == "unused" and pd.isna(frame["kind"].iloc[4])


names = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d", "e", "f", "ANONYMOUS", "0"]))
archive = st.lists(
    st.tuples(
        names, names, st.one_of(st.none(), st.integers(0, 9)), st.sampled_from([True, False, None, True])
    ).flatmap(lambda row: st.tuples(st.just(row), st.sampled_from(["ok", "ok", "ok", "missing", "failed"]))),
    min_size=1,
    max_size=24,
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(archive, st.integers(0, 9))
def test_no_study_picture_or_patient_is_in_two_splits_and_only_healthy_images_train(
    tmp_path_factory: Any, drawn: list, seed: int
) -> None:
    rows, done = [], []
    for number, ((patient, study, picture, healthy), status) in enumerate(drawn):
        row = {"image_id": f"i{number}", "patient_id": patient, "study_id": study and f"s{study}", "healthy": healthy}
        rows.append(row | {"status": status})
        if status == "ok":
            done.append(entry(number, None if picture is None else f"picture{picture}"))
    frame, facts = finished(tmp_path_factory.mktemp("data"), rows, done, seed=seed)
    digests = pd.Series({line["row"]: line["digest"] for line in done}, frame.index, object)
    asked = include_unlabelled(frame, seed, set_aside(frame, facts))
    for table in (frame, asked):
        used = table["split"] != "unused"
        ids = [table["patient_id"], digests]
        is_one_study = table["study_id"].dropna().nunique() == 1
        ids += (
            []
            if is_one_study
            else [table["study_id"].where(table["study_id"] != "s0").where(lambda s: s != "sANONYMOUS")]
        )
        for values in ids:
            assert (table[used].groupby(values[used].to_numpy(object))["split"].nunique() <= 1).all()
        assert not digests[used].duplicated().any()
        assert (table.loc[used, "status"] == "ok").all()
    outside_test = ~frame["split"].isin(["test", "unused"])
    assert frame.loc[outside_test, "healthy"].fillna(False).all()
    stated = pd.Series([row["healthy"] for row in rows], dtype=object).groupby(digests.to_numpy(object))
    for _, group in stated:
        if {True, False} <= set(group):
            assert (asked.loc[group.index, "split"] == "unused").all() and frame.loc[
                group.index, "healthy"
            ].isna().all()
