"""VinDr-Mammo: 5,000 screening exams of four images, as released or as the PNG copy."""

import re
from collections import defaultdict

import pandas as pd

from mammovae.config import HealthyRule, InputError
from mammovae.data import index
from mammovae.data.sources.csv_rows import DENSITIES, SIDES, SPLITS, VIEWS, CsvRow, normalise_name, read_csv
from mammovae.data.sources.source import Headers, Source, header_fields
from mammovae.imageio.dicom_header import age_in_years
from mammovae.imageio.raw_tree import RawTree
from mammovae.imageio.read import IMAGE_SUFFIXES, RASTER_SUFFIXES

_IMAGE_COLUMNS = ("study_id", "image_id", "laterality", "view_position", "breast_birads")
_FINDING_COLUMNS = ("study_id", "image_id", "laterality", "finding_categories", *index.BOX)

ImageFindings = list[tuple[str, CsvRow]]  # category and table row of each finding of an image


def list_images(tree: RawTree, headers: Headers, *, healthy: HealthyRule = "birads12") -> pd.DataFrame:
    """List VinDr-Mammo (Nguyen et al., Scientific Data 10:277, 2023), a row an image in the table's order.

    Released: images/STUDY/IMAGE.dicom, breast-level_annotations.csv, finding_annotations.csv and, where it is
    there, metadata.csv (age, vendor, model, spacing). PNG copy: Processed_Images/STUDY/IMAGE.png and a
    Metadata.csv with the finding columns. Columns are matched by name, case and spacing aside.

    Healthy, by `healthy`: birads12 = no finding on any view of that breast (study and side), and every view BI-RADS 1
    or 2; birads1 = the same with BI-RADS 1 alone; image = no finding on this image. A finding on this image is false,
    all else null. patient_id is study_id, since the set holds one exam a patient.

    Traps: an image has several finding rows, a row several categories (each a finding with the same box); boxes leave
    the image and are clipped; findings of an image that the breast table does not list (a cut-down table) make no row,
    but count for the health of their breast; a PNG may have another size than the table says.
    """
    image_rows, finding_rows, details, folder = _tables(tree)
    allowed = (1,) if healthy == "birads1" else (1, 2)
    findings: dict[str, ImageFindings] = defaultdict(list)
    affected = {_breast(row) for row in image_rows if row.birads("breast_birads") not in allowed}
    for row in finding_rows:
        for category in _categories(row):
            findings[row.required("image_id")].append((category, row))
            affected.add(_breast(row))
    existing_files: dict[str, dict[str, str]] = {}
    rows = []
    for row in image_rows:
        study, image_id = row.required("study_id"), row.required("image_id")
        place = f"{folder}/{study}"
        if place not in existing_files:
            existing_files[place] = _existing_files(tree, place)
        suffix = ".dicom" if normalise_name(folder) == "images" else ".png"
        source = existing_files[place].get(image_id, f"{place}/{image_id}{suffix}")
        header = header_fields(headers.get(source))
        raster_shape = (header["rows"], header["columns"]) if "rows" in header else None
        fields = _fields(row, raster_shape, findings[image_id])
        detail = _detail(details[image_id]) if image_id in details else {}
        is_healthy = True if healthy == "image" or _breast(row) not in affected else None
        is_healthy = False if findings[image_id] else is_healthy
        failure = header if header.get("status") == "failed" else {}
        rows.append(fields | {"source": source, "healthy": is_healthy} | detail | failure)
    return index.table(rows, tree)


def _tables(tree: RawTree) -> tuple[list[CsvRow], list[CsvRow], dict[str, CsvRow], str]:
    """Return the image rows, the finding rows, the metadata by image, and the folder of the studies."""
    released = tree.find("breast-level_annotations.csv")
    metadata = tree.find("metadata.csv")
    folder = tree.find_folder("images") or tree.find_folder("Processed_Images") or "images"
    if released:
        findings = tree.find("finding_annotations.csv")
        if findings is None:
            raise InputError(f"there is no {tree.root}/finding_annotations.csv: it belongs beside {released}")
        rows = read_csv(tree, metadata) if metadata else []
        details = {uid: row for row in rows if (uid := row.text("SOP Instance UID"))}
        return read_csv(tree, released, _IMAGE_COLUMNS), read_csv(tree, findings, _FINDING_COLUMNS), details, folder
    if metadata:
        rows = read_csv(tree, metadata, [*_IMAGE_COLUMNS, *_FINDING_COLUMNS[3:]])
        firsts = {row.required("image_id"): row for row in reversed(rows)}
        return [row for row in rows if firsts[row.required("image_id")] is row], rows, {}, folder
    raise InputError(
        f"{tree.root} is not VinDr-Mammo: it holds neither breast-level_annotations.csv (as released) "
        "nor Metadata.csv (the PNG copy)"
    )


