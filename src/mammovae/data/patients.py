"""Who is one patient: images that share a patient id, a study or their pixels."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_PLACEHOLDER = re.compile(
    r"anon(ym(ous|ised|ized|us)?)?|deidentified|removed|redacted|hidden|deleted|unknown|unidentified|undefined|unnamed|"
    r"no(name|id|patientid)|none|null|nil|nan|na|notavailable|notapplicable|missing|empty|default|x*"
)  # what anonymisers and forms write where an id belongs, without case, spaces and punctuation


class Patients(NamedTuple):
    """The patient of each row: its name, and a remark where the row's own id is another."""

    names: pd.Series
    remarks: pd.Series
    are_known: bool  # every image that is ok has a patient with an id
    notes: list[str]  # sentences on ids that were not believed, or that name one patient


def find_patients(frame: pd.DataFrame, digests: ArrayLike) -> Patients:
    """Name the patient of each row of an index: a connected component over patient id, study id and pixels.

    digests (n,) is a hash of each image's pixels, None where there are none. A patient has the first, in sorted order,
    of its known ids, else of its study ids, else of its image ids. Ids that say nothing count as none: one id on all of
    several studies, a placeholder (ANONYMOUS, 0) on several, and one study id on several patients. The cost is linear.
    """
    patients, studies, notes = _without_empty_words(frame["patient_id"], frame["study_id"])
    component = connected_rows((patients, studies, np.asarray(digests, object)), len(frame))
    named = first_of_each(component, patients)
    names = named.where(named.notna(), first_of_each(component, studies))
    names = names.where(names.notna(), first_of_each(component, frame["image_id"]))
    names = pd.Series(names.to_numpy(object), frame.index, frame["patient_id"].dtype)
    is_joined = (patients.notna() & (patients != names)).fillna(False).to_numpy(bool)
    remarks = np.full(len(frame), None, object)
    remarks[is_joined] = [
        f"its patient id is {own}, but it has the study or pixels of patient {name}"
        for own, name in zip(patients[is_joined], names[is_joined], strict=True)
    ]
    if is_joined.any():
        before, after = patients.nunique(), names[patients.notna().to_numpy(bool)].nunique()
        notes.append(f"{before} patient ids are those of {after} patients, by the studies and pixels that they share")
    is_ok = (frame["status"] == "ok").to_numpy(bool)
    remarks = pd.Series(remarks, frame.index, frame["reason"].dtype)
    return Patients(names, remarks, bool(named[is_ok].notna().all()), notes)


def made_up_patients(frame: pd.DataFrame, by_patient: bool) -> NDArray[np.bool_]:
    """Say of each row of an index whether its patient_id is an image's name, for want of a patient: (N,).

    by_patient: whether all patients are known, as a DATA folder's manifest says.
    """
    if by_patient:
        return np.zeros(len(frame), bool)
    return frame["patient_id"].isin(set(frame["image_id"])).to_numpy(bool)


def connected_rows(ids: Iterable[ArrayLike], count: int) -> NDArray[np.integer]:
    """Return the number of the component of each of count rows: rows with an equal id of some kind are in one.

    ids hold an array (count,) a kind of id, null where a row has none.
    """
    rows, nodes, size = [], [], count
    for values in ids:
        codes, distinct = pd.factorize(np.asarray(values, object))
        known = np.flatnonzero(codes >= 0)
        rows.append(known)
        nodes.append(codes[known] + size)
        size += len(distinct)
    ends = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_matrix((np.ones(len(ends[0]), bool), ends), shape=(size, size))
    return connected_components(graph, directed=False)[1][:count]


def first_of_each(component: NDArray[np.integer], ids: pd.Series) -> pd.Series:
    """Return the first id, in sorted order, of each row's component; None where none of its rows has one."""
    known = pd.DataFrame({"component": component, "id": ids.to_numpy(object)}).dropna()
    distinct = known.drop_duplicates().sort_values("id").drop_duplicates("component")
    first = pd.Series(distinct["id"].to_numpy(object), distinct["component"].to_numpy())
    return pd.Series(first.reindex(component).to_numpy(object))


def _without_empty_words(patients: pd.Series, studies: pd.Series) -> tuple[pd.Series, pd.Series, list[str]]:
    """Return patient and study ids without those that tell nobody from another, and sentences that say so."""
    notes = list[str]()
    patients, studies = (ids.str.strip().mask(lambda text: text == "") for ids in (patients, studies))
    for_studies = _telling_nothing(studies, patients, "the study id", "patients")
    studies = studies.mask(studies.isin(for_studies.ids))
    for_patients = _telling_nothing(patients, studies, "the patient id", "studies")
    patients = patients.mask(patients.isin(for_patients.ids))
    notes += [found.note for found in (for_patients, for_studies) if found.note]
    return patients, studies, notes


class _EmptyWords(NamedTuple):
    ids: list[str]
    note: str | None


def _telling_nothing(ids: pd.Series, others: pd.Series, what: str, units: str) -> _EmptyWords:
    """Find the ids that stand on several units (studies, for a patient's) and cannot be true.

    An id that all rows have, or their unit's other rows; and a placeholder, where an image of unknown unit is one.
    """
    pairs = pd.DataFrame({"id": ids.to_numpy(object), "other": others.to_numpy(object)})
    known = pairs.dropna(subset="id")
    distinct = known["id"].unique().tolist()
    units_of = known.drop_duplicates().groupby("id")["other"].nunique()
    if len(distinct) == 1 and units_of.iloc[0] > 1:
        others_without = pairs.loc[pairs["id"].isna(), "other"].dropna()  # a file that could not be read has neither
        if others_without.isin(known["other"]).all():
            sentence = f"{what} {distinct[0]} stands on all {units_of.iloc[0]} {units}, so it counts as none"
            return _EmptyWords([distinct[0]], sentence)
    all_ids = set(distinct)
    words = [name for name in distinct if _is_placeholder(name, all_ids)]
    alone = known[known["id"].isin(words) & known["other"].isna()].groupby("id").size()
    several = [name for name in words if units_of[name] + alone.get(name, 0) > 1]
    note = f"{what} {' or '.join(sorted(several))} names nobody, so it counts as none" if several else None
    return _EmptyWords(several, note)


def _is_placeholder(name: str, ids: set[str]) -> bool:
    """Say whether an id is a word for no id, or nothing but zeros; but not where ids are numbers that begin with 0."""
    plain = re.sub(r"[\W_]", "", name.lower())
    if re.fullmatch("0+", plain):
        return f"{name[:-1]}1" not in ids
    return _PLACEHOLDER.fullmatch(plain) is not None
