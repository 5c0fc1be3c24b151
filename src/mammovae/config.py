"""Settings as frozen models: at once the TOML file, the command-line flags and what a folder's manifest stores."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

Item = TypeVar("Item")
_LONGEST_SHOWN = 80  # characters of a wrong value that its refusal shows
_REMEDIES = {"too_short": "give at least {min_length}", "too_long": "give at most {max_length}"}
_REMEDIES |= {"tuple_type": "give a list", "string_type": "give text", "string_too_short": "it is empty"}


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
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Take NumPy's numbers as Python's, and refuse True for 1 and bytes for text."""
        kind = cls.model_fields[info.field_name or ""].annotation
        return _plain(value, _mentions(kind, int, float) and not _mentions(kind, bool))

    def merged(self, values: Mapping[str, Any]) -> Self:
        """Return these settings with some replaced; nested values are merged, not replaced whole."""

        def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
            nested = [key for key in over if isinstance(over[key], Mapping) and isinstance(base.get(key), Mapping)]
            return {**base, **over, **{key: merge(base[key], over[key]) for key in nested}}

        return type(self)(**merge(self.model_dump(), values))

    def given(self) -> dict[str, Any]:
        """Return only what was set by hand, nested, so that it can be laid over a preset."""
        return self.model_dump(exclude_unset=True)


def _plain(value: Any, is_number: bool) -> Any:
    if hasattr(value, "tolist") and (is_number or value.ndim == 0):
        value = value.tolist()
    if isinstance(value, bytes):
        raise ValueError("give text, not bytes")
    if is_number and isinstance(value, bool):
        raise ValueError("give a number, not a truth value")
    return type(value)(_plain(one, is_number) for one in value) if type(value) in (list, tuple) else value


def _mentions(annotation: Any, *kinds: type) -> bool:
    return annotation in kinds or any(_mentions(part, *kinds) for part in get_args(annotation))


def _distinct(items: tuple[Item, ...]) -> tuple[Item, ...]:
    if repeated := [item for number, item in enumerate(items) if item in items[:number]]:
        raise ValueError(f"{repeated[0]!r} is there twice: name each once")
    return items


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
Seed = Annotated[int, Field(ge=0, lt=2**32)]
White = Annotated[int, Field(ge=255, le=65535)]
_OnlySide = Annotated[Side | None, Field(description="Only breasts of this side.")]
_OnlyView = Annotated[View | None, Field(description="Only images of this view.")]
_OnlyFirst = Annotated[int | None, Field(ge=1, le=1_000_000_000)]
_Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=12)]
_Widths = Annotated[_Channels, Field(description="Channels at each level.")]
_SeveralWidths = Annotated[_Widths, Field(min_length=2)]
_Latent = Annotated[int, Field(ge=1, le=65536)]
_Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
_Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_distinct)]
LesionKinds = Annotated[tuple[LesionKind, ...], AfterValidator(_distinct), Field(min_length=1)]
MemberName = Literal[
    "vae", "residual_vae", "denoiser", "lesion_segmenter", "patch_segmenter", "bilateral_vae", "pyramid_vae"
]
SamplingMode = Literal["vary", "prior", "latent", "interpolate"]
Protocol = Literal["full", "original"]
ExportForm = Literal["png", "npy"]


class PrepareSettings(Settings):
    """What decides the content of a DATA folder."""

    size: int = Field(128, ge=16, le=4096)
    """Rows and columns of a prepared image, in pixels."""
    side: _OnlySide = None
    view: _OnlyView = None
    limit: _OnlyFirst = None
    """Only the first N images that match, in the source's order."""
    healthy: HealthyRule = "birads12"
    """VinDr's rule for a healthy breast: no finding and BI-RADS 1 or 2; BI-RADS 1 alone; or no box on this image."""
    stretch: bool = False
    """Stretch the crop to the square instead of keeping its proportions (the original study's probable way)."""
    kinds: Annotated[tuple[ImageKind, ...], AfterValidator(_distinct)] = Field(("mammogram",), min_length=1)
    """Kinds of image that train and are tested; the others are listed and unused."""
    white: White | None = None
    """White of 16-bit PNG and TIFF files; by default the smallest 2^k - 1 that holds every value of the set."""
    seed: Seed = 0
    """Seed of the split by patient."""


