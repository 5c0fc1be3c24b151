"""The notebook is kept without outputs, its cells run from top to bottom, and results show themselves in it."""

import ast
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mammovae as mv
from mammovae.report import notebook

FILE = Path(__file__).resolve().parents[1] / "docs" / "tutorials" / "first-study.ipynb"
CELLS = [cell for cell in json.loads(FILE.read_text())["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and return the value of its last line."""
    tree = ast.parse(source)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr), "a cell ends with what it shows"
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_notebook_has_ten_cells_and_is_kept_without_outputs() -> None:
    assert len(CELLS) == 10
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS)


def test_the_notebook_runs_and_shows_images_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = [run_cell("".join(cell["source"]), names) for cell in CELLS]
    pages = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert len(pages) == 9
    for page in pages:
        assert page.count("src=") == page.count("src='data:image/")
        assert len(page) < 1_000_000
    images = [page.count("<img") for page in pages]
    assert images == [0, 1, 1, 0, 1, 1, 1, 0, 1]
    assert "8 of 160 rows" in pages[7]


def test_what_a_notebook_shows_is_escaped() -> None:
    frame = pd.DataFrame({"image_id": ["<script>alert(1)</script>"], "score": [0.123456]})
    page = notebook.card("<b>", notebook.text("<i>"), notebook.facts({"<u>": "<s>"}), notebook.rows(frame))
    assert not {"<b>", "<i>", "<u>", "<s>", "<script>"} & set(page.replace(">", "> ").split())
    assert "0.123" in page and "1 of 1 rows" in page


def test_a_result_is_taken_wherever_its_path_is(tmp_path: Path) -> None:
    result = mv.Result(tmp_path / "RUN", {}, "nothing yet")
    with pytest.raises(mv.InputError, match=r"there is no folder .*RUN"):
        mv.Run.open(result)
