"""Several DATA folders as one: their arrays end to end, what they must agree in, who is one patient, and copies."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mammovae.config import UsageError
from mammovae.data import index
from mammovae.data.copies import contradicting_health, copy_groups, find_copies
from mammovae.data.patients import connected_rows, first_of_each
from mammovae.data.sources import SOURCES
from mammovae.report.formatting import plural
from mammovae.report.progress import Progress

HELD_OUT = ("train", "validation", "calibration", "test")
"""Splits, each more held out than the one before: of several a patient is in the last."""
_CHUNK = 4096  # images whose middle rows are held at once
_MAY_DIFFER = ("side", "view", "limit", "white")  # null of joined folders unless all agree; the seed is the first's


class Folder(NamedTuple):
    """A DATA folder that is joined with others: all but its arrays."""

    path: Path
    manifest: Mapping[str, Any]
    index: pd.DataFrame
    patients: NDArray[np.object_]  # whose each image is, with the kind of data set: see `Data.patients`

    @property
    def name(self) -> str:
        """The folder in a sentence."""
        return str(self.path)


class JoinedArray:
    """Arrays of one shape but for their rows, read as one array of all rows; nothing is copied until it is indexed.

    Takes an int, an array of ints or bools, or a slice, as the first axis of an array does. Pickled, it names the files
    of its memory maps.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        """Count the rows."""
        return self.shape[0]

    def __getitem__(self, rows: ArrayLike | slice) -> np.ndarray:
        """Return a row, or a copy of some rows, read part by part in the order that is asked for within each."""
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            wanted = np.flatnonzero(wanted)
        if wanted.size and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} are not all among {len(self)}")
        wanted = np.where(wanted < 0, wanted + len(self), wanted).astype(int)
        part_of = np.searchsorted(self._starts, wanted, side="right") - 1
        if wanted.ndim == 0:
            return self.parts[part_of][wanted - self._starts[part_of]]
        found = np.empty((*wanted.shape, *self.shape[1:]), self.dtype)
        for part in np.unique(part_of):
            is_in = part_of == part
            found[is_in] = self.parts[part][wanted[is_in] - self._starts[part]]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Name the memory-mapped files instead of holding their pixels."""
        return _reopened, ([named_file(part) for part in self.parts],)


def _reopened(parts: Sequence[np.ndarray | Path]) -> JoinedArray:
    return JoinedArray([mapped(part) for part in parts])


def named_file(value: Any) -> Any:
    """Return the path of a memory-mapped array's file; anything else as it is."""
    return Path(str(value.filename)) if isinstance(value, np.memmap) else value


def mapped(value: Any) -> Any:
    """Map the file that named_file named; anything else is returned as it is."""
    return np.load(value, mmap_mode="r") if isinstance(value, Path) else value


