"""Any folder of images, labelled by a CSV or by folders named healthy/ and finding/, or not at all."""

from collections import Counter
from pathlib import Path

import pandas as pd

from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.sources.labels import read_labels
from mammovae.data.sources.source import Source, header_of, relative, without_suffix
from mammovae.imageio.dicom_reader import is_dicom
from mammovae.imageio.read import image_files


def list_images(root: Path) -> pd.DataFrame:
    """List every DICOM, PNG, TIFF, JPEG and PGM file under root, a row a file in order of path.

    image_id is the CSV's, else the path without suffix (with it where two files differ in nothing else).
    index.csv, or the only CSV file at root, may say what is known: see `read_labels`. Health is what the CSV
    says, else True under healthy/ and False under finding/, else null. What DICOM headers say fills the rest.
    Files that the CSV does not list are rows too; files that it lists and that are absent are missing.
    """
    labels = read_labels(root, strict=True)
    sources = [relative(path, root) for path in image_files(root)]
    stems = Counter(map(without_suffix, sources))
    rows = []
    for source in sources:
        image_id = without_suffix(source) if stems[without_suffix(source)] == 1 else source
        header = header_of(root / source) if is_dicom(root / source) else None
        rows.append({**(header or {}), "image_id": image_id, **labels.of(source, image_id)})
    rows += labels.missing()
    if not rows:
        raise InputError(f"there is no DICOM, PNG, TIFF, JPEG or PGM file under {root}: name the folder of the images")
    return index.table(rows, root)


SOURCE = Source(reads="any folder of DICOM, PNG, TIFF, JPEG or PGM files", list_images=list_images)
