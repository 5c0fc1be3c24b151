"""What mammovae info says of paths: each is described, whatever becomes of the others."""

import getpass
import platform
import re
import shutil
import socket
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import mammovae as mv
from mammovae import describe as describe_module
from mammovae.__main__ import main
from mammovae.data import explain
from mammovae.describe import describe, describe_system
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


def test_the_system_is_described_by_versions_of_all_that_is_needed() -> None:
    words = describe_system()
    assert words["mammovae"].startswith(mv.__version__) and words["Python"].endswith(platform.python_version())
    assert {name: words[name] for name in ("torch", "pydicom", "numpy", "pyjpegls", "pylibjpeg", "python-gdcm")} == {
        name: version(name) for name in ("torch", "pydicom", "numpy", "pyjpegls", "pylibjpeg", "python-gdcm")
    }
    assert words["operating system"].startswith(platform.system()) and re.fullmatch(r"[\d.]+ GiB", words["memory"])
    assert re.match(r"\d+ of \d+, ", words["cores"]) and words["threads"].startswith(str(torch.get_num_threads()))
    assert words["extra cluster"] == "installed"


def test_the_description_of_the_system_names_no_user_no_machine_and_no_path() -> None:
    text = str(mv.info(system=True))
    for private in (getpass.getuser(), socket.gethostname()):
        assert not re.search(rf"\b{re.escape(private)}\b", text)
    assert sys.prefix not in text and not re.search(r"(^|\s|=)[/~]", text, flags=re.M)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        if package in ("python-gdcm", "distributed"):
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(describe_module, "version", absent)
    words = describe_system()
    assert words["python-gdcm"] == "missing" and words["extra cluster"] == "without distributed"


def test_gpus_and_settings_of_threads_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="A GPU", total_memory=16 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    words = describe_system()
    assert words["GPU"] == "A GPU (16 GiB), A GPU (16 GiB), CUDA 13.0" and "MKL_NUM_THREADS=3" in words["threads"]


def test_the_system_comes_before_the_paths_and_one_of_the_two_is_needed(
    trapped_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["info", str(trapped_data), "--system"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mammovae: ") and lines[-1].startswith(f"{trapped_data}: DATA folder")
    with pytest.raises(mv.UsageError, match="'paths' is empty: name files or folders, or ask for --system"):
        mv.info()