def join(folders: Sequence[Folder], images: JoinedArray) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the manifest and the index of folders read as one, row after row; UsageError when they do not agree.

    image_ids that several folders use get their folder's path before them. Images that share a patient, a study (both
    of one kind of data set) or, across folders, their pixels are one patient's. A patient whom the folders put into
    several splits is in the most held out of them (HELD_OUT), so that nothing is trained on that any folder tests; what
    was unused stays so. Of images with the same pixels in several folders one is used, and none where their healthy
    labels contradict each other.
    """
    _check_alike(folders)
    frame = pd.concat([folder.index for folder in folders], ignore_index=True)
    folder_of = np.repeat(np.arange(len(folders)), [len(folder.index) for folder in folders])
    # Resolved, so that the same command from elsewhere finds the same names.
    places = np.array([f"{index.printable(str(folder.path.resolve()))}/" for folder in folders], object)[folder_of]
    own_ids = frame["image_id"].tolist()
    image_ids = index.distinct_names(own_ids, lambda row: f"{places[row]}{own_ids[row]}")
    groups = _shared_pixels(images, (frame["status"] == "ok").to_numpy(bool), folder_of)
    duplicates, contradictions = (_renamed(folders, image_ids, part) for part in ("duplicates", "contradictions"))
    frame = frame.assign(image_id=pd.Series(image_ids, frame.index, frame["image_id"].dtype))
    patient = _one_patient(folders, groups)
    split = _most_held_out(frame["split"], patient)
    moved = int((split != frame["split"]).fillna(False).sum())
    contradicting = _contradicting(frame, groups, contradictions)
    frame = frame.assign(
        patient_id=_patient_names(folders, frame, patient, places),
        healthy=frame["healthy"].mask(contradicting),
        split=split.mask(contradicting, "unused"),
    )
    copies = find_copies(frame, groups, contradicting)
    frame = frame.assign(split=frame["split"].mask(copies.reasons.notna(), "unused"))
    set_aside = int((frame["split"] != split).fillna(False).sum())
    across = set(frame.loc[groups >= 0, "image_id"])
    kept = [group for group in duplicates if across.isdisjoint(group)]
    facts = {"duplicates": kept + copies.duplicates}
    facts["contradictions"] = [g for g in contradictions if across.isdisjoint(g)] + copies.contradictions
    notes = _notes(len(np.unique(patient[_in_several(patient, folder_of)])), moved, set_aside)
    manifest = _join_manifests(folders)
    return manifest | facts | {"joined": manifest["joined"] + notes}, frame


def _check_alike(folders: Sequence[Folder]) -> None:
    """Raise UsageError for a folder whose images do not show, or count, what those of the others do."""
    for key in ("size", "stretch", "kinds", "healthy"):
        known = [(folder.name, value) for folder in folders if (value := _setting(folder, key)) is not None]
        for name, value in known[1:]:
            if value != known[0][1]:
                words = f"{name} was prepared with {key} {value}, {known[0][0]} with {known[0][1]}"
                raise UsageError(f"{words}: prepare alike what is to train as one")


def _setting(folder: Folder, key: str) -> Any:
    """Return what a folder was prepared with; the rule for healthy is None where its kind of data has no such rules."""
    if key == "size":
        return folder.manifest["size"]
    source = SOURCES.get(folder.manifest["inputs"]["kind"])
    if key == "healthy" and (source is None or not source.healthy_rules):
        return None
    value = folder.manifest["settings"].get(key)
    return sorted(value) if isinstance(value, list) else value


def _join_manifests(folders: Sequence[Folder]) -> dict[str, Any]:
    """Return what the folders' manifests say together: a fact of all, or null where they differ."""
    manifests = [folder.manifest for folder in folders]
    settings = [manifest["settings"] for manifest in manifests]
    shared = settings[0] | {name: _agreed([one.get(name) for one in settings]) for name in _MAY_DIFFER}
    rules = [rule for folder in folders if (rule := _setting(folder, "healthy")) is not None]
    inputs = {name: ", ".join(dict.fromkeys(one["inputs"][name] for one in manifests)) for name in ("kind", "root")}
    whites, conventions = ([v for one in manifests if (v := one.get(name))] for name in ("white", "stored_as"))
    settled = list[str]()
    if len(set(whites)) > 1:
        differing = ", ".join(
            f"{folder.name} {folder.manifest['white']}" for folder in folders if folder.manifest["white"]
        )
        settled.append(f"white of 16-bit files differs ({differing}), so that score takes each file's own: see --white")
    return {
        "command": "prepare",
        "inputs": inputs,
        "settings": shared | {"healthy": rules[0] if rules else shared["healthy"]},
        "size": manifests[0]["size"],
        "phantoms": all(one["phantoms"] for one in manifests),
        "by_patient": all(one["by_patient"] for one in manifests),
        "white": _agreed(whites),
        "stored_as": _agreed(conventions),
        "notes": [f"{folder.name}: {note}" for folder in folders for note in folder.manifest["notes"]],
        "joined": settled,
    }


def _agreed(values: Sequence[Any]) -> Any:
    """Return the value that all are; None where they differ or there is none."""
    return values[0] if values and all(value == values[0] for value in values) else None


def _renamed(folders: Sequence[Folder], image_ids: Sequence[str], part: str) -> list[list[str]]:
    """Return the groups of image_ids that the manifests name in a part, by the names that the images have now."""
    groups, start = list[list[str]](), 0
    for folder in folders:
        own = folder.index["image_id"].tolist()
        if listed := folder.manifest[part]:
            name_of = dict(zip(own, image_ids[start : start + len(own)], strict=True))
            groups += [[name_of[name] for name in group] for group in listed]
        start += len(own)
    return groups


