"""The longer tutorials run from top to bottom, each in an empty folder; the first ones do in test_first_run."""

import shutil
from pathlib import Path

import pytest
from tests.documentation.pages import DOCS, ROOT, blocks, run_here
from tests.documentation.pages import here as here

import mammovae as mv

TUTORIALS = DOCS / "tutorials"

pytestmark = pytest.mark.slow


def test_a_synthetic_data_set_is_made(here: Path) -> None:
    for block in blocks(TUTORIALS / "synthetic-data-set.md", "run"):
        run_here(block)
    for result in ("NEW-IMAGES/grid.png", "NEW-IMAGES/png", "NEW-DICOM/index.parquet", "AUDIT/report.html"):
        assert (here / result).stat().st_size > 0


def test_the_vindr_study_runs_on_a_tree_of_its_shape(here: Path) -> None:
    mv.phantom(out="vindr-mammo", patients=24, size=96, traps=True, workers=2)
    shutil.copytree(ROOT / "configs", "configs")
    for block in blocks(TUTORIALS / "vindr-study.md", "vindr"):
        run_here(block._replace(text=block.text.replace("--preset original", "--preset tiny --epochs 2")))
    facts = str(mv.info("DATA-VINDR"))
    assert "24 images" in facts and "128 px" in facts
    assert (here / "FULL-TEST-VINDR" / "report.html").is_file()
