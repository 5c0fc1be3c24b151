"""No patient, study or picture is ever in two splits, whatever an archive lacks, repeats or contradicts."""

import csv
import tempfile
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.samples import dicom, picture

import mammovae as mv
from mammovae.data import index
from mammovae.data.copies import set_aside
from mammovae.data.finalize import finalize
from mammovae.data.split import assign_folds, include_unlabelled, split_fold

SETTINGS = mv.PrepareSettings(size=16)


class Image(NamedTuple):
    """What is true of one file, and where its ids stand: in the listing, in its header, or in both."""

    patient: str | None
    study: str | None
    pixels: int | None  # which picture it shows; None: its own
    healthy: bool | None
    state: str = "ok"  # "unlisted": the listing failed already; "failed": reading does; "missing"
    ids_in: str = "header"
    split: str | None = None
    kind: str = "mammogram"


def pool(name: str, count: int) -> st.SearchStrategy[str | None]:
    return st.one_of(st.none(), st.integers(0, count - 1).map(lambda number: f"{name}{number}"))


def images(patients: st.SearchStrategy[str | None]) -> st.SearchStrategy[list[Image]]:
    image = st.builds(
        Image,
        patient=patients,
        study=pool("s", 12),
        pixels=st.sampled_from([None, None, None, 0, 1, 2, 3]),
        healthy=st.sampled_from([True, True, True, False, None]),
        state=st.sampled_from(["ok", "ok", "ok", "ok", "ok", "missing", "failed", "unlisted"]),
        ids_in=st.sampled_from(["header", "listing", "both"]),
        split=st.sampled_from([None, None, None, "train", "test", "unused"]),
        kind=st.sampled_from(["mammogram", "mammogram", "mammogram", "magnified"]),
    )
    return st.lists(image, min_size=1, max_size=40)


ARCHIVES = st.one_of(images(pool("p", 8)), images(st.just("ANONYMOUS")), images(st.none()), images(pool("p", 1)))


