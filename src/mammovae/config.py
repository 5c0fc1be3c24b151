"""Settings as frozen models: at once the TOML file, the command-line flags and what a folder's manifest stores."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class InputError(ValueError):
    """Something given to mammovae cannot be used; the message is one sentence: what, where, what to do."""


class UsageError(InputError):
    """A command or function was called in a way that cannot be right, whatever the data."""


class _OneSentence(type(BaseModel)):
    """The type of settings: building them from a wrong value is a UsageError that names the nearest known key."""

    if not TYPE_CHECKING:  # a type checker knows the fields from the class

        def __call__(cls, **values: Any) -> Any:
            """Build settings from their values."""
            try:
                return super().__call__(**values)
            except ValidationError as error:
                raise UsageError(format_validation_error(error, cls)) from None


class Settings(BaseModel, metaclass=_OneSentence):
    """A group of settings: frozen, unknown keys refused, each field described by the text under it."""

    # A default is validated too, so that 60 and 60.0 are the same wherever settings are compared by what is written.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    def merged(self, values: Mapping[str, Any]) -> Self:
        """Return these settings with some replaced; nested values are merged, not replaced whole."""

        def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
            nested = [key for key in over if isinstance(over[key], Mapping) and isinstance(base.get(key), Mapping)]
            return {**base, **over, **{key: merge(base[key], over[key]) for key in nested}}

        return type(self)(**merge(self.model_dump(), values))

    def given(self) -> dict[str, Any]:
        """Return only what was set by hand, nested, so that it can be laid over a preset."""
        return self.model_dump(exclude_unset=True)


Side = Literal["L", "R"]
View = Literal["CC", "MLO"]
DensityClass = Literal["A", "B", "C", "D"]
HealthyRule = Literal["birads12", "birads1", "image"]
SourceKind = Literal["vindr", "mias", "cbis-ddsm", "folder", "dicom"]
ImageKind = Literal[
    "mammogram",
    "synthetic_2d",
    "tomosynthesis",
    "contrast_enhanced",
    "magnified",
    "spot",
    "stereotactic",
    "implant",
    "partial",
    "specimen",
    "quality_control",
    "other",
]
LesionKind = Literal["mass", "spiculated", "calcification", "distortion", "asymmetry"]
Layout = Literal["vindr", "vindr-png", "dicom", "folder"]
PresetName = Literal["original", "detect", "generate", "tiny"]
_OnlySide = Annotated[Side | None, Field(description="Only breasts of this side.")]
_OnlyView = Annotated[View | None, Field(description="Only images of this view.")]
_Widths = Annotated[tuple[int, ...], Field(min_length=1, description="Channels at each level.")]
_SeveralWidths = Annotated[_Widths, Field(min_length=2)]
MemberName = Literal[
    "vae", "residual_vae", "denoiser", "lesion_segmenter", "patch_segmenter", "bilateral_vae", "pyramid_vae"
]
SamplingMode = Literal["vary", "prior", "latent", "interpolate"]


class PrepareSettings(Settings):
    """What decides the content of a DATA folder."""

    size: int = Field(128, ge=16, le=4096)
    """Rows and columns of a prepared image, in pixels."""
    side: _OnlySide = None
    view: _OnlyView = None
    limit: int | None = Field(None, ge=1)
    """Only the first N images that match, in the source's order."""
    healthy: HealthyRule = "birads12"
    """VinDr's rule for a healthy breast: no finding and BI-RADS 1 or 2; BI-RADS 1 alone; or no box on this image."""
    stretch: bool = False
    """Stretch the crop to the square instead of keeping its proportions (the original study's probable way)."""
    kinds: tuple[ImageKind, ...] = Field(("mammogram",), min_length=1)
    """Kinds of image that train and are tested; the others are listed and unused."""
    white: int | None = Field(None, ge=255, le=65535)
    """White of 16-bit PNG and TIFF files; by default the smallest 2^k - 1 that holds every value of the set."""
    seed: int = Field(0, ge=0)
    """Seed of the split by patient."""


class MemberSettings(Settings):
    """What the settings of every network have."""

    size: int = Field(128, ge=16)
    """Rows and columns of the network's images, in pixels."""


class VaeSettings(MemberSettings):
    """A convolutional VAE's shape; the default is the original study's."""

    filters: tuple[int, ...] = Field((32, 64, 128, 256), min_length=1)
    """Filters of the encoder's convolutions, each followed by halving the image."""
    latent: int = Field(1024, ge=1)
    """Dimension of the latent vector."""


class ResidualVaeSettings(MemberSettings):
    """The detecting VAE's shape: one residual block and one halving for each width, then a coarse latent grid."""

    widths: _Widths = (8, 24, 48, 64, 64)
    latent: int = Field(8, ge=1)
    """Channels of the latent grid: the latent has this many times the grid's places (4 x 4 at 128 px)."""


class DenoiserSettings(MemberSettings):
    """The denoiser's shape and its noise."""

    widths: _SeveralWidths = (8, 24, 48, 64)
    noise: float = Field(0.6, gt=0)
    """Standard deviation of the noise, in standard deviations of the image's grey."""
    grid: int = Field(16, ge=2)
    """Rows and columns of the grid that the noise is drawn on."""


class LesionSegmenterSettings(MemberSettings):
    """The shape of a network that marks inserted lesions."""

    widths: _SeveralWidths = (8, 24, 48, 64)
    kinds: tuple[LesionKind, ...] = Field(("mass", "spiculated", "asymmetry"), min_length=1)
    """Lesions inserted for it to learn from; at 128 px specks and distortions cannot be seen, and only confuse."""
    patch_size: int | None = Field(None, ge=16)
    """Side of the overlapping patches that it works on, in pixels; without it, on whole images."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the training images, where they are not the run's."""


