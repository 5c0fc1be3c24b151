"""The interface of a member (one trained network of a run), and its weights on disk."""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator as TorchGenerator
from torch import Tensor, nn

from mammovae.config import InputError, LesionKind
from mammovae.data.dataset import Batch
from mammovae.storage import atomic_write

WEIGHTS = "model.safetensors"
HISTORY = "history.csv"


class Member(nn.Module):
    """What every member offers beyond a torch module."""

    size: int
    """Rows and columns of its images, in pixels."""
    augmented = False
    """Whether its training films are moved and re-exposed at random."""
    bilateral = False
    """Whether it needs the other breast; then it trains on healthy pairs alone."""
    kinds: tuple[LesionKind, ...] = ()
    """Kinds of lesions (family TRAIN) that are planted into its training films; none: they stay as they are."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms to train by, (n,) each, the one to minimise under "loss".

        Under "kl_dimensions" there may be the divergence of each latent dimension, (n, d), in nats.
        """

    @abstractmethod
    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return named scores (n,) and named maps (n, 1, S, S), higher = further from healthy, without noise."""

    def finalize_fit(self, batches: Iterable[Batch]) -> None:
        """Take from the healthy training films, once fitted, what no gradient gives (a latent's distribution)."""


class Generator(Member):
    """A member that makes images: a latent vector for each image, and the way back."""

    dimensions: int
    """Length of the latent vector."""
    conditional = False
    """Whether it was told side, view and density, and can be asked for them."""

    @abstractmethod
    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(z | image), (n, dimensions) each."""

    @abstractmethod
    def picture(self, z: Tensor, condition: Tensor, noise: list[TorchGenerator]) -> tuple[Tensor, Tensor | None]:
        """Return images in [0, 1] and their breast masks, (n, 1, S, S) each, for latent vectors (n, dimensions).

        condition: (n, 6), as Data.conditions; noise: a source of random numbers for each image's texture. The mask is
        None where the member knows of none.
        """


def save_weights(member: nn.Module, path: Path) -> None:
    """Write a member's weights as safetensors in one step."""
    with atomic_write(path) as partial:
        save_file({key: value.contiguous() for key, value in member.state_dict().items()}, partial)


def load_weights(member: nn.Module, path: Path) -> None:
    """Load weights into a member and set it to evaluation; InputError when they are damaged or of another shape."""
    try:
        member.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path} does not hold this member's weights: {str(error).splitlines()[0]}") from error
    member.eval()
