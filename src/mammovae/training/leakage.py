"""Which patients and pixels a run has learnt from, kept as hashes, so that no figure rests on them again."""

import hashlib

import numpy as np

from mammovae.data.dataset import Data
from mammovae.models.run import Run
from mammovae.storage import read_json, write_json

TRAINING_IMAGES = "training_images.json"


def record_training_images(run: Run, data: Data, positions: np.ndarray) -> None:
    """Write hashes of the patients and prepared pixels at positions into the run's folder."""
    patients, pixels = _hashes(data, positions)
    write_json(run.path / TRAINING_IMAGES, {"patients": sorted(set(patients)), "pixels": sorted(set(pixels))})


def exclude_training_images(run: Run, data: Data, positions: np.ndarray) -> np.ndarray:
    """Return those of positions whose patient (of this kind of data set) and pixels the run never learnt from."""
    seen = {name: set(hashes) for name, hashes in read_json(run.path / TRAINING_IMAGES).items()}
    patients, pixels = _hashes(data, positions)
    known = [a in seen["patients"] or b in seen["pixels"] for a, b in zip(patients, pixels, strict=True)]
    return positions[~np.array(known, dtype=bool)]


def _hashes(data: Data, positions: np.ndarray) -> tuple[list[str], list[str]]:
    kind = data.manifest["inputs"]["kind"]
    names = data.index["patient_id"].iloc[positions]
    patients = [hashlib.blake2b(f"{kind}:{name}".encode(), digest_size=16).hexdigest() for name in names]
    pixels = [hashlib.blake2b(data.images[place].tobytes(), digest_size=16).hexdigest() for place in positions]
    return patients, pixels
