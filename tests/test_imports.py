"""Imports go one way, room by room, as the design says."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mammovae"
ROOMS = [
    {"config", "statistics", "page"},
    {"folders"},
    {"data"},
    {"phantoms"},
    {"model"},
    {"fit"},
    {"detect", "generation"},
    {"server"},
    {"study"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
OUTSIDE = {"__init__", "__main__"}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.stem not in OUTSIDE]


def imported(path: Path) -> set[str]:
    """Return the full names that a file imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "mammovae" and len(parts) > 1 and parts[1] in LEVEL:
            other = parts[1]
            assert LEVEL[other] <= LEVEL[room], f"{room} imports {name}"
            siblings = LEVEL[other] == LEVEL[room] and {other, room} == {"detect", "generation"}
            assert not siblings, f"{room} imports {name}"


def test_only_fit_knows_the_training_framework_and_data_has_torch_in_dataset_alone() -> None:
    for path in FILES:
        names = {name.split(".")[0] for name in imported(path)}
        assert "pytorch_lightning" not in names or path.stem == "fit", path
        assert "torch" not in names or "data" not in path.relative_to(PACKAGE).parts[:1] or path.stem == "dataset", path
