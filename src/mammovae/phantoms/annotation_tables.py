"""The CSV files of a phantom study, in the form of the data set that each layout imitates."""

import io

import pandas as pd

from mammovae.config import Layout
from mammovae.phantoms.dicom_files import BITS, MANUFACTURER, model_name
from mammovae.phantoms.plan import ImagePlan

Lesions = list[dict]
"""What truth.json says of one image's lesions: kind, categories, birads, box and so on."""

_FINDING = ("finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax")


def tables(
    layout: Layout, plans: list[ImagePlan], lesions: dict[str, Lesions], defects: dict[str, list[str]]
) -> dict[str, str]:
    """Return the content of each CSV file by its name; `defects` gives the image_ids by defect."""
    findings = _findings(plans, lesions, defects.get("negative_xmin", []))
    if layout == "vindr":
        return {
            "breast-level_annotations.csv": _csv([{**_annotation(plan), "split": plan.split} for plan in plans]),
            "finding_annotations.csv": findings,
            "metadata.csv": _metadata(plans, incomplete="metadata_columns" in defects),
        }
    if layout == "vindr-png":
        return {"Metadata.csv": findings}
    return {"index.csv": _index(plans)} if layout == "folder" else {}


def _csv(rows: list[dict]) -> str:
    buffer = io.StringIO()
    pd.DataFrame(rows).to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()


def _annotation(plan: ImagePlan) -> dict:
    return {
        "study_id": plan.study_id,
        "series_id": plan.series_id,
        "image_id": plan.image_id,
        "laterality": plan.side,
        "view_position": plan.view,
        "height": plan.shape[0],
        "width": plan.shape[1],
        "breast_birads": f"BI-RADS {plan.birads}",
        "breast_density": f"DENSITY {plan.density}",
    }


def _findings(plans: list[ImagePlan], lesions: dict[str, Lesions], negative_xmin: list[str]) -> str:
    """Return finding_annotations.csv: a row a finding, and one with an empty box for an image without."""
    rows = []
    for plan in plans:
        for lesion in lesions[plan.image_id] or [None]:
            values: list[object] = ["['No Finding']", *[None] * 5]
            if lesion:
                box = [float(edge) for edge in lesion["box"]]
                if plan.image_id in negative_xmin:
                    box[0] = -3.25
                values = [str(lesion["categories"]), f"BI-RADS {lesion['birads']}", *box]
            rows.append(_annotation(plan) | dict(zip(_FINDING, values, strict=True)) | {"split": plan.split})
    return _csv(rows)


def _metadata(plans: list[ImagePlan], *, incomplete: bool) -> str:
    """Return metadata.csv, its columns named by DICOM attributes; `incomplete` omits the model and the age."""
    rows = []
    for plan in plans:
        row = {
            "SOP Instance UID": plan.image_id,
            "Series Instance UID": plan.series_id,
            "Patient's Age": f"{plan.age:03d}Y",
            "Manufacturer": MANUFACTURER,
            "Manufacturer's Model Name": model_name(plan),
            "Photometric Interpretation": "MONOCHROME1" if plan.defect == "monochrome1" else "MONOCHROME2",
            "Imager Pixel Spacing": f"[{plan.mm_per_pixel:.6g}, {plan.mm_per_pixel:.6g}]",
            "Rows": plan.shape[0],
            "Columns": plan.shape[1],
            "Bits Stored": BITS,
            "Window Center": 2 ** (BITS - 1),
            "Window Width": 2**BITS,
        }
        if incomplete:
            del row["Manufacturer's Model Name"], row["Patient's Age"]
        rows.append(row)
    return _csv(rows)


def _index(plans: list[ImagePlan]) -> str:
    """Return index.csv of the folder layout: the columns of the project's index that its owner would know."""
    return _csv(
        [
            {name: getattr(plan, name) for name in ("image_id", "patient_id", "study_id", "side", "view")}
            | {"healthy": {True: "true", False: "false", None: ""}[plan.healthy]}
            | {"density": plan.density, "birads": plan.birads, "age": plan.age}
            | {"source": plan.path, "mm_per_pixel": f"{plan.mm_per_pixel:.6g}"}
            for plan in plans
        ]
    )