class MemberSettings(Settings):
    """What the settings of every network have."""

    size: int = Field(128, ge=16, le=4096)
    """Rows and columns of the network's images, in pixels."""


class VaeSettings(MemberSettings):
    """A convolutional VAE's shape; the default is the original study's."""

    filters: _Channels = (32, 64, 128, 256)
    """Filters of the encoder's convolutions, each followed by halving the image."""
    latent: _Latent = 1024
    """Dimension of the latent vector."""


class ResidualVaeSettings(MemberSettings):
    """The detecting VAE's shape: one residual block and one halving for each width, then a coarse latent grid."""

    widths: _Widths = (8, 24, 48, 64, 64)
    latent: _Latent = 8
    """Channels of the latent grid: the latent has this many times the grid's places (4 x 4 at 128 px)."""


class DenoiserSettings(MemberSettings):
    """The denoiser's shape and its noise."""

    widths: _SeveralWidths = (8, 24, 48, 64)
    noise: float = Field(0.6, gt=0, le=100)
    """Standard deviation of the noise, in standard deviations of the image's grey."""
    grid: int = Field(16, ge=2, le=4096)
    """Rows and columns of the grid that the noise is drawn on."""


class LesionSegmenterSettings(MemberSettings):
    """The shape of a network that marks inserted lesions."""

    size: int = Field(256, ge=16, le=4096)
    """Rows and columns of the network's images, in pixels."""
    widths: _SeveralWidths = (24, 48, 64, 96, 128)
    """Channels at each level; the first one works on images of half the size."""
    kinds: LesionKinds = ("mass", "spiculated", "distortion", "asymmetry")
    """Lesions inserted for it to learn from."""
    patch_size: int | None = Field(None, ge=16, le=4096)
    """Side of the overlapping patches that it works on, in pixels; without it, on whole images."""
    presentations: int | None = Field(None, ge=1, le=1_000_000_000)
    """Images shown to it in all, with new lesions each time; without it, those of the run's epochs."""


_PATCHES = LesionSegmenterSettings(size=512, patch_size=256, kinds=("calcification", "distortion"))


class BilateralVaeSettings(MemberSettings):
    """The bilateral VAE's shape."""

    widths: _SeveralWidths = (8, 24, 48, 64)
    latent: _Latent = 8
    """Dimension of the latent vector."""


class PyramidVaeSettings(ResidualVaeSettings):
    """The generating VAE's shape at 128 px, beside what it shares with the detecting one's.

    With each doubling of the size the networks get one level more.
    """

    latent: _Latent = 4
    """Channels of the latent grid: the latent has this many times the grid's places (4 x 4 at 128 px)."""
    bands: int = Field(4, ge=1, le=12)
    """Bands of detail in the likelihood's Laplacian pyramid, beside the coarse rest."""
    refiner: _Channels = (64, 96, 128, 160)
    """Channels of the network that draws detail, at each level; the first one works on half the rows and columns."""
    kl_weight: float = Field(20, gt=0, le=1e6)
    """Weight of the divergence against the composite likelihood."""
    presentations: int | None = Field(None, ge=1, le=1_000_000_000)
    """Images shown to it in all; without it, those of the run's epochs."""


