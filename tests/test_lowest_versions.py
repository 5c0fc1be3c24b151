"""The versions that `make test-lowest` installs are the lowest that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOO_LARGE = {"torch"}  # gigabytes, and no file is read by it


def test_the_lowest_versions_tried_are_those_that_are_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = dict(line.split(">=") for line in project["dependencies"])
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    tried = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert tried.keys() == allowed.keys() - TOO_LARGE
    assert {name: _trimmed(version) for name, version in tried.items()} == {
        name: _trimmed(version) for name, version in allowed.items() if name not in TOO_LARGE
    }


def _trimmed(version: str) -> str:
    """Return a version without zeros at its end: 3.0 is 3.0.0."""
    return re.sub(r"(\.0)+$", "", version)
