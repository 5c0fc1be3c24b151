"""Which images train, choose, calibrate and test: split by patient, and checked for leaks."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

SHARES = {"train": 0.5, "validation": 0.1, "calibration": 0.2, "test": 0.2}
"""Shares of the patients where a set brings no split of its own."""


def fill_patients(frame: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Give every row a patient_id and say whether all of them were known.

    An unknown patient becomes the study, else the image itself; figures made from such a table are not
    by patient, and say so. What could not be read does not count.
    """
    known = bool(frame.loc[frame["status"] == "ok", "patient_id"].notna().all())
    filled = frame["patient_id"].fillna(frame["study_id"]).fillna(frame["image_id"])
    return frame.assign(patient_id=filled), known


def assign_splits(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return frame with the split column filled: train, validation, calibration, test or unused.

    A test split that the set brings is kept, and validation and calibration are carved out of the other
    patients in the proportions of SHARES. Without one, patients are drawn 50/10/20/20, stratified by
    having any finding; those whom the set names for training stay out of test. An image with a finding or
    of unknown health outside test is unused, as is what the set itself leaves unused; the healthy images of
    the same patient stay. A patient whom the set lists in both parts belongs to test.
    """
    patients, own = frame["patient_id"], frame["split"]
    any_finding = (frame["healthy"] == False).fillna(False).groupby(patients).any()  # noqa: E712 - nullable column
    own_test = set(patients[(own == "test").fillna(False)])
    own_train = set(patients[(own == "train").fillna(False)]) - own_test
    for_training = [name for name in SHARES if name != "test"]
    drawn = dict.fromkeys(own_test, "test")
    rng = np.random.default_rng(seed)
    for stratum in (False, True):
        free = set(any_finding.index[any_finding == stratum]) - own_test
        drawn |= _draw(free - own_train, for_training if own_test else list(SHARES), rng)
        drawn |= _draw(free & own_train, for_training, rng)
    split = patients.map(drawn)
    keep = (split == "test") | (frame["healthy"] == True).fillna(False)  # noqa: E712 - nullable column
    return frame.assign(split=split.where(keep & (own != "unused").fillna(True), "unused"))


def duplicates(image_ids: Iterable[str], digests: Iterable[str | None]) -> list[list[str]]:
    """Group the images whose prepared pixels are the same, from a hash an image (null: no pixels)."""
    groups: dict[str, list[str]] = {}
    for image_id, digest in zip(image_ids, digests, strict=True):
        if digest is not None and not pd.isna(digest):
            groups.setdefault(digest, []).append(image_id)
    return [group for group in groups.values() if len(group) > 1]


def include_unlabelled(frame: pd.DataFrame, seed: int, copies: set[str]) -> pd.DataFrame:
    """Return frame with the unused images of unknown health put to work, for archives without labels.

    copies are the image ids set aside because another image has the same pixels; they stay unused.
    They go where their patient already is; patients of unknown health alone are drawn into train,
    validation and calibration in the proportions of SHARES. Images with findings stay unused.
    """
    free = (frame["split"] == "unused") & frame["healthy"].isna() & ~frame["image_id"].isin(copies)
    placed = frame[frame["split"] != "unused"].groupby("patient_id")["split"].first().to_dict()
    names = [name for name in SHARES if name != "test"]
    placed |= _draw(set(frame.loc[free, "patient_id"]) - set(placed), names, np.random.default_rng(seed))
    return frame.assign(split=frame["split"].where(~free, frame["patient_id"].map(placed)))


def _draw(patients: set[str], names: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Deal patients out to the named splits in the proportions of SHARES."""
    shares = np.array([SHARES[name] for name in names])
    # Halves are rounded up, so that a single patient trains.
    bounds = np.floor(np.cumsum(shares / shares.sum()) * len(patients) + 0.5).astype(int)
    shuffled = rng.permutation(np.array(sorted(patients), dtype=object))
    return {
        patient: names[int(np.searchsorted(bounds, position, side="right"))]
        for position, patient in enumerate(shuffled)
    }
