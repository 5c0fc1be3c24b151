"""Labels of a tree of images: an optional CSV of the index's columns, and folders named healthy/ and finding/."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, get_args

from mammovae.config import ImageKind, InputError, suggest
from mammovae.data import index
from mammovae.data.sources.csv_rows import DENSITIES, SIDES, VIEWS, CsvRow, CsvTable, normalise_name
from mammovae.data.sources.source import without_suffix
from mammovae.imageio.raw_tree import RawTree

_SPLITS = {"train": "train", "test": "test"}  # validation and calibration are carved out of train
_KINDS = {normalise_name(kind): kind for kind in get_args(ImageKind)}
_KEYS = ("source", "image_id", "SOPInstanceUID")
_TEXT = ("patient_id", "study_id", "vendor", "model")
_CHOICES = {"side": SIDES, "split": _SPLITS, "density": DENSITIES, "kind": _KINDS}
_NUMBERS = ("age", "mm_per_pixel")
_COLUMNS = (*_KEYS, *_TEXT, *_CHOICES, "view", "healthy", "birads", *_NUMBERS, "category", "severity", *index.BOX)
_KNOWN = {normalise_name(name) for name in _COLUMNS}
_NO_IMAGE = "listed, but it is no image that this kind of data set has"
_OTHER_TABLES = (".tsv", ".xlsx", ".xls", ".ods", ".parquet")


@dataclass(frozen=True)
class Labels:
    """What a CSV says by the name that it gives a file; notes say which tables beside the images were not used."""

    place: str = ""
    rows: Mapping[str, dict] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def folder_health(source: str) -> bool | None:
    """Return True under a folder healthy/, False under finding/ (the innermost counts), else None."""
    parts = [part.lower() for part in PurePosixPath(source).parts[:-1]]
    return next((part == "healthy" for part in reversed(parts) if part in ("healthy", "finding")), None)


def labelled(images: list[dict], labels: Labels, tree: RawTree) -> list[dict]:
    """Return index rows: of the images, with what is known of each, and of those that the CSV lists in vain.

    The latter are there but no images, or `index.table` says why the tree lacks them.

    images are dicts of source, image_id, uid (of DICOM) and what else is known; what the CSV says comes before it.
    A row of the CSV names a file by its path, its image_id, or the end of its path, suffix or not; of an absolute path,
    or one from another root, the end that is a file here counts. It has to be one file's name. Raises InputError where
    it is two files' name, where two rows name one file, and where no row names any file.
    """
    names = _Names(images)
    key_of: dict[int, str] = {}
    absent = list[str]()
    for key in labels.rows:
        places = names.find(key, labels.place)
        for place in places:
            if place in key_of:
                first, source = key_of[place], images[place]["source"]
                raise InputError(f"{labels.place}: {first!r} and {key!r} both name the file {source}: keep one of them")
            key_of[place] = key
        absent += [] if places else [key]
    if labels.rows and images and not key_of:
        raise InputError(
            f"{labels.place} names no file of the tree: its first row is about {absent[0]!r}, "
            f"while a file is {images[0]['source']!r}"
        )
    rows = []
    for place, image in enumerate(images):
        label = labels.rows[key_of[place]] if place in key_of else {}
        known = {name: value for name, value in label.items() if value is not None}
        reasons = [sentence for sentence in (image.get("reason"), known.pop("reason", None)) if sentence]
        fixed = ("source", "image_id") if "uid" in image else ("source",)
        row = {**image, "healthy": folder_health(image["source"]), **known} | {name: image[name] for name in fixed}
        rows.append(row | {"reason": "; ".join(reasons) or None})
    for key in absent:
        row = labels.rows[key]
        row = {**row, "image_id": row["image_id"] or without_suffix(key), "source": row["source"] or key}
        is_there = row["source"] in tree.files
        rows.append(row | ({"status": "failed", "reason": _NO_IMAGE} if is_there else {}))
    return rows


class _Names:
    """The names by which a CSV may call the images of a tree."""

    def __init__(self, images: list[dict]) -> None:
        self._images = images
        self._by_path: dict[str, list[int]] = defaultdict(list)
        self._by_id: dict[str, list[int]] = defaultdict(list)
        self._by_end: dict[str, list[int]] = defaultdict(list)
        for place, image in enumerate(images):
            source = _composed(image["source"])
            for path in dict.fromkeys((source, without_suffix(source))):
                self._by_path[path].append(place)
                parts = path.split("/")
                for start in range(1, len(parts)):
                    self._by_end["/".join(parts[start:])].append(place)
            self._by_id[image.get("uid") or image["image_id"]].append(place)

    def find(self, key: str, table: str) -> list[int]:
        """Return the places of the images that a key names: one, or copies of one object, or none."""
        parts = _composed(key).split("/")
        ends = ["/".join(parts[start:]) for start in range(1, len(parts))]  # from the longest
        lists = [(self._by_path, key), (self._by_id, key), (self._by_end, key), *((self._by_path, end) for end in ends)]
        places = next((found for names, name in lists if (found := names.get(_composed(name)))), [])
        if len(places) > 1 and not self._are_copies(places):
            first, second = (self._images[place]["source"] for place in places[:2])
            raise InputError(f"{table}: {key!r} names {first} and {second}: name each file by its path, column source")
        return places

    def _are_copies(self, places: Iterable[int]) -> bool:
        """Say whether files are one DICOM object exported more than once: all that their headers say is the same."""
        apart = ("source", "image_id", "reason")
        facts = [{k: v for k, v in self._images[place].items() if k not in apart} for place in places]
        return bool(facts[0].get("uid")) and all(other == facts[0] for other in facts)


def _composed(name: str) -> str:
    """Return a name in one of the two ways to write accents: file systems and spreadsheets differ in that."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def read_labels(tree: RawTree, *, strict: bool) -> Labels:
    """Read index.csv at the root, or the only CSV file there that can hold labels; no file is no labels.

    Columns are those of the index that an owner can know, and category, severity, xmin, ymin, xmax, ymax for findings
    (several rows a file, then); `source` or `image_id` (or SOPInstanceUID) names the file. Unknown columns are refused.
    Without strict, an only CSV that names neither a file nor health is another tool's and is left alone. What is left
    alone is noted.
    """
    beside = sorted(tree.in_folder())
    tables = [source for source in beside if source.lower().endswith(".csv")]
    other = [source for source in beside if source.lower().endswith(_OTHER_TABLES)]
    named = [source for source in tables if source.lower() == "index.csv"]
    candidates = named or (tables if len(tables) == 1 else [t for t in tables if _may_hold_labels(tree, t)])
    if len(candidates) > 1:
        raise InputError(
            f"{candidates[0]} and {candidates[1]} in {tree.root} may both hold the labels: name one of them index.csv"
        )
    table = CsvTable.open(tree, candidates[0]) if candidates else None
    if table and not strict and not named and not _names(table) & {"source", "imageid", "sopinstanceuid", "healthy"}:
        table = None
    unused = [source for source in (*tables, *other) if table is None or source != candidates[0]]
    notes = (_not_used(unused),) if unused else ()
    if table is None:
        return Labels(notes=notes)
    return Labels(table.place, _rows_by_key(table), notes)


