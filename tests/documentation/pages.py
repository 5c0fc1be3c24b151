"""The pages of README and docs, their code blocks, and how a block is run.

A fence names its language and a tag, which says how a test runs it:

run      as it stands, from top to bottom of its page (test_first_run, test_tutorials, test_how_to, test_how_to_data)
again    every line of it stands in another page's block that runs, word for word
vindr    likewise, with a phantom tree in the place of VinDr-Mammo and a small network (test_tutorials)
mias     likewise, with the films, where they are (test_how_to_data)
long     an hour: parsed here; crossval and audit have tests of their own
demo     in a folder where the demo was made (tests/demonstration/test_demo_steps.py)
recipe   followed in a copy of the package (tests/test_recipes.py)
none     make targets, installation, several machines
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from mammovae.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TAGS = {"run", "again", "demo", "vindr", "mias", "long", "recipe", "none"}


class Block(NamedTuple):
    """A code block of a page."""

    language: str
    tag: str
    text: str


def blocks(page: Path, *tags: str) -> list[Block]:
    """Return the blocks of a page in order, those with one of the tags."""
    found = re.findall(r"^ *```(\w+) (\w+)\n(.*?)^ *```$", page.read_text(), flags=re.M | re.S)
    return [Block(*parts) for parts in found if not tags or parts[1] in tags]


def run_in_shell(block: Block, folder: Path) -> None:
    """Run a block in a process of its own, as a reader would."""
    shell = ["bash", "-euo", "pipefail", "-c"]
    command = [sys.executable, "-c"] if block.language == "python" else shell
    answer = subprocess.run([*command, block.text], cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, f"{block.text}\n{answer.stdout}\n{answer.stderr}"


def run_here(block: Block) -> None:
    """Run a block in the current folder: what is only mammovae or Python in this process, which spares its start."""
    lines = block.text.splitlines()
    if block.language == "python":
        exec(compile(block.text, "<block>", "exec"), {"__name__": "__main__"})
    elif all(re.fullmatch(r" *mammovae [^$|><&;*#`\\]*", line) for line in lines):
        for line in lines:
            main(shlex.split(line)[1:])
    else:
        run_in_shell(block, Path.cwd())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which blocks run, without a GPU, which --devices 2 would need two of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    return tmp_path


@pytest.fixture
def first_run(trapped_raw: Path, trapped_data: Path, run: Path, here: Path) -> Path:
    """A folder in which the first run was done."""
    for name, made in {"RAW": trapped_raw, "DATA": trapped_data, "RUN": run}.items():
        shutil.copytree(made, here / name)
    return here
