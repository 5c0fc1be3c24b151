"""The preset that every other one is compared with."""

from mammovae import config
from mammovae.config import PresetName, TrainSettings

REFERENCE_PRESET: PresetName = "original"
"""The preset that every other one is compared with, on the same folds."""


def reference_settings(chosen: TrainSettings) -> TrainSettings:
    """Return the settings of the preset that others are compared with, on the same images."""
    return config.preset(
        REFERENCE_PRESET, {name: getattr(chosen, name) for name in ("side", "view", "include", "seed")}
    )