def _not_used(tables: list[str]) -> str:
    shown = ", ".join(tables[:3]) + (f" and {len(tables) - 3} more" if len(tables) > 3 else "")
    return f"not used as labels: {shown} (they are read from index.csv, columns source or image_id, healthy and others)"


def _names(table: CsvTable) -> set[str]:
    """Return the table's columns by plain name, without the nameless one that pandas and R write for row numbers."""
    return {name for text in table.names if (name := normalise_name(text)) and not name.startswith("unnamed")}


def _may_hold_labels(tree: RawTree, source: str) -> bool:
    """Say whether one of several tables names files and says something of them that labels say."""
    try:
        names = _names(CsvTable.open(tree, source))
    except InputError:
        return False
    keys = {normalise_name(key) for key in _KEYS}
    says = names - keys
    return bool(names & keys) and (bool(says & {"healthy", "category"}) or (bool(says) and says <= _KNOWN))


def _rows_by_key(table: CsvTable) -> dict[str, dict]:
    names = _names(table)
    unknown = sorted(names - _KNOWN, key=[normalise_name(name) for name in table.names].index)
    if unknown:
        name = next(text for text in table.names if normalise_name(text) == unknown[0])
        guess = suggest(unknown[0], _COLUMNS)
        hint = "" if len(table.names) > 1 else ", or should commas separate its cells?"
        raise InputError(f"{table.place} has the unknown column {name!r}: did you mean {guess}{hint or '?'}")
    key = next((name for name in _KEYS if normalise_name(name) in names), None)
    if key is None:
        raise InputError(f"{table.place} does not say which file a row is about: add a column source or image_id")
    groups: dict[str, list[CsvRow]] = defaultdict(list)
    for row in table.rows(sorted(names)):
        groups[row.required(key).replace("\\", "/").removeprefix("./")].append(row)
    return {name: _merged(rows) for name, rows in groups.items()}


def _merged(rows: list[CsvRow]) -> dict:
    """Join the rows of one file: the same facts, and a finding from each."""
    merged = _facts(rows[0])
    findings, is_normal = list[dict](), False
    for row in rows:
        differing = [] if row is rows[0] else [name for name, value in _facts(row).items() if value != merged[name]]
        if differing:
            raise InputError(f"{row.place}: {differing[0]} differs from an earlier row about the same file")
        categories, severity = row.categories("category"), row.text("severity")
        if row is not rows[0] and categories is None:
            raise InputError(f"{row.place}: the file has an earlier row, and this one names no category of finding")
        is_normal |= categories == []
        box = None if categories == [] else row.box(None, None)
        unnamed = [None] if categories is None and row.value("xmin") else []
        findings += [index.finding(name, severity=severity, box=box) for name in categories or unnamed]
    if findings and merged["healthy"]:
        raise InputError(f"{rows[0].place}: healthy is true, but a finding is listed: correct one of them")
    healthy = False if findings else True if is_normal and merged["healthy"] is None else merged["healthy"]
    return merged | {"healthy": healthy} | ({"findings": findings} if findings else {})


def _facts(row: CsvRow) -> dict[str, Any]:
    view = row.value("view")
    known_view = VIEWS.get(normalise_name(view or ""))
    is_other_view = view is not None and known_view is None
    return {
        "image_id": row.text("image_id") or row.text("SOPInstanceUID"),
        "source": row.text("source"),
        **{name: row.value(name) for name in _TEXT},
        **{name: row.one_of(name, allowed) for name, allowed in _CHOICES.items()},
        "view": known_view,
        "healthy": row.flag("healthy"),
        "birads": row.birads("birads"),
        **{name: row.number(name) for name in _NUMBERS},
        "reason": f"the view {view!r} is neither CC nor MLO" if is_other_view else None,
    }
