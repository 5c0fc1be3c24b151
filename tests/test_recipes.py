"""The recipes of docs/explanation/architecture.md, followed word by word in a copy of the package: three files each, and it works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
STEP = re.compile(
    r"^(?:New file `(?P<new>[^`]+)`|In `(?P<old>[^`]+)`, (?P<where>after|before) `(?P<line>[^`]+)`):\n\n"
    r"```(?:python|text) recipe\n(?P<code>.*?)^```$",
    flags=re.M | re.S,
)
EXAMPLE = """

def image_list_tree(root: Path) -> Path:
    picture(root / "a.png")
    write_csv(root / "list.csv", [{"file": f"{name}.png", "patient": "p", "side": "L", "view": "CC"} for name in "ab"])
    return root


TREES["image-list"] = image_list_tree
"""


def follow(title: str, copy: Path) -> set[str]:
    """Do the steps of a recipe in a copy of the repository; return the files that it touches."""
    recipe = TEXT.split(f"### {title}\n")[1].split("\n### ")[0]
    touched = set()
    for step in STEP.finditer(recipe):
        name = step["new"] or step["old"]
        touched.add(name)
        if step["new"]:
            (copy / name).write_text(step["code"])
            continue
        lines = (copy / name).read_text().splitlines(keepends=True)
        places = [number for number, line in enumerate(lines) if line.startswith(step["line"])]
        assert len(places) == 1, f"{name} has {len(places)} lines that begin with {step['line']!r}"
        place, line = places[0], lines[places[0]]
        if step["where"] == "after" and line.rstrip() != step["line"].rstrip():  # the list goes on in this line
            lines[place] = step["code"].join((step["line"] + "\n", line[len(step["line"]) :]))
        else:
            lines.insert(place + (step["where"] == "after"), step["code"])
        (copy / name).write_text("".join(lines))
    return touched


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def check(copy: Path, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(copy / "src")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    answer = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    assert re.search(r"[1-9]\d* passed", answer.stdout.splitlines()[-1]) or "." in answer.stdout


def test_a_data_source_is_added_by_three_files_and_keeps_the_contract(copy: Path) -> None:
    touched = follow("Add a data source", copy)
    assert len(touched) == 3, touched
    trees = copy / "tests" / "data" / "example_trees.py"
    trees.write_text(trees.read_text() + EXAMPLE)
    check(copy, "tests/data/test_source_contract.py", "-k", "image-list or offers")


def test_a_network_is_added_by_three_files_and_keeps_the_contract(copy: Path) -> None:
    touched = follow("Add a network", copy)
    assert len(touched) == 3, touched
    check(copy, "tests/models/test_member_contract.py", "-k", "coarse_autoencoder or registry")
