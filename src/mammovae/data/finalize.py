"""The end of a prepare: what needs all rows at once, column by column, so that a million rows fit into memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.config import PrepareSettings
from mammovae.data import index
from mammovae.data.laterality import against_header, chest_wall_convention, with_laterality_warnings
from mammovae.data.measurements import MEASUREMENTS
from mammovae.data.split import assign_splits, duplicates, fill_patients
from mammovae.storage import atomic_write

FROM_HEADER = ("study_id", "patient_id", "side", "view", "age", "vendor", "model", "mm_per_pixel")
"""Columns that a file's header may fill where the listing says nothing."""

SHEET_IMAGES = 400
"""The most images that a contact sheet shows; of more, it shows evenly spaced ones."""


def finalize(
    out: Path,
    frame: pd.DataFrame,
    entries: Iterable[dict[str, Any]],
    images: np.ndarray,
    masks: np.ndarray,
    settings: PrepareSettings,
) -> dict[str, Any]:
    """Write index, failures, measures and contact sheet of a listing and its journal; return the manifest's facts."""
    told = FileResults.read(entries, len(frame))
    frame = _filled(frame, told)
    frame, by_patient = fill_patients(frame)
    frame = assign_splits(frame, settings.seed)
    ok = frame["status"] == "ok"
    frame.loc[~ok, "split"] = "unused"
    convention = chest_wall_convention(frame, told.walls)
    frame = with_laterality_warnings(frame, told.walls, convention)
    frame, copies = _without_copies(frame, told.digests)
    failures = frame.loc[frame["status"] == "failed", ["image_id", "source", "reason"]]
    with atomic_write(out / "failures.csv") as partial_path:
        failures.to_csv(partial_path, index=False)
    _contact_sheet(out, frame, images, masks)
    with atomic_write(out / MEASUREMENTS) as partial_path:
        _measures(frame, told, convention).to_parquet(partial_path, index=False)
    index.write(frame, out / "index.parquet")
    return {
        "size": settings.size,
        "by_patient": by_patient,
        "stored_as": convention,
        "duplicates": copies,
        "counts": counts(frame),
    }


@dataclass
class FileResults:
    """What the files say, by row: fields and measures as columns, the hash of the pixels, the chest wall's edge."""

    fields: dict[str, np.ndarray]
    measures: dict[str, np.ndarray]
    digests: np.ndarray
    walls: dict[int, str]

    @classmethod
    def read(cls, entries: Iterable[dict[str, Any]], count: int) -> "FileResults":
        told = cls({}, {}, np.full(count, None, object), {})
        for entry in entries:
            row = entry["row"]
            for name, value in entry["fields"].items():
                if value is not None:
                    if name not in told.fields:
                        number = isinstance(value, (int, float)) and not isinstance(value, bool)
                        told.fields[name] = np.full(count, *((np.nan, float) if number else (None, object)))
                    told.fields[name][row] = value
            for name, value in entry.get("measures", {}).items():
                told.measures.setdefault(name, np.full(count, np.nan))[row] = value
            if "chest_wall" in entry:
                told.digests[row], told.walls[row] = entry["digest"], entry["chest_wall"]
        return told

    def column(self, name: str, dtype: Any) -> pd.Series:
        """Return a field as the index holds it, null where no file says it."""
        values = self.fields.get(name, np.full(len(self.digests), None, object))
        return pd.Series(pd.array(values, dtype=dtype))


def _filled(frame: pd.DataFrame, told: FileResults) -> pd.DataFrame:
    """Lay what the files say under what the listing says; a contradiction becomes a remark."""
    remarks = [frame["reason"]]
    filled: dict[str, pd.Series] = {}
    for name in told.fields:
        if name in ("reason", "mask_pixels"):
            continue
        said = told.column(name, frame[name].dtype)
        filled[name] = frame[name].fillna(said) if name in FROM_HEADER else said.fillna(frame[name])
        if name in ("side", "view"):
            differs = (said != frame[name]).fillna(False)
            words = f"the list says {name} " + frame[name] + ", the file's header " + said
            remarks.append(words.where(differs))
    remarks.append(told.column("reason", frame["reason"].dtype))
    frame = frame.assign(**filled)
    pixels = told.column("mask_pixels", frame["breast_area"].dtype)
    return index.check(frame.assign(breast_area=pixels * frame["mm_per_pixel"] ** 2, reason=_joined(remarks)))


