"""Imports go one way, room by room, as the design says."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import mammovae

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mammovae"
ROOMS = [
    "version",
    "config",
    "arguments",
    "storage",
    "journal",
    "statistics",
    "imageio",
    "parallel",
    "report",
    "data",
    "perturbations",
    "phantoms",
    "models",
    "detection",
    "generation",
    "training",
    "evaluation",
    "auditing",
    "cross_validation",
    "packing",
    "demonstration",
    "describe",
    "verbs",
]
LEVEL = {room: level for level, room in enumerate(ROOMS)}
OUTSIDE = {"__init__", "__main__"}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.stem not in OUTSIDE]
MODULES = {".".join(("mammovae", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Return the full names that a file imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            own = set() if node.module == "mammovae" else {node.module or ""}
            names |= own | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_rooms_are_those_that_exist() -> None:
    found = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert found == set(ROOMS)
    document = (PACKAGE.parents[1] / "docs" / "explanation" / "architecture.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| ", document, flags=re.M) == list(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        assert name != "mammovae", f"{path.name} imports the package's face"
        if parts[0] == "mammovae":
            assert LEVEL[parts[1]] <= LEVEL[room], f"{room} imports {name}"


def test_no_file_imports_itself_through_others() -> None:
    needs = {name: imported(path) & set(MODULES) - {name} for name, path in MODULES.items()}
    while free := {name for name, others in needs.items() if not others}:
        needs = {name: others - free for name, others in needs.items() if name not in free}
    assert not needs, f"imports go in a circle among {sorted(needs)}"


def test_data_has_torch_in_dataset_alone() -> None:
    for path in FILES:
        names = {name.split(".")[0] for name in imported(path)}
        assert "torch" not in names or "data" not in path.relative_to(PACKAGE).parts[:1] or path.stem == "dataset", path


def test_no_two_files_share_a_name() -> None:
    root = PACKAGE.parents[1]
    places = [*FILES, *(path for part in ("tests", "tools", "benchmarks") for path in (root / part).rglob("*.py"))]
    counts = Counter(path.name for path in places if path.name != "__init__.py")
    assert not [name for name, count in counts.items() if count > 1]


def test_no_room_has_the_name_of_a_public_function() -> None:
    # Python sets an imported submodule as an attribute of its package: mv.audit would become a module.
    assert not set(mammovae.__all__) & set(ROOMS)
