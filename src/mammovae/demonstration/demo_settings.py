"""How large the demo is, and what it trains: the presets, as small and short as minutes on two cores ask for."""

from pathlib import Path

from pydantic import Field

from mammovae.config import PRESETS, LesionKinds, PrepareSettings, PresetName, Protocol, Settings, TrainSettings

SHOWN: tuple[PresetName, PresetName] = ("original", "detect")
"""The presets that stand side by side."""
_VISIBLE: LesionKinds = ("mass",)


class DemoSettings(Settings):
    """The demo's phantoms and trainings."""

    patients: int = Field(112, ge=1, le=1_000_000)
    """Phantom patients, of four images each; half of them have a lesion."""
    rows: int = Field(240, ge=32, le=4096)
    """Rows of a phantom's image, in pixels."""
    lesions: LesionKinds = _VISIBLE
    """Kinds of inserted lesions: those that show in prepared images, whose pixels of 1 to 2 mm hold no fine lines."""
    contrast: float = Field(3.0, ge=0.1, le=10)
    """Factor on the contrast of inserted lesions."""
    prepared: PrepareSettings = PrepareSettings()
    original: TrainSettings = PRESETS["original"].merged(
        {"epochs": 14, "batch_size": 8, "vae": {"filters": (16, 32, 64, 128), "latent": 128}, "validation_images": 8}
    )
    """The original network with half the filters and fewer latent dimensions, for so few images."""
    detect: TrainSettings = PRESETS["detect"].merged(
        {
            "epochs": 8,
            "members": ("residual_vae", "lesion_segmenter"),
            "fused": ("lesion_segmenter_top", "lesion_segmenter_area"),
            "maps": ("lesion_segmenter",),
            "validation_images": 8,
            "residual_vae": {"widths": (16, 32, 48), "latent": 4},
            "lesion_segmenter": {"size": 128, "widths": (16, 32, 48, 64), "kinds": _VISIBLE, "presentations": 3_000},
        }
    )
    """Two of the detecting members, on prepared images as they are; these scores were the best on masses of family
    validation inserted into healthy validation and calibration phantoms (0.91 each, the peak 0.89)."""
    generated: int = Field(64, ge=1, le=10_000_000)
    """Images to generate."""
    stressed: int = Field(6, ge=1, le=10_000_000)
    """Healthy test images that faults and lesions are inserted into."""


def run_folder(out: Path, preset: PresetName) -> Path:
    """Return where the demo in out trains a preset."""
    return out / f"run-{preset}"


def evaluation_folder(out: Path, preset: PresetName, protocol: Protocol) -> Path:
    """Return where the demo in out evaluates a preset's run."""
    return out / f"evaluation-{preset}-{protocol}"
