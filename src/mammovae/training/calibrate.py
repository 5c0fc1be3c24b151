"""Calibrate a run: healthy scores for percentiles, the scales of maps, the quality score."""

from typing import Any

import numpy as np
import pandas as pd

from mammovae.config import InputError
from mammovae.data.dataset import Data
from mammovae.detection.calibration import CALIBRATION, PATIENT
from mammovae.detection.detector import Detector
from mammovae.detection.quality import MEASURES, Quality, thumbnails
from mammovae.models.run import Run
from mammovae.perturbations.lesions import insert_random_lesion
from mammovae.statistics.bootstrap import auroc
from mammovae.storage import atomic_write

_SHAM_IMAGES, _SHAM_AUROC = 32, 0.55
_FEWEST_FOR_QUALITY, _MOST_FOR_QUALITY, _MOST_FOR_MAPS = 10, 2000, 256
_BATCH = 64  # images held at once while they are shrunk to thumbnails


def calibrate(run: Run, data: Data, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write the healthy scores that percentiles are read from; return the scales of maps and the number of patients.

    What one pixel in a thousand exceeds: map_scales of each single map on validation images, by which maps are added up
    (calibration images may not decide that, or p-values would not hold), map_scale of the sum on calibration images.
    Where a split is empty, training images stand in for it; without calibration images there are no percentiles.
    """
    detector = Detector(run)
    train, validation, calibration = (parts[split] for split in ("train", "validation", "calibration"))
    mapped_images = (validation if len(validation) else train)[:_MOST_FOR_MAPS]
    batches = detector.detect_batches(data, mapped_images, with_maps=True)
    single_maps = [detection.maps for _, detection in batches]
    detector.scales = {name: _level([maps[name] for maps in single_maps]) for name in run.settings.maps}
    # Scores and fused maps from one pass of the networks; there are maps for the first images alone.
    fused_maps = np.zeros((len(calibration[:_MOST_FOR_MAPS]), detector.size, detector.size), np.float32)
    mapped = pd.DataFrame(detector.table(data, calibration[:_MOST_FOR_MAPS], fused_maps))
    rest = pd.DataFrame(detector.table(data, calibration[_MOST_FOR_MAPS:]))
    scores = pd.concat([mapped, rest], ignore_index=True)
    if len(train) >= _FEWEST_FOR_QUALITY:
        chosen = train[np.unique(np.linspace(0, len(train) - 1, _MOST_FOR_QUALITY).round().astype(int))]
        quality = Quality.fit(*_quality_inputs(data, chosen))
        quality.save(run.path)
        if len(calibration):
            inputs = (_quality_inputs(data, batch) for batch in _batches(calibration))
            scores["quality"] = np.concatenate([quality.score(quality.normal_scores(*one)) for one in inputs])
    scores[PATIENT] = pd.factorize(data.index["patient_id"].iloc[calibration])[0]
    with atomic_write(run.path / CALIBRATION) as partial:
        scores.to_parquet(partial, index=False)
    if not len(calibration):
        fused_maps = detector.fused_maps(data, train[:_MOST_FOR_MAPS])
    scales = {"map_scales": dict(detector.scales), "map_scale": _level([fused_maps])}
    return scales | {"calibration_patients": int(scores[PATIENT].nunique())}


def _level(maps: list[np.ndarray]) -> float:
    """Return what one pixel in a thousand of breasts exceeds; outside the breast a map is 0."""
    inside = np.concatenate([anomaly_map[anomaly_map > 0] for anomaly_map in maps])
    return max(float(np.quantile(inside, 0.999)), 1e-6) if len(inside) else 1.0


def check_insertion_artefacts(run: Run, data: Data, positions: np.ndarray) -> None:
    """Raise InputError when a member's main score distinguishes sham insertions from raw images, with AUROC > 0.55.

    Of its kinds the distortion is taken where it is among them, for the others leave no trace that could be learnt.
    """
    detector, seed = Detector(run), run.settings.seed
    for name, member in run.members.items():
        kinds = member.inserted_kinds
        if "distortion" in kinds:
            kinds = ("distortion",)
        shams: dict[int, np.ndarray] = {}
        chosen = positions[: _SHAM_IMAGES if kinds else 0]
        for position, mm in zip(map(int, chosen), data.mm_per_pixel(chosen).tolist(), strict=True):
            image, mask = data.images[position], data.masks[position]
            insertion = insert_random_lesion(image, mask, mm, "validation", [seed, position], kinds)
            if insertion is not None:
                shams[position] = insertion.sham
        if not shams:
            continue
        rows, main = list(shams), next(iter(member.scores))
        pair = (data.images[rows], np.stack(list(shams.values())))
        value = auroc(*(detector.detect(images, data.masks[rows]).scores[main] for images in pair))
        if value is not None and value > _SHAM_AUROC:
            problem = f"{name} distinguishes sham insertions from raw images (AUROC {value:.2f}, at most {_SHAM_AUROC}"
            raise InputError(f"{problem} allowed): it has learnt the insertion and not lesions; omit it from members")


def _batches(positions: np.ndarray) -> list[np.ndarray]:
    return np.array_split(positions, range(_BATCH, len(positions), _BATCH))


def _quality_inputs(data: Data, positions: np.ndarray) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return what the quality score is made of: measures, thumbnails and outlines."""
    measures = data.measurements.iloc[positions][[name for name in MEASURES if name in data.measurements]]
    parts = [thumbnails(data.images[batch], data.masks[batch]) for batch in _batches(positions)]
    images, outlines = (np.concatenate(part) for part in zip(*parts, strict=True))
    return measures.reset_index(drop=True), images, outlines
