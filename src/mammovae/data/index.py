"""The index of a DATA folder: a row an image, its schema and its checks."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mammovae.config import ImageKind, InputError
from mammovae.imageio.raw_tree import RawTree
from mammovae.storage import atomic_write

_ORDER = (
    "image_id patient_id study_id side view healthy split density birads age vendor model kind source rows columns "
    "mm_per_pixel findings crop_x0 crop_y0 crop_x1 crop_y1 mirrored scale_x scale_y pad_left pad_top breast_area "
    "status reason"
)
COLUMNS = _ORDER.split()
"""Columns of index.parquet. breast_area is in mm^2 where mm_per_pixel is known, else null; reason says why a row
failed, or what is odd about one that is ok; findings are annotated lesions in source pixels, null where unplaced."""
BOX = ("xmin", "ymin", "xmax", "ymax")
Box = tuple[float, float, float, float]
_TEXT, _BOOL, _WHOLE, _NUMBER = pa.string(), pa.bool_(), pa.int64(), pa.float64()
_TYPES = {
    **dict.fromkeys(("healthy", "mirrored"), _BOOL),
    **dict.fromkeys(("birads", "rows", "columns", "crop_x0", "crop_y0", "crop_x1", "crop_y1"), _WHOLE),
    **dict.fromkeys(("age", "mm_per_pixel", "scale_x", "scale_y", "pad_left", "pad_top", "breast_area", *BOX), _NUMBER),
}
_FINDING = pa.struct([(name, _TYPES.get(name, _TEXT)) for name in ("category", "birads", "severity", *BOX)])
SCHEMA = pa.schema([(name, (_TYPES | {"findings": pa.list_(_FINDING)}).get(name, _TEXT)) for name in COLUMNS])

ABSENT = "listed, but the file is not there"  # the reason of a row with status missing
ALLOWED = {
    "kind": get_args(ImageKind),
    "side": ("L", "R"),
    "view": ("CC", "MLO"),
    "split": ("train", "validation", "calibration", "test", "unused"),
    "density": ("A", "B", "C", "D"),
    "status": ("ok", "failed", "missing"),
}
_PANDAS = {
    _TEXT: pd.StringDtype("pyarrow"),
    _BOOL: pd.BooleanDtype(),
    _WHOLE: pd.Int64Dtype(),
    _NUMBER: pd.Float64Dtype(),
}


def finding(
    category: str | None, *, birads: int | None = None, severity: str | None = None, box: Box | None = None
) -> dict[str, Any]:
    """Make one entry of the findings column; box is (xmin, ymin, xmax, ymax) in source pixels."""
    edges = dict(zip(BOX, box or (None,) * 4, strict=True))
    return {"category": category, "birads": birads, "severity": severity, **edges}


def table(rows: Iterable[Mapping], tree: RawTree | None = None) -> pd.DataFrame:
    """Build a checked table from dicts of some of the columns; what a row does not say is null.

    A row without a status gets "ok". With the tree that the rows were listed from, one whose source is not there gets
    "missing", and each of the tree's problems (a folder or name that cannot be read) is a row with status "failed".
    Raises InputError when rows break the index's rules, or when none of the files that they name is there.
    """
    # Column by column: a dict more for each of a million rows is a gigabyte.
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    told: set[str] = set()
    for row in rows:
        status, reason = row.get("status"), row.get("reason")
        if status is None:
            status, reason = _presence(row.get("source"), tree, told) or ("ok", reason)
        _append(columns, row, status, reason)
    is_all_missing = set(columns["status"]) == {"missing"}
    ids = columns["image_id"]
    taken = set(ids)
    for row, name in enumerate(ids):
        if name is not None and _NOT_PRINTABLE.search(name):
            ids[row] = _free(printable(name), taken)
    for source, reason in {} if tree is None else tree.problems.items():
        if source not in told:
            _append(columns, {"image_id": _free(printable(source), taken), "source": source}, "failed", reason)
    frame = check_rows(_to_pandas(_to_arrow(columns)))
    if tree is not None and is_all_missing:
        raise InputError(_nothing_there(columns["source"], tree))
    return frame


def _append(columns: Mapping[str, list[Any]], row: Mapping, status: str, reason: str | None) -> None:
    full_row = {**row, "findings": row.get("findings") or [], "status": status, "reason": reason and printable(reason)}
    for name, values in columns.items():
        values.append(full_row.get(name))


def _presence(source: str | None, tree: RawTree | None, told: set[str]) -> tuple[str, str] | None:
    """Return status and reason of a file that is not there or cannot be listed, None for others; note what was told."""
    if tree is None or source is None or source in tree.files:
        return None
    places = (source, *map(str, PurePosixPath(source).parents)) if tree.problems else ()
    problem = next((place for place in places if place in tree.problems), None)
    if problem is None:
        return "missing", ABSENT
    told.add(problem)
    return "failed", tree.problems[problem]


def _nothing_there(sources: list[str | None], tree: RawTree) -> str:
    from mammovae.imageio.read import IMAGE_SUFFIXES

    images = [source for source in tree.files if source.lower().endswith(IMAGE_SUFFIXES)]
    more = f" and {len(images) - 1} more" if len(images) > 1 else ""
    found = f"what lies there is {images[0]}{more}" if images else "there is no image at all"
    wanted = next((source for source in sources if source), "a file of no name")
    sentence = f"{tree.root} holds none of the {len(sources)} images that are listed: looked for {wanted}, but {found}"
    return printable(sentence)


_NOT_PRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text in one line: control characters, and those that turn its direction, as escapes."""
    return _NOT_PRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def distinct_names(names: Sequence[str], *longer: Callable[[int], str]) -> list[str]:
    """Return names of which no two are equal.

    Those that occur more than once are each replaced by the first of the longer forms, called with their numbers, that
    tells them apart; what is equal even then gets #2, #3 and so on, in order.
    """
    distinct = list(names)
    for form in longer:
        counts = Counter(distinct)
        if len(counts) == len(distinct):
            return distinct
        distinct = [form(number) if counts[name] > 1 else name for number, name in enumerate(distinct)]
    taken, copies = set(distinct), Counter[str]()
    for number, name in enumerate(distinct):
        copies[name] += 1
        if copies[name] > 1:
            while f"{name}#{copies[name]}" in taken:
                copies[name] += 1
            distinct[number] = f"{name}#{copies[name]}"
            taken.add(distinct[number])
    return distinct