def _joined(remarks: list[pd.Series]) -> pd.Series:
    """Return what columns of remarks say of each row, one after the other; null where none says anything."""
    first, *others = remarks
    for other in others:
        first = (first + "; " + other).fillna(first).fillna(other)
    return first


def _measures(frame: pd.DataFrame, told: FileResults, convention: str | None) -> pd.DataFrame:
    """Return what was measured, a row an image, empty where it failed; against_header is 1 where the pose is wrong."""
    wrong = np.full(len(frame), np.nan)
    sides = frame["side"].to_numpy(object)
    for row, wall in told.walls.items():
        wrong[row] = against_header(sides[row], wall, convention)
    return pd.DataFrame(told.measures | ({"against_header": wrong} if told.walls else {}), index=frame.index)


def _without_copies(frame: pd.DataFrame, digests: np.ndarray) -> tuple[pd.DataFrame, list[list[str]]]:
    """Keep one image of each group with the same pixels, in test where one of them is; the others are unused.

    Returns the groups with the kept image first.
    """
    groups = duplicates(frame["image_id"], digests)
    row_of = {name: row for row, name in enumerate(frame["image_id"])} if groups else {}
    splits, reasons = frame["split"].tolist(), frame["reason"].tolist()
    healthy = frame["healthy"].to_numpy(object)
    rank = {"test": 0, "unused": 2}
    for group in groups:
        group.sort(key=lambda name: rank.get(str(splits[row_of[name]]), 1))
        known = {value for value in (healthy[row_of[name]] for name in group) if not pd.isna(value)}
        remark = f"the same pixels as {group[0]}" + (", with another health" if len(known) > 1 else "")
        for row in (row_of[name] for name in group[1:]):
            splits[row] = "unused"
            reasons[row] = remark if pd.isna(reasons[row]) else f"{reasons[row]}; {remark}"
    columns = {"split": splits, "reason": reasons}
    return frame.assign(**{n: pd.array(v, dtype=frame[n].dtype) for n, v in columns.items()}), groups


def _contact_sheet(out: Path, frame: pd.DataFrame, images: np.ndarray, masks: np.ndarray) -> None:
    from mammovae.report.images import contact_sheet

    rows = np.flatnonzero(frame["status"] == "ok")
    if not len(rows):
        return
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SHEET_IMAGES).round().astype(int))]
    captions = [
        f"{frame['image_id'].iloc[row][:14]} {'' if pd.isna(frame['side'].iloc[row]) else frame['side'].iloc[row]}"
        for row in rows
    ]
    with atomic_write(out / "contact_sheet.png") as partial_path:
        contact_sheet(images[rows], masks[rows], captions).save(partial_path)


def counts(frame: pd.DataFrame) -> dict[str, Any]:
    """Count rows, patients, health and splits of an index: what a prepare's last lines and a manifest say."""
    ok = frame[frame["status"] == "ok"]
    return {
        "images": len(frame),
        "patients": int(frame["patient_id"].nunique()),
        **{status: int((frame["status"] == status).sum()) for status in index.ALLOWED["status"]},
        "healthy": int((ok["healthy"] == True).sum()),  # noqa: E712 - nullable column
        "finding": int((ok["healthy"] == False).sum()),  # noqa: E712 - nullable column
        "unknown": int(ok["healthy"].isna().sum()),
        "warned": int(ok["reason"].notna().sum()),
        "splits": {name: int((ok["split"] == name).sum()) for name in index.ALLOWED["split"]},
    }
