"""Any tree of DICOM known by their content, as an archive or a PACS exports them."""

from pathlib import Path

import pandas as pd

from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.read import DICOM_SUFFIXES, is_dicom, read_header, walk
from mammovae.data.sources.labels import read_labels
from mammovae.data.sources.tables import relative

_NO_PICTURES = {"SEG", "SR", "PR", "KO", "RTSTRUCT", "RTDOSE", "REG", "DOC", "AU"}


def dicom(root: Path) -> pd.DataFrame:
    """List every DICOM image under root, a row a file in order of path; suffixes do not matter.

    image_id is the SOP Instance UID, patient_id the PatientID, study_id the Study Instance UID. Objects without
    a picture (DICOMDIR, structured reports, presentation states, segmentations) are passed over, and so is
    whatever is no DICOM, unless its suffix says that it should be: that is a row, which reading then fails
    with its reason. A UID that occurs again is numbered (UID#2) and remarked on: the copies of an export twice
    made, which prepare finds by their pixels, or the work of an anonymiser that gave all files one UID.

    Health is null, unless the only CSV file at root (or index.csv; see `read_labels`) or a folder named
    healthy/ or finding/ says so.
    """
    labels = read_labels(root, strict=False)
    seen: dict[str, str] = {}
    rows = []
    for path in walk(root):
        source = relative(path, root)
        row = _row(path, source)
        if row is None:
            continue
        uid = row["image_id"]
        if uid in seen:
            count = 2
            while f"{uid}#{count}" in seen:
                count += 1
            row |= {"image_id": f"{uid}#{count}", "reason": f"the same SOP Instance UID as {seen[uid]}"}
        seen[row["image_id"]] = source
        rows.append(row | labels.take(source, row["image_id"]) | {"image_id": row["image_id"]})
    rows += labels.absent()
    if not rows:
        raise InputError(f"there is no DICOM image under {root}: for other images use the kind folder")
    return index.table(rows, root)


def _row(path: Path, source: str) -> dict | None:
    """Return a row, bare for a file that should be DICOM and cannot be read, None for what is no image."""
    named = path.suffix.lower() in DICOM_SUFFIXES
    if not is_dicom(path):
        return {"image_id": source, "source": source} if named else None
    try:
        header = read_header(path)
    except InputError:
        return {"image_id": source, "source": source}
    if "rows" not in header or header.get("modality") in _NO_PICTURES:
        return None
    return {"image_id": source, **header, "source": source}
