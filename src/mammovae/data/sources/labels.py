"""Labels of a tree of images: an optional CSV of the index's columns, and folders named healthy/ and finding/."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mammovae.config import InputError, suggest
from mammovae.data import index
from mammovae.data.sources.csv_rows import DENSITIES, SIDES, VIEWS, CsvRow, column_names, normalise_name, read_csv
from mammovae.data.sources.source import without_suffix

_HEALTHY = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SPLITS = {"train": "train", "test": "test"}  # validation and calibration are carved out of train
_KEYS = ("source", "image_id", "SOPInstanceUID")
_TEXT = ("patient_id", "study_id", "vendor", "model")
_CHOICES = {"side": SIDES, "view": VIEWS, "healthy": _HEALTHY, "split": _SPLITS, "density": DENSITIES}
_NUMBERS = ("age", "mm_per_pixel")
_COLUMNS = (*_KEYS, *_TEXT, *_CHOICES, "birads", *_NUMBERS, "category", "severity", *index.BOX)


@dataclass
class Labels:
    """What a CSV says by the name that it gives a file, and which of its names a file matched."""

    rows: dict[str, dict] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)

    def of(self, source: str, image_id: str) -> dict:
        """Return what is known of a file, named by its path, its id or its bare name, suffix or not."""
        bare = source.rpartition("/")[2]
        names = (source, image_id, without_suffix(source), bare, without_suffix(bare))
        key = next((name for name in names if name in self.rows), None)
        known = {name: value for name, value in self.rows.get(key or "", {}).items() if value is not None}
        if key:
            self.matched.add(key)
        return {"healthy": folder_health(source), **known, "source": source}

    def missing(self) -> list[dict]:
        """Return index rows, status missing, for what the CSV lists and no file matched."""
        return [
            {**row, "image_id": row["image_id"] or without_suffix(key), "status": "missing", "reason": index.ABSENT}
            for key, row in self.rows.items()
            if key not in self.matched
        ]


def folder_health(source: str) -> bool | None:
    """Return True under a folder healthy/, False under finding/ (the innermost counts), else None."""
    parts = [part.lower() for part in PurePosixPath(source).parts[:-1]]
    return next((part == "healthy" for part in reversed(parts) if part in ("healthy", "finding")), None)


def read_labels(root: Path, *, strict: bool) -> Labels:
    """Read index.csv, or the only CSV file at root; no file is no labels.

    Columns are those of the index that an owner can know, and category, severity, xmin, ymin, xmax, ymax for findings
    (several rows a file, then); `source` or `image_id` (or SOPInstanceUID) names the file. Unknown columns are refused.
    Without strict, an only CSV that names neither a file nor health is another tool's and is left alone.
    """
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv") if root.is_dir() else []
    named = [path for path in tables if path.name.lower() == "index.csv"]
    path = named[0] if named else tables[0] if len(tables) == 1 else None
    if path is None:
        return Labels()
    names = {normalise_name(name): name for name in column_names(path)}
    if not strict and not named and not names.keys() & {"source", "imageid", "sopinstanceuid", "healthy"}:
        return Labels()
    unknown = [name for name in names if name not in map(normalise_name, _COLUMNS)]
    if unknown:
        guess = suggest(unknown[0], _COLUMNS)
        raise InputError(f"{path} has the unknown column {names[unknown[0]]!r}: did you mean {guess}?")
    key = next((name for name in _KEYS if normalise_name(name) in names), None)
    if key is None:
        raise InputError(f"{path} does not say which file a row is about: add a column source or image_id")
    groups: dict[str, list[CsvRow]] = defaultdict(list)
    for row in read_csv(path, list(names.values())):
        groups[row.required(key).replace("\\", "/").removeprefix("./")].append(row)
    return Labels({name: _merged(rows) for name, rows in groups.items()})


def _merged(rows: list[CsvRow]) -> dict:
    """Join the rows of one file: the same facts, and a finding from each."""
    merged = _facts(rows[0])
    for row in rows[1:]:
        differing = [name for name, value in _facts(row).items() if value != merged[name]]
        if differing:
            raise InputError(f"{row.place}: {differing[0]} differs from an earlier row about the same file")
        if row.text("category") is None:
            raise InputError(f"{row.place}: the file has an earlier row, and this one names no category of finding")
    findings = [
        index.finding(row.text("category"), severity=row.text("severity"), box=row.box(None, None))
        for row in rows
        if row.text("category") or row.text("xmin")
    ]
    if findings and merged["healthy"]:
        raise InputError(f"{rows[0].place}: healthy is true, but a finding is listed: correct one of them")
    return merged | ({"findings": findings, "healthy": False} if findings else {})


def _facts(row: CsvRow) -> dict[str, Any]:
    return {
        "image_id": row.text("image_id") or row.text("SOPInstanceUID"),
        "source": row.text("source"),
        **{name: row.text(name) for name in _TEXT},
        **{name: row.one_of(name, allowed) for name, allowed in _CHOICES.items()},
        "birads": row.birads("birads"),
        **{name: row.number(name) for name in _NUMBERS},
    }
