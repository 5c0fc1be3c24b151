"""README and docs are true: their commands run as they stand, from top to bottom, README first.

Blocks are tagged: run (as they are), vindr (the paths replaced by a VinDr-shaped phantom tree, the preset by tiny),
mias (likewise with the real images where they are), long (an hour: parsed here, run on phantoms by
tests/cross_validation/test_crossval.py and tests/auditing/test_audit.py), none (make targets, several machines).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mammovae as mv
from mammovae.__main__ import app

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("preparing", "original-study", "detecting"))]
PAGES += [ROOT / "docs" / f"{name}.md" for name in ("generating", "scaling", "detection-results", "generation-results")]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"^ *```(\w+) (\w+)\n(.*?)^ *```$", page.read_text(), flags=re.M | re.S)
]


def execute(language: str, text: str, folder: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # a block with --devices 2 would need two GPUs
    command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, f"{text}\n{answer.stdout}\n{answer.stderr}"


def blocks(tag: str) -> list[tuple[str, str]]:
    found = [(language, text) for language, kind, text in BLOCKS if kind == tag]
    assert found
    return found


def test_every_block_has_a_tag_that_is_known() -> None:
    fences = [fence for page in PAGES for fence in re.findall(r"^ *```(?!$)(.*)$", page.read_text(), flags=re.M)]
    assert len(fences) == len(BLOCKS)
    assert {kind for _, kind, _ in BLOCKS} == {"run", "vindr", "mias", "long", "none"}


@pytest.mark.slow
def test_the_blocks_tagged_run_run(tmp_path: Path) -> None:
    for language, text in blocks("run"):
        execute(language, text, tmp_path)
    for result in (
        *("EVALUATION/report.html", "GENERATED/grid.png", "scores.csv", "DATA-SAMPLES/contact_sheet.png"),
        *("NEW-IMAGES/grid.png", "NEW-DICOM/index.parquet", "AUDIT/report.html", "review.html"),
    ):
        assert (tmp_path / result).stat().st_size > 0


@pytest.mark.slow
def test_the_vindr_study_runs_on_a_tree_of_its_shape(tmp_path: Path) -> None:
    mv.phantom(out=tmp_path / "vindr-mammo", patients=24, size=96, traps=True, workers=2)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for language, text in blocks("vindr"):
        execute(language, text.replace("--preset original", "--preset tiny --epochs 2"), tmp_path)
    facts = str(mv.info(tmp_path / "DATA-VINDR"))
    assert "24 images" in facts and "128 px" in facts
    assert (tmp_path / "FULL-TEST-VINDR" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "mias").is_dir(), reason="the MIAS films are not on this machine")
def test_the_mias_study_runs_on_the_films(tmp_path: Path) -> None:
    (tmp_path / "mias").symlink_to(SHARED / "mias")
    for language, text in blocks("mias"):
        execute(language, text.replace("--preset original", "--preset tiny --epochs 2"), tmp_path)
    assert "208 images of 104 patients: 208 ok (135 healthy, 73 with a finding" in str(mv.info(tmp_path / "DATA-MIAS"))
    assert "train 69, validation 12, calibration 27, test 42, unused 58" in str(mv.info(tmp_path / "DATA-MIAS"))


def test_commands_that_take_an_hour_are_written_as_the_command_line_takes_them() -> None:
    for _, text in blocks("long"):
        for line in text.splitlines():
            name, *tokens = shlex.split(line)
            if name == "python":
                assert (ROOT / tokens[0]).is_file()
                continue
            assert name == "mammovae"
            app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1000


def slugs(text: str) -> set[str]:
    """The names by which headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda page: page.name
)
def test_every_image_and_page_that_is_linked_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)h][^)]*)\)", page.read_text()):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not heading or heading in slugs(file.read_text()), target
