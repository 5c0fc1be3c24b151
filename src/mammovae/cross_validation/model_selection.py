"""What inserted lesions and healthy likelihood say of a run: all that settings may be chosen by."""

from typing import Any

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detection.calibration import FusedScore
from mammovae.detection.detector import Detector
from mammovae.evaluation.inserted_lesions import score_inserted_lesions
from mammovae.evaluation.stress import with_identity
from mammovae.models.base import HISTORY
from mammovae.models.run import Run
from mammovae.perturbations.lesions import LESION_KINDS
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap

NOT_SCORES = ("position", "kind", "diameter_mm", "contrast", "chance", "fold")


def inserted_lesion_table(run: Run, data: Data, positions: np.ndarray, seed: int) -> pd.DataFrame:
    """Score validation images untouched, with sham and with inserted validation lesions; raw scores and finding."""
    rows = score_inserted_lesions(Detector(run), data, positions, "validation", seed)
    return rows.assign(**FusedScore(run).finding_columns({name: rows[name].to_numpy() for name in score_names(rows)}))


def score_names(rows: pd.DataFrame) -> list[str]:
    """Return the columns of a table of inserted lesions that are scores."""
    names = (str(name) for name in rows if name not in NOT_SCORES and rows[name].dtype.kind == "f")
    return [name for name in names if not name.startswith(("hit", "finding_"))]


def summarise_selection(tables: list[pd.DataFrame], data: Data, runs: list[Run]) -> dict[str, Any]:
    """Return selection.json, from inserted_lesion_table of each fold, whose positions are those of data.

    scores: for each score the AUROC of images with inserted lesions against untouched ones, over all and by kind; sham
    compares images with a sham insertion with the same images untouched, which should give 0.5. Scores of several folds
    are made comparable by the mean and deviation of the fold's untouched images. pointing: the share of inserted
    lesions that hold the maximum of a map. likelihood: each member's last validation terms, mean over folds.
    """
    named = [with_identity(_in_deviations(table), data, fold) for fold, table in enumerate(tables)]
    rows = pd.concat(named, ignore_index=True)
    patients, kinds = rows["patient_id"].astype(str), rows["kind"].to_numpy(object)
    # A patient may be in the validation images of several folds: all of the patient's rows are drawn together.
    bootstrap = PatientBootstrap(patients, kinds != "", rows.groupby(patients)["fold"].transform("first"))
    untouched, inserted = kinds == "", ~np.isin(kinds, ["", "sham"])
    lesions = {"all": inserted} | {kind: kinds == kind for kind in LESION_KINDS}
    parts = lesions | {"sham": kinds == "sham"}

    def aurocs(name: str) -> dict[str, dict[str, float | int | None]]:
        values, is_scored = rows[name].fillna(0), rows[name].notna().to_numpy()  # some need the other breast
        rows_of = {part: (untouched | mask) & is_scored for part, mask in parts.items()}
        return {part: _entry(bootstrap.auroc(values, keep), "auroc") for part, keep in rows_of.items()}

    def shares(name: str) -> dict[str, dict[str, float | int | None]]:
        values = rows[name].astype(float).fillna(0)
        return {part: _entry(bootstrap.mean(values, mask), "share") for part, mask in lesions.items()}

    scores = {name: aurocs(name) for name in score_names(rows)}
    hits = [str(name) for name in rows if str(name).startswith("hit")]
    return {
        "n_untouched": int(untouched.sum()),
        "n_inserted": int(inserted.sum()),
        "n_patients": int(patients.nunique()),
        "scores": dict(sorted(scores.items(), key=lambda item: -(item[1]["all"]["auroc"] or 0))),
        "pointing": {name: shares(name) for name in [*hits, "chance"]},
        "likelihood": {name: _last_validation(runs, name) for name in runs[0].members},
    }


def _entry(estimate: Estimate, what: str) -> dict[str, float | int | None]:
    """Return a figure with its interval and the numbers of images with an insertion and, where compared, without."""
    entry: dict[str, float | int | None] = {what: estimate.value, "low": estimate.low, "high": estimate.high}
    return entry | {"n_inserted": estimate.n_finding} | ({"n_untouched": estimate.n_healthy} if what == "auroc" else {})


def _in_deviations(table: pd.DataFrame) -> pd.DataFrame:
    names = score_names(table)
    untouched = table.loc[table["kind"] == "", names]
    standard = (table[names] - untouched.mean()) / untouched.std().replace(0, 1).fillna(1)
    return table.assign(**{name: standard[name] for name in names})


def _last_validation(runs: list[Run], name: str) -> dict[str, float]:
    last = pd.DataFrame([pd.read_csv(run.path / "members" / name / HISTORY).iloc[-1] for run in runs])
    return last.filter(regex="^validation_").mean().to_dict()
