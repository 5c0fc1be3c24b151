"""README runs as it stands, and the first tutorial goes on where it ends."""

from pathlib import Path

from tests.documentation.pages import DOCS, ROOT, blocks, run_in_shell
from tests.documentation.pages import here as here


def test_readme_and_the_first_run_run(here: Path) -> None:
    for page in (ROOT / "README.md", DOCS / "tutorials" / "first-run.md"):
        for block in blocks(page, "run"):
            run_in_shell(block, here)
    named = ("DATA/contact_sheet.png", "RUN/loss.png", "RUN/private/reconstructions.png", "GENERATED/grid.png")
    for result in (*named, "review.html", "scores.csv", "EVALUATION/report.html"):
        assert (here / result).stat().st_size > 0
