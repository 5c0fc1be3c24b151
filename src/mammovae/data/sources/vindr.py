"""VinDr-Mammo: 5,000 screening exams of four images, as released or as the PNG copy."""

import ast
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

from mammovae.config import HealthyRule, InputError
from mammovae.data import index
from mammovae.data.sources.csv_rows import BOX, DENSITIES, SIDES, SPLITS, CsvRow, find_entry, normalise_name, read_csv
from mammovae.imageio.dicom_header import age_in_years
from mammovae.imageio.read import IMAGE_SUFFIXES, RASTER_SUFFIXES

_IMAGE = ("study_id", "image_id", "laterality", "view_position", "breast_birads")
_FINDING = ("study_id", "image_id", "laterality", "finding_categories", *BOX)
_VIEWS = {"cc": "CC", "mlo": "MLO"}


def vindr(root: Path, *, healthy: HealthyRule = "birads12") -> pd.DataFrame:
    """List VinDr-Mammo (Nguyen et al., Scientific Data 10:277, 2023), a row an image in the table's order.

    Released: images/STUDY/IMAGE.dicom, breast-level_annotations.csv, finding_annotations.csv and, where it is
    there, metadata.csv (age, vendor, model, spacing). PNG copy: Processed_Images/STUDY/IMAGE.png and a
    Metadata.csv with the finding columns. Columns are matched by name, case and spacing aside.

    Healthy, by `healthy`: birads12 = no finding on any view of that breast (study and side), and every view
    BI-RADS 1 or 2; birads1 = the same with BI-RADS 1 alone; image = no finding on this image. A finding on
    this image is false, all else null. patient_id is study_id, since the set holds one exam a patient.

    Traps: an image has several finding rows, a row several categories (each becomes a finding with the same
    box); boxes leave the image and are clipped; findings of an image that the breast table does not list
    (a cut-down table) make no row, but count for the health of their breast. A PNG of another size than the
    table says has its boxes scaled where the proportions agree, and loses their place where they do not.
    """
    breast, found, details, folder = _tables(root)
    findings, affected = _findings(found)
    worst: dict[tuple[str, str | None], list[int | None]] = defaultdict(list)
    for line in breast:
        worst[_breast(line)].append(line.birads("breast_birads"))
    allowed = (1,) if healthy == "birads1" else (1, 2)
    lying = lru_cache(64)(_lying)  # for this call alone: files may come between two
    rows = []
    for line in breast:
        image_id = line.needed("image_id")
        own = findings[image_id]
        if own:
            health = False
        elif healthy == "image":
            health = True
        else:
            clean = _breast(line) not in affected and all(grade in allowed for grade in worst[_breast(line)])
            health = True if clean else None
        rows.append(
            _row(root, folder, lying(folder / line.needed("study_id")), line, own, details.get(image_id))
            | {"healthy": health}
        )
    return index.table(rows, root)


def _tables(root: Path) -> tuple[list[CsvRow], list[CsvRow], dict[str, CsvRow], Path]:
    """Return the image rows, the finding rows, the metadata by image, and the folder of the studies."""
    released = find_entry(root, "breast-level_annotations.csv")
    metadata = find_entry(root, "metadata.csv")
    folder = find_entry(root, "images") or find_entry(root, "Processed_Images") or root / "images"
    if released:
        named = find_entry(root, "finding_annotations.csv") or root / "finding_annotations.csv"
        details = {line.text("SOP Instance UID"): line for line in read_csv(metadata)} if metadata else {}
        known = {name: line for name, line in details.items() if name}
        return read_csv(released, _IMAGE), read_csv(named, _FINDING), known, folder
    if metadata:
        found = read_csv(metadata, [*_IMAGE, *_FINDING[3:]])
        firsts = {line.needed("image_id"): line for line in reversed(found)}
        return [line for line in found if firsts[line.needed("image_id")] is line], found, {}, folder
    raise InputError(
        f"{root} is not VinDr-Mammo: it holds neither breast-level_annotations.csv (as released) "
        "nor Metadata.csv (the PNG copy)"
    )


