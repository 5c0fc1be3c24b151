"""README and docs as text: every block has a tag, every link leads somewhere, and what they quote is in the code."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from tests.documentation.pages import DOCS, PAGES, ROOT, TAGS, blocks

from mammovae.__main__ import app
from mammovae.models.run import MEMBERS

QUOTED = re.compile(r"^\| `([^`]*)` \|", flags=re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_has_a_tag_that_is_known(page: Path) -> None:
    fences = re.findall(r"^ *```(?!$)(.*)$", page.read_text(), flags=re.M)
    assert len(fences) == len(blocks(page))
    assert {block.tag for block in blocks(page)} <= TAGS


def test_what_is_said_to_run_elsewhere_does() -> None:
    lines = {line for page in PAGES for block in blocks(page, "run", "mias") for line in block.text.splitlines()}
    repeated = [line for page in PAGES for block in blocks(page, "again") for line in block.text.splitlines()]
    assert repeated and not [line for line in repeated if line not in lines]


def test_commands_that_take_an_hour_are_written_as_the_command_line_takes_them() -> None:
    for line in [line for page in PAGES for block in blocks(page, "long") for line in block.text.splitlines()]:
        name, *tokens = shlex.split(line)
        if name == "python":
            assert (ROOT / tokens[0]).is_file()
            continue
        assert name == "mammovae"
        app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def slugs(text: str) -> set[str]:
    """The names by which headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_image_and_page_that_is_linked_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not heading or heading in slugs(file.read_text()), target


def sentences() -> set[str]:
    """Return every text of the source, with … for what is put into it."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            if all(isinstance(part, ast.FormattedValue) or is_text(part) for part in parts):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts))
    return {re.sub("…+", "…", text) for text in found}


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_what_troubleshooting_quotes_is_what_mammovae_prints() -> None:
    quoted, known = QUOTED.findall((DOCS / "how-to" / "troubleshooting.md").read_text()), "\n".join(sentences())
    assert len(quoted) > 30
    assert not [sentence for sentence in quoted if sentence not in known]


@pytest.mark.parametrize("name", MEMBERS)
def test_the_page_of_scores_names_those_of_each_member(name: str) -> None:
    section = (DOCS / "reference" / "scores.md").read_text().split(f"## {name}\n")[1].split("\n## ")[0]
    scores, maps = section.split("| map | formula |")
    assert QUOTED.findall(scores) == list(MEMBERS[name].scores)
    assert QUOTED.findall(maps) == list(MEMBERS[name].maps)
