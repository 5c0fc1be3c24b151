"""Who is in a phantom study and what each image shows, decided before any image is made."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from mammovae.perturbations.lesions import LESION_KINDS, LesionKind
from mammovae.phantoms.fields import stream
from mammovae.phantoms.patient import SIDES, VIEWS, Side, View, make_patient

CATEGORIES: dict[LesionKind, str] = {
    "mass": "Mass",
    "spiculated": "Mass",
    "calcification": "Suspicious Calcification",
    "distortion": "Architectural Distortion",
    "asymmetry": "Focal Asymmetry",
}
"""VinDr-Mammo's names; an asymmetry seen in one view only is an "Asymmetry"."""

_DIAMETERS_MM: dict[LesionKind, tuple[float, float]] = {
    "mass": (8, 28),
    "spiculated": (12, 32),
    "calcification": (6, 25),
    "distortion": (15, 35),
    "asymmetry": (15, 40),
}
_CONTRASTS: dict[LesionKind, tuple[float, float]] = {
    "mass": (0.3, 0.8),
    "spiculated": (0.35, 0.8),
    "calcification": (1.5, 3.0),
    "distortion": (0.6, 1.0),
    "asymmetry": (0.25, 0.6),
}


@dataclass(frozen=True)
class LesionPlan:
    """A lesion to be planted: what `lesions.plant` needs, and what a reader would call it."""

    kind: LesionKind
    diameter_mm: float
    contrast: float
    seed: int
    categories: tuple[str, ...]
    birads: int


@dataclass(frozen=True)
class ImagePlan:
    """One image to be made: whose it is, what is planted, where it goes and which trap it carries."""

    seed: int
    size: int
    patient: int
    side: Side
    view: View
    image_id: str
    study_id: str
    series_id: str
    density: str
    age: int
    birads: int
    split: str
    healthy: bool | None
    lesions: tuple[LesionPlan, ...] = ()
    path: str = ""
    trap: str | None = None
    pixels_of: int | None = None

    @property
    def patient_id(self) -> str:
        return f"P{self.patient:05d}"


def identifier(*parts: object) -> str:
    """32 hexadecimal characters that depend on the parts alone."""
    return hashlib.blake2s("/".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def _plan_lesion(rng: np.random.Generator, kind: LesionKind, birads: int, single_view: bool) -> LesionPlan:
    low, high = _DIAMETERS_MM[kind]
    diameter = low + (high - low) * rng.random()
    low, high = _CONTRASTS[kind]
    contrast = low + (high - low) * rng.random()
    category = "Asymmetry" if kind == "asymmetry" and single_view else CATEGORIES[kind]
    return LesionPlan(kind, round(diameter, 1), round(contrast, 2), int(rng.integers(2**31)), (category,), birads)


def _plan_patient(seed: int, size: int, patient: int, split: str, kind: LesionKind | None) -> list[ImagePlan]:
    """Four images; with a kind, one breast carries a lesion of that kind, in both views or in one."""
    rng = np.random.default_rng(stream(seed, patient, 7))
    person = make_patient(seed, patient)
    affected = SIDES[int(rng.integers(2))] if kind else None
    lesion_birads = int(rng.choice([3, 4, 5], p=[0.5, 0.38, 0.12]))
    views = VIEWS if rng.random() < 0.75 else (VIEWS[int(rng.integers(2))],)
    images = []
    for side in SIDES:
        benign = 2 if rng.random() < 0.3 else 1
        for view in VIEWS:
            lesions: tuple[LesionPlan, ...] = ()
            if kind and side == affected and view in views:
                lesions = (_plan_lesion(rng, kind, lesion_birads, len(views) == 1),)
            images.append(
                ImagePlan(
                    seed=seed,
                    size=size,
                    patient=patient,
                    side=side,
                    view=view,
                    image_id=identifier(seed, size, patient, side, view),
                    study_id=identifier(seed, size, patient, "study"),
                    series_id=identifier(seed, size, patient, "series"),
                    density=person.density,
                    age=person.age,
                    birads=lesion_birads if side == affected else benign,
                    split=split,
                    healthy=False if lesions else None if side == affected else True,
                    lesions=lesions,
                )
            )
    return images


def plan_study(seed: int, size: int, patients: int, finding_share: float) -> list[ImagePlan]:
    """All images of a study, four a patient; every fifth patient of either arm is in the test split.

    The kinds of lesion take turns in both parts, so that even a small study holds several.
    """
    order = np.random.default_rng(stream(seed, 2**31)).permutation(patients)
    with_finding = round(finding_share * patients)
    role: dict[int, tuple[str, LesionKind | None]] = {}
    for place, patient in enumerate(order):
        # Shifted by one every five, or every test lesion would be of one kind.
        kind = LESION_KINDS[(place + place // 5) % len(LESION_KINDS)] if place < with_finding else None
        position = place if kind else place - with_finding
        role[int(patient)] = ("test" if position % 5 == 2 else "training", kind)
    return [image for patient in range(patients) for image in _plan_patient(seed, size, patient, *role[patient])]


def single_view_only(image: ImagePlan) -> ImagePlan:
    """The same image without its lesion; of an affected breast, so neither healthy nor a finding."""
    return replace(image, lesions=(), healthy=None)