def _breast(line: CsvRow) -> tuple[str, str | None]:
    return line.needed("study_id"), line.one_of("laterality", SIDES)


def _findings(lines: list[CsvRow]) -> tuple[dict[str, list[tuple[str, CsvRow]]], set[tuple[str, str | None]]]:
    """Return (category, line) of each finding by image, and the breasts that have any."""
    findings: dict[str, list[tuple[str, CsvRow]]] = defaultdict(list)
    affected = set()
    for line in lines:
        for category in _categories(line):
            findings[line.needed("image_id")].append((category, line))
            affected.add(_breast(line))
    return findings, affected


def _categories(line: CsvRow) -> list[str]:
    text = line.needed("finding_categories")
    try:
        names = ast.literal_eval(text) if text.startswith("[") else [text]
    except (SyntaxError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{line.place}: finding_categories is {text!r}, where a list such as ['Mass'] belongs")
    return [name for name in dict.fromkeys(names) if normalise_name(name) != "nofinding"]


def _row(
    root: Path, folder: Path, lying: dict[str, str], line: CsvRow, own: list[tuple[str, CsvRow]], detail: CsvRow | None
) -> dict:
    study, image_id = line.needed("study_id"), line.needed("image_id")
    expected = image_id + (".dicom" if normalise_name(folder.name) == "images" else ".png")
    name = lying.get(image_id, expected)
    source = f"{folder.name}/{study}/{name}"
    rows, columns = line.whole("height"), line.whole("width")
    here = _png_shape(root / source) or (rows, columns)
    findings, reason = _placed(own, (rows, columns), here)
    return {
        "image_id": image_id,
        "patient_id": study,
        "study_id": study,
        "side": line.one_of("laterality", SIDES),
        "view": _VIEWS.get(normalise_name(line.text("view_position") or "")),
        "split": line.one_of("split", SPLITS),
        "density": line.one_of("breast_density", DENSITIES),
        "birads": line.birads("breast_birads"),
        "source": source,
        "rows": here[0],
        "columns": here[1],
        "findings": findings,
        "reason": reason,
        **(_detail(detail) if detail else {}),
    }


def _lying(study: Path) -> dict[str, str]:
    """Return the names of the images that lie in a study's folder by image_id."""
    names = sorted(path.name for path in study.iterdir()) if study.is_dir() else []
    return {name.rpartition(".")[0]: name for name in names if name.lower().endswith(IMAGE_SUFFIXES)}


def _png_shape(path: Path) -> tuple[int, int] | None:
    """Return rows and columns of a copy that is no DICOM; None leaves the judgement to reading."""
    if path.suffix.lower() not in RASTER_SUFFIXES or not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def _placed(own: list[tuple[str, CsvRow]], listed: tuple, here: tuple) -> tuple[list[dict], str | None]:
    """Make the findings with boxes in pixels of the file that is here, and say where that was impossible."""
    made, reason = [], None
    for category, line in own:
        box = line.box(*listed)
        if box is None:
            reason = "a finding has no box, or one outside the image: its place is unknown"
        elif None not in listed and here != listed:
            down, across = here[0] / listed[0], here[1] / listed[1]
            alike = abs(down - across) <= 0.01 * down
            box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down) if alike else None
            size = f"{here[0]} x {here[1]} pixels, the table says {listed[0]} x {listed[1]}"
            reason = f"the image has {size}: {'boxes were scaled' if alike else 'where its findings are is unknown'}"
        made.append(index.finding(category, birads=line.birads("finding_birads"), box=box))
    return made, reason


def _detail(line: CsvRow) -> dict:
    spacing = [float(value) for value in re.findall(r"\d+(?:\.\d+)?", line.text("Imager Pixel Spacing") or "")]
    return {
        "age": age_in_years(line.text("Patient's Age")),
        "vendor": line.text("Manufacturer"),
        "model": line.text("Manufacturer's Model Name"),
        "mm_per_pixel": spacing[0] if spacing and 0 < spacing[0] == spacing[-1] else None,
    }
