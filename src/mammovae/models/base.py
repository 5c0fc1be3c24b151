"""The interface of a member (one trained network of a run), and its weights on disk."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator as TorchGenerator
from torch import Tensor, nn

from mammovae.config import InputError, LesionKind, SamplingMode
from mammovae.data.dataset import Batch
from mammovae.models.noise import ImageNoise, StepContext
from mammovae.storage import atomic_write

WEIGHTS = "model.safetensors"
HISTORY = "history.csv"


ELBO_PARTS = {"reconstruction": "reconstruction (nats)", "kl": "KL divergence (nats)"}
"""The parts of an ELBO with their titles, for a loss curve."""


class Member(nn.Module):
    """A network that describes itself; constructed from its own settings."""

    name: ClassVar[str]
    bilateral: ClassVar[bool] = False
    """Whether it needs the other breast; then it trains on healthy pairs alone."""
    augmented: ClassVar[bool] = False
    """Whether its training images are moved and re-exposed at random."""
    mirrored: ClassVar[bool] = False
    """Whether they are turned upside down as well."""
    detects: ClassVar[bool] = True
    """Whether its scores are made to find lesions; a run without such a member only makes images."""
    reported: ClassVar[Mapping[str, str]] = {}
    """Scores, with their headings, that an evaluation lists beside the finding score where that is one score alone."""
    scores: ClassVar[Mapping[str, str]]
    """The main one first, each with what it means that it is the one furthest above healthy images."""
    maps: ClassVar[tuple[str, ...]]
    curve: ClassVar[Mapping[str, str]]
    """Columns of its history that its loss curve shows, each with its title and unit."""
    size: int
    """Rows and columns of its images, in pixels."""
    inserted_kinds: tuple[LesionKind, ...] = ()
    """Kinds of lesions that it inserts into its training images."""

    @abstractmethod
    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return what training minimises, "loss", and the terms that its history is made of, (n,) or (n, d) each.

        A term belongs to its image alone; "loss" need not, where epoch_losses makes it anew. "kl_dimensions" (n, d), in
        nats, is the divergence of each dimension of a latent.
        """

    def epoch_losses(self, means: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what history.csv says of an epoch from the means over its images of what losses returned, float64.

        They say it themselves, unless the losses hold a likelihood under a variance that all images share.
        """
        return means

    @abstractmethod
    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return its scores (n,) and its maps (n, 1, S, S) by name, higher = further from healthy, without noise."""

    def finalize_fit(self, batches: Iterable[tuple[Batch, ImageNoise]]) -> None:
        """Take from the healthy training images, once fitted, what no gradient gives (a latent's distribution)."""


class Autoencoder(Member):
    """A member that reconstructs images."""

    @abstractmethod
    def reconstruct(self, batch: Batch) -> Tensor:
        """Return what it makes of images without noise, in [0, 1], (n, 1, S, S)."""


class Generator(Autoencoder):
    """A member that makes images from latent vectors of length dimensions."""

    dimensions: int
    conditional: ClassVar[bool] = False
    """Whether it was given side, view and density, and can be asked for them."""
    shown_mode: ClassVar[SamplingMode] = "latent"
    """How the images that a report shows are drawn."""

    @abstractmethod
    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(z | image), (n, dimensions) each."""

    @abstractmethod
    def generate_images(
        self, z: Tensor, condition: Tensor, generators: list[TorchGenerator]
    ) -> tuple[Tensor, Tensor | None]:
        """Return images in [0, 1] and, where the member knows of any, their breast masks, (n, 1, S, S) each.

        z: (n, dimensions); condition: (n, 6), as Data.conditions; generators: one for each image's texture.
        """


def save_weights(member: nn.Module, path: Path) -> None:
    """Write a member's weights as safetensors in one step."""
    with atomic_write(path) as partial:
        save_file({key: value.contiguous() for key, value in member.state_dict().items()}, partial)


def load_weights(member: nn.Module, path: Path) -> None:
    """Load weights into a member and set it to evaluation."""
    try:
        member.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path} does not hold this member's weights: {str(error).splitlines()[0]}") from error
    member.eval()
