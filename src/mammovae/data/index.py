"""The index of a DATA folder: a row an image, its schema and its checks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mammovae.config import ImageKind, InputError
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


def table(rows: Iterable[Mapping], root: Path | None = None) -> pd.DataFrame:
    """Build a checked table from dicts of some of the columns; what a row does not say is null.

    With root, a row whose source file is not there gets status "missing"; every other row without one gets "ok".
    """
    # Column by column: a dict more for each of a million rows is a gigabyte.
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for row in rows:
        status, reason = row.get("status"), row.get("reason")
        if status is None:
            is_present = root is None or row.get("source") is None or (root / row["source"]).is_file()
            status, reason = ("ok", reason) if is_present else ("missing", ABSENT)
        full_row = {**row, "findings": row.get("findings") or [], "status": status, "reason": reason}
        for name, values in columns.items():
            values.append(full_row.get(name))
    try:
        arrow = pa.Table.from_pydict(columns, schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"a value does not fit the index's columns: {error}") from error
    return check(_to_pandas(arrow))


def check(frame: pd.DataFrame) -> pd.DataFrame:
    """Return frame when it keeps the schema's rules, else raise InputError with the first breach."""
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
    used = frame[frame["split"].notna() & (frame["split"] != "unused") & frame["patient_id"].notna()]
    several = used.groupby("patient_id")["split"].nunique()
    if (several > 1).any():
        raise InputError(f"patient {several[several > 1].index[0]!r} stands in two splits: split by patient")
    return frame


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

    The same patient and view, the other side, both usable (bool, (N,)); the same study where frame has studies. Where
    several images could be meant, as in a patient with several examinations, none is taken.
    """
    names = [name for name in ("patient_id", "study_id", "view", "side") if name in frame]
    is_known = usable & frame[["patient_id", "view", "side"]].notna().all(axis=1).to_numpy(bool)
    known = frame[names].astype(object).fillna("").assign(row=np.arange(len(frame)))[is_known]
    alone = known.drop_duplicates(names, keep=False)
    opposite = known.assign(side=known["side"].map({"L": "R", "R": "L"}))
    pairs = opposite.merge(alone, on=names, suffixes=("", "_other"))
    others = np.full(len(frame), -1)
    others[pairs["row"].to_numpy(int)] = pairs["row_other"]
    return others
