"""The end of a prepare: what needs all rows at once, column by column, so that a million rows fit into memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.data import index
from mammovae.data.laterality import against_header, chest_wall_convention
from mammovae.data.measurements import MEASUREMENTS
from mammovae.data.split import assign_splits, duplicates, fill_patients
from mammovae.storage import atomic_write

FROM_HEADER = ("study_id", "patient_id", "side", "view", "age", "vendor", "model", "mm_per_pixel")
"""Columns that a file's header may fill where the listing says nothing."""

SHEET_IMAGES = 400  # that a contact sheet shows at most; of more, it shows evenly spaced ones


def finalize(
    out: Path, frame: pd.DataFrame, entries: Iterable[dict[str, Any]], images: np.ndarray, masks: np.ndarray, seed: int
) -> dict[str, Any]:
    """Write index, failures, measurements and contact sheet of a listing; return the manifest's facts."""
    results = FileResults.collect(entries, len(frame))
    frame, by_patient = fill_patients(_merge(frame, results))
    frame = assign_splits(frame, seed)
    frame.loc[frame["status"] != "ok", "split"] = "unused"
    sides, walls = frame["side"].tolist(), results.walls
    convention = chest_wall_convention(sides, walls)
    is_wrong = {row: against_header(sides[row], wall, convention) for row, wall in walls.items()}
    contradiction = "side {}, but the chest wall lies on the image's {}"
    frame = _with_warnings(frame, {row: contradiction.format(sides[row], walls[row]) for row in walls if is_wrong[row]})
    frame, copies = _without_copies(frame, results.digests)
    with atomic_write(out / "failures.csv") as partial_path:
        failures = frame.loc[frame["status"] == "failed", ["image_id", "source", "reason"]]
        failures.to_csv(partial_path, index=False)
    _write_contact_sheet(out, frame, images, masks)
    if walls:
        results.measurements["against_header"] = pd.Series(is_wrong, frame.index, float).to_numpy()
    with atomic_write(out / MEASUREMENTS) as partial_path:
        pd.DataFrame(results.measurements, index=frame.index).to_parquet(partial_path, index=False)
    index.write(frame, out / "index.parquet")
    facts = {"size": images.shape[1], "by_patient": by_patient, "stored_as": convention, "duplicates": copies}
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
                    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                    if name not in results.fields:
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
    reasons, columns = frame["reason"], dict[str, pd.Series]()
    for name in [name for name in results.fields if name not in ("reason", "mask_pixels")]:
        listed, from_files = frame[name], results.column(name, frame[name].dtype)
        columns[name] = listed.fillna(from_files) if name in FROM_HEADER else from_files.fillna(listed)
        if name in ("side", "view"):
            warning = f"the list says {name} " + listed + ", the file's header " + from_files
            reasons = _joined(reasons, warning.where((from_files != listed).fillna(False)))
    reasons = _joined(reasons, results.column("reason", reasons.dtype))
    frame = frame.assign(**columns, reason=reasons)
    pixels = results.column("mask_pixels", frame["breast_area"].dtype)
    return index.check(frame.assign(breast_area=pixels * frame["mm_per_pixel"] ** 2))


def _joined(first: pd.Series, second: pd.Series) -> pd.Series:
    """Return two columns of sentences, one after the other; null where neither says anything."""
    return (first + "; " + second).fillna(first).fillna(second)


def _with_warnings(frame: pd.DataFrame, warnings: Mapping[int, str]) -> pd.DataFrame:
    """Return the frame with warnings, by row, added to the column reason."""
    added = pd.Series(warnings, frame.index, frame["reason"].dtype)
    return frame.assign(reason=_joined(frame["reason"], added))


def _without_copies(frame: pd.DataFrame, digests: np.ndarray) -> tuple[pd.DataFrame, list[list[str]]]:
    """Keep one image of each group with the same pixels, in test where one of them is; the others are unused.

    Returns the groups with the kept image first.
    """
    groups = duplicates(frame["image_id"], digests)
    row_of = {name: row for row, name in enumerate(frame["image_id"])} if groups else {}
    splits, healthy = frame["split"].to_numpy(object), frame["healthy"]
    rank, warnings = {"test": 0, "unused": 2}, dict[int, str]()
    for group in groups:
        group.sort(key=lambda name: rank.get(splits[row_of[name]], 1))
        rows = np.array([row_of[name] for name in group])
        contrast = ", with another health" if healthy.iloc[rows].nunique() > 1 else ""
        warnings |= dict.fromkeys(rows[1:].tolist(), f"the same pixels as {group[0]}{contrast}")
    frame = frame.assign(split=frame["split"].mask(frame.index.isin(list(warnings)), "unused"))
    return _with_warnings(frame, warnings), groups


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
