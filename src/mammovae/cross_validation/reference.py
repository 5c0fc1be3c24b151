"""The preset that every other one is compared with."""

from mammovae import config
from mammovae.config import PresetName, TrainSettings

REFERENCE: PresetName = "original"
"""The preset beside which every other one is judged, on the same folds."""


def reference_settings(chosen: TrainSettings) -> TrainSettings:
    """Return the settings of the preset that others are judged beside, on the same images."""
    return config.preset(REFERENCE, {name: getattr(chosen, name) for name in ("side", "view", "include", "seed")})
