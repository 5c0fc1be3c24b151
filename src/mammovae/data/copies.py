"""Images with the same pixels: which of them is used, and which are set aside for good."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Rows = NDArray[np.bool_]


class Copies(NamedTuple):
    """The groups of images with the same pixels: what a manifest says of them, and which rows are not used."""

    duplicates: list[list[str]]  # image_ids, the one that is used first
    contradictions: list[list[str]]  # image_ids; some are healthy, some have a finding: none is used
    reasons: pd.Series  # of the rows that are not used, null for others


def copy_groups(digests: NDArray[np.object_]) -> NDArray[np.integer]:
    """Return the number of each row's group of equal pixels, int (n,), from a hash an image (None: no pixels).

    -1 is a row whose pixels no other has.
    """
    groups = pd.factorize(digests)[0].astype(int)
    known = groups >= 0
    if known.any():
        groups[known] = np.where(np.bincount(groups[known])[groups[known]] > 1, groups[known], -1)
    return groups


def contradicting_health(healthy: pd.Series, groups: NDArray[np.integer]) -> Rows:
    """Say of each row whether its pixels are called healthy in one row and not in another, bool (n,)."""
    known, count = groups >= 0, max(groups.max(initial=-1) + 1, 1)
    both = np.ones(count, bool)
    for value in (True, False):
        is_value = (healthy == value).fillna(False).to_numpy(bool) & known
        both &= np.bincount(groups[is_value], minlength=count) > 0
    return known & both[groups]


def find_copies(frame: pd.DataFrame, groups: NDArray[np.integer], contradicting: Rows) -> Copies:
    """Choose one image of each group: in test where one is, else used, else of known health, else the first.

    Groups of contradicting rows keep none.
    """
    rows = np.flatnonzero(groups >= 0)
    rank = frame["split"].map({"test": 0, "unused": 2}).fillna(1).to_numpy(float)
    order = rows[np.lexsort((rows, frame["healthy"].isna().to_numpy(bool)[rows], rank[rows], groups[rows]))]
    names = frame["image_id"].to_numpy(object)
    bounds = np.flatnonzero(np.diff(groups[order])) + 1
    lists: tuple[list[list[str]], list[list[str]]] = ([], [])
    texts: dict[int, str] = {}
    for group in np.split(order, bounds) if len(order) else ():
        is_contradiction = bool(contradicting[group[0]])
        lists[is_contradiction].append(names[group].tolist())
        if is_contradiction:
            texts[int(group[0])] = f"the same pixels as {names[group[1]]}, with another health: neither is used"
        words = ", with another health: neither is used" if is_contradiction else ""
        texts |= dict.fromkeys(group[1:].tolist(), f"the same pixels as {names[group[0]]}{words}")
    reasons = np.full(len(frame), None, object)
    reasons[list(texts)] = list(texts.values())
    return Copies(*lists, pd.Series(reasons, frame.index, frame["reason"].dtype))


def set_aside(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> set[str]:
    """Return the image_ids of an index that are in no split and no fold, whatever is asked for.

    Copies of another image, images whose copies contradict each other's health, and kinds of image that prepare was not
    asked for (--kinds). A folder of generated images has neither of the latter.
    """
    copies = {name for group in manifest["duplicates"] for name in group[1:]}
    contradicting = {name for group in manifest.get("contradictions", []) for name in group}
    kinds = manifest["settings"].get("kinds")
    is_other = frame["kind"].notna() & ~frame["kind"].isin(kinds) if kinds else pd.Series(False, frame.index)
    return copies | contradicting | set(frame.loc[is_other, "image_id"])
