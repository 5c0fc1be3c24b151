"""The preset that every other one is compared with, on the same folds."""

from mammovae import config
from mammovae.config import PresetName, TrainSettings

REFERENCE_PRESET: PresetName = "original"


def reference_settings(chosen: TrainSettings) -> TrainSettings:
    """Return that preset's settings, to be trained on the same images."""
    names = ("side", "view", "include", "seed")
    return config.preset(REFERENCE_PRESET, {name: getattr(chosen, name) for name in names})
