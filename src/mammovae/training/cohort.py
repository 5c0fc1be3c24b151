"""Whom a run is trained on, in numbers that may be told: data sets, patients, breast density, vendor and age."""

from typing import Any

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data

FEWEST_PATIENTS = 5
"""Patients that a group has to have to be counted by its name; the others are counted together."""
REST = "other or unknown"
_AGES = {0: "0 to 39", 40: "40 to 49", 50: "50 to 59", 60: "60 to 69", 70: "70 and over"}  # by the lowest


def describe_cohort(data: Data, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the kinds of data set, patients of each split, and training images by breast density, vendor and age.

    A group of fewer patients than FEWEST_PATIENTS, and unknown, is in REST: neither a rare age nor an odd text in a
    header is told of anyone. Where patients are unknown nobody can count them, and no group is named.
    """
    patients = data.index["patient_id"]
    frame = data.index.iloc[parts["train"]]
    columns = {"density": frame["density"], "vendor": frame["vendor"], "age": _age_groups(frame["age"])}
    is_known = data.manifest["by_patient"]
    return {
        "kind": data.manifest["inputs"]["kind"],
        "by_patient": is_known,
        "patients": {name: int(patients.iloc[rows].nunique()) for name, rows in parts.items()},
        **{name: _counts(column, frame["patient_id"]) if is_known else {} for name, column in columns.items()},
    }


def _age_groups(ages: pd.Series) -> pd.Series:
    years = ages.to_numpy(np.float64, na_value=np.nan)
    edges = [*_AGES, np.inf]
    return pd.Series(pd.cut(years, edges, right=False, labels=list(_AGES.values())), ages.index).astype(object)


def _counts(groups: pd.Series, patients: pd.Series) -> dict[str, int]:
    """Return images by group, in order of its name, the rest last; empty where no group is large enough."""
    large = patients.groupby(groups.astype(object)).nunique() >= FEWEST_PATIENTS
    named = groups.where(groups.isin(large[large].index)).astype(object)
    counts = {str(name): int(number) for name, number in named.value_counts().sort_index().items()}
    rest = int(named.isna().sum())
    return counts | ({REST: rest} if counts and rest else {})