def _breast(row: CsvRow) -> tuple[str, str | None]:
    return row.required("study_id"), row.one_of("laterality", SIDES)


def _categories(row: CsvRow) -> list[str]:
    row.required("finding_categories")
    return row.categories("finding_categories") or []


def _fields(row: CsvRow, raster_shape: tuple[int, int] | None, findings: ImageFindings) -> dict:
    """Return what the table says of an image whose file, where it is no DICOM, has raster_shape."""
    table_shape = row.whole("height"), row.whole("width")
    shape = raster_shape or table_shape
    placed, reason = _place(findings, table_shape, shape)
    return {
        "image_id": row.text("image_id"),
        "patient_id": row.text("study_id"),
        "study_id": row.text("study_id"),
        "side": row.one_of("laterality", SIDES),
        "view": VIEWS.get(normalise_name(row.text("view_position") or "")),
        "split": row.one_of("split", SPLITS),
        "density": row.one_of("breast_density", DENSITIES),
        "birads": row.birads("breast_birads"),
        "rows": shape[0],
        "columns": shape[1],
        "findings": placed,
        "reason": reason,
    }


def _existing_files(tree: RawTree, folder: str) -> dict[str, str]:
    """Return the sources of the images in a study's folder by image_id."""
    images = [source for source in sorted(tree.in_folder(folder)) if source.lower().endswith(IMAGE_SUFFIXES)]
    return {source.rpartition("/")[2].rpartition(".")[0]: source for source in images}


def _is_raster(source: str) -> bool:
    """Say whether a file is a copy that is no DICOM, which may have been resized."""
    return source.lower().endswith(RASTER_SUFFIXES)


def _place(findings: ImageFindings, table_shape: tuple, shape: tuple) -> tuple[list[dict], str | None]:
    """Return the findings with boxes in pixels of the file, of some shape, and a sentence where that failed."""
    placed, reason = [], None
    for category, row in findings:
        box = row.box(*table_shape)
        if box is None:
            reason = "a finding has no box, or one outside the image: its place is unknown"
        elif None not in table_shape and shape != table_shape:
            down, across = shape[0] / table_shape[0], shape[1] / table_shape[1]
            alike = abs(down - across) <= 0.01 * down
            box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down) if alike else None
            size = f"{shape[0]} x {shape[1]} pixels, the table says {table_shape[0]} x {table_shape[1]}"
            reason = f"the image has {size}: {'boxes were scaled' if alike else 'where its findings are is unknown'}"
        placed.append(index.finding(category, birads=row.birads("finding_birads"), box=box))
    return placed, reason


def _detail(row: CsvRow) -> dict:
    spacing = [float(value) for value in re.findall(r"\d+(?:\.\d+)?", row.text("Imager Pixel Spacing") or "")]
    return {
        "age": age_in_years(row.text("Patient's Age")),
        "vendor": row.text("Manufacturer"),
        "model": row.text("Manufacturer's Model Name"),
        "mm_per_pixel": spacing[0] if spacing and 0 < spacing[0] == spacing[-1] else None,
    }


_NOT_BOXED = '"No finding" in VinDr-Mammo may still be BI-RADS 2: benign findings are not boxed there.'
_ANY_GRADE = "Healthy means no box on the image: BI-RADS 3 to 5, or a box in another view, count too."
SOURCE = Source(
    reads="VinDr-Mammo, as released or as the PNG copy",
    list_images=list_images,
    needs_header=_is_raster,
    healthy_rules={"birads12": (_NOT_BOXED,), "birads1": (), "image": (_NOT_BOXED, _ANY_GRADE)},
)
