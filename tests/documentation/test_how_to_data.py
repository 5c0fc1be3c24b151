"""How-to pages of data sets and of many machines run, each in a folder with the RAW, DATA and RUN of a first run."""

from pathlib import Path

import pytest
from tests.documentation.pages import DOCS, ROOT, blocks, run_here
from tests.documentation.pages import first_run as first_run
from tests.documentation.pages import here as here

import mammovae as mv

FILMS = ROOT.parent / "shared" / "data" / "mias"
RESULTS = {
    "cbis-ddsm": "DATA-SAMPLES/contact_sheet.png",
    "dask": "scores-archive.csv",
    "dicom-tree": "scores-dicom.csv",
    "gpu-and-machines": "RUN-TWO/loss.png",
    "image-folder": "DATA-FOLDER/contact_sheet.png",
    "several-folders": "scores-joined.csv",
    "zip": "DATA-ZIP/contact_sheet.png",
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", RESULTS)
def test_a_page_runs(name: str, first_run: Path) -> None:
    for block in blocks(DOCS / "how-to" / f"{name}.md", "run"):
        run_here(block)
    assert (first_run / RESULTS[name]).exists()


@pytest.mark.skipif(not FILMS.is_dir(), reason="the MIAS films are not on this machine")
def test_the_mias_study_runs_on_the_films(here: Path) -> None:
    (here / "mias").symlink_to(FILMS)
    for block in blocks(DOCS / "how-to" / "mini-mias.md", "mias"):
        run_here(block._replace(text=block.text.replace("--preset original", "--preset tiny --epochs 2")))
    assert "208 images of 104 patients: 208 ok (135 healthy, 73 with a finding" in str(mv.info("DATA-MIAS"))
    assert "train 69, validation 12, calibration 27, test 42, unused 58" in str(mv.info("DATA-MIAS"))