class TrainSettings(Settings):
    """A whole training: which images, which networks, how fitted."""

    side: _OnlySide = None
    view: _OnlyView = None
    limit: _OnlyFirst = None
    """Only N of the matching training images, drawn by the seed."""
    include: Literal["healthy", "unlabelled"] = "healthy"
    """Train on healthy images alone, or also on those whose health is unknown."""
    epochs: _Epochs = 60
    """Passes over the training images."""
    batch_size: int = Field(32, ge=1, le=65536)
    """Images a step."""
    learning_rate: float = Field(1e-3, gt=0, le=1e6)
    """Adam's step size."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Keep the step size, or let it fall to 0 along half a cosine (Loshchilov & Hutter, SGDR, ICLR 2017)."""
    precision: Literal["32", "tf32", "16-mixed", "bf16-mixed"] = "32"
    """Arithmetic of training steps on a GPU: float32, its products with 10 bits of mantissa, or half precision where
    that is safe; on a CPU float32, and "bf16-mixed" where it has matrix units for it. Validation and scores are in
    float32 always."""
    cuda_graphs: bool = False
    """On a single GPU, record a step once and replay it, which spares launching its operations one by one; off because
    it was not measured, and not used with "16-mixed", whose scale a recorded step could not change."""
    seed: Seed = 0
    """Seed of weights, order and noise."""
    checkpoint_seconds: float = Field(60, ge=0, lt=1e6)
    """Least time between two checkpoints, in seconds."""
    validation_images: int = Field(2000, ge=1, le=1_000_000_000)
    """At most so many validation images, evenly spaced over the split, are used in each epoch."""
    members: Annotated[tuple[MemberName, ...], AfterValidator(_distinct)] = Field(("vae",), min_length=1)
    """The networks of the run."""
    fused: _Names = Field(("reconstruction_loss",), min_length=1)
    """The scores that make up the finding score, with equal weights."""
    fused_bilateral: _Names = ()
    """The scores that join them where the patient's other breast is there."""
    maps: _Names = Field(("reconstruction",), min_length=1)
    """The maps that make up the finding map, with equal weights."""
    vae: VaeSettings = VaeSettings()
    residual_vae: ResidualVaeSettings = ResidualVaeSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    lesion_segmenter: LesionSegmenterSettings = LesionSegmenterSettings()
    patch_segmenter: LesionSegmenterSettings = _PATCHES
    bilateral_vae: BilateralVaeSettings = BilateralVaeSettings()
    pyramid_vae: PyramidVaeSettings = PyramidVaeSettings()


_COSINE: dict[str, Any] = {"batch_size": 8, "learning_rate": 2e-3, "schedule": "cosine"}
PRESETS: dict[str, TrainSettings] = {
    "original": TrainSettings(),
    "detect": TrainSettings(
        **_COSINE,
        epochs=40,
        precision="bf16-mixed",
        members=("residual_vae", "denoiser", "lesion_segmenter", "patch_segmenter"),
        lesion_segmenter=LesionSegmenterSettings(presentations=24_000),
        patch_segmenter=_PATCHES.merged({"presentations": 24_000}),
        fused=("lesion_segmenter_peak", "patch_segmenter_peak"),
        maps=("lesion_segmenter", "patch_segmenter"),
    ),
    "generate": TrainSettings(
        **_COSINE | {"learning_rate": 1e-3},
        precision="bf16-mixed",
        members=("pyramid_vae",),
        pyramid_vae=PyramidVaeSettings(presentations=48_000),
        fused=("band_error",),
        maps=("band",),
    ),
    "tiny": TrainSettings(batch_size=8, vae=VaeSettings(size=64, filters=(16, 32, 64), latent=32)),
}
"""Named trainings: "original" is the study this project grew from, "detect" finds, "generate" makes, "tiny" tests."""


def preset(name: str, values: Mapping[str, Any] | None = None) -> TrainSettings:
    """Return a preset with some settings replaced; an unknown name is refused with the nearest one."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}: choose {suggest(name, PRESETS)}")
    return PRESETS[name].merged(values or {})


def format_validation_error(error: ValidationError, model: type[BaseModel], *within: str) -> str:
    """Return the first fault of a model's values in one sentence, with the known word that is nearest to a wrong one.

    within names the argument that holds the values, where the error does not.
    """
    first = error.errors()[0]
    place, value, kind = [*within, *map(str, first["loc"])], first["input"], first["type"]
    message, limits = first["msg"].removeprefix("Value error, "), first.get("ctx", {})
    name, shown = ".".join(place), " ".join(repr(value).split())
    if kind == "extra_forbidden":
        group: Any = model
        for part in place[:-1]:
            group = group.model_fields[part].annotation
        return f"there is no setting {name!r}: did you mean {suggest(place[-1], group.model_fields)}?"
    if kind == "literal_error":
        words = re.findall("'(.*?)'", limits["expected"])
        message = f"did you mean {suggest(str(value), words)}?"
    elif kind in _REMEDIES:
        message = _REMEDIES[kind].format(**limits)
    elif isinstance(value, str) and kind.startswith(("greater_", "less_", "finite_")):
        shown = value  # the text of a number, from the command line
    shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
    return f"setting {name!r} cannot be {shown}: {message[0].lower()}{message[1:]}"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the known word that word was probably meant to be, in quotes, or all of them."""
    words = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(word.casefold(), words, n=1, cutoff=0.6)
    return repr(words[close[0]]) if close else "one of " + ", ".join(words.values())
