"""Which patients and pixels a run has learnt from, kept as hashes, so that no figure rests on them again."""

import hashlib

import numpy as np

from mammovae.data.dataset import Data
from mammovae.models.run import Run
from mammovae.report.formatting import plural
from mammovae.storage import read_json, write_json

TRAINING_IMAGES = "private/training_images.json"
"""In private/: patient_ids are few enough to be guessed, and a hash of a guess is soon made."""
UNCHECKED = f"whether the run was trained on these patients could not be checked, as it has no {TRAINING_IMAGES}"
"""The note on a run without its record."""


def record_training_images(run: Run, data: Data, positions: np.ndarray) -> None:
    """Write hashes of the patients and prepared pixels at positions into the run's folder private/.

    A patient of several joined folders is recorded by the patient_id of each; where no patient is known, pixels alone.
    """
    learnt = data.index["patient_id"].iloc[positions]
    is_theirs = data.index["patient_id"].isin(set(learnt)).to_numpy(bool)
    patients = {_hash_patient(name) for name in data.patients[is_theirs] if name is not None}
    pixels = {_hash_pixels(data.images[place]) for place in positions}
    write_json(run.path / TRAINING_IMAGES, {"patients": sorted(patients), "pixels": sorted(pixels)})


def exclude_training_images(run: Run, data: Data, positions: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return those of positions whose patient (of this kind of data set) and pixels the run never learnt from.

    Beside them a sentence on how many were left out; or, of a run without its record, that it could not be checked,
    unless data is what it was trained on, whose own splits answer for its test images.
    """
    if not (run.path / TRAINING_IMAGES).is_file():
        is_own = data.digest == run.manifest["inputs"]["index"]
        return positions, [] if is_own else [UNCHECKED]
    seen = {name: set(hashes) for name, hashes in read_json(run.path / TRAINING_IMAGES).items()}
    is_new = [
        (data.patients[place] is None or _hash_patient(data.patients[place]) not in seen["patients"])
        and _hash_pixels(data.images[place]) not in seen["pixels"]
        for place in positions
    ]
    unseen = positions[np.array(is_new, dtype=bool)]
    count = plural(len(positions) - len(unseen), "test image")
    left_out = f"{count} left out, as the run was trained on their patients"
    return unseen, [left_out] if len(unseen) < len(positions) else []


def _hash_patient(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _hash_pixels(image: np.ndarray) -> str:
    return hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
