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
    """Write what a listing and its journal's entries give: index, failures, measurements, contact sheet.

    Returns the manifest's facts.
    """
    results = FileResults.collect(entries, len(frame))
    frame, by_patient = fill_patients(_merge(frame, results))
    frame = assign_splits(frame, settings.seed)
    frame.loc[frame["status"] != "ok", "split"] = "unused"
    convention = chest_wall_convention(frame, results.walls)
    frame = with_laterality_warnings(frame, results.walls, convention)
    frame, copies = _without_copies(frame, results.digests)
    with atomic_write(out / "failures.csv") as partial_path:
        failures = frame.loc[frame["status"] == "failed", ["image_id", "source", "reason"]]
        failures.to_csv(partial_path, index=False)
    _write_contact_sheet(out, frame, images, masks)
    with atomic_write(out / MEASUREMENTS) as partial_path:
        _measurements(frame, results, convention).to_parquet(partial_path, index=False)
    index.write(frame, out / "index.parquet")
    facts = {"size": settings.size, "by_patient": by_patient, "stored_as": convention, "duplicates": copies}
    return facts | {"counts": counts(frame)}


@dataclass
class FileResults:
    """What preparing the files gave, by row: index fields and measurements as columns, pixel hashes, chest walls."""

    fields: dict[str, np.ndarray]
    measurements: dict[str, np.ndarray]
    digests: np.ndarray
    walls: dict[int, str]

    @classmethod
    def collect(cls, entries: Iterable[dict[str, Any]], count: int) -> "FileResults":
        """Gather the journal's entries about count rows."""
        results = cls({}, {}, np.full(count, None, object), {})
        for entry in entries:
            row = entry["row"]
            for name, value in entry["fields"].items():
                if value is not None:
                    if name not in results.fields:
                        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                        results.fields[name] = np.full(count, *((np.nan, float) if is_number else (None, object)))
                    results.fields[name][row] = value
            for name, value in entry.get("measurements", {}).items():
                results.measurements.setdefault(name, np.full(count, np.nan))[row] = value
            if "chest_wall" in entry:
                results.digests[row], results.walls[row] = entry["digest"], entry["chest_wall"]
        return results

    def column(self, name: str, dtype: Any) -> pd.Series:
        """Return a field as the index holds it, null where no file says it."""
        values = self.fields.get(name, np.full(len(self.digests), None, object))
        return pd.Series(pd.array(values, dtype=dtype))


def _merge(frame: pd.DataFrame, results: FileResults) -> pd.DataFrame:
    """Fill the listing with what the files say; where the two contradict each other, the row gets a warning."""
    reasons = frame["reason"]
    columns: dict[str, pd.Series] = {}
    for name in results.fields.keys() - {"reason", "mask_pixels"}:
        from_files = results.column(name, frame[name].dtype)
        first, second = (frame[name], from_files) if name in FROM_HEADER else (from_files, frame[name])
        columns[name] = first.fillna(second)
    for name in [name for name in results.fields if name in ("side", "view")]:
        from_files = results.column(name, frame[name].dtype)
        warning = f"the list says {name} " + frame[name] + ", the file's header " + from_files
        reasons = _joined(reasons, warning.where((from_files != frame[name]).fillna(False)))
    reasons = _joined(reasons, results.column("reason", reasons.dtype))
    frame = frame.assign(**columns, reason=reasons)
    pixels = results.column("mask_pixels", frame["breast_area"].dtype)
    return index.check(frame.assign(breast_area=pixels * frame["mm_per_pixel"] ** 2))


def _joined(first: pd.Series, second: pd.Series) -> pd.Series:
    """Return two columns of sentences, one after the other; null where neither says anything."""
    return (first + "; " + second).fillna(first).fillna(second)


def _measurements(frame: pd.DataFrame, results: FileResults, convention: str | None) -> pd.DataFrame:
    """Return what was measured, a row an image, null where it failed; against_header is 1 for a wrong side."""
    is_wrong = np.full(len(frame), np.nan)
    sides = frame["side"].to_numpy(object)
    for row, wall in results.walls.items():
        is_wrong[row] = against_header(sides[row], wall, convention)
    columns = results.measurements | ({"against_header": is_wrong} if results.walls else {})
    return pd.DataFrame(columns, index=frame.index)


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
        labels = {value for value in (healthy[row_of[name]] for name in group) if not pd.isna(value)}
        warning = f"the same pixels as {group[0]}" + (", with another health" if len(labels) > 1 else "")
        for row in (row_of[name] for name in group[1:]):
            splits[row] = "unused"
            reasons[row] = warning if pd.isna(reasons[row]) else f"{reasons[row]}; {warning}"
    columns = {"split": splits, "reason": reasons}
    return frame.assign(**{n: pd.array(v, dtype=frame[n].dtype) for n, v in columns.items()}), groups


def _write_contact_sheet(out: Path, frame: pd.DataFrame, images: np.ndarray, masks: np.ndarray) -> None:
    from mammovae.report.images import contact_sheet

    rows = np.flatnonzero(frame["status"] == "ok")
    if not len(rows):
        return
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SHEET_IMAGES).round().astype(int))]
    names, sides = frame["image_id"].iloc[rows], frame["side"].iloc[rows].fillna("")
    captions = [f"{name[:14]} {side}" for name, side in zip(names, sides, strict=True)]
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
