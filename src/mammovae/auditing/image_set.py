"""Sets of images in DATA folders, real or generated, with what the measures of an audit need of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from mammovae.auditing.anatomical_measures import measure_anatomy
from mammovae.auditing.privacy import descriptor, pixel_hashes
from mammovae.auditing.radiomics import measure_all
from mammovae.auditing.spectrum import radial_spectrum
from mammovae.config import InputError
from mammovae.data.dataset import Batch, Data, to_tensors
from mammovae.generation.samplers import to_uint16
from mammovae.models.base import Generator
from mammovae.parallel.pool import map_unordered
from mammovae.statistics import Floats, Integers

BLUR = 1.0
"""Standard deviation of the blurred set's blur, in pixels of an image of 128."""
MOST = 2000
"""Images of a set that are measured, and that the 200 subsamples are drawn from: a half of them is as many as Binkowski
et al. (ICLR 2018) compute a kernel distance of. Copies are looked for among all images."""
_CHUNK = 64

Result = TypeVar("Result")


class Measures(NamedTuple):
    """What is compared of images, real or generated; row i of each part belongs to image i.

    groups (n,): patients, or the name of a generated image's origin; features (n, F): see radiomics; spectra (n, B):
    see spectrum; anatomy (n, 3): see anatomical_measures; coarse (n, 1024): see privacy.descriptor; latents (n, d): the
    means by the fold's encoder, or None.
    """

    groups: NDArray[np.str_]
    features: Floats
    spectra: Floats
    anatomy: Floats
    coarse: NDArray[np.float32]
    latents: Floats | None

    def at(self, rows: Integers) -> "Measures":
        """Return the images at rows."""
        chosen: list[Any] = [None if part is None else part[rows] for part in self]
        return Measures(*chosen)


@dataclass(frozen=True)
class ImageSet:
    """Images of a DATA folder at one size, with what copies are recognised by; row i belongs to positions[i].

    groups (n,), coarse (n, 1024): as in Measures; hashes (n,): see privacy.pixel_hashes; sample: rows of whole groups,
    at most MOST, that stand for the set where all would take too long.
    """

    data: Data
    positions: Integers
    size: int
    groups: NDArray[np.str_]
    coarse: NDArray[np.float32]
    hashes: list[tuple[bytes, bytes]]
    sample: Integers

    @classmethod
    def of(cls, data: Data, positions: Integers, size: int, seed: int) -> "ImageSet":
        """Read the images at positions, a batch at a time; the sample is drawn by the seed."""
        chunks = (_Chunk(start, *read_images(data, part, size)) for start, part in _parts(positions))
        seen = _map_in_order(_recognise, chunks, len(positions) > _RECOGNISED_ALONE)
        coarse = np.concatenate([part for part, _ in seen])
        groups = data.index["patient_id"].iloc[positions].astype(str).to_numpy(str)
        hashes = [pair for _, pairs in seen for pair in pairs]
        return cls(data, positions, size, groups, coarse, hashes, sample_groups(groups, seed))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.positions)

    def images(self, rows: Integers) -> np.ndarray:
        """Return the images at rows, uint16 (n, S, S), 0 outside the breast."""
        return _inside(*read_images(self.data, self.positions[rows], self.size))

    def latents(self, rows: Integers, encoder: Generator) -> Floats:
        """Return the means of the images at rows by an encoder, (n, d)."""
        pairs = (read_images(self.data, part, self.size) for _, part in _parts(self.positions[rows]))
        return np.concatenate([_encode(encoder, _inside(*pair), pair[1]) for pair in pairs])

    def measure(self, encoder: Generator | None, blur: float = 0.0) -> Measures:
        """Measure the sample; blur: the width, in pixels of an image of 128, by which it is blurred before."""
        latents: list[Floats] = []
        chunks = self._chunks(encoder, blur, latents)
        seen = _map_in_order(_measure, chunks, len(self.sample) > _MEASURED_ALONE)
        features, spectra, anatomy, coarse = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        encoded = np.concatenate(latents) if latents else None
        return Measures(self.groups[self.sample], features, spectra, anatomy, coarse, encoded)

    def _chunks(self, encoder: Generator | None, blur: float, latents: list[Floats]) -> Iterator["_Chunk"]:
        """Yield the sample in order, and encode it on the way: the network stays in this process."""
        for start, part in _parts(self.positions[self.sample]):
            images, masks = read_images(self.data, part, self.size)
            images = _blurred(images, masks, blur) if blur else _inside(images, masks)
            if encoder is not None:
                # Real and generated images alike are encoded without side, view and density: none is favoured.
                latents.append(_encode(encoder, images, masks))
            yield _Chunk(start, images, masks)


