"""The pages of how-to run, each in a folder with the RAW, DATA and RUN of a first run."""

import shutil
from pathlib import Path

import pytest
from tests.documentation.pages import DOCS, ROOT, blocks, pages_with, run_here
from tests.documentation.pages import here as here

import mammovae as mv

FILMS = ROOT.parent / "shared" / "data" / "mias"
RESULTS = {
    "prepare": "DATA-SMALL/export-png/index.csv",
    "train": "RUN-DETECT/loss.png",
    "score": "review.html",
    "stress": "STRESS/detectability.png",
    "archive-quality": "quality.csv",
    "pack": "scores-handed-on.csv",
    "notebooks": "first-images.png",
    "pacs": "INCOMING",
    "several-folders": "scores-joined.csv",
}

pytestmark = pytest.mark.slow


@pytest.fixture
def first_run(trapped_raw: Path, trapped_data: Path, run: Path, here: Path) -> Path:
    """A folder in which the first run was done."""
    for name, made in {"RAW": trapped_raw, "DATA": trapped_data, "RUN": run}.items():
        shutil.copytree(made, here / name)
    return here


@pytest.mark.parametrize("page", pages_with("how-to", "run"), ids=lambda page: page.stem)
def test_a_page_runs(page: Path, first_run: Path) -> None:
    for block in blocks(page, "run"):
        run_here(block)
    assert (first_run / RESULTS.get(page.stem, "DATA")).exists()


@pytest.mark.skipif(not FILMS.is_dir(), reason="the MIAS films are not on this machine")
def test_the_mias_study_runs_on_the_films(here: Path) -> None:
    (here / "mias").symlink_to(FILMS)
    for block in blocks(DOCS / "how-to" / "mini-mias.md", "mias"):
        run_here(block._replace(text=block.text.replace("--preset original", "--preset tiny --epochs 2")))
    assert "208 images of 104 patients: 208 ok (135 healthy, 73 with a finding" in str(mv.info("DATA-MIAS"))
    assert "train 69, validation 12, calibration 27, test 42, unused 58" in str(mv.info("DATA-MIAS"))
