"""The generated pages of docs/reference are those of this code, and leave no public name undescribed."""

import importlib
import re
from types import ModuleType

import pytest
from tests.documentation.pages import DOCS, ROOT

import mammovae as mv


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("reference_pages")


def test_the_pages_are_up_to_date(tool: ModuleType) -> None:
    for name, text in tool.pages().items():
        assert (DOCS / "reference" / name).read_text() == text, f"{name} is old: run python tools/reference_pages.py"


@pytest.mark.parametrize("name", sorted(set(mv.__all__) - {"__version__"}))
def test_every_public_name_has_its_parameters_described(name: str, tool: ModuleType) -> None:
    section = tool.python_page().split(f"\n### {name}\n")[1].split("\n### ")[0]
    described = section.split("**Parameters**")[1]
    cells = [line.strip("| ").rsplit("|", 1)[-1].strip() for line in described.splitlines() if line.startswith("| `")]
    assert all(cells) and (cells or "settings.md#" in described)


def test_every_flag_of_a_command_stands_on_its_page(tool: ModuleType) -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", tool.commands_page(), flags=re.M | re.S))
    assert list(sections) == tool.VERBS
    assert "`--cluster`" in sections["prepare"] and "executor" not in sections["prepare"]


def test_ranges_and_choices_are_said_in_words(tool: ModuleType) -> None:
    page = tool.settings_page()
    assert "| `size` | whole number from 16 to 4,096 | `128` |" in page
    assert "| `side` | one of `L`, `R` or none | none |" in page
