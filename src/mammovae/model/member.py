"""The interface of a member (one trained network of a run), and its weights on disk."""

from abc import abstractmethod
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mammovae.config import InputError, VaeSettings
from mammovae.folders import replacing

WEIGHTS = "model.safetensors"


class Member(nn.Module):
    """What every member offers beyond a torch module; images are (n, 1, S, S) in [0, 1]."""

    settings: VaeSettings

    @abstractmethod
    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """Return the terms to train by, (n,) each, their sum under "loss"."""

    @abstractmethod
    def score(self, image: Tensor, mask: Tensor, other: Tensor | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return named scores (n,) and named maps (n, 1, S, S), higher = further from healthy, without noise.

        mask (n, 1, S, S) is 1 inside the breast; other is the other breast, or none.
        """


def save_weights(member: nn.Module, path: Path) -> None:
    """Write a member's weights as safetensors in one step."""
    with replacing(path) as partial:
        save_file({key: value.contiguous() for key, value in member.state_dict().items()}, partial)


def load_weights(member: nn.Module, path: Path) -> None:
    """Load weights into a member and set it to evaluation; InputError when they are damaged or of another shape."""
    try:
        member.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path} does not hold this member's weights: {str(error).splitlines()[0]}") from error
    member.eval()
