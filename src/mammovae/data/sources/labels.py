"""Labels of a tree of images: an optional CSV of the index's columns, and folders named healthy/ and finding/."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.sources.csv_rows import (
    BOX,
    DENSITIES,
    SIDES,
    CsvRow,
    column_names,
    normalise_name,
    read_csv,
    suggest_column,
    without_suffix,
)

_HEALTHY = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_VIEWS = {"cc": "CC", "mlo": "MLO"}
_SPLITS = {"train": "train", "test": "test"}  # validation and calibration are carved out of train
_KEYS = ("source", "image_id", "SOPInstanceUID")
_TEXT = ("patient_id", "study_id", "vendor", "model")
_COLUMNS = (
    *_KEYS,
    *_TEXT,
    "side",
    "view",
    "healthy",
    "split",
    "density",
    "birads",
    "age",
    "mm_per_pixel",
    "category",
    "severity",
    *BOX,
)


@dataclass
class Labels:
    """What a CSV says by the name that it gives a file, and which of its names were found."""

    rows: dict[str, dict] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)

    def of(self, source: str, image_id: str) -> dict:
        """Return what is known of a file, named by its path, its id or its bare name, suffix or not."""
        bare = source.rpartition("/")[2]
        names = (source, image_id, without_suffix(source), bare, without_suffix(bare))
        key = next((name for name in names if name in self.rows), None)
        said = {name: value for name, value in self.rows.get(key or "", {}).items() if value is not None}
        if key:
            self.found.add(key)
        return {"healthy": folder_health(source), **said, "source": source}

    def absent(self) -> list[dict]:
        """Return index rows, status missing, for what the CSV lists and nothing was found for."""
        told = {"status": "missing", "reason": "listed, but the file is not there"}
        return [
            {**row, "image_id": row["image_id"] or without_suffix(key), **told}
            for key, row in self.rows.items()
            if key not in self.found
        ]


def folder_health(source: str) -> bool | None:
    """Return True under a folder healthy/, False under finding/ (the innermost counts), else None."""
    for part in reversed(PurePosixPath(source).parts[:-1]):
        if part.lower() in ("healthy", "finding"):
            return part.lower() == "healthy"
    return None


def read_labels(root: Path, *, strict: bool) -> Labels:
    """Read index.csv, or the only CSV file at root; no file is no labels.

    Columns are those of the index that an owner can know, and category, severity, xmin, ymin, xmax, ymax for
    findings (several rows a file, then); `source` or `image_id` (or SOPInstanceUID) names the file. Unknown
    columns are refused. Without strict, an only CSV that names neither a file nor health is another tool's and
    is left alone.
    """
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv") if root.is_dir() else []
    named = [path for path in tables if path.name.lower() == "index.csv"]
    path = named[0] if named else tables[0] if len(tables) == 1 else None
    if path is None:
        return Labels()
    names = {normalise_name(name): name for name in column_names(path)}
    if not strict and not named and not names.keys() & {"source", "imageid", "sopinstanceuid", "healthy"}:
        return Labels()
    known = {normalise_name(name): name for name in _COLUMNS}
    for name in names:
        if name not in known:
            raise InputError(f"{path} has the unknown column {names[name]!r}: {suggest_column(name, list(_COLUMNS))}")
    key = next((name for name in _KEYS if normalise_name(name) in names), None)
    if key is None:
        raise InputError(f"{path} does not say which file a row is about: add a column source or image_id")
    groups: dict[str, list[CsvRow]] = defaultdict(list)
    for line in read_csv(path, list(names.values())):
        groups[line.needed(key).replace("\\", "/").removeprefix("./")].append(line)
    return Labels({name: _merged(lines) for name, lines in groups.items()})


def _merged(lines: list[CsvRow]) -> dict:
    """Join the rows of one file: the same facts, and a finding from each."""
    facts = [_facts(line) for line in lines]
    for line, fact in zip(lines[1:], facts[1:], strict=True):
        differing = [name for name in fact if fact[name] != facts[0][name]]
        if differing:
            raise InputError(f"{line.place}: {differing[0]} differs from an earlier row about the same file")
        if line.text("category") is None:
            raise InputError(f"{line.place}: the file has an earlier row, and this one names no category of finding")
    row = facts[0]
    row["findings"] = [
        index.finding(line.text("category"), severity=line.text("severity"), box=line.box(None, None))
        for line in lines
        if line.text("category") or line.text("xmin")
    ] or None
    if row["findings"] and row["healthy"]:
        raise InputError(f"{lines[0].place}: healthy is true, but a finding is listed: correct one of them")
    row["healthy"] = False if row["findings"] else row["healthy"]
    return row


def _facts(line: CsvRow) -> dict:
    return {
        "image_id": line.text("image_id") or line.text("SOPInstanceUID"),
        "source": line.text("source"),
        **{name: line.text(name) for name in _TEXT},
        "side": line.one_of("side", SIDES),
        "view": line.one_of("view", _VIEWS),
        "healthy": line.one_of("healthy", _HEALTHY),
        "split": line.one_of("split", _SPLITS),
        "density": line.one_of("density", DENSITIES),
        "birads": line.birads("birads"),
        "age": line.number("age"),
        "mm_per_pixel": line.number("mm_per_pixel"),
    }
