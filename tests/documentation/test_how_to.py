"""How-to pages of commands run, each in a folder with the RAW, DATA and RUN of a first run."""

from pathlib import Path

import pytest
from tests.documentation.pages import DOCS, blocks, run_here
from tests.documentation.pages import first_run as first_run
from tests.documentation.pages import here as here
from tests.documentation.test_how_to_data import RESULTS as OTHERS

RESULTS = {
    "archive-quality": "quality.csv",
    "info": "ONE",
    "notebooks": "first-images.png",
    "pack": "scores-handed-on.csv",
    "pacs": "RESULTS/*.html",
    "phantom": "TREE/Metadata.csv",
    "prepare": "DATA-SMALL/export-png/index.csv",
    "score": "review.html",
    "stress": "STRESS/detectability.png",
    "train": "RUN-DETECT/loss.png",
}

pytestmark = pytest.mark.slow


def test_every_page_that_runs_is_among_those_that_are_tested() -> None:
    running = {page.stem for page in (DOCS / "how-to").glob("*.md") if blocks(page, "run")}
    assert running == set(RESULTS) | set(OTHERS)


@pytest.mark.parametrize("name", RESULTS)
def test_a_page_runs(name: str, first_run: Path) -> None:
    for block in blocks(DOCS / "how-to" / f"{name}.md", "run"):
        run_here(block)
    assert list(first_run.glob(RESULTS[name]))
