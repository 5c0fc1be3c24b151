"""The distribution of latent vectors is fitted in at most a minute, whatever the number of images and of dimensions."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measure import Line, Scope

from mammovae.config import preset
from mammovae.data.dataset import Data
from mammovae.generation.gaussian_mixture import Posteriors, choose_mixture
from mammovae.generation.latent_density import LatentDensity
from mammovae.models.base import Generator
from mammovae.models.run import build_members


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure the fit to posteriors at three sizes, then with the original preset's encoder before it."""
    sizes = {"few-dimensions": (2_000, 64), "most-images": (20_000, 1_024), "many-dimensions": (20_000, 16_384)}
    tiny_sizes = {"few-dimensions": (220, 8), "most-images": (300, 150), "many-dimensions": (200, 400)}
    measured = [of_latents(name, *size) for name, size in scope.pick(sizes, tiny_sizes).items()]
    member = next(iter(build_members(preset(scope.pick("original", "tiny"))).values())).eval()
    assert isinstance(member, Generator)
    images = scope.pick(100_000, 40)
    data, validation = repeated_images(member.size, images), images // 10
    parts = {"train": np.arange(validation, images), "validation": np.arange(validation)}
    work = f"encode and fit, {member.dimensions:,} dimensions, {images:,} images of {member.size} px"
    return [*measured, timed("original", work, lambda: LatentDensity.fit(member, data, parts, 32, 0).held_out)]


def of_latents(name: str, images: int, dimensions: int) -> Line:
    """Measure the fit to drawn posteriors."""
    posteriors, held_out = latents(images, dimensions, 0), latents(images // 10, dimensions, 1)
    work = f"fit the latent distribution to {images:,} posteriors of {dimensions:,} dimensions"
    return timed(name, work, lambda: choose_mixture(posteriors, held_out, 0)[1])


def timed(name: str, work: str, fit: Callable[[], dict[str, float]]) -> Line:
    """Return the seconds of a fit, with what was tried and the peak of this process until then."""
    begin = time.perf_counter()
    tried = sorted(fit())
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note = f"tried {', '.join(tried)}; peak {peak:.0f} MB, the latents included; {torch.get_num_threads()} threads"
    return Line(f"density-{name}", work, "s", None, seconds, None, (note,))


def latents(images: int, dimensions: int, seed: int) -> Posteriors:
    """Draw posteriors around three clusters with a few correlated directions, as an encoder's are."""
    rng = np.random.default_rng([dimensions, seed])
    shape = (min(dimensions, 40), dimensions)
    fixed = np.random.default_rng(dimensions)
    directions = fixed.standard_normal(shape, np.float32) * np.float32(0.9) ** np.arange(shape[0])[:, None]
    centres = fixed.standard_normal((3, dimensions), np.float32)
    mean = torch.from_numpy(rng.standard_normal((images, dimensions), np.float32))
    scores = torch.from_numpy(rng.standard_normal((images, shape[0]), np.float32))
    mean.addmm_(scores, torch.from_numpy(directions.astype(np.float32)))
    mean += torch.from_numpy(centres)[torch.from_numpy(rng.integers(3, size=images))]
    return Posteriors(mean, torch.full((images, dimensions), 0.1))


def repeated_images(size: int, images: int) -> Data:
    """Return many images that share the memory of one, of unlike sides and views."""
    rng = np.random.default_rng(0)
    one, whole = rng.integers(65536, size=(1, size, size), dtype=np.uint16), np.ones((1, size, size), np.uint8)
    kinds = {"side": ["L", "R"], "view": ["CC", "MLO"], "density": list("ABCD")}
    index = pd.DataFrame({name: rng.choice(values, images) for name, values in kinds.items()})
    shape = (images, size, size)
    patients = np.arange(images).astype(str).astype(object)
    pixels, masks = np.broadcast_to(one, shape), np.broadcast_to(whole, shape)
    return Data((Path(),), {}, index, pixels, masks, patients, (0, images))
