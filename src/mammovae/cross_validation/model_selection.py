"""What planted lesions and healthy likelihood say of a run: the only voices that may choose settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detection.detector import Detector
from mammovae.detection.fusion import FusedScore
from mammovae.evaluation.inserted_lesions import score_inserted_lesions
from mammovae.models.base import HISTORY
from mammovae.models.run import Run
from mammovae.perturbations.lesions import LESION_KINDS
from mammovae.statistics.bootstrap import auroc

NOT_SCORES = ("position", "kind", "diameter_mm", "contrast", "chance", "fold")


def inserted_lesion_table(run: Run, data: Data, positions: np.ndarray, seed: int) -> pd.DataFrame:
    """Score validation films untouched, with sham and with planted lesions of family SELECT; raw scores and finding."""
    rows = score_inserted_lesions(Detector(run), data, positions, "validation", seed)
    return rows.assign(**FusedScore(run).alone({name: rows[name].to_numpy() for name in score_names(rows)}))


def score_names(rows: pd.DataFrame) -> list[str]:
    """Return the columns of a planted table that are scores."""
    return [
        str(name)
        for name in rows
        if name not in NOT_SCORES and not str(name).startswith(("hit", "finding_")) and rows[name].dtype.kind == "f"
    ]


def summarise_selection(tables: list[pd.DataFrame], runs: list[Run]) -> dict[str, Any]:
    """Return selection.json: for each score the AUROC of planted against untouched validation films, by kind.

    Scores of several folds are made comparable by the mean and deviation of the fold's untouched films. pointing is
    the share of planted lesions that hold the maximum of a map. sham compares films with a sham planting with the same
    films untouched: 0.5 is what it should be. likelihood gives each member's last validation terms, mean over folds.
    """
    pooled = []
    for fold, table in enumerate(tables):
        table = table.assign(fold=fold)
        clean = table[table["kind"] == ""]
        for name in score_names(table):
            spread = clean[name].std()
            table[name] = (table[name] - clean[name].mean()) / (spread if spread > 0 else 1.0)
        pooled.append(table)
    rows = pd.concat(pooled, ignore_index=True)
    clean, sham = rows[rows["kind"] == ""], rows[rows["kind"] == "sham"]
    found = rows[~rows["kind"].isin(["", "sham"])]
    scores: dict[str, Any] = {}
    for name in score_names(rows):
        scores[name] = {"all": _against(clean[name], found[name]), "sham": _against(clean[name], sham[name])}
        scores[name] |= {kind: _against(clean[name], found.loc[found["kind"] == kind, name]) for kind in LESION_KINDS}
    hits = [str(name) for name in rows if str(name).startswith("hit")]
    by_kind = found.groupby("kind")
    return {
        "n_untouched": len(clean),
        "n_planted": len(found),
        "scores": dict(sorted(scores.items(), key=lambda item: -(item[1]["all"] or 0))),
        "pointing": {
            name: {"all": float(found[name].mean())} | {k: float(part[name].mean()) for k, part in by_kind}
            for name in [*hits, "chance"]
        },
        "likelihood": _likelihood([run.path for run in runs], list(runs[0].members)),
    }


def _against(clean: pd.Series, found: pd.Series) -> float | None:
    """AUROC of what was planted, over the films that have the score at all."""
    return auroc(clean.dropna(), found.dropna())


def _likelihood(folders: list[Path], members: list[str]) -> dict[str, dict[str, float]]:
    said: dict[str, dict[str, float]] = {}
    for member in members:
        last = [pd.read_csv(folder / "members" / member / HISTORY).iloc[-1] for folder in folders]
        names = [name for name in last[0].index if name.startswith("validation_")]
        said[member] = {name: float(np.mean([row[name] for row in last])) for name in names}
    return said
