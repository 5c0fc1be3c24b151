"""What the sources share: how a kind of raw data describes itself, and files and names in raw trees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mammovae.config import InputError
from mammovae.data.sources.csv_rows import normalise_name
from mammovae.imageio.read import IMAGE_SUFFIXES, read_header


@dataclass(frozen=True)
class Source:
    """A kind of raw data: how its images are listed, and what preparing, evaluating and reporting need to know."""

    reads: str
    """What lies in the raw folder, in words: "no image matches ... (mias reads ...)"."""
    list_images: Callable[..., pd.DataFrame]
    """The raw folder as the index's rows, made by `index.table`: a row an image, in a fixed order, null where unknown,
    status missing for listed files that are absent. Takes `healthy`, a rule's name, if there are healthy_rules. Raises
    InputError, one sentence, when the folder is not of this kind."""
    healthy_rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rules for a healthy image that one can choose from, and what a report has to say of each; none where the data
    itself says which images are healthy."""
    finding_shape: Literal["box", "round"] = "box"
    """Whether a finding fills its box or is the ellipse within (where the data gives centres and radii)."""


def find_entry(folder: Path, name: str) -> Path | None:
    """Return the folder's entry of that name, case, spaces and underscores aside; None where there is none."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name the one that holds the raw data")
    return next((path for path in sorted(folder.iterdir()) if normalise_name(path.name) == normalise_name(name)), None)


def relative(path: Path, root: Path) -> str:
    """Return path as the index stores it: from root, with forward slashes."""
    source = path.relative_to(root).as_posix()
    try:
        source.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of {str(path)!r} is no readable UTF-8: rename the file or its folder") from None
    return source


def without_suffix(source: str) -> str:
    """Drop a suffix that names a format; the dots of a UID stay."""
    stem, dot, suffix = source.rpartition(".")
    return stem if dot + suffix.lower() in IMAGE_SUFFIXES else source


def header_of(path: Path) -> dict[str, Any] | None:
    """Return what a file says of itself; None for one that cannot be read, which fails later, with its reason."""
    try:
        return read_header(path)
    except InputError:
        return None
