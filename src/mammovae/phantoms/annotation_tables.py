"""The CSV files of a phantom study, in the form of the set that each layout imitates."""

import io

import pandas as pd

from mammovae.phantoms.dicom_files import BITS, MANUFACTURER, model_name
from mammovae.phantoms.plan import ImagePlan

Lesions = list[dict]
"""What truth.json says of one image's plantings: kind, categories, birads, box and so on."""


def _csv(rows: list[dict]) -> str:
    buffer = io.StringIO()
    pd.DataFrame(rows).to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()


def _annotation(plan: ImagePlan, rows: int, columns: int) -> dict:
    return {
        "study_id": plan.study_id,
        "series_id": plan.series_id,
        "image_id": plan.image_id,
        "laterality": plan.side,
        "view_position": plan.view,
        "height": rows,
        "width": columns,
        "breast_birads": f"BI-RADS {plan.birads}",
        "breast_density": f"DENSITY {plan.density}",
    }


def _finding_rows(plan: ImagePlan, shape: tuple[int, int], lesions: Lesions, negative_xmin: bool) -> list[dict]:
    if not lesions:
        empty = dict.fromkeys(("finding_birads", "xmin", "ymin", "xmax", "ymax"))
        row = {**_annotation(plan, *shape), "finding_categories": "['No Finding']", **empty, "split": plan.split}
        return [row]
    rows = []
    for lesion in lesions:
        box = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(float, lesion["box"]), strict=True))
        if negative_xmin:
            box["xmin"] = -3.25
        finding = {
            "finding_categories": str(lesion["categories"]),
            "finding_birads": f"BI-RADS {lesion['birads']}",
            **box,
            "split": plan.split,
        }
        rows.append({**_annotation(plan, *shape), **finding})
    return rows


def finding_table(
    plans: list[ImagePlan], shape: tuple[int, int], lesions: dict[str, Lesions], negative_xmin: list[str]
) -> str:
    """finding_annotations.csv: a row a finding, and one with an empty box for an image without."""
    rows = []
    for plan in plans:
        rows += _finding_rows(plan, shape, lesions[plan.image_id], plan.image_id in negative_xmin)
    return _csv(rows)


def breast_table(plans: list[ImagePlan], shape: tuple[int, int]) -> str:
    """breast-level_annotations.csv: a row an image."""
    return _csv([{**_annotation(plan, *shape), "split": plan.split} for plan in plans])


def metadata_table(plans: list[ImagePlan], shape: tuple[int, int], mm_per_pixel: float, *, lacking: bool) -> str:
    """metadata.csv, named by DICOM attributes; `lacking` leaves out the model's and the age's columns."""
    rows = []
    for plan in plans:
        spacing = f"[{mm_per_pixel:.6g}, {mm_per_pixel:.6g}]"
        row = {
            "SOP Instance UID": plan.image_id,
            "Series Instance UID": plan.series_id,
            "Patient's Age": f"{plan.age:03d}Y",
            "Manufacturer": MANUFACTURER,
            "Manufacturer's Model Name": model_name(plan),
            "Photometric Interpretation": "MONOCHROME1" if plan.trap == "monochrome1" else "MONOCHROME2",
            "Imager Pixel Spacing": spacing,
            "Rows": shape[0],
            "Columns": shape[1],
            "Bits Stored": BITS,
            "Window Center": 2 ** (BITS - 1),
            "Window Width": 2**BITS,
        }
        if lacking:
            del row["Manufacturer's Model Name"], row["Patient's Age"]
        rows.append(row)
    return _csv(rows)


def index_table(plans: list[ImagePlan], mm_per_pixel: float) -> str:
    """index.csv of the folder layout: the columns of the project's index that its owner would know."""
    return _csv(
        [
            {
                "image_id": plan.image_id,
                "patient_id": plan.patient_id,
                "study_id": plan.study_id,
                "side": plan.side,
                "view": plan.view,
                "healthy": {True: "true", False: "false", None: ""}[plan.healthy],
                "density": plan.density,
                "birads": plan.birads,
                "age": plan.age,
                "source": plan.path,
                "mm_per_pixel": f"{mm_per_pixel:.6g}",
            }
            for plan in plans
        ]
    )
