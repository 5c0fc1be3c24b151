"""Any tree of DICOM files, known by their content, as an archive or a PACS exports them."""

from collections import Counter

import pandas as pd

from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.sources.labels import labelled, read_labels
from mammovae.data.sources.source import (
    Headers,
    Source,
    every_file,
    header_fields,
    is_dicom_header,
    is_image_that_failed,
)
from mammovae.imageio.raw_tree import RawTree
from mammovae.imageio.read import RASTER_SUFFIXES


def list_images(tree: RawTree, headers: Headers) -> pd.DataFrame:
    """List every DICOM image of a tree, a row a file in order of path; suffixes do not matter.

    image_id is the SOP Instance UID, study_id the Study Instance UID. Objects without an image
    (DICOMDIR, structured reports, presentation states, segmentations) are passed over, and so is whatever is no DICOM.
    A file that cannot be read is a row that failed. A UID that occurs again is numbered (UID#2) and gets a warning: the
    copies of an export made twice, which prepare finds by their pixels, or the work of an anonymiser that gave all
    files one UID. Health is null, unless `read_labels` knows it.
    """
    labels = read_labels(tree, strict=False)
    counts: Counter[str] = Counter()
    images, pictures = list[dict](), 0
    for source in tree.files:
        header = headers.get(source)
        if header is None or source.rpartition("/")[2].upper() == "DICOMDIR":
            continue
        if "unreadable" in header:
            if is_image_that_failed(source, tree) and not source.lower().endswith(RASTER_SUFFIXES):
                images.append({"image_id": source, "source": source} | header_fields(header))
            continue
        if not is_dicom_header(header):
            pictures += 1
            continue
        fields = header_fields(header)
        uid = fields.get("image_id") or source
        counts[uid] += 1
        row = {**fields, "source": source, "image_id": uid, "uid": uid}
        if counts[uid] > 1:
            row |= {"image_id": f"{uid}#{counts[uid]}", "reason": "an earlier file has the same SOP Instance UID"}
        images.append(row)
    rows = labelled(images, labels, tree)
    if not rows and not tree.problems:
        raise InputError(f"there is no DICOM image under {tree.root}: for other images use the kind folder")
    frame = index.table(rows, tree)
    for note in labels.notes:
        index.add_note(frame, note)
    if pictures:
        index.add_note(frame, f"pictures that are no DICOM were passed over: {pictures} (the kind folder reads them)")
    return frame


SOURCE = Source(
    reads="any tree of DICOM files, known by their content", list_images=list_images, needs_header=every_file
)
