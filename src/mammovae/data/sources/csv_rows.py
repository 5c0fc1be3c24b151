"""CSV files whose errors name the cell, as spreadsheets, pandas and R write them."""

import ast
import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from mammovae.config import InputError
from mammovae.data.index import BOX, Box
from mammovae.imageio.raw_tree import RawTree, open_raw

T = TypeVar("T")

SIDES = {"l": "L", "left": "L", "r": "R", "right": "R"}
VIEWS = {"cc": "CC", "mlo": "MLO"}
SPLITS = {"train": "train", "training": "train", "test": "test"}
_SEPARATORS = ",;\t|"
_UNKNOWN = ("nan", "none", "null", "na", "n/a")  # as pandas, Python, databases, R and spreadsheets write no value
_NO_FINDING = ("nofinding", "nofindings", "normal")
DENSITIES = {letter: letter.upper() for letter in "abcd"} | {f"density{letter}": letter.upper() for letter in "abcd"}


@lru_cache(4096)
def normalise_name(name: str) -> str:
    """Return a name without what differs between copies of a table: case, spaces, underscores, punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass(frozen=True)
class CsvRow:
    """One row of a CSV file: cells by normalised column name, and the file and row that an error names."""

    place: str
    cells: Mapping[str, str]
    has_decimal_commas: bool = False  # where cells are not separated by commas

    def text(self, column: str) -> str | None:
        """Return the cell, or None where the column or its value is missing."""
        return self.cells.get(normalise_name(column)) or None

    def required(self, column: str) -> str:
        """Return the cell, which must not be empty."""
        value = self.text(column)
        if value is None:
            raise InputError(f"{self.place}: {column} is empty, fill it in or remove the row")
        return value

    def value(self, column: str) -> str | None:
        """Return the cell, or None where it is missing or says that nothing is known."""
        value = self.text(column)
        return None if value is None or value.lower() in _UNKNOWN else value

    def number(self, column: str) -> float | None:
        """Return the cell as a finite number."""
        value = self.value(column)
        if value is None:
            return None
        try:
            number = float(value.replace(",", ".") if self.has_decimal_commas else value)
        except ValueError:
            number = float("inf")
        if not abs(number) < float("inf"):
            raise InputError(f"{self.place}: {column} is {value!r}, where a number belongs")
        return number

    def whole(self, column: str) -> int | None:
        """Return the cell as an integer, which may be written 3518.0."""
        number = self.number(column)
        if number is not None and number != int(number):
            raise InputError(f"{self.place}: {column} is {number:g}, where a whole number belongs")
        return None if number is None else int(number)

    def birads(self, column: str) -> int | None:
        """Return the BI-RADS category, 0 to 6, of a cell such as "BI-RADS 4", "4A" or "4.0"."""
        value = self.value(column)
        if value is None:
            return None
        match = re.fullmatch(r"(?:bi-?rads[\s_-]*)?([0-6])(?:[.,]0|[abc])?", value.lower())
        if not match:
            raise InputError(f"{self.place}: {column} is {value!r}, where a BI-RADS category of 0 to 6 belongs")
        return int(match[1])

    def one_of(self, column: str, allowed: Mapping[str, T]) -> T | None:
        """Return what allowed gives for the cell, case, spaces and underscores aside."""
        value = self.value(column)
        if value is None:
            return None
        if normalise_name(value) not in allowed:
            raise InputError(f"{self.place}: {column} is {value!r}, where one of {', '.join(allowed)} belongs")
        return allowed[normalise_name(value)]

    def flag(self, column: str) -> bool | None:
        """Return the cell as true or false, which may be written TRUE, yes, Y, 1 or, as pandas does, 1.0."""
        value = self.value(column)
        if value is None:
            return None
        word = re.sub(r"[.,]0+$", "", value.lower())
        if word not in ("true", "t", "yes", "y", "1", "false", "f", "no", "n", "0"):
            raise InputError(f"{self.place}: {column} is {value!r}, where true or false (1 or 0) belongs")
        return word in ("true", "t", "yes", "y", "1")

    def categories(self, column: str) -> list[str] | None:
        """Return the categories of findings that a cell names, one or a Python list of them; none for "No finding".

        None where the cell says nothing.
        """
        text = self.value(column)
        if text is None:
            return None
        try:
            names = ast.literal_eval(text) if text.startswith("[") else [text]
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{self.place}: {column} is {text!r}, where a list such as ['Mass'] belongs")
        return [name for name in dict.fromkeys(names) if normalise_name(name) not in _NO_FINDING]

    def box(self, rows: float | None, columns: float | None) -> Box | None:
        """Return xmin, ymin, xmax, ymax clipped to the image; None where all four are empty or nothing is left."""
        values = {name: value for name in BOX if (value := self.number(name)) is not None}
        if values and len(values) < len(BOX):
            empty = next(name for name in BOX if name not in values)
            raise InputError(f"{self.place}: {empty} is empty while other corners of the box are given")
        return clipped(list(values.values()), rows, columns) if values else None


def clipped(box: Sequence[float], rows: float | None, columns: float | None) -> Box | None:
    """Return a box (xmin, ymin, xmax, ymax) within an image of rows x columns, None where nothing of it is."""
    xmin, ymin = max(box[0], 0.0), max(box[1], 0.0)
    xmax, ymax = min(box[2], columns or float("inf")), min(box[3], rows or float("inf"))
    return (xmin, ymin, xmax, ymax) if xmin < xmax and ymin < ymax else None


@dataclass(frozen=True)
class CsvTable:
    """A CSV file as it was read: the names in its first row, and the rows below with the line that each ends in."""

    place: str
    names: list[str]
    lines: list[tuple[int, list[str]]]
    separator: str

    @classmethod
    def open(cls, tree: RawTree, source: str) -> "CsvTable":
        """Read a tree's CSV file, whose rows that are blank are left out.

        Cells are separated by commas, semicolons or tabs, as the first row shows. The text is UTF-8, or UTF-16 as
        spreadsheets save "Unicode text".
        """
        place = str(tree.file(source))
        try:
            with open_raw(tree.file(source)) as file:
                text = _decoded(file.read())
            separator, text = _separator(text)
            reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
        except InputError as error:
            raise InputError(f"cannot read {place}: {error}") from None
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise InputError(f"cannot read {place}: line {line} is no UTF-8, save it as a CSV file in UTF-8") from None
        except (OSError, csv.Error) as error:
            raise InputError(f"cannot read {place}: {error}; save it as a CSV file in UTF-8") from error
        if not rows:
            raise InputError(f"{place} is empty: its first row should name the columns")
        return cls(place, rows[0][1], rows[1:], separator)

    def rows(self, required: Sequence[str] = ()) -> list[CsvRow]:
        """Return the rows, which have the required columns; without commas between cells they may be in numbers."""
        header = [normalise_name(name) for name in self.names]
        twice = [name for name in required if header.count(normalise_name(name)) > 1]
        if twice:
            raise InputError(f"{self.place} has two columns {twice[0]!r}: remove or rename one")
        lacking = [name for name in required if normalise_name(name) not in header]
        if lacking:
            hint = "" if len(header) > 1 else f": it has one alone, {self.names[0]!r}, separate columns by commas"
            columns = f"column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}"
            raise InputError(f"{self.place} lacks the {columns}{hint}")
        for number, cells in self.lines:
            if len(cells) > len(header):
                raise InputError(f"{self.place}, row {number}: it has {len(cells)} cells for {len(header)} columns")
        return [
            CsvRow(f"{self.place}, row {number}", dict(zip(header, cells, strict=False)), self.separator != ",")
            for number, cells in self.lines
        ]


def read_csv(tree: RawTree, source: str, required: Sequence[str] = ()) -> list[CsvRow]:
    """Return the rows of a tree's CSV file, which has the required columns."""
    return CsvTable.open(tree, source).rows(required)


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def _separator(text: str) -> tuple[str, str]:
    """Return what separates a table's cells, and the table without the line that spreadsheets may say it in."""
    stated = re.match(r"sep=([,;|\t])\r?\n", text, re.IGNORECASE)
    if stated:
        return stated[1], text[stated.end() :]

    def columns(separator: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), ()))
        except csv.Error:
            return 0

    return max(_SEPARATORS, key=columns), text  # the first of equals: commas
