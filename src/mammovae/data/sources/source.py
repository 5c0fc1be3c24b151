"""What a kind of raw data says of itself, so that no other file has to know it by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd


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
