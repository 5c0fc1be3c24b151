"""At which edge the chest wall lies, compared with the side that the list or the header gives."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd


def chest_wall_convention(frame: pd.DataFrame, walls: Mapping[int, str]) -> Literal["standard", "mirrored"] | None:
    """Say how a set is stored: "standard" (left breast, chest wall on the left), "mirrored", or None where unknown.

    walls gives "left" or "right" by row. A set that is mirrored as a whole (as mini-MIAS is) is no fault; an image that
    goes against its set is.
    """
    sides = ((frame["side"].iloc[row], wall) for row, wall in walls.items())
    is_standard = [(side == "L") == (wall == "left") for side, wall in sides if not pd.isna(side)]
    if not is_standard:
        return None
    return "standard" if np.mean(is_standard) >= 0.5 else "mirrored"


def against_header(side: str | None, chest_wall: str, convention: str | None) -> bool:
    """Say whether the chest wall lies at the other edge than the side and the set's convention ask for."""
    if convention is None or side is None or pd.isna(side):
        return False
    return chest_wall != ("left" if (side == "L") == (convention == "standard") else "right")


def with_laterality_warnings(frame: pd.DataFrame, walls: Mapping[int, str], convention: str | None) -> pd.DataFrame:
    """Return the frame with a warning in reason wherever the chest wall contradicts the side."""
    reasons = frame["reason"].tolist()
    for row, wall in walls.items():
        side = frame["side"].iloc[row]
        if against_header(side, wall, convention):
            warning = f"side {side}, but the chest wall lies on the image's {wall}"
            reasons[row] = warning if pd.isna(reasons[row]) else f"{reasons[row]}; {warning}"
    return frame.assign(reason=pd.array(reasons, dtype=frame["reason"].dtype))
