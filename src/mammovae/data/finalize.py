"""The end of a prepare: what needs all rows at once, column by column, so that a million rows fit into memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.config import PrepareSettings
from mammovae.data import index
from mammovae.data.copies import contradicting_health, copy_groups, find_copies
from mammovae.data.laterality import against_header, chest_wall_convention
from mammovae.data.measurements import MEASUREMENTS
from mammovae.data.patients import find_patients
from mammovae.data.prepare_image import FROM_HEADER
from mammovae.data.split import assign_splits, usable_rows
from mammovae.storage import atomic_write, write_csv

_ON_ALL = r"white was taken as \d+ of \d+"  # a remark on every image of a set, which would hide the others' number
SHEET_IMAGES = 400  # that a contact sheet shows at most; of more, it shows evenly spaced ones


def finalize(
    out: Path,
    frame: pd.DataFrame,
    entries: Iterable[dict[str, Any]],
    images: np.ndarray,
    masks: np.ndarray,
    settings: PrepareSettings,
) -> dict[str, Any]:
    """Write index, failures, measurements and contact sheet of a listing; return the manifest's facts."""
    notes = index.notes(frame)
    results = FileResults.collect(entries, len(frame))
    frame = _merge(frame, results)
    groups = copy_groups(results.digests)
    contradicting = contradicting_health(frame["healthy"], groups)
    frame = frame.assign(healthy=frame["healthy"].mask(contradicting))
    patients = find_patients(frame, results.digests)
    usable = usable_rows(frame, settings.kinds)
    frame = _with_remarks(frame.assign(patient_id=patients.names), _unused_kinds(frame, usable), patients.remarks)
    frame = assign_splits(frame, settings.seed, usable & ~contradicting)
    convention, wrong_sides = _compare_sides(frame["side"], results)
    frame = _with_remarks(frame, wrong_sides)
    copies = find_copies(frame, groups, contradicting)
    frame = _with_remarks(frame, copies.reasons)
    frame = frame.assign(split=frame["split"].mask(copies.reasons.notna(), "unused"))
    _write_tables(out, frame, results.measurements)
    _write_contact_sheet(out, frame, images, masks)
    index.write(frame, out / "index.parquet")
    facts = {
        "size": images.shape[1],
        "by_patient": patients.are_known,
        "stored_as": convention,
        "duplicates": copies.duplicates,
    }
    return facts | {"contradictions": copies.contradictions, "notes": notes + patients.notes, "counts": counts(frame)}


def _write_tables(out: Path, frame: pd.DataFrame, measurements: dict[str, np.ndarray]) -> None:
    write_csv(frame.loc[frame["status"] == "failed", ["image_id", "source", "reason"]], out / "failures.csv")
    with atomic_write(out / MEASUREMENTS) as partial_path:
        pd.DataFrame(measurements, index=frame.index).to_parquet(partial_path, index=False)


def _unused_kinds(frame: pd.DataFrame, usable: np.ndarray) -> pd.Series:
    is_other = (frame["status"] == "ok").to_numpy(bool) & ~usable
    return ("kind " + frame["kind"] + ": unused, see --kinds").where(is_other)


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
                    results.fields[name][row] = index.printable(value) if name == "reason" else value
            for name, value in entry.get("measurements", {}).items():
                if name not in results.measurements:
                    results.measurements[name] = np.full(count, np.nan)
                results.measurements[name][row] = value
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
    kinds = frame["kind"].mask(frame["kind"].isna() & (frame["status"] == "ok"), "mammogram")
    return index.check_rows(frame.assign(breast_area=pixels * frame["mm_per_pixel"] ** 2, kind=kinds))


def _joined(first: pd.Series, second: pd.Series) -> pd.Series:
    """Return two columns of sentences, one after the other; null where neither says anything."""
    return (first + "; " + second).fillna(first).fillna(second)


def _with_remarks(frame: pd.DataFrame, *remarks: pd.Series) -> pd.DataFrame:
    """Return the frame with remarks, null where there is none, added to the column reason."""
    return frame.assign(reason=reduce(_joined, remarks, frame["reason"]))


def _compare_sides(sides: pd.Series, results: FileResults) -> tuple[str | None, pd.Series]:
    """Return how the set is stored, and a remark on each image whose chest wall goes against it; measure that too."""
    walls, side_of = results.walls, sides.tolist()
    convention = chest_wall_convention(side_of, walls)
    is_wrong = {row: against_header(side_of[row], wall, convention) for row, wall in walls.items()}
    if walls:
        results.measurements["against_header"] = pd.Series(is_wrong, sides.index, float).to_numpy()
    remark = "side {}, but the chest wall lies on the image's {}"
    remarks = {row: remark.format(side_of[row], walls[row]) for row in walls if is_wrong[row]}
    return convention, pd.Series(remarks, sides.index, sides.dtype)


def _write_contact_sheet(out: Path, frame: pd.DataFrame, images: np.ndarray, masks: np.ndarray) -> None:
    from mammovae.report.images import contact_sheet

    rows = np.flatnonzero(frame["status"] == "ok")
    if not len(rows):
        return
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SHEET_IMAGES).round().astype(int))]
    names, sides = frame["image_id"].iloc[rows], frame["side"].iloc[rows].fillna("")
    captions = [f"{index.printable(name)[:14]} {side}" for name, side in zip(names, sides, strict=True)]
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
        "warned": int((ok["reason"].notna() & ~ok["reason"].str.fullmatch(_ON_ALL).fillna(False)).sum()),
        "splits": {name: int((ok["split"] == name).sum()) for name in index.ALLOWED["split"]},
        "kinds": {str(kind): int(number) for kind, number in ok["kind"].value_counts().items()},
    }
