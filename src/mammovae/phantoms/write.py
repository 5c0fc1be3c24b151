"""Writes a phantom study as a raw tree that `prepare` can read, with the truth beside it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from mammovae.config import InputError, Layout, UsageError
from mammovae.parallel.pool import map_unordered
from mammovae.perturbations.lesions import InsertedLesion, insert_lesion
from mammovae.phantoms import annotation_tables
from mammovae.phantoms.anatomy import image_shape, make_phantom
from mammovae.phantoms.defects import assign_defects, damage_bytes, damage_pixels
from mammovae.phantoms.dicom_files import encode
from mammovae.phantoms.fields import FIELD_MM
from mammovae.phantoms.plan import ImagePlan, LesionPlan, plan_study
from mammovae.report.progress import Progress
from mammovae.storage import StageFolder, atomic_write, write_json, write_text

TRUTH = "truth.json"


def write_phantoms(
    out: Path,
    *,
    layout: Layout = "vindr",
    patients: int = 40,
    size: int = 512,
    seed: int = 0,
    finding_share: float = 0.3,
    traps: bool = False,
    workers: int | None = None,
) -> Path:
    """Writes four images for each patient under `out`, its tables and truth.json; returns `out`.

    Layouts: `vindr` is VinDr-Mammo as released, `vindr-png` its PNG copy, `dicom` a tree of DICOM files without any
    table, `folder` 16-bit PNG under healthy/, finding/ and unknown/ (the other view of an affected breast) with an
    index.csv. A share of the patients has a lesion of the `report` family in one breast. `traps` adds what goes wrong
    in real archives (see `traps.py`). The same arguments give the same bytes, manifest.json aside, with any number of
    `workers`; a run that was interrupted is completed by the same call.

    Raises UsageError for impossible arguments and for an `out` that holds something else.
    """
    if layout not in get_args(Layout):
        raise UsageError(f"layout {layout!r} must be one of {', '.join(get_args(Layout))}")
    if patients < 1 or not 0 <= finding_share <= 1 or not 32 <= size <= 4096:
        raise UsageError(
            f"need at least 1 patient, 32 to 4096 rows and a share in 0..1, not {patients}, {size}, {finding_share}"
        )
    out = Path(out)
    plans = [replace(plan, path=_path(plan, layout)) for plan in plan_study(seed, size, patients, finding_share)]
    trapped: dict[str, list[str]] = {}
    if traps:
        try:
            plans, trapped = assign_defects(plans, layout)
        except ValueError as error:
            raise UsageError(str(error)) from error
        plans = [replace(plan, path=_path(plan, layout)) for plan in plans]
    settings = {
        "layout": layout,
        "patients": patients,
        "size": size,
        "seed": seed,
        "finding_share": finding_share,
        "traps": traps,
    }
    with StageFolder(out, "phantom", settings, {}) as stage:
        if stage.done:
            return out
        lesions: dict[str, annotation_tables.Lesions] = {}
        with Progress("painting phantoms", len(plans), unit="images") as progress:
            for (_, plan), result in map_unordered(_write_image, [(str(out), plan) for plan in plans], workers=workers):
                if isinstance(result, InputError):
                    raise InputError(f"cannot write {out / plan.path}: {result}") from result
                lesions[plan.image_id] = result
                progress.advance(1)
        if traps and layout == "vindr":
            trapped["metadata_columns"] = [plan.image_id for plan in plans]
        for name, text in _tables(layout, plans, lesions, trapped).items():
            write_text(out / name, text)
        write_json(out / TRUTH, {**settings, "images": _truth(plans, lesions), "trapped": trapped})
        stage.finish(images=len(plans))
    return out


def _path(plan: ImagePlan, layout: Layout) -> str:
    name = f"{plan.patient_id}_{plan.side}_{plan.view}"
    if layout == "vindr":
        return f"images/{plan.study_id}/{plan.image_id}.dicom"
    if layout == "vindr-png":
        return f"Processed_Images/{plan.study_id}/{plan.image_id}.png"
    if layout == "dicom":
        return f"{plan.patient_id}/{plan.side}/{name}.dcm"
    return f"{ {True: 'healthy', False: 'finding', None: 'unknown'}[plan.healthy] }/{name}.png"


def _tables(
    layout: Layout, plans: list[ImagePlan], lesions: dict[str, annotation_tables.Lesions], trapped: dict[str, list[str]]
) -> dict[str, str]:
    shape, mm = image_shape(plans[0].size), FIELD_MM / plans[0].size
    negative = trapped.get("negative_xmin", [])
    if layout == "vindr":
        lacking = "metadata_columns" in trapped
        return {
            "breast-level_annotations.csv": annotation_tables.breast_table(plans, shape),
            "finding_annotations.csv": annotation_tables.finding_table(plans, shape, lesions, negative),
            "metadata.csv": annotation_tables.metadata_table(plans, shape, mm, lacking=lacking),
        }
    if layout == "vindr-png":
        return {"Metadata.csv": annotation_tables.finding_table(plans, shape, lesions, negative)}
    return {"index.csv": annotation_tables.index_table(plans, mm)} if layout == "folder" else {}


def _truth(plans: list[ImagePlan], lesions: dict[str, annotation_tables.Lesions]) -> dict[str, dict]:
    return {
        plan.image_id: {
            "path": plan.path,
            "patient": plan.patient,
            "patient_id": plan.patient_id,
            "study_id": plan.study_id,
            "side": plan.side,
            "view": plan.view,
            "density": plan.density,
            "age": plan.age,
            "birads": plan.birads,
            "split": plan.split,
            "healthy": plan.healthy,
            "mm_per_pixel": FIELD_MM / plan.size,
            "trap": plan.trap,
            "lesions": lesions[plan.image_id],
        }
        for plan in plans
    }


def _write_image(task: tuple[str, ImagePlan]) -> annotation_tables.Lesions:
    """Makes and writes one image unless its file is there; returns its lesions, for which it may be made again."""
    out, plan = task
    path = Path(out) / plan.path
    if path.exists() and not plan.lesions:
        return []
    number = plan.patient if plan.pixels_of is None else plan.pixels_of
    phantom = make_phantom(plan.seed, number, plan.side, plan.view, size=plan.size)
    image, lesions = phantom.image, []
    for lesion in plan.lesions:
        planting = _plant(image, phantom.mask, phantom.mm_per_pixel, lesion)
        image = planting.image
        lesions.append(
            {
                "kind": planting.kind,
                "family": planting.family,
                "categories": list(lesion.categories),
                "birads": lesion.birads,
                "box": list(planting.box),
                "diameter_mm": planting.diameter_mm,
                "contrast": planting.contrast,
            }
        )
    if path.exists():
        return lesions
    image = damage_pixels(image, phantom.mask, plan.trap)
    if path.suffix == ".png":
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", compress_level=3)
        content = buffer.getvalue()
    else:
        content = encode(image, plan, phantom.mm_per_pixel)
    spoilt = damage_bytes(content, plan.trap)
    if spoilt is not None:
        with atomic_write(path) as partial:
            partial.write_bytes(spoilt)
    return lesions


def _plant(image: np.ndarray, mask: np.ndarray, mm_per_pixel: float, lesion: LesionPlan) -> InsertedLesion:
    """Plants the lesion, smaller where a small breast has no room for it."""
    diameter = lesion.diameter_mm
    while True:
        try:
            return insert_lesion(
                image,
                mask,
                mm_per_pixel,
                kind=lesion.kind,
                family="test",
                diameter_mm=diameter,
                contrast=lesion.contrast,
                seed=lesion.seed,
            )
        except ValueError:
            if diameter <= 4:
                raise
            diameter = round(0.7 * diameter, 1)
