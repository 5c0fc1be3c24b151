"""README runs as it stands, and the first two tutorials go on where it ends."""

from pathlib import Path

import pandas as pd
import pytest
from tests.documentation.pages import DOCS, ROOT, blocks, run_here, run_in_shell
from tests.documentation.pages import here as here

RESULTS = ("DATA/contact_sheet.png", "RUN/loss.png", "RUN/private/reconstructions.png", "GENERATED/grid.png")

pytestmark = pytest.mark.slow


def test_readme_and_the_tutorials_after_it_run(here: Path) -> None:
    for block in blocks(ROOT / "README.md", "run"):
        run_in_shell(block, here)
    for name in ("first-run", "dicom-to-review"):
        for block in blocks(DOCS / "tutorials" / f"{name}.md", "run"):
            run_here(block)
    for result in (*RESULTS, "review.html", "scores.csv", "EVALUATION/report.html", "my-review.html", "mine.html"):
        assert (here / result).stat().st_size > 0
    assert pd.read_csv("my-scores.csv")["finding"].notna().sum() == 8
