"""Any folder of images, labelled by a CSV or by folders named healthy/ and finding/, or not at all."""

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
    without_suffix,
)
from mammovae.imageio.image_kind import kind_of_name
from mammovae.imageio.raw_tree import RawTree


def list_images(tree: RawTree, headers: Headers) -> pd.DataFrame:
    """List every DICOM, PNG, TIFF, JPEG and PGM file of a tree, a row a file in order of path.

    image_id is the CSV's, else the path without suffix (with it where two files differ in nothing else).
    index.csv, or the only CSV file at the root, may say what is known: see `read_labels`. Health is what the CSV
    says, else True under healthy/ and False under finding/, else null. What DICOM headers say fills the rest, and the
    kind is told by the names of CDD-CESM. Files that the CSV does not list are rows too; files that it lists and that
    are absent are missing.
    """
    labels = read_labels(tree, strict=True)
    sources = [source for source in tree.files if _is_image(source, headers.get(source), tree)]
    stems = Counter(map(without_suffix, sources))
    images = []
    for source in sources:
        header = headers.get(source)
        fields = header_fields(header)
        if header and "unreadable" not in header and not is_dicom_header(header):
            # Their size is found again when they are read, and may be turned then.
            fields = {}
        if fields.get("kind") in (None, "mammogram"):
            fields["kind"] = kind_of_name(source.rpartition("/")[2]) or fields.get("kind")
        image_id = without_suffix(source) if stems[without_suffix(source)] == 1 else source
        images.append({**fields, "source": source, "image_id": image_id})
    rows = labelled(images, labels, tree)
    if not rows and not tree.problems:
        raise InputError(
            f"there is no DICOM, PNG, TIFF, JPEG or PGM file under {tree.root}: name the folder of the images"
        )
    frame = index.table(rows, tree)
    for note in labels.notes:
        index.add_note(frame, note)
    return frame


def _is_image(source: str, header: dict | None, tree: RawTree) -> bool:
    """Say whether a file is an image by its content, or could not be read and may be one."""
    if header is None or source.rpartition("/")[2].upper() == "DICOMDIR":
        return False
    return "unreadable" not in header or is_image_that_failed(source, tree)


SOURCE = Source(
    reads="any folder of DICOM, PNG, TIFF, JPEG or PGM files", list_images=list_images, needs_header=every_file
)