def finalised(archive: Sequence[Image]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Finish a prepare of an archive as if its files had been read; return the index and the manifest's facts."""
    rows, entries = [], []
    for number, image in enumerate(archive):
        ids = {"patient_id": image.patient, "study_id": image.study}
        row = {"image_id": f"i{number}", "source": f"{number}.dcm", "healthy": image.healthy, "split": image.split}
        row |= ids if image.ids_in != "header" else {}
        if image.state in ("missing", "unlisted"):
            row |= {"status": "missing" if image.state == "missing" else "failed", "reason": "as the test has it"}
        rows.append(row)
        if image.state == "failed":
            entries.append({"row": number, "fields": {"status": "failed", "reason": "it is damaged"}})
        elif image.state == "ok":
            fields = {"kind": image.kind, "reason": None} | (ids if image.ids_in != "listing" else {})
            digest = f"own {number}" if image.pixels is None else f"shared {image.pixels}"
            entries.append(
                {"row": number, "fields": fields, "chest_wall": "left", "digest": digest, "measurements": {"a": 1.0}}
            )
    blank = np.zeros((len(archive), 16, 16))
    with tempfile.TemporaryDirectory() as folder:
        facts = finalize(
            Path(folder), index.table(rows), entries, blank.astype(np.uint16), blank.astype(np.uint8), SETTINGS
        )
        return index.read(Path(folder) / "index.parquet"), facts


def groups(archive: Sequence[Image]) -> list[list[int]]:
    """Return the readable images that belong together: by patient, by study, by picture, and so on from each to others.

    A patient id that is the only one over several studies is an anonymiser's, and says nothing; nor does ANONYMOUS.
    """
    readable = [number for number, image in enumerate(archive) if image.state == "ok"]
    patients, studies = ({getattr(archive[n], name) for n in readable} - {None} for name in ("patient", "study"))
    says_nothing = patients == {"ANONYMOUS"} or (len(patients) == 1 and len(studies) > 1)
    joined: list[tuple[set[Hashable], list[int]]] = []
    for number in readable:
        image = archive[number]
        keys: set[Hashable] = {("study", image.study)} if image.study else set()
        keys |= {("patient", image.patient)} if image.patient and not says_nothing else set()
        keys |= {("pixels", image.pixels)} if image.pixels is not None else set()
        numbers = [number]
        for other in [one for one in joined if one[0] & keys]:
            joined.remove(other)
            keys, numbers = keys | other[0], numbers + other[1]
        joined.append((keys, numbers))
    return [sorted(numbers) for _, numbers in joined]


def contradicting(archive: Sequence[Image]) -> set[int]:
    """Return the images whose picture is called healthy by one file and not by another."""
    known = defaultdict(set)
    for image in archive:
        if image.state == "ok" and image.pixels is not None and image.healthy is not None:
            known[image.pixels].add(image.healthy)
    doubtful = {pixels for pixels, healths in known.items() if len(healths) == 2}
    return {n for n, image in enumerate(archive) if image.state == "ok" and image.pixels in doubtful}


def leaks(archive: Sequence[Image], split: Sequence[str]) -> list[list[tuple[int, str]]]:
    """Return the groups of images of which several splits are used, or folds."""
    used = [[(n, split[n]) for n in numbers if split[n] not in ("unused", -1)] for numbers in groups(archive)]
    return [group for group in used if len({name for _, name in group}) > 1]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(ARCHIVES)
def test_no_patient_study_or_picture_is_in_two_splits_and_only_the_healthy_train(archive: list[Image]) -> None:
    frame, _ = finalised(archive)
    split = frame["split"].tolist()
    assert leaks(archive, split) == []
    fits = {n for n, image in enumerate(archive) if image.healthy and image.state == "ok" and image.kind == "mammogram"}
    fits -= contradicting(archive)
    for name in ("train", "validation", "calibration"):
        assert {n for n, used in enumerate(split) if used == name} <= fits
    for n in contradicting(archive):
        assert split[n] == "unused" and not pd.isna(frame["reason"].iloc[n]) and pd.isna(frame["healthy"].iloc[n])
    assert all(split[n] == "unused" for n, image in enumerate(archive) if image.state != "ok")
    used = [image.pixels for n, image in enumerate(archive) if split[n] != "unused" and image.pixels is not None]
    assert len(used) == len(set(used)), "a picture is used twice"


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(ARCHIVES)
def test_training_without_labels_keeps_patients_apart_too(archive: list[Image]) -> None:
    frame, facts = finalised(archive)
    split = include_unlabelled(frame, 0, aside(frame, facts))["split"].tolist()
    assert leaks(archive, split) == []
    assert all(split[n] == "unused" for n in contradicting(archive)), "a copy that is called ill elsewhere trains"
    assert all(split[n] == "unused" for n, image in enumerate(archive) if image.state != "ok")
    trains = [archive[n] for n, name in enumerate(split) if name == "train"]
    assert all(image.healthy is not False and image.kind == "mammogram" for image in trains)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(ARCHIVES, st.integers(2, 4))
def test_no_patient_study_or_picture_is_in_two_folds(archive: list[Image], folds: int) -> None:
    frame, facts = finalised(archive)
    try:
        fold_of = assign_folds(frame, folds, 0, aside(frame, facts))
    except mv.UsageError:  # fewer patients than folds
        return
    assert leaks(archive, fold_of.tolist()) == []
    for fold in range(folds):
        split = split_fold(frame, fold_of, fold, 0)["split"].tolist()
        assert leaks(archive, split) == []
        trains = {n for n, name in enumerate(split) if name == "train"}
        assert all(archive[n].healthy for n in trains) and not trains & contradicting(archive)


def aside(frame: pd.DataFrame, facts: Mapping[str, Any]) -> set[str]:
    return set_aside(frame, {**facts, "settings": SETTINGS.model_dump()})


def test_a_plain_archive_of_healthy_patients_fills_every_split() -> None:
    archive = [Image(f"p{n // 4}", f"s{n // 4}", None, True) for n in range(80)]
    frame, facts = finalised(archive)
    assert frame["split"].value_counts().to_dict() == {"train": 40, "validation": 8, "calibration": 16, "test": 16}
    assert facts["by_patient"]


@pytest.mark.parametrize("placeholder", ["ANONYMOUS", "0"])
def test_one_id_over_many_studies_is_none_and_splits_by_study(placeholder: str) -> None:
    frame, facts = finalised([Image(placeholder, f"s{n // 4}", None, True) for n in range(80)])
    assert frame["split"].value_counts().to_dict() == {"train": 40, "validation": 8, "calibration": 16, "test": 16}
    assert not facts["by_patient"]


def test_splits_are_drawn_over_what_is_there() -> None:
    archive = [Image(f"p{n}", f"s{n}", None, True, "ok" if n % 10 == 0 else "missing") for n in range(200)]
    split = finalised(archive)[0]["split"]
    assert split.value_counts().to_dict() == {"unused": 180, "train": 10, "validation": 2, "calibration": 4, "test": 4}


class Raw(NamedTuple):
    """A file of a made archive, and what a table says of it."""

    source: str
    image: Image
    content: bytes


def made_archive(seed: int) -> list[Raw]:
    """Return files of 14 patients: ids missing or an anonymiser's, copies under other names, damage, contradictions."""
    rng = np.random.default_rng(seed)
    files = list[Raw]()
    for number in range(48):
        patient, study = f"p{number // 4}", f"s{number // 2}"
        healthy: bool | None = bool(rng.random() < 0.8) if rng.random() < 0.9 else None
        pixels = number
        if number >= 8 and rng.random() < 0.25:
            pixels = int(rng.integers(number))
        if seed == 1:
            patient = "ANONYMOUS"
        no_patient, no_study = rng.random(2) < (0.4 if seed != 1 else 0.1)
        state = "failed" if rng.random() < 0.08 else "missing" if rng.random() < 0.08 else "ok"
        image = Image(None if no_patient else patient, None if no_study else study, pixels, healthy, state)
        values = picture(8) + np.random.default_rng([5, pixels]).integers(0, 2, picture(8).shape) * (picture(8) % 2)
        header: dict[str, Any] = {"PatientID": image.patient, "StudyInstanceUID": image.study and f"1.2.{study[1:]}"}
        header |= {"SOPInstanceUID": f"1.3.{seed}.{number}", "PixelData": values.astype(np.uint8).tobytes()}
        content = dicom("explicit", 8, **header).encode()
        files.append(Raw(f"{number // 10}/{number}.dcm", image, content[:-200] if state == "failed" else content))
    return files


def write_archive(root: Path, files: Iterable[Raw]) -> None:
    rows = []
    for file in files:
        if file.image.state != "missing":
            (root / file.source).parent.mkdir(parents=True, exist_ok=True)
            (root / file.source).write_bytes(file.content)
        healthy = {True: "true", False: "false", None: ""}[file.image.healthy]
        rows.append({"source": file.source, "healthy": healthy})
    with (root / "index.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, ["source", "healthy"])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_real_files_through_the_whole_of_prepare_leak_nothing(tmp_path: Path, seed: int) -> None:
    files = made_archive(seed)
    write_archive(tmp_path / "raw", files)
    mv.prepare("dicom", tmp_path / "raw", out=tmp_path / "data", workers=2, settings=SETTINGS)
    frame = index.read(tmp_path / "data" / "index.parquet").set_index("source")
    split = [str(frame["split"][file.source]) for file in files]
    archive = [file.image for file in files]
    assert leaks(archive, split) == []
    assert all(archive[n].healthy for n, name in enumerate(split) if name == "train")
    assert all(split[n] == "unused" for n in contradicting(archive))
    assert len(contradicting(archive)) and "train" in split and "test" in split
    states = {"ok": "ok", "failed": "failed", "missing": "missing"}
    assert [frame["status"][file.source] for file in files] == [states[image.state] for image in archive]
