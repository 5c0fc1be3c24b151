"""What goes wrong in real archives, added on purpose: one image each, recorded in truth.json."""

from dataclasses import replace
from itertools import groupby
from operator import attrgetter

import numpy as np

from mammovae.config import LesionKind, UsageError
from mammovae.perturbations.lesions import LesionSpec
from mammovae.phantoms.plan import LESIONS, ImagePlan, LesionPlan

FILE_DEFECTS = ("missing_file", "truncated", "not_an_image", "wrong_pose", "duplicate_pixels", "background")
DICOM_DEFECTS = ("monochrome1", "voi_lut", "for_processing", "jpeg2000", "jpeg_ls", "rle")
TABLE_DEFECTS = ("negative_xmin", "several_rows", "two_categories", "one_view")
FEWEST_PATIENTS = 24
"""So that every defect finds an image of its own at the usual share of findings."""


def assign_defects(images: list[ImagePlan], layout: str) -> tuple[list[ImagePlan], dict[str, list[str]]]:
    """Assign an image to each defect that applies to the layout; return the images, and image_ids by defect.

    `benign` and `metadata_columns` change no image: the first names healthy images of BI-RADS 2, the second is a
    property of the tables.

    Raises UsageError where the study is too small.
    """
    changed, image_ids = {image.image_id: image for image in images}, dict[str, list[str]]()
    patients = [list(group) for _, group in groupby(images, attrgetter("patient"))]
    healthy = [group for group in patients if all(image.healthy for image in group)]
    affected = [group for group in patients if not all(image.healthy for image in group)]
    names = FILE_DEFECTS + (DICOM_DEFECTS if layout in ("vindr", "dicom") else ())
    in_tables = TABLE_DEFECTS if layout.startswith("vindr") else ()
    if len(healthy) < len(names) + 1 or len(affected) < len(in_tables):
        raise UsageError(
            f"the defects need {len(names) + 1} patients without and {len(in_tables)} with findings, this study has"
            f" {len(healthy)} and {len(affected)}: ask for {FEWEST_PATIENTS} patients or more"
        )
    for number, name in enumerate(names):
        image, twin = healthy[number][number % 4], healthy[-1][number % 4]
        duplicate = name == "duplicate_pixels"
        changed[image.image_id] = replace(image, defect=name, pixels_of=twin.patient if duplicate else None)
        image_ids[name] = [image.image_id, twin.image_id] if duplicate else [image.image_id]
    # A box can only begin beyond the image's left edge where the chest wall, and so the breast, is on that side.
    affected.sort(key=lambda group: any(image.lesions and image.side == "L" for image in group))
    for name, group in zip(in_tables, reversed(affected), strict=False):
        image = next(image for image in group if image.lesions)
        image_ids[name] = [image.image_id]
        changed.update((other.image_id, other) for other in _with_table_defect(name, image, group))
    image_ids["benign"] = [image.image_id for image in images if image.healthy and image.birads == 2]
    if layout == "vindr":
        image_ids["metadata_columns"] = list(changed)
    return list(changed.values()), image_ids


def _with_table_defect(name: str, image: ImagePlan, group: list[ImagePlan]) -> list[ImagePlan]:
    lesion = image.lesions[0]
    if name == "several_rows":
        kind: LesionKind = "calcification" if lesion.spec.kind != "calcification" else "mass"
        spec = LesionSpec(kind, "test", diameter_mm=10.0, contrast=1.5, seed=lesion.spec.seed + 1)
        return [replace(image, lesions=(lesion, LesionPlan(spec, (LESIONS[kind][0],), lesion.birads)))]
    if name == "two_categories":
        pair = tuple(dict.fromkeys((*lesion.categories, "Mass", "Suspicious Calcification")))[:2]
        return [replace(image, lesions=(replace(lesion, categories=pair),))]
    if name == "one_view":
        # The other view is of an affected breast and shows no lesion: neither healthy nor a finding.
        others = [other for other in group if other.side == image.side and other.view != image.view]
        return [replace(other, lesions=(), healthy=None) for other in others]
    return [image]


def damage_pixels(image: np.ndarray, mask: np.ndarray, defect: str | None) -> np.ndarray:
    """Return the image (rows, columns) uint16 with the defect; unchanged for defects that are not about pixels."""
    if defect == "wrong_pose":
        return np.ascontiguousarray(image[:, ::-1])
    if defect == "background":
        noise = np.random.default_rng(image.shape[0]).standard_normal(image.shape)
        fog = 0.07 * 65535 * (1 + 0.05 * noise)  # 7 % of white
        return np.where(mask, image, np.maximum(image, fog)).astype(np.uint16)
    return image


def damage_bytes(content: bytes, defect: str | None) -> bytes | None:
    """Return the file's bytes with the defect; None where there is no file."""
    if defect == "missing_file":
        return None
    if defect == "truncated":
        return content[: int(0.6 * len(content))]
    if defect == "not_an_image":
        return b"<html><body>404: the archive could not find this image</body></html>\n"
    return content
