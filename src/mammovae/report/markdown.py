"""Markdown for cards and data sheets: tables, lists, and the front matter that repositories of models read."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; whatever a cell holds, it stays one."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def bullets(lines: Iterable[str]) -> str:
    """Return a list."""
    return "\n".join(f"- {line}" for line in lines)


def front_matter(values: Mapping[str, str | Sequence[str]]) -> str:
    """Return YAML between lines of dashes: names with a text, or a list of texts, each."""
    lines = []
    for name, item in values.items():
        if isinstance(item, str):
            lines.append(f"{name}: {json.dumps(item)}")
        else:
            lines += [f"{name}:", *(f"- {json.dumps(one)}" for one in item)]
    return "\n".join(["---", *lines, "---"])


def _cell(text: str) -> str:
    """Return a text in one line in which Markdown and HTML see text alone."""
    return re.sub(r"([\\|<>&*`\[\]])", r"\\\1", " ".join(text.split()))