@dataclass(frozen=True)
class MeasuredSet(ImageSet):
    """An ImageSet with the measures of its sample."""

    measures: Measures

    @classmethod
    def measured(cls, images: ImageSet, encoder: Generator | None) -> "MeasuredSet":
        """Measure the sample of a set."""
        return cls(**vars(images), measures=images.measure(encoder))


@dataclass(frozen=True)
class FoldImages:
    """What one fold's audit compares.

    held: real images that the fold's networks have not seen, at most MOST; train: those that they learned from;
    generated: sets by name, the one that the others are compared with last; blurred: held, row by row, blurred inside
    the masks, which is plainly not real.
    """

    held: MeasuredSet
    train: ImageSet
    generated: dict[str, MeasuredSet]
    blurred: Measures


def sample_groups(groups: NDArray[np.str_], seed: int) -> Integers:
    """Return the rows of whole groups, drawn at random, until there are MOST; the last group may be cut."""
    names, group = np.unique(groups, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(len(names))[group]
    return np.sort(np.argsort(rank, kind="stable")[:MOST])


def one_each(groups: NDArray[np.str_], rows: Integers, rng: np.random.Generator) -> Integers:
    """Return one row at random of each group that rows hold, in random order."""
    shuffled = rng.permutation(rows)
    return rng.permutation(shuffled[np.unique(groups[shuffled], return_index=True)[1]])


def read_images(data: Data, positions: Integers, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint16, and masks, uint8, at positions, (n, size, size)."""
    images, masks = np.asarray(data.images[positions]), np.asarray(data.masks[positions])
    if data.size == size:
        return images, masks
    image, mask = to_tensors(images, masks, size)
    return to_uint16(image[:, 0].numpy()), mask[:, 0].numpy().astype(np.uint8)


class _Chunk(NamedTuple):
    """Some images (n, S, S) of a set and their masks; start: the place of the first in the set."""

    start: int
    images: np.ndarray
    masks: np.ndarray


_RECOGNISED_ALONE, _MEASURED_ALONE = 8192, 256  # fewer images than this take less time than worker processes to start


def _recognise(chunk: _Chunk) -> tuple[NDArray[np.float32], list[tuple[bytes, bytes]]]:
    coarse = descriptor(chunk.images, chunk.masks).astype(np.float32)
    return coarse, pixel_hashes(chunk.images, chunk.masks)


def _measure(chunk: _Chunk) -> tuple[Floats, Floats, Floats, NDArray[np.float32]]:
    _, images, masks = chunk
    pairs = list(zip(images, masks, strict=True))
    spectra, anatomy = (
        np.array([function(*pair) for pair in pairs]) for function in (radial_spectrum, measure_anatomy)
    )
    return measure_all(images, masks), spectra, anatomy, descriptor(images, masks).astype(np.float32)


def _map_in_order(function: Callable[[_Chunk], Result], chunks: Iterable[_Chunk], parallel: bool) -> list[Result]:
    """Return the function's results in order; with parallel, worker processes find them."""
    if not parallel:
        return [function(chunk) for chunk in chunks]
    found: dict[int, Result] = {}
    for chunk, result in map_unordered(function, chunks):
        if isinstance(result, InputError):
            raise result
        found[chunk.start] = result
    return [found[start] for start in sorted(found)]


def _parts(positions: Integers) -> Iterator[tuple[int, Integers]]:
    return ((start, positions[start : start + _CHUNK]) for start in range(0, len(positions), _CHUNK))


def _inside(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return images * (masks > 0).astype(images.dtype)


def _blurred(images: np.ndarray, masks: np.ndarray, blur: float) -> np.ndarray:
    inside, widths = (masks > 0).astype(np.float64), (0, *[blur * images.shape[-1] / 128] * 2)
    smooth, share = (ndimage.gaussian_filter(x, widths) for x in (images * inside, inside))
    return np.rint(np.clip(smooth / np.maximum(share, 1e-3) * inside, 0, 65535)).astype(np.uint16)


@torch.inference_mode()
def _encode(encoder: Generator, images: np.ndarray, masks: np.ndarray) -> Floats:
    image, mask = to_tensors(images, masks, encoder.size)
    batch = Batch(image, mask).to(next(encoder.parameters()).device)
    return encoder.posterior(batch)[0].double().cpu().numpy()
