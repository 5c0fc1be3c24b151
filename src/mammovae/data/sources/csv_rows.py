"""CSV files whose errors name the cell."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from mammovae.config import InputError
from mammovae.data.index import BOX, Box

T = TypeVar("T")

SIDES = {"l": "L", "left": "L", "r": "R", "right": "R"}
VIEWS = {"cc": "CC", "mlo": "MLO"}
SPLITS = {"train": "train", "training": "train", "test": "test"}
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

    def text(self, column: str) -> str | None:
        """Return the cell, or None where the column or its value is missing."""
        return self.cells.get(normalise_name(column)) or None

    def required(self, column: str) -> str:
        """Return the cell, which must not be empty."""
        value = self.text(column)
        if value is None:
            raise InputError(f"{self.place}: {column} is empty, fill it in or remove the row")
        return value

    def number(self, column: str) -> float | None:
        """Return the cell as a finite number."""
        value = self.text(column)
        if value is None or value.lower() in ("nan", "none"):
            return None
        try:
            number = float(value)
        except ValueError:
            number = float("inf")
        if abs(number) == float("inf"):
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
        value = self.text(column)
        if value is None or value.lower() in ("nan", "none"):
            return None
        match = re.fullmatch(r"(?:bi-?rads[\s_-]*)?([0-6])(?:\.0|[abc])?", value.lower())
        if not match:
            raise InputError(f"{self.place}: {column} is {value!r}, where a BI-RADS category of 0 to 6 belongs")
        return int(match[1])

    def one_of(self, column: str, allowed: Mapping[str, T]) -> T | None:
        """Return what allowed gives for the cell, case, spaces and underscores aside."""
        value = self.text(column)
        if value is None:
            return None
        if normalise_name(value) not in allowed:
            raise InputError(f"{self.place}: {column} is {value!r}, where one of {', '.join(allowed)} belongs")
        return allowed[normalise_name(value)]

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


def read_csv(path: Path, required: Sequence[str] = ()) -> list[CsvRow]:
    """Return a CSV file's rows, which have the required columns."""
    (_, names), *rows = _cells(path)
    header = [normalise_name(name) for name in names]
    twice = [name for name in required if header.count(normalise_name(name)) > 1]
    if twice:
        raise InputError(f"{path} has two columns {twice[0]!r}: remove or rename one")
    lacking = [name for name in required if normalise_name(name) not in header]
    if lacking:
        raise InputError(f"{path} lacks the column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}")
    for number, cells in rows:
        if len(cells) > len(header):
            raise InputError(f"{path}, row {number}: it has {len(cells)} cells for {len(header)} columns")
    return [CsvRow(f"{path}, row {number}", dict(zip(header, cells, strict=False))) for number, cells in rows]


def column_names(path: Path) -> list[str]:
    """Return the names in a CSV file's first row."""
    return _cells(path)[0][1]


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, each with the number of the line that it ends in."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except FileNotFoundError:
        raise InputError(f"there is no {path}: name the folder that holds {path.name}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}; save it as a CSV file in UTF-8") from error
    if not rows:
        raise InputError(f"{path} is empty: its first row should name the columns")
    return rows
