"""The four samplers: new images from a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field, InstanceOf
from scipy import ndimage

from mammovae.arguments import Temperature, checked_class
from mammovae.config import InputError, SamplingMode, UsageError, suggest
from mammovae.data.dataset import Data
from mammovae.data.geometry import NoBreast
from mammovae.data.segmentation import find_breast, largest_part
from mammovae.generation.latent_density import DENSITY, LatentDensity
from mammovae.models.base import Generator
from mammovae.models.run import Run, device

DERIVED = {"vary": "derived from one patient's image", "interpolate": "derived from two patients' images"}
"""How images of these modes are labelled."""
MIN_BREAST_PIXELS = 64  # a mask of fewer pixels counts as no breast: a radiomic vector needs them
_MIN_BREAST_SHARE = 0.01
INTERPOLATION_STEPS = 8  # images from one end of an interpolation to the other
TEMPERATURES: dict[SamplingMode, float] = {"vary": 1.0, "prior": 1.0, "latent": 1.2, "interpolate": 1.0}
"""Default temperatures. A distribution fitted to few latent vectors gives images less spread than real ones; 1.2
compensates (chosen on healthy images outside training and test: docs/results/generation.md)."""


class GeneratedImages(NamedTuple):
    """Generated images, float32 (n, S, S) in [0, 1], and masks, uint8 (n, S, S), all 0 where no breast is found.

    conditions: float32 (n, 6), as Data.conditions; sources: positions of the real images behind each, in the sampler's
    DATA folder.
    """

    images: np.ndarray
    masks: np.ndarray
    conditions: np.ndarray
    sources: list[tuple[int, ...]]


@checked_class
@dataclass(frozen=True)
class LatentSampler:
    """Generates images of a run by number: an image depends on its number, not on those generated with it.

    vary: z = mean + noise ~ N(0, I) of a training image, as in the original study. prior: z ~ N(0, I). latent: z from
    the distribution fitted to the training images' latent vectors. interpolate: eight steps on a straight line from
    one training image's mean to another's. temperature multiplies the noise, or the distance from the fitted means;
    None takes the mode's default. requested: values for side, view and density that replace those chosen at random.
    """

    run: InstanceOf[Run]
    mode: SamplingMode
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # of a command, and more: folds add their number
    data: InstanceOf[Data] | None = None  # the DATA folder whose training images vary and interpolate start from
    temperature: Temperature | None = None
    requested: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings that do not fit the run or the mode."""
        for name, value in self.requested.items():
            if (name, value) not in _CODES:
                known = [one for kind, one in _CODES if kind == name]
                what = f"did you mean {suggest(value, known)}" if known else "ask for side, view or density"
                raise UsageError(f"setting 'requested' cannot hold {name} {value!r}: {what}")
        if self.run.generator is None:
            missing = f"{self.run.path} has no member that generates images"
            raise InputError(f"{missing}: train the generate or the original preset")
        if self.mode in DERIVED and self.data is None:
            raise UsageError(f"--mode {self.mode} starts from real images: name the DATA folder with --source")
        if self.mode not in DERIVED and self.data is not None:
            raise UsageError(f"--mode {self.mode} starts from no real image: omit --source")
        if self.data is not None:
            self.run.check_data(self.data)
        if self.mode == "interpolate" and self.temperature is not None:
            raise UsageError("--mode interpolate samples nothing at random: omit --temperature")
        for name, value in self.requested.items():
            flag = "--breast-density" if name == "density" else f"--{name}"
            if not self.member.conditional:
                raise UsageError(f"the {self.member_name} of {self.run.path} cannot be asked for a {name}: omit {flag}")
            code, columns = _CODES[name, value]
            if not (self.distribution.conditions[:, columns[0]] == code).any():
                raise UsageError(f"no training image of {self.run.path} is known to have {name} {value}: omit {flag}")

    @property
    def noise_scale(self) -> float:
        """The requested temperature, or the mode's default."""
        return TEMPERATURES[self.mode] if self.temperature is None else self.temperature

    @property
    def member_name(self) -> str:
        """The name of the member that generates images."""
        assert self.run.generator is not None
        return self.run.generator[0]

    @property
    def member(self) -> Generator:
        """The member that generates images."""
        assert self.run.generator is not None
        return self.run.generator[1]

    @cached_property
    def distribution(self) -> LatentDensity:
        """The distribution fitted to the training images' latent vectors."""
        return LatentDensity.open(self.run.path / DENSITY)

    @cached_property
    def _train(self) -> np.ndarray:
        assert self.data is not None
        return self.data.for_training(self.run.settings)["train"]

    def source_positions(self, numbers: np.ndarray) -> list[tuple[int, ...]]:
        """Return the positions of the training images behind each number: none, one or two.

        Every training image is used once before any is used twice; both ends of an interpolation have the same known
        side, view and density, and are of two patients.
        """
        if self.data is None:
            return [() for _ in numbers]
        steps = INTERPOLATION_STEPS if self.mode == "interpolate" else 1
        places = [divmod(int(number) // steps, len(self._train)) for number in numbers]
        # The training images in the random order of a cycle, in which each comes once.
        rngs = {cycle: np.random.default_rng([self.seed, cycle]) for cycle, _ in places}
        orders = {cycle: rng.permutation(self._train) for cycle, rng in rngs.items()}
        if self.mode == "vary":
            return [(int(orders[cycle][place]),) for cycle, place in places]
        return [_first_and_partner(self.data, np.roll(orders[cycle], -place)) for cycle, place in places]

    @torch.inference_mode()
    def generate(self, numbers: np.ndarray) -> GeneratedImages:
        """Generate the images with these numbers."""
        sources, conditions, z = self.source_positions(numbers), self.conditions(numbers), self.latents(numbers)
        states = [np.random.SeedSequence([self.seed, int(number), 1]).generate_state(1)[0] for number in numbers]
        textures = [torch.Generator().manual_seed(int(state)) for state in states]
        image, mask = self.member.generate_images(z.to(device()), torch.from_numpy(conditions).to(device()), textures)
        images = image[:, 0].float().cpu().numpy()
        if mask is None:
            return GeneratedImages(images, np.stack(list(map(_find_mask, images))), conditions, sources)
        masks = np.stack([_fill_largest_part(one) for one in mask[:, 0].cpu().numpy() > 0])
        return GeneratedImages(images * masks, masks, conditions, sources)

    def conditions(self, numbers: np.ndarray) -> np.ndarray:
        """Return the known side, view and density of each image, float32 (n, 6), as Data.conditions.

        For a member that was not trained with them, only what all its training images share is known.
        """
        known = self.distribution.conditions
        if self.data is not None and self.mode in DERIVED:
            chosen = self.data.conditions[[sources[0] for sources in self.source_positions(numbers)]].copy()
        elif not self.member.conditional:
            chosen = np.tile(np.where((known == known[0]).all(axis=0), known[0], 0), (len(numbers), 1))
        else:
            chosen = self.distribution.sample_conditions([_rng(self.seed, int(number), 2) for number in numbers])
        for name, value in self.requested.items():
            code, columns = _CODES[name, value]
            chosen[:, columns] = 0
            chosen[:, columns[0]] = code
        return chosen

    @torch.inference_mode()
    def latents(self, numbers: np.ndarray) -> torch.Tensor:
        """Return the latent vectors of the images with these numbers, float32 (n, d)."""
        if self.mode == "latent":
            rngs = [_rng(self.seed, int(number), 3) for number in numbers]
            return torch.from_numpy(self.distribution.sample(self.conditions(numbers), rngs, self.noise_scale)).float()
        dimensions = self.member.dimensions
        noise = np.stack([_rng(self.seed, int(number), 0).standard_normal(dimensions) for number in numbers])
        scaled = self.noise_scale * torch.from_numpy(noise).float()
        if self.mode == "prior":
            return scaled
        sources = self.source_positions(numbers)
        first = self._means([positions[0] for positions in sources])
        if self.mode == "vary":
            return first + scaled
        share = torch.from_numpy((numbers % INTERPOLATION_STEPS) / (INTERPOLATION_STEPS - 1)).float()[:, None]
        return (1 - share) * first + share * self._means([positions[1] for positions in sources])

    def _means(self, positions: list[int]) -> torch.Tensor:
        assert self.data is not None
        return self.member.posterior(self.data.batch(np.array(positions), self.member.size).to(device()))[0].cpu()


_CODES: dict[tuple[str, str], tuple[float, list[int]]] = {
    ("side", "L"): (-1, [0]),
    ("side", "R"): (1, [0]),
    ("view", "CC"): (-1, [1]),
    ("view", "MLO"): (1, [1]),
    **{("density", name): (1.0, [column, *({2, 3, 4, 5} - {column})]) for column, name in enumerate("ABCD", start=2)},
}
"""How a condition encodes a value: the number that stands for it, and its columns, that number's first."""


def condition_labels(conditions: np.ndarray) -> dict[str, list[str | None]]:
    """Return side, view and density of conditions (n, 6) as the index's columns; unknown is None."""
    labels: dict[str, list[str | None]] = {name: [None] * len(conditions) for name in ("side", "view", "density")}
    for (name, value), (code, columns) in _CODES.items():
        for row in np.flatnonzero(conditions[:, columns[0]] == code):
            labels[name][row] = value
    return labels


def to_uint16(images: np.ndarray) -> np.ndarray:
    """Return images in [0, 1] as DATA folders store them: uint16, 65535 is 1."""
    return np.rint(np.clip(images, 0, 1) * 65535).astype(np.uint16)


def _first_and_partner(data: Data, order: np.ndarray) -> tuple[int, int]:
    """Return the first position and the next of another patient with the same known side, view and density."""
    patients = data.index["patient_id"].iloc[order].astype(str).to_numpy()
    is_alike = (data.conditions[order] == data.conditions[order[0]]).all(axis=1)
    others = np.flatnonzero((patients != patients[0]) & is_alike)
    if not len(others):
        image_id = data.index["image_id"].iloc[order[0]]
        missing = f"no training image of another patient has the side, view and density of {image_id}"
        raise InputError(f"{missing}: interpolate needs two")
    return int(order[0]), int(order[others[0]])


def _find_mask(image: np.ndarray) -> np.ndarray:
    """Find the breast in a generated image that came without a mask; all 0 where there is none."""
    try:
        return find_breast(to_uint16(image)).mask.astype(np.uint8)
    except NoBreast:
        return np.zeros(image.shape, np.uint8)


def _fill_largest_part(mask: np.ndarray) -> np.ndarray:
    """Keep the largest part of a generated mask and fill its holes; all 0 where it is too small."""
    if not mask.any():
        return np.zeros(mask.shape, np.uint8)
    filled = ndimage.binary_fill_holes(largest_part(mask))
    assert filled is not None
    return filled.astype(np.uint8) * (filled.sum() >= max(_MIN_BREAST_SHARE * filled.size, MIN_BREAST_PIXELS))


def _rng(seed: int, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, number, purpose])
