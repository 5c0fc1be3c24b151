"""Any tree of DICOM files, known by their content, as an archive or a PACS exports them."""

from collections import Counter
from pathlib import Path

import pandas as pd

from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.sources.labels import read_labels
from mammovae.data.sources.source import Source, header_of, relative
from mammovae.imageio.dicom_reader import is_dicom
from mammovae.imageio.read import DICOM_SUFFIXES, walk

_MODALITIES_WITHOUT_IMAGES = {"SEG", "SR", "PR", "KO", "RTSTRUCT", "RTDOSE", "REG", "DOC", "AU"}


def list_images(root: Path) -> pd.DataFrame:
    """List every DICOM image under root, a row a file in order of path; suffixes do not matter.

    image_id is the SOP Instance UID, study_id the Study Instance UID. Objects without an image
    (DICOMDIR, structured reports, presentation states, segmentations) are passed over, and so is whatever is no DICOM,
    unless its suffix says that it should be: that is a row, which reading then fails with its reason. A UID that occurs
    again is numbered (UID#2) and gets a warning: the copies of an export made twice, which prepare finds by their
    pixels, or the work of an anonymiser that gave all files one UID. Health is null, unless `read_labels` knows it.
    """
    labels = read_labels(root, strict=False)
    counts: Counter[str] = Counter()
    rows = []
    for path in walk(root):
        row = _row(path, relative(path, root))
        if row is None:
            continue
        uid = row["image_id"]
        counts[uid] += 1
        row |= labels.of(row["source"], uid) | {"image_id": uid}
        if counts[uid] > 1:
            row |= {"image_id": f"{uid}#{counts[uid]}", "reason": "an earlier file has the same SOP Instance UID"}
        rows.append(row)
    rows += labels.missing()
    if not rows:
        raise InputError(f"there is no DICOM image under {root}: for other images use the kind folder")
    return index.table(rows, root)


def _row(path: Path, source: str) -> dict | None:
    """Return a row, bare for a file that should be DICOM and cannot be read, None for what is no image."""
    bare = {"image_id": source, "source": source}
    if path.name.upper() == "DICOMDIR":
        return None
    if not is_dicom(path):
        return bare if path.suffix.lower() in DICOM_SUFFIXES else None
    header = header_of(path) or {}
    # A mammogram cut off before its rows is a row that fails; what has none by its nature is no image.
    return None if header.get("modality") in _MODALITIES_WITHOUT_IMAGES else bare | header


SOURCE = Source(reads="any tree of DICOM files, known by their content", list_images=list_images)
