"""What the sources share: how a kind of raw data describes itself, and what headers and names say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

import pandas as pd

from mammovae.imageio.raw_tree import MAX_FILE_BYTES, RawTree
from mammovae.imageio.read import IMAGE_SUFFIXES

Headers = Mapping[str, dict[str, Any] | None]
"""What the files that a source asked for say of themselves, by source: None for what is no image by its content, and
{"unreadable": sentence} for one that could not be read."""


def no_file(source: str) -> bool:
    """Say that no file's header is needed for the listing."""
    return False


def every_file(source: str) -> bool:
    """Say that the headers of all files are needed, as only their content tells what they are."""
    return True


@dataclass(frozen=True)
class Source:
    """A kind of raw data: how its images are listed, and what preparing, evaluating and reporting need to know."""

    reads: str
    """What lies in the raw folder, in words: "no image matches ... (mias reads ...)"."""
    list_images: Callable[..., pd.DataFrame]
    """Called with a RawTree and the Headers of the files that needs_header chose, and with `healthy`, a rule's name,
    if there are healthy_rules. Returns the index's rows, made by `index.table`: a row an image, in a fixed order, null
    where unknown, status missing for listed files that are absent, failed for those whose header could not be read.
    Opens tables at most, no image. Raises InputError, one sentence, when the tree is not of this kind."""
    needs_header: Callable[[str], bool] = no_file
    """Whether the header of a file, by its path from the root, is to be read before the listing."""
    healthy_rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rules for a healthy image that one can choose from, and what a report has to say of each; none where the data
    itself says which images are healthy."""
    finding_shape: Literal["box", "round"] = "box"
    """Whether a finding fills its box or is the ellipse within (where the data gives centres and radii)."""


def without_suffix(source: str) -> str:
    """Drop a suffix that names a format; the dots of a UID stay."""
    stem, dot, suffix = source.rpartition(".")
    return stem if dot + suffix.lower() in IMAGE_SUFFIXES else source


def is_dicom_header(header: Mapping[str, Any]) -> bool:
    """Say whether a header is that of a DICOM file: pictures of other formats say their size and nothing else."""
    return "rows" not in header or not header.keys().isdisjoint(("image_id", "patient_id", "study_id", "modality"))


def header_fields(header: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a header says by index columns; status failed, with the reason, where it could not be read."""
    if header is None:
        return {}
    if "unreadable" in header:
        return {"status": "failed", "reason": header["unreadable"]}
    return {name: value for name, value in header.items() if name != "modality"}


def is_image_that_failed(source: str, tree: RawTree) -> bool:
    """Say whether a file that could not be read is likely to be an image: an empty readme.txt is none.

    By its suffix, or, as UIDs and PACS exports have none, unless it is empty or huge with a suffix of another format.
    """
    suffix = PurePosixPath(source).suffix.lower()
    if suffix in IMAGE_SUFFIXES or not suffix[1:].isalpha():
        return True
    return 0 < tree.files[source].size <= MAX_FILE_BYTES
