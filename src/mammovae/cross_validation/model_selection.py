"""What inserted lesions and healthy likelihood say of a run: all that settings may be chosen by."""

from typing import Any

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detection.calibration import FusedScore
from mammovae.detection.detector import Detector
from mammovae.evaluation.inserted_lesions import score_inserted_lesions
from mammovae.models.base import HISTORY
from mammovae.models.run import Run
from mammovae.perturbations.lesions import LESION_KINDS
from mammovae.statistics.bootstrap import auroc

NOT_SCORES = ("position", "kind", "diameter_mm", "contrast", "chance", "fold")


def inserted_lesion_table(run: Run, data: Data, positions: np.ndarray, seed: int) -> pd.DataFrame:
    """Score validation images untouched, with sham and with inserted validation lesions; raw scores and finding."""
    rows = score_inserted_lesions(Detector(run), data, positions, "validation", seed)
    return rows.assign(**FusedScore(run).finding_columns({name: rows[name].to_numpy() for name in score_names(rows)}))


def score_names(rows: pd.DataFrame) -> list[str]:
    """Return the columns of a table of inserted lesions that are scores."""
    names = (str(name) for name in rows if name not in NOT_SCORES and rows[name].dtype.kind == "f")
    return [name for name in names if not name.startswith(("hit", "finding_"))]


def summarise_selection(tables: list[pd.DataFrame], runs: list[Run]) -> dict[str, Any]:
    """Return selection.json, from inserted_lesion_table of each fold.

    scores: for each score the AUROC of images with inserted lesions against untouched ones, over all and by kind; sham
    compares images with a sham insertion with the same images untouched, which should give 0.5. Scores of several folds
    are made comparable by the mean and deviation of the fold's untouched images. pointing: the share of inserted
    lesions that hold the maximum of a map. likelihood: each member's last validation terms, mean over folds.
    """
    rows = pd.concat([_in_deviations(table).assign(fold=fold) for fold, table in enumerate(tables)], ignore_index=True)
    untouched, sham = rows[rows["kind"] == ""], rows[rows["kind"] == "sham"]
    inserted = rows[~rows["kind"].isin(["", "sham"])]
    parts = {"all": inserted, "sham": sham} | {kind: inserted[inserted["kind"] == kind] for kind in LESION_KINDS}
    # Over the images that have the score at all: some need the other breast.
    scores = {
        name: {part: auroc(untouched[name].dropna(), images[name].dropna()) for part, images in parts.items()}
        for name in score_names(rows)
    }
    hits = [str(name) for name in rows if str(name).startswith("hit")]
    by_kind = inserted.groupby("kind")
    return {
        "n_untouched": len(untouched),
        "n_inserted": len(inserted),
        "scores": dict(sorted(scores.items(), key=lambda item: -(item[1]["all"] or 0))),
        "pointing": {
            name: {"all": float(inserted[name].mean())} | {k: float(part[name].mean()) for k, part in by_kind}
            for name in [*hits, "chance"]
        },
        "likelihood": {name: _last_validation(runs, name) for name in runs[0].members},
    }


def _in_deviations(table: pd.DataFrame) -> pd.DataFrame:
    names = score_names(table)
    untouched = table.loc[table["kind"] == "", names]
    standard = (table[names] - untouched.mean()) / untouched.std().replace(0, 1).fillna(1)
    return table.assign(**{name: standard[name] for name in names})


def _last_validation(runs: list[Run], name: str) -> dict[str, float]:
    last = pd.DataFrame([pd.read_csv(run.path / "members" / name / HISTORY).iloc[-1] for run in runs])
    return last.filter(regex="^validation_").mean().to_dict()
