"""The data sheet of generated images: how they were made, and what they may not be used for."""

import re
import shutil
from pathlib import Path

import pytest

import mammovae as mv
from mammovae.generation.data_sheet import DATA_SHEET, record_on_sheet, write_data_sheet
from mammovae.report.formatting import plural
from mammovae.report.recorded_figures import FIGURES
from mammovae.storage import MANIFEST, read_json

METRICS = {"two_sample_auroc": 0.81, "two_sample_auroc_low": 0.69, "two_sample_auroc_high": 0.9, "exact_copies": 0}
METRICS |= {"n_generated": 6, "n_real": 44, "n_train": 12, "n_failed": 0, "patient-1": 3}


@pytest.fixture(scope="module")
def varied(run: Path, trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sheet") / "varied"
    return mv.generate(run, out=out, mode="vary", source=trapped_data, count=6, seed=3).path


def test_the_sheet_says_how_the_images_were_made_and_what_they_are(run: Path, tmp_path: Path) -> None:
    out = mv.generate(run, out=tmp_path / "made", count=5, temperature=0.5).path
    sheet, manifest = (out / DATA_SHEET).read_text(), read_json(out / MANIFEST)
    assert (
        f"# {plural(manifest['counts']['ok'], 'generated mammogram')}\n" in sheet
        and "drawn from a distribution fitted to those" in sheet
    )
    assert re.search(rf"^{manifest['counts']['ok']} images? of 64 x 64 pixels", sheet, flags=re.M)
    for name, value in (
        ("mode", "latent"),
        ("count", "5"),
        ("seed", "0"),
        ("temperature", "0.5"),
        ("latent density", ".+"),
    ):
        assert re.search(rf"^\| {name} \| {value} \|$", sheet, flags=re.M), name
    assert f"| weights of vae (SHA-256) | {manifest['run']['weights']['vae']} |" in sheet
    assert "Not audited yet" in sheet and "Not to be used for" in sheet and "phantoms alone" in sheet
    rows = re.findall(r"^\| (CC|MLO|unknown) \| (\d+) \|$", sheet, flags=re.M)
    assert sum(int(number) for _, number in rows) >= 5


def test_what_is_derived_from_patients_says_so_and_names_none(varied: Path, trapped_data: Path, tmp_path: Path) -> None:
    shutil.copytree(varied, tmp_path / "real")
    manifest = read_json(varied / MANIFEST) | {"phantoms": False}
    write_data_sheet(tmp_path / "real", manifest, mv.Data.open(varied).index)
    sheet = (tmp_path / "real" / DATA_SHEET).read_text()
    assert "Each image is derived from one patient's image." in sheet
    assert "must be handled like these" in sheet and "keep their own licences" in sheet
    index = mv.Data.open(trapped_data).index
    assert not [one for name in ("image_id", "patient_id") for one in index[name] if one in sheet]
    assert str(varied.parent) not in sheet and str(trapped_data) not in sheet


def test_an_audits_figures_are_added_to_the_sheet(varied: Path, trapped_data: Path, tmp_path: Path) -> None:
    shutil.copytree(varied, tmp_path / "made")
    record_on_sheet(tmp_path / "made", mv.Data.open(trapped_data), METRICS, {"index": "a"}, 7)
    sheet = (tmp_path / "made" / DATA_SHEET).read_text()
    assert "Not audited" not in sheet and "(vindr, phantoms), seed 7:" in sheet
    assert "| 0.81 (0.69–0.90) | 6 generated, 44 real |" in sheet
    assert "| exact copies of training images | 0 | 6 generated |" in sheet and "patient-1" not in sheet
    assert str(mv.info(tmp_path / "made")).splitlines()[1].startswith("  Audit")


def test_a_sheet_that_cannot_be_written_does_not_stop_an_audit(
    varied: Path, trapped_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(varied, tmp_path / "made")
    (tmp_path / "made" / FIGURES).write_text("a file in its way")
    record_on_sheet(tmp_path / "made", mv.Data.open(trapped_data), METRICS, {"index": "a"}, 7)
    assert f"the figures are not in the data sheet of {tmp_path / 'made'}: " in capsys.readouterr().err


def test_the_same_folder_gives_the_same_sheet(varied: Path, tmp_path: Path) -> None:
    shutil.copytree(varied, tmp_path / "made")
    before = (tmp_path / "made" / DATA_SHEET).read_bytes()
    (tmp_path / "made" / DATA_SHEET).unlink()
    write_data_sheet(tmp_path / "made", read_json(varied / MANIFEST), mv.Data.open(varied).index)
    assert (tmp_path / "made" / DATA_SHEET).read_bytes() == before