def _free(name: str, taken: set[str | None]) -> str:
    """Return the name, numbered where it is taken, and take it."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    taken.add(free)
    return free


def _to_arrow(columns: Mapping[str, list[Any]]) -> pa.Table:
    try:
        return pa.Table.from_pydict(columns, schema=SCHEMA)
    except UnicodeEncodeError:  # of a header's text that no encoding explains
        texts = {name: [printable(v) if isinstance(v, str) else v for v in values] for name, values in columns.items()}
        return pa.Table.from_pydict(texts, schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"a value does not fit the index's columns: {error}") from error


def check_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return frame when its rows keep the schema's rules, else raise InputError with the first breach."""
    lacking = [name for name in COLUMNS if name not in frame]
    if lacking:
        raise InputError(f"the index lacks the column {lacking[0]!r}: prepare the data again")
    if frame["image_id"].isna().any():
        raise InputError(f"row {frame['image_id'].isna().argmax()} of the index has no image_id")
    repeated = frame["image_id"].duplicated()
    if repeated.any():
        raise InputError(f"image_id {frame.loc[repeated, 'image_id'].iloc[0]!r} stands in two rows: make ids unique")
    for name, allowed in ALLOWED.items():
        wrong = frame[name].notna() & ~frame[name].isin(allowed)
        if wrong.any():
            row, choices = frame[wrong].iloc[0], ", ".join(allowed)
            raise InputError(
                f"image {row['image_id']!r} has {name} {row[name]!r}: it must be one of {choices} or empty"
            )
    return frame


def check(frame: pd.DataFrame) -> pd.DataFrame:
    """Do check_rows, and see that no patient is in two splits: a finished index's rule, not that of a set's lists."""
    check_rows(frame)
    used = frame[frame["split"].notna() & (frame["split"] != "unused") & frame["patient_id"].notna()]
    several = used.groupby("patient_id")["split"].nunique()
    if (several > 1).any():
        raise InputError(f"patient {several[several > 1].index[0]!r} stands in two splits: split by patient")
    return frame


def matching(frame: pd.DataFrame, side: str | None = None, view: str | None = None) -> pd.DataFrame:
    """Return the rows of a side and view, and those that failed before either was known: they may be of it."""
    keep = np.full(len(frame), True)
    for name, expected in (("side", side), ("view", view)):
        if expected is not None:
            is_lost = ((frame["status"] == "failed") & frame[name].isna()).to_numpy(bool)
            keep &= (frame[name] == expected).fillna(False).to_numpy(bool) | is_lost
    return frame[keep].reset_index(drop=True)


def limit_present(frame: pd.DataFrame, count: int | None) -> pd.DataFrame:
    """Return the rows up to the count-th whose file is there; all of them without a count."""
    present = np.flatnonzero(frame["status"] != "missing")
    return frame if count is None or count >= len(present) else frame.head(int(present[count - 1]) + 1)


def add_note(frame: pd.DataFrame, sentence: str) -> None:
    """Note what a listing has to say beside its rows; notes stay with the frame and end in the manifest."""
    frame.attrs["notes"] = [*notes(frame), sentence]


def notes(frame: pd.DataFrame) -> list[str]:
    """Return what was noted of a listing."""
    return list(frame.attrs.get("notes", []))


def read(path: Path) -> pd.DataFrame:
    """Read and check an index.parquet; nullable pandas types, findings as lists of dicts."""
    try:
        arrow = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot read the index {path}: {error}") from error
    return check(_to_pandas(arrow))


def write(frame: pd.DataFrame, path: Path) -> None:
    """Check frame and write it to path in one step."""
    arrow = pa.Table.from_pandas(check(frame)[COLUMNS], schema=SCHEMA, preserve_index=False)
    with atomic_write(path) as partial:
        pq.write_table(arrow, partial)


def _to_pandas(arrow: pa.Table) -> pd.DataFrame:
    frame = arrow.to_pandas(types_mapper=_PANDAS.get)
    frame["findings"] = [list(cell) if cell is not None else [] for cell in frame["findings"]]
    return frame


def other_breasts(frame: pd.DataFrame, usable: np.ndarray) -> np.ndarray:
    """Return the row of the other breast of each row, int (N,): -1 where there is none, or more than one.

    The same patient and view, the other side, both usable (bool, (N,)); the same study where frame has studies, and the
    same folder where it has a column of them: patients of two hospitals may have one number. Where several images could
    be meant, as in a patient with several examinations, none is taken.
    """
    names = [name for name in ("folder", "patient_id", "study_id", "view", "side") if name in frame]
    is_known = usable & frame[["patient_id", "view", "side"]].notna().all(axis=1).to_numpy(bool)
    known = frame[names].astype(object).fillna("").assign(row=np.arange(len(frame)))[is_known]
    alone = known.drop_duplicates(names, keep=False)
    opposite = known.assign(side=known["side"].map({"L": "R", "R": "L"}))
    pairs = opposite.merge(alone, on=names, suffixes=("", "_other"))
    others = np.full(len(frame), -1)
    others[pairs["row"].to_numpy(int)] = pairs["row_other"]
    return others
