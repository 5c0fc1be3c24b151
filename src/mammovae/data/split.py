"""Which images train, validate, calibrate and test: split by patient."""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from mammovae.config import UsageError

SHARES = {"train": 0.5, "validation": 0.1, "calibration": 0.2, "test": 0.2}
"""Shares of the patients where a set brings no split of its own."""
FOR_TRAINING = {name: share for name, share in SHARES.items() if name != "test"}
FOLD_SHARES = {"train": 0.7, "validation": 0.1, "calibration": 0.2}  # of the patients outside a fold


def usable_rows(frame: pd.DataFrame, kinds: Collection[str]) -> np.ndarray:
    """Say of each row whether its image is there, readable and of one of the kinds (or of none known): bool (n,)."""
    return ((frame["status"] == "ok") & (frame["kind"].isna() | frame["kind"].isin(kinds))).to_numpy(bool)


def assign_splits(frame: pd.DataFrame, seed: int, usable: np.ndarray | None = None) -> pd.DataFrame:
    """Return frame with the split column filled: train, validation, calibration, test or unused.

    usable (bool, (n,); None: all that are ok) says which images can be used: patients are drawn who have one, and all
    other images are unused. A test split that the set brings is kept, and validation and calibration are carved out of
    the other patients in the proportions of SHARES. Without one, patients are drawn in these proportions, stratified by
    what is known of their images (`_strata`); those whom the set names for training stay out of test. An image with a
    finding or of unknown health outside test is unused, as is what the set itself leaves unused. A patient whom the set
    lists in both parts belongs to test.
    """
    usable = (frame["status"] == "ok").to_numpy(bool) if usable is None else usable
    patients, given = frame["patient_id"], frame["split"]
    given_test = set(patients[(given == "test").fillna(False)])
    given_train = set(patients[(given == "train").fillna(False)]) - given_test
    split_of = dict.fromkeys(given_test, "test")
    rng = np.random.default_rng(seed)
    for stratum in _strata(frame[usable]):
        free = stratum - given_test
        split_of |= _draw(free - given_train, FOR_TRAINING if given_test else SHARES, rng)
        split_of |= _draw(free & given_train, FOR_TRAINING, rng)
    split = patients.map(split_of).astype(given.dtype)  # of no patient at all, map gives numbers
    keep = usable & ((split == "test") | frame["healthy"].fillna(False)) & (given != "unused").fillna(True)
    return frame.assign(split=split.where(keep, "unused"))


def include_unlabelled(frame: pd.DataFrame, seed: int, aside: set[str]) -> pd.DataFrame:
    """Return frame with the unused images of unknown health used for training, for archives without labels.

    aside are the image ids of `copies.set_aside`; they, images that are not ok and those with findings stay unused. The
    others go where their patient already is; patients of unknown health alone are drawn by SHARES.
    """
    free = (frame["split"] == "unused") & frame["healthy"].isna() & (frame["status"] == "ok")
    free &= ~frame["image_id"].isin(aside)
    placed = frame[frame["split"] != "unused"].groupby("patient_id")["split"].first().to_dict()
    placed |= _draw(set(frame.loc[free, "patient_id"]) - set(placed), FOR_TRAINING, np.random.default_rng(seed))
    return frame.assign(split=frame["split"].where(~free, frame["patient_id"].map(placed).astype(frame["split"].dtype)))


def assign_folds(frame: pd.DataFrame, folds: int, seed: int, aside: set[str]) -> np.ndarray:
    """Return the fold of each row, int (n,), by patient and stratified as splits are; -1: in no fold.

    Rows that failed or whose image_id is in aside (see `copies.set_aside`) are in none.
    """
    usable = ((frame["status"] == "ok") & ~frame["image_id"].isin(aside)).to_numpy(bool)
    patients = frame["patient_id"].to_numpy(dtype=object)
    count = len(set(patients[usable]))
    if folds < 2 or count < folds:
        raise UsageError(f"{count} patients cannot be dealt to {folds} folds: choose 2 folds to as many as patients")
    rng, dealt = np.random.default_rng(seed), list[str]()
    for stratum in _strata(frame[usable]):  # one after the other, so that folds are even
        dealt += list(rng.permutation(np.array(sorted(stratum), dtype=object)))
    fold_of = {patient: position % folds for position, patient in enumerate(dealt)}
    return np.where(usable, pd.Series(patients).map(fold_of).fillna(-1).to_numpy(int), -1)


def split_fold(frame: pd.DataFrame, fold_of: np.ndarray, fold: int, seed: int) -> pd.DataFrame:
    """Return frame with its split column replaced for one fold of fold_of, as assign_folds gave it.

    The fold's images are test; the other patients are dealt 70/10/20 to train, validation and calibration, stratified
    as splits are, and of their images those with findings or of unknown health are unused.
    """
    rng, split_of = np.random.default_rng([seed, fold]), dict[str, str]()
    for stratum in _strata(frame[(fold_of >= 0) & (fold_of != fold)]):
        split_of |= _draw(stratum, FOLD_SHARES, rng)
    healthy = frame["healthy"].fillna(False).to_numpy(bool)
    split = frame["patient_id"].map(split_of).astype(object).where(healthy & (fold_of >= 0), "unused")
    split = np.where(fold_of == fold, "test", split)
    return frame.assign(split=pd.Series(split, index=frame.index).astype(frame["split"].dtype))


def _strata(frame: pd.DataFrame) -> list[set[str]]:
    """Return the patients with a healthy image and no finding, those with any finding, and those of unknown health.

    Each is drawn apart: healthy ones reach every split, however many are unknown.
    """
    patients = frame["patient_id"].to_numpy(object)
    any_finding = frame["healthy"].eq(False).fillna(False).groupby(patients).any()
    any_known = frame["healthy"].notna().groupby(patients).any()
    parts = (any_known & ~any_finding, any_finding, ~any_known)
    return [set(part.index[part.to_numpy(bool)]) for part in parts]


def _draw(patients: set[str], shares: Mapping[str, float], rng: np.random.Generator) -> dict[str, str]:
    """Deal patients out to the named splits in the proportions of shares."""
    names, weights = list(shares), np.array(list(shares.values()))
    # Halves are rounded up, so that a single patient trains.
    bounds = np.floor(np.cumsum(weights / weights.sum()) * len(patients) + 0.5).astype(int)
    shuffled = rng.permutation(np.array(sorted(patients), dtype=object))
    places = np.searchsorted(bounds, np.arange(len(shuffled)), side="right")
    return {patient: names[place] for patient, place in zip(shuffled, places, strict=True)}
