"""A phantom study as a raw tree that `prepare` can read, with the truth in truth.json."""

import io
from dataclasses import replace
from pathlib import Path

from PIL import Image

from mammovae.arguments import AnyPath, Factor, Patients, Rows, Share, Workers, checked
from mammovae.config import InputError, Layout, LesionKinds, Seed
from mammovae.parallel.pool import map_unordered
from mammovae.perturbations.lesions import LESION_KINDS, InsertedLesion, LesionSpec, insert_lesion
from mammovae.phantoms.anatomy import Phantom, make_phantom
from mammovae.phantoms.defects import assign_defects, damage_bytes, damage_pixels
from mammovae.phantoms.plan import ImagePlan, Inserted, plan_study
from mammovae.phantoms.raw_formats import Lesions, encode, tables
from mammovae.report.progress import Progress
from mammovae.storage import StageFolder, atomic_write, write_json, write_text

_TRUTH_FIELDS = ("path", "patient", "patient_id", "study_id", "side", "view", "density", "age", "birads", "split")
_TRUTH_FIELDS += ("healthy", "mm_per_pixel")


@checked
def write_phantoms(  # noqa: PLR0913
    out: AnyPath,
    *,
    layout: Layout = "vindr",
    patients: Patients = 40,
    size: Rows = 512,
    seed: Seed = 0,
    finding_share: Share = 0.3,
    lesions: LesionKinds = LESION_KINDS,
    contrast: Factor = 1.0,
    traps: bool = False,
    workers: Workers | None = None,
) -> Path:
    """Write four images for each patient under `out`, the tables and truth.json; return `out`.

    Layouts: `vindr` is VinDr-Mammo as released, `vindr-png` its PNG copy, `dicom` a tree of DICOM files without any
    table, `folder` 16-bit PNG under healthy/, finding/ and unknown/ (the other view of an affected breast) with an
    index.csv. A share of the patients has a lesion of the `test` family in one breast, of `lesions` in turns, its
    contrast multiplied by `contrast` (a distortion's pull is at most whole). `traps` adds what goes wrong
    in real archives (see `defects.py`). The same arguments give the same bytes, manifest.json aside, with any number of
    `workers`; a run that was interrupted is completed by the same call.

    Raises UsageError for too few patients to trap and for an `out` that holds something else.
    """
    plans, defects = plan_study(seed, size, patients, finding_share, Inserted(lesions, contrast)), {}
    if traps:
        plans, defects = assign_defects(plans, layout)
    plans = [replace(plan, path=_path(plan, layout)) for plan in plans]
    settings = {"layout": layout, "patients": patients, "size": size, "seed": seed, "finding_share": finding_share}
    settings |= {"lesions": list(lesions), "contrast": contrast, "traps": traps}
    with StageFolder(out, "phantom", settings, {}) as stage:
        if not stage.done:
            written = _write_images(out, plans, workers)
            for name, text in tables(layout, plans, written, defects).items():
                write_text(out / name, text)
            images = {
                plan.image_id: {name: getattr(plan, name) for name in _TRUTH_FIELDS}
                | {"trap": plan.defect, "lesions": written[plan.image_id]}
                for plan in plans
            }
            write_json(out / "truth.json", {**settings, "images": images, "trapped": defects})
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


def _write_images(out: Path, plans: list[ImagePlan], workers: int | None) -> dict[str, Lesions]:
    """Write all images; return the lesions by image_id."""
    lesions: dict[str, Lesions] = {}
    with Progress("painting phantoms", len(plans), unit="images") as progress:
        for (_, plan), result in map_unordered(_write_image, [(str(out), plan) for plan in plans], workers=workers):
            if isinstance(result, InputError):
                raise InputError(f"cannot write {out / plan.path}: {result}") from result
            lesions[plan.image_id] = result
            progress.advance(1)
    return lesions


def _write_image(task: tuple[str, ImagePlan]) -> Lesions:
    """Make and write one image unless its file exists; return its lesions, for which it may be made again."""
    out, plan = task
    path = Path(out) / plan.path
    if path.exists() and not plan.lesions:
        return []
    patient = plan.patient if plan.pixels_of is None else plan.pixels_of
    phantom = make_phantom(plan.seed, patient, plan.side, plan.view, size=plan.size)
    lesions = []
    for lesion in plan.lesions:
        inserted = _insert_as_fits(phantom, lesion.spec)
        phantom, spec = replace(phantom, image=inserted.image), inserted.spec
        lesions.append(
            {"kind": spec.kind, "family": spec.family, "categories": list(lesion.categories), "birads": lesion.birads}
            | {"box": list(inserted.box), "diameter_mm": spec.diameter_mm, "contrast": spec.contrast}
        )
    if path.exists():
        return lesions
    image = damage_pixels(phantom.image, phantom.mask, plan.defect)
    buffer = io.BytesIO()
    if path.suffix == ".png":
        Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    damaged = damage_bytes(buffer.getvalue() or encode(image, plan), plan.defect)
    if damaged is not None:
        with atomic_write(path) as partial:
            partial.write_bytes(damaged)
    return lesions


def _insert_as_fits(phantom: Phantom, spec: LesionSpec) -> InsertedLesion:
    """Insert the lesion, smaller where a small breast has no room for it."""
    while True:
        try:
            return insert_lesion(phantom.image, phantom.mask, phantom.mm_per_pixel, spec)
        except ValueError:
            if spec.diameter_mm <= 4:
                raise
            spec = replace(spec, diameter_mm=round(0.7 * spec.diameter_mm, 1))
