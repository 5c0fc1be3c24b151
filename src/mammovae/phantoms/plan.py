"""Who is in a phantom study and what each image shows, decided before any image is made."""

import hashlib
from dataclasses import dataclass

import numpy as np

from mammovae.config import LesionKind, Side, View
from mammovae.perturbations.lesions import LESION_KINDS, LesionSpec
from mammovae.phantoms.fields import FIELD_MM, stream
from mammovae.phantoms.patient import SIDES, VIEWS, make_patient

LESIONS: dict[LesionKind, tuple[str, tuple[float, float], tuple[float, float]]] = {
    "mass": ("Mass", (8, 28), (0.3, 0.8)),
    "spiculated": ("Mass", (12, 32), (0.35, 0.8)),
    "calcification": ("Suspicious Calcification", (6, 25), (1.5, 3.0)),
    "distortion": ("Architectural Distortion", (15, 35), (0.6, 1.0)),
    "asymmetry": ("Focal Asymmetry", (15, 40), (0.25, 0.6)),
}
"""VinDr-Mammo's category (seen in one view only, "Asymmetry"), and ranges of the diameter in mm and the contrast."""


@dataclass(frozen=True)
class LesionPlan:
    """A lesion to insert, and what a reader would call it."""

    spec: LesionSpec
    categories: tuple[str, ...]
    birads: int


@dataclass(frozen=True)
class ImagePlan:
    """One image to make; `pixels_of` is the patient whose image it shows, where it is not its own patient's."""

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
    defect: str | None = None
    pixels_of: int | None = None

    @property
    def patient_id(self) -> str:
        """The patient's name in tables and files."""
        return f"P{self.patient:05d}"

    @property
    def mm_per_pixel(self) -> float:
        """Size of a pixel."""
        return FIELD_MM / self.size


def _identifier(*parts: object) -> str:
    """Return 32 hexadecimal characters that depend on the parts alone."""
    return hashlib.blake2s("/".join(map(str, parts)).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Inserted:
    """What the lesions of a study are: their kinds, in turns, and a factor on the contrasts of LESIONS."""

    kinds: tuple[LesionKind, ...] = LESION_KINDS
    contrast: float = 1.0


def _plan_lesion(
    rng: np.random.Generator, kind: LesionKind, inserted: Inserted, birads: int, single_view: bool
) -> LesionPlan:
    category, *ranges = LESIONS[kind]
    diameter, contrast = (low + (high - low) * rng.random() for low, high in ranges)
    contrast = min(inserted.contrast * contrast, 1.0 if kind == "distortion" else np.inf)
    spec = LesionSpec(kind, "test", round(diameter, 1), round(contrast, 2), int(rng.integers(2**31)))
    return LesionPlan(spec, ("Asymmetry" if kind == "asymmetry" and single_view else category,), birads)


def _plan_patient(
    seed: int, size: int, patient: int, split: str, kind: LesionKind | None, inserted: Inserted
) -> list[ImagePlan]:
    """Plan four images; with a kind, one breast carries a lesion of that kind, in both views or in one."""
    rng, person = np.random.default_rng(stream(seed, patient, 7)), make_patient(seed, patient)
    affected = SIDES[int(rng.integers(2))] if kind else None
    lesion_birads = int(rng.choice([3, 4, 5], p=[0.5, 0.38, 0.12]))
    views = VIEWS if rng.random() < 0.75 else (VIEWS[int(rng.integers(2))],)
    images, key = [], (seed, size, patient)
    for side in SIDES:
        benign = 2 if rng.random() < 0.3 else 1
        for view in VIEWS:
            lesions: tuple[LesionPlan, ...] = ()
            if kind and side == affected and view in views:
                lesions = (_plan_lesion(rng, kind, inserted, lesion_birads, len(views) == 1),)
            names = _identifier(*key, side, view), _identifier(*key, "study"), _identifier(*key, "series")
            birads, healthy = (lesion_birads, False if lesions else None) if side == affected else (benign, True)
            facts = person.density, person.age, birads, split, healthy, lesions
            images.append(ImagePlan(*key, side, view, *names, *facts))
    return images


def plan_study(
    seed: int, size: int, patients: int, finding_share: float, inserted: Inserted = Inserted()
) -> list[ImagePlan]:
    """Plan all images of a study, four a patient; every fifth patient with and without findings is in the test split.

    The kinds of lesion take turns in both splits, so that even a small study holds several.
    """
    order = np.random.default_rng(stream(seed, 2**31)).permutation(patients)
    with_finding = round(finding_share * patients)
    role: dict[int, tuple[str, LesionKind | None]] = {}
    for place, patient in enumerate(order):
        # Every fifth is a test patient: their kinds take turns by these fives, and within a five by its places.
        turn = (place % 5 + place // 5) % len(inserted.kinds)
        kind = inserted.kinds[turn] if place < with_finding else None
        position = place if kind else place - with_finding
        role[int(patient)] = ("test" if position % 5 == 2 else "training", kind)
    return [
        image for patient in range(patients) for image in _plan_patient(seed, size, patient, *role[patient], inserted)
    ]