def _shared_pixels(
    images: JoinedArray, usable: NDArray[np.bool_], folder_of: NDArray[np.integer]
) -> NDArray[np.integer]:
    """Return the number of each usable row's group of equal prepared pixels, int (N,); -1: no other folder has them.

    What equals has an equal middle row too, so whole images are read of those alone whose middle row several folders
    have.
    """
    middles, wholes = (np.full(len(images), None, object) for _ in range(2))
    with Progress("comparing folders", len(images), unit="images") as progress:
        start = 0
        for array in images.parts:
            for first in range(0, len(array), _CHUNK):
                # A map of its own, so that the pages that were looked at are given back with it.
                rows = mapped(named_file(array))[first : first + _CHUNK, images.shape[1] // 2]
                middles[start : start + len(rows)] = [_hashed(row) for row in rows]
                start += len(rows)
                progress.advance(len(rows))
    middles[~usable] = None
    for row in np.flatnonzero(_in_several(copy_groups(middles), folder_of)):
        wholes[row] = _hashed(images[row])
    groups = copy_groups(wholes)
    return np.where(_in_several(groups, folder_of), groups, -1)


def _hashed(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()


def _in_several(groups: NDArray[np.integer], folder_of: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Say of each row whether its group, int (N,) with -1 for none, has rows of several folders."""
    lowest = np.full(groups.max(initial=-1) + 2, folder_of.max(initial=0) + 1)  # the last stands for -1
    highest = np.full(len(lowest), -1)
    np.minimum.at(lowest, groups, folder_of)
    np.maximum.at(highest, groups, folder_of)
    return (groups >= 0) & (highest[groups] > lowest[groups])


def _contradicting(
    frame: pd.DataFrame, groups: NDArray[np.integer], known: Sequence[Sequence[str]]
) -> NDArray[np.bool_]:
    """Say of each row whether its copies in other folders contradict its health, or did so in a folder of theirs."""
    was_known = frame["image_id"].isin({name for group in known for name in group}).to_numpy(bool)
    of_group = np.zeros(groups.max(initial=-1) + 2, bool)
    of_group[groups[was_known]] = True
    return contradicting_health(frame["healthy"], groups) | ((groups >= 0) & of_group[groups])


def _one_patient(folders: Sequence[Folder], groups: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the number of each row's patient, int (N,)."""
    patients, studies = list[NDArray[np.object_]](), list[NDArray[np.object_]]()
    for number, folder in enumerate(folders):
        # Where prepare knew no patient, it called the patient as it called the image: no other folder means the same.
        own = (f"{number}/" + folder.index["patient_id"]).to_numpy(object)
        patients.append(np.where(pd.isna(folder.patients), own, folder.patients))
        kind = folder.manifest["inputs"]["kind"]
        studies.append((f"{kind}:" + folder.index["study_id"]).to_numpy(object))
    shared = np.where(groups >= 0, groups, np.nan)
    return connected_rows((np.concatenate(patients), np.concatenate(studies), shared), sum(map(len, patients)))


def _patient_names(
    folders: Sequence[Folder], frame: pd.DataFrame, patient: NDArray[np.integer], places: NDArray[np.object_]
) -> pd.Series:
    """Return the patient_id of each row: the first in sorted order of its patient's own, as prepare chooses."""
    ids, dtype = frame["patient_id"], frame["patient_id"].dtype
    known = ids.mask(pd.isna(np.concatenate([folder.patients for folder in folders])))
    names = first_of_each(patient, known)
    names = names.where(names.notna(), first_of_each(patient, ids)).to_numpy(object)
    _, rows, patient_number = np.unique(patient, return_index=True, return_inverse=True)
    distinct = index.distinct_names(names[rows].tolist(), lambda number: f"{places[rows[number]]}{names[rows[number]]}")
    return pd.Series(np.array(distinct, object)[patient_number], frame.index, dtype)


def _most_held_out(split: pd.Series, patient: NDArray[np.integer]) -> pd.Series:
    """Return the splits with each patient in the most held out of its own; unused and null stay."""
    rank = split.map({name: number for number, name in enumerate(HELD_OUT)}).fillna(-1).to_numpy(int)
    highest = np.full(patient.max(initial=0) + 1, -1)
    np.maximum.at(highest, patient, rank)
    chosen = np.array([*HELD_OUT, None], object)[highest[patient]]
    return split.mask(rank >= 0, pd.Series(chosen, split.index, split.dtype))


def _notes(patients: int, moved: int, copies: int) -> list[str]:
    """Return sentences on what joining had to settle."""
    notes = list[str]()
    if patients:
        known = f"{plural(patients, 'patient')} of several folders, by id, study or pixels"
        notes.append(f"{known}, are each in the most held out of their splits, which moved {plural(moved, 'image')}")
    if copies:
        words = "unused: copies of another folder's images, or contradicting their health"
        notes.append(f"{plural(copies, 'image')} {words}")
    return notes
