"""What two trainings that should not differ left behind."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def assert_same_training(run: Path, other: Path, names: Sequence[str]) -> None:
    """Assert that two RUN folders hold the same weights, to the bit, and the same history of the members named."""
    for name in names:
        folders = [path / "members" / name for path in (run, other)]
        weights, others = ((folder / "model.safetensors").read_bytes() for folder in folders)
        assert weights == others, name
        ours, theirs = (pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in folders)
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True, obj=name)
