"""Every member of the registry, small, and images for it: what the tests of a member's contract run over."""

from typing import Any

import numpy as np
import torch
from tests.conftest import make_breast_images

from mammovae.config import TrainSettings
from mammovae.data.dataset import Batch
from mammovae.models.base import Member
from mammovae.models.run import MEMBERS, build_members

SIZE = 32
SMALL: dict[str, dict[str, Any]] = {
    "vae": {"filters": [4, 8], "latent": 4},
    "residual_vae": {"widths": [8, 8]},
    "denoiser": {"widths": [8, 8], "grid": 8},
    "bilateral_vae": {"widths": [8, 8]},
    "pyramid_vae": {"widths": [8, 8], "bands": 2, "refiner": [8, 8]},
    "lesion_segmenter": {"widths": [8, 8]},
    "patch_segmenter": {"widths": [8, 8], "patch_size": 16},
}
"""Settings beside the size; a member that is not named here takes its own defaults."""


def small_settings(*names: str) -> dict[str, Any]:
    """Return settings of a training of small members, by the first one's scores and maps."""
    members = [name for name in MEMBERS if name in names]
    shown = next((MEMBERS[name] for name in names if not MEMBERS[name].bilateral), MEMBERS["vae"])
    if shown is MEMBERS["vae"]:
        members = [name for name in MEMBERS if name in {*members, "vae"}]
    settings: dict[str, Any] = {name: {"size": SIZE} | SMALL.get(name, {}) for name in members}
    return settings | {"members": members, "fused": [next(iter(shown.scores))], "maps": [shown.maps[0]]}


def build(name: str, seed: int = 0) -> Member:
    """Return a small member with the weights of a seed."""
    return build_members(TrainSettings(**small_settings(name), seed=seed))[name]


def batch(count: int = 3) -> Batch:
    """Return healthy images with other breasts and what is known of them."""
    images, masks = make_breast_images(2 * count, SIZE)
    image, mask = (torch.from_numpy(part.astype(np.float32))[:, None] for part in (images, masks))
    condition = torch.tensor([[1.0, -1, 0, 1, 0, 0]]).repeat(count, 1)
    this, other = slice(None, count), slice(count, None)
    return Batch(image[this], mask[this], image[other], mask[other], condition, torch.full((count,), 4.0))


def only(images: Batch, row: int) -> Batch:
    """Return one image of a batch as a batch."""
    image, mask, *others = (None if part is None else part[row : row + 1] for part in images)
    assert image is not None and mask is not None
    return Batch(image, mask, *others)
