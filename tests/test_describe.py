"""What mammovae info says of paths: each is described, whatever becomes of the others."""

import shutil
import zipfile
from pathlib import Path

import pytest

import mammovae as mv
from mammovae.data import explain
from mammovae.describe import describe
from mammovae.report.formatting import headline


def image_of(raw: Path) -> Path:
    return next(path for path in sorted(raw.rglob("*.dicom")) if path.stat().st_size > 2000)


def test_what_cannot_be_described_stops_no_other_path(trapped_raw: Path, trapped_data: Path, tmp_path: Path) -> None:
    broken, gone = tmp_path / "broken.dcm", tmp_path / "gone"
    broken.write_bytes(b"nonsense")
    image = image_of(trapped_raw)
    sentences, failed = describe([gone, broken, image, trapped_data, tmp_path])
    assert list(sentences) == [str(path) for path in (gone, broken, image, trapped_data, tmp_path)] and failed == 3
    assert sentences[str(gone)] == f"there is no file or folder {gone}: check the path"
    assert sentences[str(broken)].startswith(f"cannot read {broken}: ")
    assert sentences[str(image)].startswith(f"{image}: image of ") and "\n  prepare   ok: " in sentences[str(image)]
    assert sentences[str(trapped_data)].startswith(f"{trapped_data}: DATA folder (prepare, done) at 64 px")
    assert sentences[str(tmp_path)].startswith(f"{tmp_path} is no folder of mammovae")


def test_files_are_decoded_in_another_process(trapped_raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*arguments: object, **settings: object) -> None:
        raise AssertionError("decoded in the calling process")

    monkeypatch.setattr(explain, "read", crash)
    sentences, failed = describe([image_of(trapped_raw)])
    assert failed == 0 and "image of" in "".join(sentences.values())


def test_of_a_run_and_of_generated_images_it_says_what_was_measured_and_where_the_card_is(
    run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    copy, generated = tmp_path / "run", tmp_path / "generated"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("figures"))
    mv.generate(copy, out=generated, count=2)
    metrics = mv.evaluate(copy, trapped_data, out=tmp_path / "evaluation")
    sentences, failed = describe([copy, generated])
    first, evaluated, card = sentences[str(copy)].splitlines()
    assert failed == 0 and first.startswith(f"{copy}: RUN folder (train, done), preset tiny")
    assert evaluated.startswith(
        "  Evaluation on test images of the data that the run was trained on (vindr, phantoms): "
    )
    assert evaluated.endswith(headline(metrics)) and card == f"  model card: {copy / 'model_card.md'}"
    assert sentences[str(generated)].splitlines()[1:] == [f"  data sheet: {generated / 'data_sheet.md'}"]


def test_a_zip_archive_is_counted_and_not_decoded(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(3):
            file.writestr(f"images/{number}.dcm", b"content")
    sentences, failed = describe([archive])
    assert failed == 0
    assert (
        sentences[str(archive)] == f"{archive}: zip archive of 3 files, which mammovae prepare and score read in place"
    )
