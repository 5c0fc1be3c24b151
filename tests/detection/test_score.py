"""Scoring many images: the same bytes on any number of workers, after any interruption, whatever one file causes."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import mammovae as mv
from mammovae.config import InputError, UsageError
from mammovae.detection import score, score_inputs, scorer
from mammovae.detection.map_files import map_name

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(trapped_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve of the trapped tree's DICOM files, and one that is none."""
    folder = tmp_path_factory.mktemp("images")
    files = sorted(trapped_raw.rglob("*.dicom"))[:12]
    for number, file in enumerate(files):
        shutil.copy(file, folder / f"image-{number:02}.dcm")
    (folder / "broken.dcm").write_bytes((folder / "image-00.dcm").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def undisturbed(run: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "scores.csv"
    mv.score(run, images, out=out, workers=1)
    return out.read_bytes()


def test_any_number_of_workers_writes_the_same_bytes(
    run: Path, images: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    table = mv.score(run, images, out=tmp_path / "s.csv", workers=2)["table"]
    assert (tmp_path / "s.csv").read_bytes() == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]
    failed = table[table["finding"].isna()]
    assert "broken" in set(failed["image_id"]) and failed["reason"].notna().all()


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the count-th file be the last; the list grows with the names of those that workers are done with."""
    done: list[str] = []
    real = score._run_in_workers

    def counted(*arguments: Any) -> Iterator[object]:
        for task, result in real(*arguments):
            if len(done) == count:
                raise KeyboardInterrupt
            assert isinstance(task.place, score_inputs.ImageFile)
            done.append(task.place.name)
            yield task, result

    monkeypatch.setattr(score, "_run_in_workers", counted)
    return done


def test_an_interrupted_scoring_resumes_and_ends_with_the_same_bytes(
    run: Path, images: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        first = interrupt_after(7, context)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, images, out=out, workers=1)
    journal = tmp_path / ".s.csv.rows.jsonl"
    text = journal.read_text()
    assert not out.exists() and text.count('"row"') == len(first) == 7
    journal.write_text(text[: text.rindex('"row"') + 9])  # the last row was cut off, too
    with monkeypatch.context() as context:
        second = interrupt_after(100, context)
        mv.score(run, images, out=out, workers=1)
    assert set(first) & set(second) == {first[-1]} and len(first) + len(second) == 14
    assert out.read_bytes() == undisturbed and not journal.exists()


def test_rows_of_another_job_are_not_resumed_from(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        interrupt_after(5, context)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, images, out=out, workers=1)
    with monkeypatch.context() as context:
        started = interrupt_after(100, context)
        mv.score(run, images, out=out, workers=1, maps=tmp_path / "maps")
    assert len(started) == 13


def test_a_review_that_was_interrupted_shows_what_an_undisturbed_one_does(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mv.score(run, images, out=tmp_path / "whole" / "s.csv", workers=1, review=tmp_path / "whole.html")
    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        interrupt_after(7, context)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, images, out=out, workers=1, review=tmp_path / "r.html")
    mv.score(run, images, out=out, workers=1, review=tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == (tmp_path / "whole.html").read_text()


def test_a_data_folder_is_scored_in_the_same_parts_after_an_interruption(
    run: Path, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mv.score(run, trapped_data, out=tmp_path / "whole.csv")
    real, seen = scorer.Scorer._score_part, []

    def counted(self: Any, task: Any, *rest: Any) -> object:
        if seen:
            raise KeyboardInterrupt
        seen.append(task)
        return real(self, task, *rest)

    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        context.setattr(scorer.Scorer, "_score_part", counted)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, trapped_data, out=out)
    assert (tmp_path / ".s.csv.rows.jsonl").read_text().count('"row"') == score.PART
    mv.score(run, trapped_data, out=out)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    table = pd.read_csv(out)
    index = mv.Data.open(trapped_data).index
    assert len(table) == (index["status"] != "missing").sum()
    assert np.isfinite(table["finding"]).sum() == (index["status"] == "ok").sum()


def test_two_at_once_on_one_file_are_refused(run: Path, images: Path, tmp_path: Path) -> None:
    with score._locked(tmp_path / "s.csv"), pytest.raises(InputError, match="another mammovae is writing"):
        mv.score(run, images, out=tmp_path / "s.csv", workers=1)


def test_a_broken_link_is_a_row_and_what_was_refused_is_not_tried_again(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    (folder / "astray.dcm").symlink_to(tmp_path / "nowhere.dcm")
    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        first = interrupt_after(6, context)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, folder, out=out, workers=1, review=tmp_path / "r.html")
    assert "broken.dcm" in first
    with monkeypatch.context() as context:
        second = interrupt_after(100, context)
        table = mv.score(run, folder, out=out, workers=1, review=tmp_path / "r.html")["table"]
    assert not {"astray.dcm", "broken.dcm"} & set(second) and len(second) == 12
    reasons = table.set_index("image_id")["reason"]
    assert reasons["astray"].endswith("No such file or directory")


def test_a_run_that_the_workers_do_not_find_is_named(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "run"
    shutil.copytree(run, elsewhere)
    real = score._run_tasks

    def delete_and_run(*arguments: Any, **settings: Any) -> object:
        shutil.rmtree(elsewhere)
        return real(*arguments, **settings)

    monkeypatch.setattr(score, "_run_tasks", delete_and_run)
    with pytest.raises(InputError, match="there is no folder"):
        mv.score(elsewhere, images, out=tmp_path / "s.csv", workers=2)


def lines_by_name(table: Path) -> dict[str, str]:
    return {line.partition(",")[0]: line for line in table.read_text().splitlines()}


def test_few_files_have_the_rows_that_they_have_among_many(
    run: Path, images: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    chosen = [images / "image-03.dcm", images / "image-00.dcm", images / "broken.dcm"]
    mv.score(run, *chosen, out=tmp_path / "s.csv")
    few = lines_by_name(tmp_path / "s.csv")
    (tmp_path / "many.csv").write_bytes(undisturbed)
    many = lines_by_name(tmp_path / "many.csv")
    assert list(few) == ["image_id", "image-03", "image-00", "broken"]
    assert all(many[name] == line for name, line in few.items())


@pytest.mark.parametrize("fails", [False, True])
def test_files_scored_together_as_on_a_gpu_have_their_rows_and_one_that_fails_costs_no_other_its_row(
    run: Path, images: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    real, sizes = scorer.Scorer._score_files, []

    def fail_on_one(self: Any, tasks: Any, results: Any) -> Any:
        sizes.append(len(tasks))
        if fails and "image-03" in {task.image_ids[0] for task in tasks}:
            raise RuntimeError("out of memory")
        return real(self, tasks, results)

    monkeypatch.setattr(score, "files_scored_here", lambda count: 5)
    monkeypatch.setattr(scorer.Scorer, "_score_files", fail_on_one)
    (tmp_path / "alone.csv").write_bytes(undisturbed)
    mv.score(run, images, out=tmp_path / "s.csv", workers=2)
    together, alone = (pd.read_csv(tmp_path / name) for name in ("s.csv", "alone.csv"))
    assert max(sizes) == 5 and (sizes.count(1) > 1) == fails
    is_failed = (together["image_id"] == "image-03").to_numpy() & fails
    assert together.loc[is_failed, "finding"].isna().all() and together.loc[is_failed, "reason"].notna().all()
    # A rank jumps where a calibration image scores as this one does, and it may be this very image.
    patients = mv.Run.open(run).manifest["calibration_patients"]
    assert (together["finding_p"] - alone["finding_p"])[~is_failed].abs().max() < 1.01 / (patients + 1)
    ranks = ["finding_p", "finding_percentile", "reason"]
    pd.testing.assert_frame_equal(
        together[~is_failed].drop(columns=ranks), alone[~is_failed].drop(columns=ranks), rtol=1e-5
    )
    np.testing.assert_allclose(
        together["finding_percentile"][~is_failed], alone["finding_percentile"][~is_failed], atol=0.01
    )


def test_where_files_are_scored_is_decided_by_the_device_and_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [score.files_scored_here(count) for count in (1, 7, 8, 1000)] == [1, 1, 0, 0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert score.files_scored_here(1) == score.files_scored_here(1000) == 32


def test_files_scored_together_are_resumed_from_where_they_were(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "files_scored_here", lambda count: 5)
    with monkeypatch.context() as context:
        interrupt_after(7, context)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, images, out=tmp_path / "s.csv", workers=1)
    with monkeypatch.context() as context:
        again = interrupt_after(100, context)
        table = mv.score(run, images, out=tmp_path / "s.csv", workers=1)["table"]
    assert len(again) == 6 and len(table) == 13 and table["finding"].notna().sum() == 11


@pytest.mark.parametrize("workers", [1, 2])
def test_few_files_too_are_decoded_in_other_processes(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def crash(*arguments: object, **settings: object) -> None:
        raise AssertionError("decoded in the calling process")

    monkeypatch.setattr(score_inputs, "prepare_image", crash)
    files = (images / "image-00.dcm", images / "image-01.dcm")
    table = mv.score(run, *files, out=tmp_path / "s.csv", workers=workers)["table"]
    assert table["finding"].notna().all()


@pytest.fixture
def tree(images: Path, tmp_path: Path) -> Path:
    """Images whose names are hard to tell apart, beside files that are none."""
    tree = tmp_path / "tree"
    files = sorted(images.glob("image-*.dcm"))
    names = ("1.2.840.1", "1.2.840.2", "a/1.2.840.1.dcm", "a/b.dcm", "a_b.dcm", "A_B.dcm", "a_b.dicom")
    for file, name in zip(files, names, strict=False):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tree / name)
    (tree / "notes.txt").write_text("no image")
    (tree / "empty.log").touch()
    (tree / "DICOMDIR").write_bytes(files[0].read_bytes())
    return tree


def test_every_image_of_a_folder_has_its_own_name_row_and_map(run: Path, tree: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    table = mv.score(run, tree, out=tmp_path / "s.csv", maps=maps)["table"]
    assert set(table["image_id"]) == {
        "1.2.840.1", "1.2.840.2", "a/1.2.840.1", "a/b", "a_b.dcm", "A_B", "a_b.dicom"
    }  # fmt: skip
    assert table["finding"].notna().all()
    written = {path.name.casefold() for path in maps.iterdir()}
    expected = {f"{map_name(name)}{suffix}".casefold() for name in table["image_id"] for suffix in (".png", ".map.png")}
    assert written == expected | {"manifest.json"} and len(expected) == 14


def test_what_a_call_writes_among_its_images_is_no_image_of_the_next(run: Path, tree: Path) -> None:
    places = {"out": tree / "scores.csv", "maps": tree / "maps", "review": tree / "review.html"}
    first = mv.score(run, tree, **places)["table"]
    second = mv.score(run, tree, **places)["table"]
    assert len(first) == 7
    pd.testing.assert_frame_equal(first, second)
    with pytest.raises(UsageError, match="was written by mammovae score: name images"):
        mv.score(run, tree / "maps", out=tree / "scores.csv")


def test_a_folder_of_other_files_is_not_filled_with_maps(run: Path, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds other files"):
        mv.score(run, tree, out=tmp_path / "s.csv", maps=tree)
    assert not (tree / "manifest.json").exists()
    with pytest.raises(UsageError, match="is a file"):
        mv.score(run, tree, out=tmp_path / "s.csv", maps=tree / "notes.txt")


def test_folders_whose_images_have_equal_names_are_told_apart(run: Path, images: Path, tmp_path: Path) -> None:
    for folder, file in (("x", "image-00.dcm"), ("y", "image-01.dcm")):
        (tmp_path / folder).mkdir()
        shutil.copy(images / file, tmp_path / folder / "1.dcm")
    places = (tmp_path / "x", tmp_path / "y", tmp_path / "x" / "1.dcm")
    maps = tmp_path / "maps"
    table = mv.score(run, *places, out=tmp_path / "s.csv", maps=maps)["table"]
    assert table["image_id"].tolist() == [str(tmp_path / folder / "1.dcm") for folder in ("x", "y")]
    assert len(list(maps.glob("*.map.png"))) == 2


def test_images_of_data_folders_with_equal_names_are_told_apart(
    run: Path, trapped_data: Path, images: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trapped_data, copy)
    alone = mv.score(run, trapped_data, out=tmp_path / "alone.csv")["table"]
    table = mv.score(run, trapped_data, copy, trapped_data, out=tmp_path / "s.csv", maps=tmp_path / "maps")["table"]
    assert len(table) == 2 * len(alone) and table["image_id"].is_unique
    assert table["image_id"].tolist() == [
        f"{place}/{name}" for place in (trapped_data, copy) for name in alone["image_id"]
    ]
    assert len(list((tmp_path / "maps").glob("*.map.png"))) == table["finding"].notna().sum()
    np.testing.assert_array_equal(table["finding"][: len(alone)], alone["finding"])


def test_names_that_no_file_can_hold_are_escaped(run: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(images / "image-00.dcm", folder / "two\nlines.dcm")
    undecodable = os.fsdecode(b"\xff.dcm")
    try:
        shutil.copy(images / "image-00.dcm", folder / undecodable)
    except OSError:
        pytest.skip("this disk takes UTF-8 alone")
    out = tmp_path / "s.csv"
    table = mv.score(run, folder, folder / undecodable, out=out)["table"]
    assert len(table) == 3 and len(out.read_text().splitlines()) == 4
    scored = table.set_index("image_id")["finding"].dropna()
    assert "two\\nlines" in scored and len(scored) == 2


def test_a_zip_archive_has_the_rows_of_its_folder(run: Path, tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "tree.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(tree.rglob("*")):
            file.write(path, path.relative_to(tree.parent))
    unpacked = mv.score(run, tree, out=tmp_path / "a.csv")["table"].set_index("image_id").drop(columns="source")
    packed = mv.score(run, archive, out=tmp_path / "b.csv")["table"].set_index("image_id").drop(columns="source")
    pd.testing.assert_frame_equal(packed.sort_index(), unpacked.sort_index())


@pytest.fixture
def films(breast_images: Any, tmp_path: Path) -> tuple[Path, Path]:
    """The same picture as a PNG file of 16 bits, and of 12 bits in 16."""
    picture = np.rint(breast_images(1, size=256)[0][0] * 4095)
    for name, white in (("sixteen", 65535), ("twelve", 4095)):
        Image.fromarray(np.rint(picture * (white / 4095)).astype(np.uint16)).save(tmp_path / f"{name}.png")
    return tmp_path / "sixteen.png", tmp_path / "twelve.png"


def test_white_is_that_of_the_run_or_as_given(run: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    sixteen, twelve = films
    known = tmp_path / "run"
    shutil.copytree(run, known)
    manifest = json.loads((known / "manifest.json").read_text())
    manifest["prepared"]["white"] = 4095
    (known / "manifest.json").write_text(json.dumps(manifest))
    (truth,) = mv.score(run, sixteen, out=tmp_path / "a.csv")["table"].to_dict("records")
    (given,) = mv.score(run, twelve, out=tmp_path / "b.csv", white=4095)["table"].to_dict("records")
    (by_run,) = mv.score(known, twelve, out=tmp_path / "c.csv")["table"].to_dict("records")
    (dark,) = mv.score(run, twelve, out=tmp_path / "d.csv")["table"].to_dict("records")
    assert truth["finding"] == given["finding"] == by_run["finding"]
    assert "--white" in str(dark["reason"]) and "white" not in str(truth["reason"])
    (above,) = mv.score(known, sixteen, out=tmp_path / "e.csv")["table"].to_dict("records")
    assert np.isnan(above["finding"]) and "is above white, 4095" in str(above["reason"])


def test_a_kind_that_the_run_does_not_know_is_scored_with_a_remark(
    run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "data"
    shutil.copytree(trapped_data, odd)
    frame = pd.read_parquet(odd / "index.parquet")
    place = int(np.flatnonzero(frame["status"] == "ok")[3])
    frame["kind"] = ["magnified" if row == place else "mammogram" for row in range(len(frame))]
    frame.to_parquet(odd / "index.parquet", index=False)
    remark = "its kind is magnified, and the run knows mammogram only"
    table = mv.score(run, odd, out=tmp_path / "s.csv")["table"].set_index("image_id")
    remarked = table[table["reason"].fillna("").str.contains(remark)]
    assert remarked.index.tolist() == [frame["image_id"][place]] and remarked["finding"].notna().all()


def test_a_name_that_says_a_kind_is_believed(run: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    recombined, low_energy = (tmp_path / f"P1_L_{kind}_MLO.png" for kind in ("CM", "DM"))
    for path in (recombined, low_energy):
        shutil.copy(films[0], path)
    table = mv.score(run, recombined, low_energy, out=tmp_path / "s.csv")["table"]
    is_remarked = table["reason"].fillna("").str.contains("its kind is contrast_enhanced")
    assert is_remarked.tolist() == [True, False] and table["finding"].notna().all()


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        ({"out": "image.png"}, "--out image.png is another file, which would be lost"),
        ({"out": "data/manifest.json"}, "--out data/manifest.json is another file"),
        ({"out": "data"}, "--out data is a folder"),
        ({"out": "new.csv", "review": "image.png"}, "--review image.png is another file"),
        ({"out": "new.csv", "review": "data"}, "--review data is a folder"),
        ({"out": "new.csv", "review": "./new.csv"}, "--out and --review are both"),
        ({"out": "new", "maps": "new"}, "--out and --maps are both"),
        ({"out": "new.csv", "maps": "data"}, "--maps data holds other files"),
    ],
)
def test_no_output_replaces_an_input_or_anything_but_an_earlier_result(
    run: Path, trapped_raw: Path, tmp_path: Path, outputs: dict, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "image.png").write_bytes(b"an image")
    (tmp_path / "data" / "manifest.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        mv.score(run, "image.png", **outputs)
    assert str(error.value).startswith(sentence)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_earlier_results_are_written_anew(run: Path, trapped_raw: Path, tmp_path: Path) -> None:
    image = next(path for path in sorted(trapped_raw.rglob("*.dicom")) if path.stat().st_size > 2000)
    for _ in range(2):
        mv.score(run, image, out=tmp_path / "scores.csv", review=tmp_path / "review.html", maps=tmp_path / "maps")
