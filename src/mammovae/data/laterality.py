"""At which edge the chest wall lies, compared with the side that the list or the header gives."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd


def chest_wall_convention(sides: Sequence[Any], walls: Mapping[int, str]) -> Literal["standard", "mirrored"] | None:
    """Say how a set is stored: "standard" (left breast, chest wall on the left), "mirrored", or None where unknown.

    walls gives "left" or "right" by row of sides. A set that is mirrored as a whole (as mini-MIAS is) is no fault; an
    image that goes against its set is.
    """
    is_standard = [(sides[row] == "L") == (wall == "left") for row, wall in walls.items() if not pd.isna(sides[row])]
    if not is_standard:
        return None
    return "standard" if np.mean(is_standard) >= 0.5 else "mirrored"


def against_header(side: str | None, chest_wall: str, convention: str | None) -> bool:
    """Say whether the chest wall lies at the other edge than the side and the set's convention ask for."""
    if convention is None or side is None or pd.isna(side):
        return False
    return chest_wall != ("left" if (side == "L") == (convention == "standard") else "right")
