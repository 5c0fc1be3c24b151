"""The preset that every other one is compared with, and its network where a run has it."""

from mammovae import config
from mammovae.config import PresetName, TrainSettings
from mammovae.models.run import Run

REFERENCE_PRESET: PresetName = "original"
REFERENCE_LOSS = "original_reconstruction_loss"
"""The column of its reconstruction loss."""


def reference_settings(chosen: TrainSettings) -> TrainSettings:
    """Return that preset's settings, to be trained on the same images."""
    names = ("side", "view", "include", "seed")
    return config.preset(REFERENCE_PRESET, {name: getattr(chosen, name) for name in names})


def has_reference(run: Run) -> bool:
    """Say whether that preset's network is one of a run's, and its loss is not the finding score itself."""
    is_member = "vae" in run.members and run.settings.vae == config.preset(REFERENCE_PRESET).vae
    return is_member and run.settings.fused != ("reconstruction_loss",)
