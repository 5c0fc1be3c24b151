"""A page is a title and sections of blocks: one HTML file without any outside part, for screen, phone and A4 paper."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure as MplFigure
from numpy.typing import NDArray

from mammovae.report import formatting
from mammovae.report.images import image_grid
from mammovae.report.style import FONTS, data_uri, to_png, to_svg
from mammovae.statistics.bootstrap import Estimate
from mammovae.storage import write_text

Width = Literal["full", "medium", "small"]
ESTIMATE_HEADERS = ("Healthy", "With finding", "AUROC (95 % interval)")


@dataclass(frozen=True)
class Facts:
    """Short facts, each under its name; or terms, one a line with its meaning beside it."""

    values: Mapping[str, Any]
    layout: Literal["facts", "terms"] = "facts"


@dataclass(frozen=True)
class Text:
    """A paragraph (str, or Markup where words are emphasised), a sub-heading, or why something is absent."""

    text: str
    kind: Literal["plain", "headline", "heading", "absent"] = "plain"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Conclusions:
    """What the figures mean: heading, sentence, and whether that is good, a caution or bad."""

    items: Sequence[tuple[str, str, Literal["good", "caution", "bad"]]]


class Cell(NamedTuple):
    """A cell of a table with small lines underneath; as a row's header it can make the row bold."""

    text: Any
    details: Sequence[str] = ()
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column heads the rows; cells are texts, numbers or a Cell; rows may be parted into groups."""

    headers: Sequence[Any]
    rows: Sequence[Sequence[Any]] | Mapping[Any, Sequence[Sequence[Any]]]
    caption: str = ""
    total: Sequence[Any] = ()
    layout: Literal["numbers", "numbers even", "numbers measures", "pairs"] = "numbers"


@dataclass(frozen=True)
class Figure:
    """One figure with its words for those who do not see it."""

    uri: str
    alt: str
    caption: str = ""
    width: Width = "full"

    @classmethod
    def chart(cls, chart: MplFigure, alt: str, caption: str = "", width: Width = "full", dpi: float = 0) -> "Figure":
        """Return a chart as SVG, or as PNG where a resolution is given."""
        return cls(data_uri(to_png(chart, dpi) if dpi else to_svg(chart)), alt, caption, width)

    @classmethod
    def grid(cls, images: NDArray[np.generic], columns: int, alt: str, caption: str = "", **labels: Any) -> "Figure":
        """Return images (N, S, S) side by side, as image_grid draws them."""
        return cls(data_uri(to_png(image_grid(images, columns, **labels))), alt, caption)


@dataclass(frozen=True)
class Images:
    """Figures that belong together: side by side, one under another, or strips with their caption in front."""

    figures: Sequence[Figure]
    layout: Literal["beside", "stack", "strips"] = "beside"
    caption: str = ""
    columns: Sequence[str] = ()
    """What stands under the columns of strips."""


Block = Facts | Text | Bullets | Conclusions | Table | Figure | Images


@dataclass(frozen=True)
class Section:
    """A part of a page under its heading; without blocks it says why: absent, or the note in its place."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    absent: str = ""
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A page: what kind of report, title, opening (conclusions, facts), a callout on how to read it, and sections."""

    kind: str
    title: str
    subtitle: str
    opening: Sequence[Block]
    callout: Section
    sections: Sequence[Section]


_TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")
_ENVIRONMENT = Environment(
    loader=_TEMPLATES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters |= {"value": formatting.value, "kind": lambda block: type(block).__name__}


def render(page: Page) -> str:
    """Return a page as HTML; every text in it is escaped, and the same page gives the same bytes."""
    return _ENVIRONMENT.get_template("page.html.j2").render(page=page, fonts=FONTS)


def write_page(path: Path, page: Page) -> None:
    """Write a page to path in one step."""
    write_text(path, render(page))


def provenance_section(values: Mapping[str, Any], caption: str = "What made this report.") -> Section:
    """Return the last section of a page: versions, commit, seeds, hashes; nested values under dotted names."""
    absent = "No provenance was handed to this page: it cannot be repeated from it."
    return Section("provenance", "Provenance", [pairs_table(values, caption)] if values else [], absent)


def limits_section(limits: Sequence[str]) -> Section:
    """Return the section on what the figures leave open."""
    return Section("limits", "What it cannot say", [Bullets(limits)])


def pairs_table(values: Mapping[str, Any], caption: str) -> Table:
    """Return settings as a table of names and values, nested ones under dotted names."""

    def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, item in values.items():
            yield from flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) else [(f"{prefix}{name}", item)]

    return Table(("Name", "Value"), list(flat(values)), caption, layout="pairs")


def estimates_table(rows: Iterable[tuple[str, Estimate | None]], caption: str, heading: str) -> Table:
    """Return AUROCs with their intervals and numbers of images, by label."""
    cells = [(label, *estimate_cells(row)) for label, row in rows]
    return Table((heading, *ESTIMATE_HEADERS), cells, caption, layout="numbers even")


def estimate_cells(row: Estimate | None) -> tuple[int | str, int | str, str]:
    """Return a figure's healthy images, images with a finding, and text."""
    return ("–", "–", "–") if row is None else (row.n_healthy, row.n_finding, row.text)


def not_by_patient(by_patient: bool) -> str:
    """Return what a caption says where patients are unknown."""
    return "" if by_patient else " Not by patient."
