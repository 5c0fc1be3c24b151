"""What goes wrong in real archives, planted on purpose: one image each, recorded in truth.json."""

from dataclasses import replace

import numpy as np

from mammovae.perturbations.lesions import LesionKind
from mammovae.phantoms.plan import CATEGORIES, ImagePlan, single_view_only

FILE_DEFECTS = ("missing_file", "truncated", "not_an_image", "wrong_pose", "duplicate_pixels", "background")
DICOM_DEFECTS = ("monochrome1", "voi_lut", "for_processing", "jpeg2000", "jpeg_ls", "rle")
TABLE_DEFECTS = ("negative_xmin", "several_rows", "two_categories", "one_view")

FEWEST_PATIENTS = 24
"""So that every trap finds an image of its own at the usual share of findings."""

BACKGROUND = 0.07
"""Grey of the background trap, as a share of white."""


def assign_defects(images: list[ImagePlan], layout: str) -> tuple[list[ImagePlan], dict[str, list[str]]]:
    """Gives each trap that applies to the layout its image; returns the images and {trap: image ids}.

    `benign` and `metadata_columns` need no change here: the first names healthy images of BI-RADS 2, the second is a
    property of the tables. Raises ValueError where the study is too small.
    """
    changed = {image.image_id: image for image in images}
    recorded: dict[str, list[str]] = {}
    by_patient: dict[int, list[ImagePlan]] = {}
    for image in images:
        by_patient.setdefault(image.patient, []).append(image)
    clean = [group for group in by_patient.values() if all(image.healthy for image in group)]
    affected = [group for group in by_patient.values() if not all(image.healthy for image in group)]
    names = FILE_DEFECTS + (DICOM_DEFECTS if layout in ("vindr", "dicom") else ())
    tables = TABLE_DEFECTS if layout.startswith("vindr") else ()
    if len(clean) < len(names) + 1 or len(affected) < len(tables):
        raise ValueError(
            f"the traps need {len(names) + 1} patients without and {len(tables)} with findings, this study has"
            f" {len(clean)} and {len(affected)}: ask for {FEWEST_PATIENTS} patients or more"
        )
    for number, name in enumerate(names):
        image = clean[number][number % 4]
        twin = clean[-1][number % 4].patient if name == "duplicate_pixels" else None
        changed[image.image_id] = replace(image, trap=name, pixels_of=twin)
        recorded[name] = [image.image_id]
        if twin is not None:
            recorded[name].append(clean[-1][number % 4].image_id)
    # A box can only begin beyond the image's left edge where the chest wall, and so the breast, is there.
    affected.sort(key=lambda group: any(image.lesions and image.side == "L" for image in group))
    for name, group in zip(tables, reversed(affected), strict=False):
        image = next(image for image in group if image.lesions)
        recorded[name] = [image.image_id]
        changed.update((twin.image_id, twin) for twin in _table_trap(name, image, group))
    recorded["benign"] = [image.image_id for image in images if image.healthy and image.birads == 2]
    return [changed[image.image_id] for image in images], recorded


def _table_trap(name: str, image: ImagePlan, group: list[ImagePlan]) -> list[ImagePlan]:
    lesion = image.lesions[0]
    if name == "several_rows":
        other: LesionKind = "calcification" if lesion.kind != "calcification" else "mass"
        second = replace(
            lesion, kind=other, diameter_mm=10.0, contrast=1.5, seed=lesion.seed + 1, categories=(CATEGORIES[other],)
        )
        return [replace(image, lesions=(lesion, second))]
    if name == "two_categories":
        pair = tuple(dict.fromkeys((*lesion.categories, "Mass", "Suspicious Calcification")))[:2]
        return [replace(image, lesions=(replace(lesion, categories=pair),))]
    if name == "one_view":
        others = [other for other in group if other.side == image.side and other.view != image.view]
        return [single_view_only(other) for other in others]
    return [image]


def damage_pixels(image: np.ndarray, mask: np.ndarray, trap: str | None) -> np.ndarray:
    """The image (rows, columns) uint16 as the trap has it; unchanged for traps that are not about pixels."""
    if trap == "wrong_pose":
        return np.ascontiguousarray(image[:, ::-1])
    if trap == "background":
        rng = np.random.default_rng(image.shape[0])
        fog = BACKGROUND * 65535 * (1 + 0.05 * rng.standard_normal(image.shape))
        return np.where(mask, image, np.maximum(image, fog)).astype(np.uint16)
    return image


def damage_bytes(content: bytes, trap: str | None) -> bytes | None:
    """The file's bytes as the trap has them; None where there is no file."""
    if trap == "missing_file":
        return None
    if trap == "truncated":
        return content[: int(0.6 * len(content))]
    if trap == "not_an_image":
        return b"<html><body>404: the archive could not find this image</body></html>\n"
    return content