class BilateralVaeSettings(MemberSettings):
    """The bilateral VAE's shape."""

    widths: _SeveralWidths = (8, 24, 48, 64)
    latent: int = Field(8, ge=1)
    """Dimension of the latent vector."""


class PyramidVaeSettings(ResidualVaeSettings):
    """The generating VAE's shape, beside what it shares with the detecting one's."""

    latent: int = Field(4, ge=1)
    """Channels of the latent grid: the latent has this many times the grid's places (4 x 4 at 128 px)."""
    bands: int = Field(4, ge=1)
    """Bands of detail in the likelihood's Laplacian pyramid, beside the coarse rest."""
    texture: tuple[int, ...] = Field((8, 12, 16, 24), min_length=1)
    """Channels of the texture's decoder at each level, finest first."""
    kl_weight: float = Field(20, gt=0)
    """Weight of the divergence against the composite likelihood."""
    patch_weight: float = Field(3000, gt=0)
    """Weight of the distance between patches, which has no unit."""


class TrainSettings(Settings):
    """A whole training: which images, which networks, how fitted."""

    side: _OnlySide = None
    view: _OnlyView = None
    limit: int | None = Field(None, ge=1)
    """Only N of the matching training images, drawn by the seed."""
    include: Literal["healthy", "unlabelled"] = "healthy"
    """Train on healthy images alone, or also on those whose health is unknown."""
    epochs: int = Field(60, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(32, ge=1)
    """Images a step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Adam's step size."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Keep the step size, or let it fall to 0 along half a cosine (Loshchilov & Hutter, SGDR, ICLR 2017)."""
    precision: Literal["32", "tf32", "16-mixed", "bf16-mixed"] = "32"
    """Arithmetic of training steps on a GPU: float32, its products with 10 bits of mantissa, or half precision where
    that is safe; validation and scores are in float32 always, and so is a CPU."""
    cuda_graphs: bool = False
    """On a single GPU, record a step once and replay it, which spares launching its operations one by one; off because
    it was not measured, and not used with "16-mixed", whose scale a recorded step could not change."""
    seed: int = Field(0, ge=0)
    """Seed of weights, order and noise."""
    checkpoint_seconds: float = Field(60, ge=0)
    """Least time between two checkpoints, in seconds."""
    validation_images: int = Field(2000, ge=1)
    """At most so many validation images, evenly spaced over the split, are used in each epoch."""
    members: tuple[MemberName, ...] = Field(("vae",), min_length=1)
    """The networks of the run; the segmenters need residual_vae."""
    fused: tuple[str, ...] = Field(("reconstruction_loss",), min_length=1)
    """The scores that make up the finding score, with equal weights."""
    fused_bilateral: tuple[str, ...] = ()
    """The scores that join them where the patient's other breast is there."""
    maps: tuple[str, ...] = Field(("reconstruction",), min_length=1)
    """The maps that make up the finding map, with equal weights."""
    vae: VaeSettings = VaeSettings()
    residual_vae: ResidualVaeSettings = ResidualVaeSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    lesion_segmenter: LesionSegmenterSettings = LesionSegmenterSettings()
    patch_segmenter: LesionSegmenterSettings = LesionSegmenterSettings(
        size=512, patch_size=128, kinds=("mass", "spiculated", "calcification", "distortion", "asymmetry")
    )
    bilateral_vae: BilateralVaeSettings = BilateralVaeSettings()
    pyramid_vae: PyramidVaeSettings = PyramidVaeSettings()


_COSINE: dict[str, Any] = {"batch_size": 8, "learning_rate": 2e-3, "schedule": "cosine"}
PRESETS: dict[str, TrainSettings] = {
    "original": TrainSettings(),
    "detect": TrainSettings(
        **_COSINE,
        epochs=40,
        members=("residual_vae", "denoiser", "lesion_segmenter"),
        lesion_segmenter=LesionSegmenterSettings(epochs=120),
        fused=("normalised_peak", "denoising_local_peak", "lesion_segmenter_peak"),
        maps=("normalised", "denoising_local", "lesion_segmenter"),
    ),
    "generate": TrainSettings(**_COSINE, epochs=80, members=("pyramid_vae",), fused=("band_error",), maps=("band",)),
    "tiny": TrainSettings(batch_size=8, vae=VaeSettings(size=64, filters=(16, 32, 64), latent=32)),
}
"""Named trainings: "original" is the study this project grew from, "detect" finds, "generate" makes, "tiny" tests."""


def preset(name: str, values: Mapping[str, Any] | None = None) -> TrainSettings:
    """Return a preset with some settings replaced; an unknown name is refused with the nearest one."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}: choose {suggest(name, PRESETS)}")
    return PRESETS[name].merged(values or {})


def format_validation_error(
    error: ValidationError, model: type[BaseModel] | None = None, arguments: Sequence[str] = ()
) -> str:
    """Return the first fault of settings or arguments in one sentence; with the model, a wrong key with the nearest.

    arguments are the names of those that the error knows by their positions, or of the only one.
    """
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and not place:
        return message  # about several settings at once
    if arguments and (not place or place[0].isdigit()):
        place[:1] = [arguments[min(int(place[0]), len(arguments) - 1) if place else 0]]
    name = ".".join(place)
    if first["type"] == "extra_forbidden" and model is not None:
        for group in place[:-1]:
            model = type(model.model_fields[group].default)
        return f"there is no setting {name!r}: did you mean {suggest(place[-1], model.model_fields)}?"
    return f"setting {name!r} cannot be {first['input']!r}: {message[0].lower()}{message[1:]}"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the known word that word was probably meant to be, in quotes, or all of them."""
    words = list(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return repr(close[0]) if close else "one of " + ", ".join(words)
