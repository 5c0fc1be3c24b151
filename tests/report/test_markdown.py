"""Markdown of cards and sheets: whatever a text holds, it stays the text of its cell."""

import yaml

from mammovae.report.markdown import bullets, front_matter, table


def test_a_cell_cannot_end_its_row_or_become_markup() -> None:
    text = table(("vendor", "images"), [("A | B\nC <img src=x> [link](y) `z`", "3")])
    assert text.splitlines() == [
        "| vendor | images |",
        "| --- | --- |",
        r"| A \| B C \<img src=x\> \[link\](y) \`z\` | 3 |",
    ]


def test_front_matter_is_yaml_of_what_was_given() -> None:
    values = {"license": "other", "name": 'a: "b" # c', "tags": ["no", "1.0", "x y"]}
    text = front_matter(values)
    assert text.startswith("---\n") and text.endswith("\n---")
    assert yaml.safe_load(text.strip("-")) == values


def test_a_list_has_a_line_for_each() -> None:
    assert bullets(["one", "two"]) == "- one\n- two"
