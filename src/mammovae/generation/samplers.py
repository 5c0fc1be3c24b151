"""New images from a run: the four samplers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from mammovae.config import InputError, SamplingMode, UsageError
from mammovae.data.dataset import Data
from mammovae.data.geometry import NoBreast
from mammovae.data.segmentation import find_breast, largest_part
from mammovae.generation.latent_density import DENSITY, LatentDensity
from mammovae.models.base import Generator
from mammovae.models.run import Run, device

DERIVED = {
    "vary": "derived from one patient's image",
    "interpolate": "derived from two patients' images",
}
"""What every label of such an image says."""
FEWEST_PIXELS = 64
"""A smaller breast is no breast."""
STEPS = 8
"""Images from one end of an interpolation to the other."""
TEMPERATURES: dict[SamplingMode, float] = {"vary": 1.0, "prior": 1.0, "latent": 1.2, "interpolate": 1.0}
"""What is taken where none is asked for. A density fitted to few images and decoded gives images less spread than real
ones; 1.2 makes up for it (chosen on healthy films outside training and test: docs/generation.md)."""
_SMALLEST = 0.01
"""Least share of the square that is a breast, where that is more than the pixels that a radiomic vector needs."""


class Samples(NamedTuple):
    """Generated images: float32 (n, S, S) in [0, 1]; masks uint8 (n, S, S), all 0 where no breast can be told.

    conditions: float32 (n, 6), as Data.conditions; sources: positions of the real images behind each, in the DATA
    folder that they were drawn from.
    """

    images: np.ndarray
    masks: np.ndarray
    conditions: np.ndarray
    sources: list[tuple[int, ...]]


@dataclass(frozen=True)
class LatentSampler:
    """Draws images from a run by number: image number i is the same, whatever is drawn beside it.

    vary: z = mean + noise ~ N(0, I) of a training image, as the seed study did. prior: z ~ N(0, I). density: z drawn
    from what was fitted to the training images' latents. interpolate: a straight way in eight steps from one training
    image's mean to another's. temperature multiplies the noise, or the distance from the density's means; None takes
    the mode's own. asked: values for side, view and density that replace those drawn with each image.
    """

    run: Run
    mode: SamplingMode
    seed: int = 0
    data: Data | None = None
    """The DATA folder whose training images vary and interpolate start from."""
    temperature: float | None = None
    asked: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.run.generator is None:
            raise InputError(f"{self.run.path} has no member that makes images: train the generate or the seed preset")
        if self.mode in DERIVED and self.data is None:
            raise UsageError(f"--mode {self.mode} starts from real images: name the DATA folder with --source")
        if self.mode not in DERIVED and self.data is not None:
            raise UsageError(f"--mode {self.mode} starts from no real image: leave --source out")
        if self.mode == "interpolate" and self.temperature is not None:
            raise UsageError("--mode interpolate draws nothing at random: leave --temperature out")
        for name, value in self.asked.items():
            if not self.member.conditional:
                raise UsageError(f"the {self.name} of {self.run.path} cannot be asked for a {name}: leave --{name} out")
            low_or_high, columns = _PLACES[name, value]
            seen = self.density.conditions[:, columns[0]]
            if not (seen == low_or_high).any():
                raise UsageError(f"no training image of {self.run.path} is known to have {name} {value}: leave it out")

    @property
    def heat(self) -> float:
        """The temperature asked for, or the mode's own."""
        return TEMPERATURES[self.mode] if self.temperature is None else self.temperature

    @property
    def name(self) -> str:
        """The name of the member that makes the images."""
        assert self.run.generator is not None
        return self.run.generator[0]

    @property
    def member(self) -> Generator:
        """The member that makes the images."""
        assert self.run.generator is not None
        return self.run.generator[1]

    @cached_property
    def density(self) -> LatentDensity:
        """What was fitted to the training images' latents."""
        return LatentDensity.open(self.run.path / DENSITY)

    @cached_property
    def _train(self) -> np.ndarray:
        assert self.data is not None
        return self.data.for_training(self.run.settings)["train"]

    def origins(self, numbers: np.ndarray) -> list[tuple[int, ...]]:
        """Return the positions of the training images behind each number: none, one or two.

        Every training image is taken once before any is taken twice; both ends of an interpolation are alike in what is
        known of them, and of two patients.
        """
        if self.mode not in DERIVED:
            return [() for _ in numbers]
        if self.mode == "vary":
            return [(self._drawn(int(number)),) for number in numbers]
        return [self._pair(int(number) // STEPS) for number in numbers]

    def _drawn(self, place: int) -> int:
        turn, rest = divmod(place, len(self._train))
        return int(self._turn(turn)[rest])

    def _turn(self, turn: int) -> np.ndarray:
        if turn not in self._turns:
            self._turns[turn] = np.random.default_rng([self.seed, turn]).permutation(self._train)
        return self._turns[turn]

    @cached_property
    def _turns(self) -> dict[int, np.ndarray]:
        return {}

    def _pair(self, number: int) -> tuple[int, int]:
        """Return the ends of an interpolation: images of two patients, alike in side, view and density class."""
        assert self.data is not None
        turn, rest = divmod(number, len(self._train))
        order = np.roll(self._turn(turn), -rest)
        patients = self.data.index["patient_id"].iloc[order].astype(str).to_numpy()
        alike = (self.data.conditions[order] == self.data.conditions[order[0]]).all(axis=1)
        others = np.flatnonzero((patients != patients[0]) & alike)
        if not len(others):
            raise InputError(
                f"no training image of another patient has the side, view and density of "
                f"{self.data.index['image_id'].iloc[order[0]]}: interpolate needs two"
            )
        return int(order[0]), int(order[others[0]])

    @torch.inference_mode()
    def draw(self, numbers: np.ndarray) -> Samples:
        """Make the images with these numbers."""
        origins = self.origins(numbers)
        conditions = self.conditions(numbers)
        z = self.latents(numbers)
        textures = [_torch_generator(self.seed, int(number), 1) for number in numbers]
        image, mask = self.member.generate_images(z.to(device()), torch.from_numpy(conditions).to(device()), textures)
        images = image[:, 0].float().cpu().numpy()
        masks = (
            [_mask(one) for one in images] if mask is None else [_whole(one) for one in mask[:, 0].cpu().numpy() > 0]
        )
        if mask is not None:
            images = images * np.stack(masks)
        return Samples(images, np.stack(masks), conditions, origins)

    def conditions(self, numbers: np.ndarray) -> np.ndarray:
        """Return what is to be known of each image, float32 (n, 6), as Data.conditions.

        A member that was not told side, view and density makes images of which only that is known in which all its
        training images agree.
        """
        known = self.density.conditions
        if self.data is not None and self.mode in DERIVED:
            found = self.data.conditions[[place[0] for place in self.origins(numbers)]].copy()
        elif not self.member.conditional:
            found = np.tile(np.where((known == known[0]).all(axis=0), known[0], 0), (len(numbers), 1))
        else:
            found = np.stack([known[_rng(self.seed, int(number), 2).integers(len(known))] for number in numbers])
        for name, value in self.asked.items():
            low_or_high, columns = _PLACES[name, value]
            found[:, columns] = 0
            found[:, columns[0]] = low_or_high
        return found

    @torch.inference_mode()
    def latents(self, numbers: np.ndarray) -> torch.Tensor:
        """Return the latent vectors of the images with these numbers, float32 (n, d)."""
        origins = self.origins(numbers)
        if self.mode == "latent":
            rng = [_rng(self.seed, int(number), 3) for number in numbers]
            return torch.from_numpy(self.density.draw(self.conditions(numbers), rng, self.heat)).float()
        dimensions = self.member.dimensions
        drawn = np.stack([_rng(self.seed, int(number), 0).standard_normal(dimensions) for number in numbers])
        noise = torch.from_numpy(drawn).float()
        if self.mode == "prior":
            return self.heat * noise
        first = self._means([place[0] for place in origins])
        if self.mode == "vary":
            return first + self.heat * noise
        share = torch.from_numpy((numbers % STEPS) / (STEPS - 1)).float()[:, None]
        return (1 - share) * first + share * self._means([place[1] for place in origins])

    def _means(self, positions: list[int]) -> torch.Tensor:
        assert self.data is not None
        return self.member.posterior(self.data.batch(np.array(positions), self.member.size).to(device()))[0].cpu()


_PLACES: dict[tuple[str, str], tuple[float, list[int]]] = {
    ("side", "L"): (-1, [0]),
    ("side", "R"): (1, [0]),
    ("view", "CC"): (-1, [1]),
    ("view", "MLO"): (1, [1]),
    **{("density", name): (1.0, [column, *({2, 3, 4, 5} - {column})]) for column, name in enumerate("ABCD", start=2)},
}
"""Where a value stands in a condition: the number that means it, and its columns, that one first."""


def told(conditions: np.ndarray) -> dict[str, list[str | None]]:
    """Return what conditions (n, 6) say, in the index's words, by column: side, view, density."""
    found: dict[str, list[str | None]] = {"side": [], "view": [], "density": []}
    for row in conditions:
        for name, values in found.items():
            said = (
                value
                for (key, value), (number, columns) in _PLACES.items()
                if key == name and row[columns[0]] == number
            )
            values.append(next(said, None))
    return found


def stored(images: np.ndarray) -> np.ndarray:
    """Return images in [0, 1] as DATA folders store them: uint16, 65535 is 1."""
    return np.rint(np.clip(images, 0, 1) * 65535).astype(np.uint16)


def _mask(image: np.ndarray) -> np.ndarray:
    """Find the breast in a generated image that came without a mask; all 0 where there is none."""
    try:
        return find_breast(stored(image)).mask.astype(np.uint8)
    except NoBreast:
        return np.zeros(image.shape, np.uint8)


def _whole(mask: np.ndarray) -> np.ndarray:
    """Keep the largest part of a generated mask and fill its holes; all 0 where too little is left."""
    if not mask.any():
        return np.zeros(mask.shape, np.uint8)
    filled = ndimage.binary_fill_holes(largest_part(mask))
    assert filled is not None
    return filled.astype(np.uint8) * (filled.sum() >= max(_SMALLEST * filled.size, FEWEST_PIXELS))


def _rng(seed: int, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, number, purpose])


def _torch_generator(seed: int, number: int, *purpose: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, number, *purpose]).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))
