"""Small trees of each kind of raw data, with the traps that its lists are known for."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from mammovae.config import InputError
from mammovae.data.sources import SOURCES
from mammovae.imageio.raw_tree import RawTree
from mammovae.imageio.read import read_header

Row = dict[str, Any]


def headers_of(kind: str, tree: RawTree) -> dict[str, Row | None]:
    """The headers that a source asks for, read in this process."""
    headers: dict[str, Row | None] = {}
    for name in filter(SOURCES[kind].needs_header, tree.files):
        try:
            headers[name] = read_header(tree.file(name))
        except InputError as error:
            headers[name] = {"unreadable": str(error)}
    return headers


def listed(kind: str, root: Path, **rules: Any) -> pd.DataFrame:
    """The rows of a raw tree: scanned, headers read, and listed, as prepare does it."""
    tree = RawTree.scan(root)
    return SOURCES[kind].list_images(tree, headers_of(kind, tree), **rules)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def picture(path: Path, shape: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(shape, np.uint8)).save(path)


def dicom_file(path: Path, **attributes: Any) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",
        "SOPInstanceUID": generate_uid(),
        "Modality": "MG",
        "Rows": 2,
        "Columns": 2,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": b"\0\1\2\3",
    }
    for name, value in (values | attributes).items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def image_row(study: str, side: str, view: str, birads: int = 1, **more: Any) -> Row:
    return {
        "study_id": study,
        "series_id": f"series{study}",
        "image_id": f"{study}{side}{view}",
        "laterality": side,
        "view_position": view,
        "height": 3518,
        "width": 2800,
        "breast_birads": f"BI-RADS {birads}",
        "breast_density": "DENSITY C",
        "split": "training",
        **more,
    }


def finding_row(
    row: Row, categories: str = "['No Finding']", box: Sequence[float | str] = ("", "", "", ""), birads: str = ""
) -> Row:
    return (
        row
        | {"finding_categories": categories, "finding_birads": birads}
        | dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    )


BREASTS = [
    *(image_row("a", side, view) for side in "LR" for view in ("CC", "MLO")),
    image_row("b", "L", "CC", 2),
    image_row("b", "L", "MLO", 2),
    image_row("b", "R", "CC", 4),
    image_row("b", "R", "MLO", 4, split="test", study_id="b2", image_id="b2RMLO"),
    image_row("c", "L", "CC", 3, breast_density="", split="test"),
    image_row("d", "L", "CC", 1),
    image_row("d", "L", "MLO", 2),
]


FINDINGS = [
    finding_row(BREASTS[0]),
    finding_row(BREASTS[2], "['Mass', 'Skin Thickening']", (-3.5, 10, 100, 90), "BI-RADS 4"),
    finding_row(BREASTS[2], "['Mass']", (2700, 3500, 2900, 3600), "BI-RADS 3"),
    finding_row(image_row("c", "L", "MLO", 3), "['Asymmetry']", (1, 2, 3, 4)),
]


def vindr_tree(
    root: Path,
    breasts: Sequence[Row] = BREASTS,
    findings: Sequence[Row] = FINDINGS,
    metadata: Sequence[Row] | None = None,
    images: bool = True,
) -> Path:
    write_csv(root / "breast-level_annotations.csv", breasts)
    write_csv(root / "finding_annotations.csv", findings)
    if metadata:
        write_csv(root / "metadata.csv", metadata)
    for row in breasts if images else ():
        path = root / "images" / row["study_id"] / f"{row['image_id']}.dicom"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


INFO = """  THE DATABASE of films such as mdb001
2nd column: tissue
mdb001 G CIRC B 535 425 197
mdb002 G NORM
mdb003 D CALC M *NOTE 3*
mdb005 F CIRC B 477 133 30
mdb005 F SPIC M 1000 1000 60
mdb006 F NORM \nmdb059 F ASYM B
END of rows
"""


def mias_tree(root: Path, info: str = INFO, films: Sequence[int] = (1, 2, 3, 5, 59, 60)) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "Info.txt").write_text(info, encoding="latin-1")
    for number in films:
        picture(root / f"mdb{number:03d}.pgm", (1024, 1024))
    return root


def case(kind: str, split: str, patient: str, side: str, view: str, number: int = 1, **more: Any) -> Row:
    name = f"{kind}-{split}_{patient}_{side}_{view}"
    density = "breast_density" if kind == "Mass" else "breast density"
    return {
        "patient_id": patient,
        density: 3,
        "left or right breast": side,
        "image view": view,
        "abnormality id": number,
        "abnormality type": "mass" if kind == "Mass" else "calcification",
        "assessment": 4,
        "pathology": "MALIGNANT",
        "subtlety": 4,
        "image file path": f"{name}/1.2.3/1.2.4/000000.dcm",
        "ROI mask file path": f"{name}_1/1.2.5/1.2.6/000001.dcm\n",
        **more,
    }


def cbis_tree(root: Path) -> Path:
    write_csv(
        root / "mass_case_description_train_set.csv",
        [
            case("Mass", "Training", "P_00001", "LEFT", "CC"),
            case("Mass", "Training", "P_00001", "LEFT", "CC", 2, pathology="BENIGN_WITHOUT_CALLBACK", assessment=2),
            case("Mass", "Training", "P_00002", "RIGHT", "MLO"),
            case("Mass", "Training", "P_00009", "RIGHT", "MLO", breast_density=0),
        ],
    )
    write_csv(
        root / "calc_case_description_train_set.csv",
        [case("Calc", "Training", "P_00001", "LEFT", "CC", **{"breast density": 3})],
    )
    write_csv(root / "calc_case_description_test_set.csv", [case("Calc", "Test", "P_00002", "RIGHT", "CC")])
    for name in (
        "Mass-Training_P_00001_LEFT_CC",
        "Calc-Training_P_00001_LEFT_CC",
        "Mass-Training_P_00001_LEFT_CC_1",
        "Mass-Training_P_00002_RIGHT_MLO",
        "Calc-Test_P_00002_RIGHT_CC",
    ):
        dicom_file(root / "CBIS-DDSM" / name / "07-20-2016-DDSM" / "1.0-full" / "1-1.dcm")
    return root


def folder_tree(root: Path) -> Path:
    """Images in folders, labelled by their names, and a table that also lists one that is absent."""
    for name in ("healthy/a.png", "finding/b.png", "c.png"):
        picture(root / name)
    dicom_file(root / "d.dcm", PatientID="p")
    write_csv(root / "index.csv", [{"source": "c.png", "category": "mass"}, {"source": "gone.png", "category": ""}])
    return root


def dicom_tree(root: Path) -> Path:
    """Two images, one of them named without a suffix, and an object without pixels."""
    dicom_file(root / "s1" / "IM0001", SOPInstanceUID="1.2.3", PatientID="p1")
    dicom_file(root / "s1" / "b.dcm", SOPInstanceUID="1.2.4")
    dicom_file(root / "report.dcm", SOPInstanceUID="1.2.5", Modality="SR", Rows=None, PixelData=None)
    return root


def vindr_tree_with_a_gap(root: Path) -> Path:
    """The VinDr tree without one of its files."""
    (vindr_tree(root) / "images" / "a" / "aLCC.dicom").unlink()
    return root


TREES: dict[str, Callable[[Path], Path]] = {
    "vindr": vindr_tree_with_a_gap,
    "mias": mias_tree,
    "cbis-ddsm": cbis_tree,
    "folder": folder_tree,
    "dicom": dicom_tree,
}
"""What writes an example of each kind of raw data, one listed file absent where the kind has lists."""
