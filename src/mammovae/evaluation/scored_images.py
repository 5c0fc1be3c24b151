"""Images scored for figures: identity, every score, the trivial baselines, and where maps and lesions lie."""

from typing import Any

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detection.calibration import Calibration, FusedScore
from mammovae.detection.detector import Detector
from mammovae.evaluation.baselines import PcaResidual, blob_maps, image_statistics
from mammovae.evaluation.inserted_lesions import points_at_lesion
from mammovae.evaluation.lesion_masks import lesion_masks, sizes_mm
from mammovae.evaluation.localisation import BLOB_HIT, LOCALISED, localise
from mammovae.evaluation.reference import REFERENCE_LOSS, has_reference
from mammovae.models.run import Run

BASELINES = {"mean_grey": "Mean grey", "breast_area": "Breast area"}
BASELINES |= {"pca_residual": "PCA residual", "blobs": "Blob filter"}
_PART = 64  # images whose maps are held at once, or a batch where that is more


def score_images(run: Run, data: Data, positions: np.ndarray) -> pd.DataFrame:
    """Return a row an image: identity, health, density, every score and baseline, and what localisation is read from.

    The PCA is fitted on the run's own training images in data; without any there, its column is left out. The loss of
    the original preset's network is there where the run has that network.
    """
    table = identity(data, positions)
    detector = Detector(run)
    step = max(_PART, detector.batch_size)
    raw: list[pd.DataFrame] = []
    localised: list[dict[str, Any]] = []
    # False marks are counted on the healthy images of unaffected patients, and no map of another image is searched.
    is_control = data.healthy(positions) & ~table["patient_affected"].to_numpy(bool)
    for part in (slice(start, start + step) for start in range(0, len(positions), step)):
        maps = np.empty((len(positions[part]), detector.size, detector.size), np.float32)
        raw.append(pd.DataFrame(detector.table(data, positions[part], maps)))
        lesions = lesion_masks(data, positions[part], detector.size)
        breasts = data.batch(positions[part], detector.size).mask[:, 0].numpy() > 0
        localised += map(localise, maps, lesions, breasts, is_control[part])
    scores = {str(name): values.to_numpy() for name, values in pd.concat(raw, ignore_index=True).items()}
    columns: dict[str, Any] = {**FusedScore(run).columns(scores), **scores, **image_statistics(data, positions)}
    columns["blobs"], columns[BLOB_HIT] = _blobs(data, positions)
    columns |= _pca_residual(run, data, positions)
    if has_reference(run):
        columns[REFERENCE_LOSS] = scores["reconstruction_loss"]
    columns |= {name: [facts[name] for facts in localised] for name in LOCALISED}
    return table.assign(**columns)


def listed(table: pd.DataFrame) -> pd.DataFrame:
    """Return score_images' table as scores.csv holds it: without positions, and lists of names as words."""
    names = {name: [" ".join(cell) for cell in table[name]] for name in ("categories", "severity")}
    return table.assign(**names).drop(columns=["position", BLOB_HIT, *LOCALISED])


def identity(data: Data, positions: np.ndarray) -> pd.DataFrame:
    """Return what metrics are grouped by, a row an image: patient, health, categories, severity, density, size ...

    patient_affected: whether any image of the patient, of whatever side, view, split or status, has a finding.
    """
    frame = data.index.iloc[positions]
    affected = data.index.loc[(data.index["healthy"] == False).fillna(False), "patient_id"]  # noqa: E712
    names = ("image_id", "patient_id", "side", "view", "healthy", "density", "vendor")
    columns: dict[str, Any] = {"position": positions, **{name: frame[name].to_numpy() for name in names}}
    columns["patient_affected"] = frame["patient_id"].isin(affected).to_numpy(bool)
    columns["categories"] = [sorted({item["category"] for item in cell}) for cell in frame["findings"]]
    columns["severity"] = [sorted({item["severity"] for item in cell} - {None}) for cell in frame["findings"]]
    return pd.DataFrame(columns | {"size_mm": sizes_mm(data, positions)})


def _blobs(data: Data, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the blob filter's score of images, and whether its maximum lies in a lesion; NaN where none is known."""
    scores, hits = np.full((2, len(positions)), np.nan)
    for number, blobs in enumerate(blob_maps(data, positions)):
        scores[number] = blobs.max()
        lesion = lesion_masks(data, positions[number : number + 1], len(blobs))[0]
        if lesion.any():
            hits[number] = points_at_lesion(blobs, lesion)
    return scores, hits


def _pca_residual(run: Run, data: Data, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return the PCA's residual, where data's healthy calibration images are there in deviations of theirs.

    Raw, those of folds would lie on scales of their own.
    """
    parts = data.parts(run.settings)
    if len(parts["train"]) < 2:
        return {}
    pca = PcaResidual().fit(data, parts["train"])
    residual = {"pca_residual": pca.score_samples(data, positions)}
    if len(parts["calibration"]):
        healthy = Calibration({"pca_residual": pca.score_samples(data, parts["calibration"])}, ["pca_residual"])
        residual["pca_residual"] = healthy.normal_scores(residual)[:, 0]
    return residual
