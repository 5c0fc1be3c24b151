"""The figures of an audit: generated sets against real films in the same subsamples of patients, and their floor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from mammovae.config import InputError
from mammovae.data.dataset import Batch, to_tensors
from mammovae.generation.fidelity import (
    frechet_distance,
    kernel_distance,
    ks_distance,
    prdc,
    standardise,
    two_sample_auroc,
)
from mammovae.generation.privacy import (
    descriptor,
    exact_copies,
    membership_auroc,
    nearest,
    perceptual_copies,
)
from mammovae.generation.radiomics import FEATURES, measure_all
from mammovae.generation.spectrum import radial_spectrum, spectrum_error
from mammovae.model.member import Generator
from mammovae.page.audit import AuditRow
from mammovae.statistics import Estimate

FLOOR = "real against real"
BLURRED = "real, blurred"
BLUR = 1.0
"""Standard deviation of the yardstick's blur, in pixels of a square of 128."""
SUBSAMPLES = 200
NEIGHBOURS = 5
FEWEST = 20
"""With fewer held-out patients, or half as many images in half of them, nearest neighbours mean nothing."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Films:
    """A set of images with what the measures need of them; row i of each part belongs to image i.

    images uint16 (n, S, S), 0 outside the breast; masks uint8 (n, S, S); groups: patients, or the name of a generated
    image; fold (n,): which run it is judged beside; features (n, F), spectra (n, B), coarse (n, 1024): see the modules
    of generation; latents (n, d): where the run of its fold encodes it, or none.
    """

    images: np.ndarray
    masks: np.ndarray
    groups: NDArray[np.str_]
    fold: NDArray[np.int_]
    features: Floats
    spectra: Floats
    coarse: Floats
    latents: Floats | None

    @classmethod
    def of(
        cls,
        images: np.ndarray,
        masks: np.ndarray,
        groups: Sequence[str],
        encoder: Generator | None,
        fold: int = 0,
    ) -> "Films":
        """Measure images (n, S, S) of one fold."""
        inside = images * (masks > 0).astype(images.dtype)
        spectra = np.array([radial_spectrum(*pair) for pair in zip(inside, masks, strict=True)])
        latents = None if encoder is None else _encoded(encoder, inside, masks)
        features, coarse = measure_all(inside, masks), descriptor(inside, masks)
        return cls(
            inside, masks, np.asarray(groups, dtype=str), np.full(len(images), fold), features, spectra, coarse, latents
        )

    def __getitem__(self, rows: np.ndarray) -> "Films":
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {name: None if part is None else part[rows] for name, part in parts.items()}
        return Films(**chosen)

    def __len__(self) -> int:
        return len(self.images)

    def blurred(self, encoder_by_fold: Mapping[int, Generator | None]) -> "Films":
        """Return the same films blurred inside their masks: a set that anyone can tell from real."""
        sigma = BLUR * self.images.shape[-1] / 128
        made = []
        for image, mask in zip(self.images, self.masks, strict=True):
            share = ndimage.gaussian_filter((mask > 0).astype(np.float64), sigma)
            made.append(ndimage.gaussian_filter(image.astype(np.float64), sigma) / np.maximum(share, 1e-3) * (mask > 0))
        images = np.rint(np.clip(made, 0, 65535)).astype(np.uint16)
        parts = [
            Films.of(images[rows], self.masks[rows], self.groups[rows].tolist(), encoder_by_fold[fold], fold)
            for fold in np.unique(self.fold)
            for rows in [np.flatnonzero(self.fold == fold)]
        ]
        return pooled(parts)


def pooled(parts: Sequence[Films]) -> Films:
    """Return the folds' sets as one."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Films)}
    there = {name: column for name, column in columns.items() if not any(part is None for part in column)}
    whole: dict[str, Any] = {name: np.concatenate(there[name]) if name in there else None for name in columns}
    return Films(**whole)


@torch.inference_mode()
def _encoded(encoder: Generator, images: np.ndarray, masks: np.ndarray) -> Floats:
    device, found = next(encoder.parameters()).device, []
    for start in range(0, len(images), 64):
        part = slice(start, start + 64)
        image, mask = to_tensors(images[part], masks[part], encoder.size)
        found.append(encoder.posterior(Batch(image, mask).to(device))[0].cpu())
    return torch.cat(found).double().numpy()


@dataclass(frozen=True)
class _Measure:
    """One figure: its key, words for people, and what is best."""

    name: str
    label: str
    better: Literal["lower", "higher", "half"]
    section: str
    note: str
    primary: bool = False


_AREA, _GREY, _DENSE = (FEATURES.index(name) for name in ("area", "mean", "dense_share"))
MEASURES = (
    _Measure("kernel_distance", "Kernel distance, radiomic", "lower", "Realism", "unbiased squared MMD", True),
    _Measure("frechet_distance", "Fréchet distance, radiomic", "lower", "Realism", "covariances shrunk"),
    _Measure(
        "kernel_distance_encoder", "Kernel distance, encoder", "lower", "Realism", "the run's latents, fold by fold"
    ),
    _Measure("frechet_distance_encoder", "Fréchet distance, encoder", "lower", "Realism", "covariances shrunk"),
    _Measure("spectrum_error", "Spectrum error", "lower", "Realism", "dB, root mean square over frequencies"),
    _Measure("ks_area", "Breast area", "lower", "Realism", "Kolmogorov-Smirnov distance"),
    _Measure("ks_density", "Dense share", "lower", "Realism", "Kolmogorov-Smirnov distance"),
    _Measure("ks_grey", "Mean grey", "lower", "Realism", "Kolmogorov-Smirnov distance"),
    _Measure("two_sample_auroc", "Told apart by a classifier", "half", "Realism", "AUROC; 1 = always told apart"),
    _Measure("precision", "Precision", "higher", "Diversity", "generated among the real"),
    _Measure("recall", "Recall", "higher", "Diversity", "real among the generated", True),
    _Measure("density", "Density", "higher", "Diversity", "real neighbourhoods a generated image is in"),
    _Measure("coverage", "Coverage", "higher", "Diversity", "real neighbourhoods reached"),
    _Measure("recall_share", "Recall, share of the floor's", "higher", "Diversity", "1 = as two halves of real films"),
    _Measure(
        "coverage_share", "Coverage, share of the floor's", "higher", "Diversity", "1 = as two halves of real films"
    ),
    _Measure("spread", "Spread", "higher", "Diversity", "mean distance of two images, over that of real films"),
    _Measure("exact_copies", "Exact copies", "lower", "Privacy", "share with a training film's pixels"),
    _Measure(
        "near_train", "Near a training film", "lower", "Privacy", "share nearer than two patients' films ever are"
    ),
    _Measure("near_held_out", "Near a held-out film", "lower", "Privacy", "the same, where nothing was copied"),
    _Measure("nearness", "Distance to training, share", "higher", "Privacy", "over that to as many held-out films"),
    _Measure("membership_auroc", "Membership inference", "half", "Privacy", "AUROC; 0.5 = nothing is given away", True),
)
"""Every figure of the audit, in the order of its table."""


@dataclass(frozen=True)
class Audited:
    """The figures: draws[arm][measure] (R,) of the subsamples, and the numbers of real and generated images in each."""

    draws: dict[str, dict[str, Floats]]
    counts: dict[str, tuple[int, int]]
    near: dict[str, tuple[int, int]]
    """Of each arm, how many of all its images are near to a training and to a held-out film."""

    def estimate(self, arm: str, measure: str) -> Estimate | None:
        """Return a figure with its interval; None where it was not measured."""
        if measure not in self.draws[arm]:
            return None
        return _estimate(self.draws[arm][measure], *self.counts[arm])

    def difference(self, first: str, second: str, measure: str) -> Estimate:
        """Return first less second, the interval from the differences in the same subsamples."""
        return _estimate(self.draws[first][measure] - self.draws[second][measure], *self.counts[second])

    def rows(self) -> dict[str, list[AuditRow]]:
        """Return the table of the page, by section."""
        found: dict[str, list[AuditRow]] = {}
        for one in MEASURES:
            estimates = {arm: self.estimate(arm, one.name) for arm in self.draws}
            if any(estimate is not None for estimate in estimates.values()):
                row = AuditRow(one.name, one.label, one.better, estimates, one.note, one.primary)
                found.setdefault(one.section, []).append(row)
        return found


def _estimate(draws: Floats, real: int, generated: int) -> Estimate:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(draws.mean()), float(low), float(high), real, generated)


def audit_sets(
    held: Films, train: Films, arms: Mapping[str, Films], seed: int, subsamples: int = SUBSAMPLES
) -> Audited:
    """Measure generated sets against held-out real films, in random halves of the patients, drawn without replacement.

    In each subsample half of the held-out patients stand for "real"; the other half, FLOOR, is judged like a generated
    set, and of each arm as many images are drawn. The values of half samples spread about as the figure of the whole
    does (Politis & Romano, Ann. Stat. 22:2031, 1994; half-samples of a mean have its very variance), so their 2.5 and
    97.5 % are the interval; the figure itself is their mean, and holds for that number of images. Nearest neighbours
    are looked for among one image a patient, as two of one woman are alike. InputError where there are too few.
    """
    patients = np.unique(held.groups)
    scale = held.features
    sets = {name: standardise(scale, films.features)[1] for name, films in {"held": held, **arms}.items()}
    draws: dict[str, dict[str, list[float]]] = {FLOOR: {}} | {arm: {} for arm in arms}
    copies = {arm: _copies(films, train, held) for arm, films in arms.items() if arm != BLURRED}
    n = 0
    for number in range(subsamples):
        rng = np.random.default_rng([seed, number])
        chosen = rng.permutation(patients)[: len(patients) // 2]
        first = np.flatnonzero(np.isin(held.groups, chosen))
        second = np.flatnonzero(~np.isin(held.groups, chosen))
        n = min(len(first), len(second), *(len(films) for films in arms.values()))
        if n < FEWEST // 2 or len(patients) < FEWEST:
            raise InputError(
                f"{n} images of {len(patients)} held-out patients are too few to audit by: generate more, or hold out "
                "more healthy images"
            )
        first, second = np.sort(rng.choice(first, n, replace=False)), np.sort(rng.choice(second, n, replace=False))
        members = _half(train, rng)
        ones, others = (_one_each(held.groups, rows, rng) for rows in (first, second))
        few = min(len(ones), len(others))
        floor = None
        for arm in draws:
            films, features = (held, sets["held"]) if arm == FLOOR else (arms[arm], sets[arm])
            rows = second if arm == FLOOR else np.sort(rng.choice(len(films), n, replace=False))
            values = _realism(held, sets["held"], first, films, features, rows)
            values["two_sample_auroc"] = two_sample_auroc(
                sets["held"][first], features[rows], held.groups[first], _named(films, rows, arm), number
            )
            made = others[:few] if arm == FLOOR else rng.permutation(rows)[:few]
            values |= _diversity(held, sets["held"], ones[:few], films, features, made, rows)
            if arm == FLOOR:
                floor = values
            assert floor is not None
            for name in ("recall", "coverage"):
                values[f"{name}_share"] = values[name] / max(floor[name], 1e-9)
            if arm != BLURRED:  # made from the very films that it would be judged by
                # Whoever attacks has all the images that were released.
                values |= _privacy(held[first], train[members], films[rows] if arm == FLOOR else films)
            if arm not in (FLOOR, BLURRED):
                values |= {name: float(found[rows].mean()) for name, found in copies[arm].items()}
            for name, value in values.items():
                draws[arm].setdefault(name, []).append(value)
    return Audited(
        {arm: {name: np.array(values) for name, values in found.items()} for arm, found in draws.items()},
        dict.fromkeys(draws, (n, n)),
        {arm: (int(found["near_train"].sum()), int(found["near_held_out"].sum())) for arm, found in copies.items()},
    )


def _half(films: Films, rng: np.random.Generator) -> NDArray[np.int_]:
    patients = np.unique(films.groups)
    return np.flatnonzero(np.isin(films.groups, rng.permutation(patients)[: -(-len(patients) // 2)]))


def _named(films: Films, rows: NDArray[np.int_], arm: str) -> NDArray[np.str_]:
    # A real patient and a generated image never share a fold by accident of their names.
    return films.groups[rows] if arm in (FLOOR, BLURRED) else np.char.add("generated ", films.groups[rows])


def _realism(
    held: Films, scaled: Floats, first: NDArray[np.int_], films: Films, features: Floats, rows: NDArray[np.int_]
) -> dict[str, float]:
    values = {
        "kernel_distance": kernel_distance(scaled[first], features[rows]),
        "frechet_distance": frechet_distance(scaled[first], features[rows]),
        "spectrum_error": spectrum_error(held.spectra[first], films.spectra[rows]),
    }
    for name, column in (("ks_area", _AREA), ("ks_density", _DENSE), ("ks_grey", _GREY)):
        values[name] = ks_distance(held.features[first, column], films.features[rows, column])
    if held.latents is not None and films.latents is not None:
        for name, distance in (("kernel_distance", kernel_distance), ("frechet_distance", frechet_distance)):
            values[f"{name}_encoder"] = _by_fold(held, first, films, rows, distance)
    return values


def _by_fold(
    held: Films, first: NDArray[np.int_], films: Films, rows: NDArray[np.int_], distance: Callable[..., float]
) -> float:
    """Return the mean over folds of a distance of latents, for two runs' latents do not compare."""
    total = weight = 0.0
    assert held.latents is not None and films.latents is not None
    for fold in np.unique(held.fold):
        one, two = first[held.fold[first] == fold], rows[films.fold[rows] == fold]
        n = min(len(one), len(two))
        if n >= 2:
            all_real = held.latents[held.fold == fold]
            _, a, b = standardise(all_real, held.latents[one[:n]], films.latents[two[:n]])
            total, weight = total + n * distance(a, b), weight + n
    return total / max(weight, 1)


def _diversity(
    held: Films,
    scaled: Floats,
    real: NDArray[np.int_],
    films: Films,
    features: Floats,
    made: NDArray[np.int_],
    rows: NDArray[np.int_],
) -> dict[str, float]:
    """Return neighbourhoods of real and made, one image a patient and equally many, and the spread of rows."""
    near = prdc(scaled[real], features[made], NEIGHBOURS)._asdict()
    return near | {"spread": _spread(films.coarse[rows]) / _spread(held.coarse)}


def _one_each(groups: NDArray[np.str_], rows: NDArray[np.int_], rng: np.random.Generator) -> NDArray[np.int_]:
    shuffled = rng.permutation(rows)
    _, places = np.unique(groups[shuffled], return_index=True)
    return rng.permutation(shuffled[places])


def _spread(coarse: Floats) -> float:
    """Return the root mean square distance of two images of a set."""
    return float(np.sqrt(2 * coarse.var(axis=0, ddof=1).sum()))


def _privacy(held: Films, train: Films, made: Films) -> dict[str, float]:
    """Return membership inference and nearness fold by fold, weighted by pairs and by images."""
    told = pairs = near = images = 0.0
    for fold in np.unique(made.fold):
        inside, outside, there = (films[films.fold == fold] for films in (train, held, made))
        n = min(len(inside), len(outside))
        if not n:
            continue
        members, others = (nearest(films.coarse, there.coarse)[0] for films in (inside, outside))
        value = membership_auroc(members, others)
        if value is not None:
            told, pairs = told + value * len(inside) * len(outside), pairs + len(inside) * len(outside)
        near_train, near_held = (nearest(there.coarse, films.coarse[:n])[0] for films in (inside, outside))
        near += float((near_train / np.maximum(near_held, 1e-9)).sum())
        images += len(there)
    found = {}
    if pairs:
        found["membership_auroc"] = told / pairs
    if images:
        found["nearness"] = near / images
    return found


def _copies(films: Films, train: Films, held: Films) -> dict[str, NDArray[np.bool_]]:
    """Say which images have a training film's pixels, and which are near to a training or a held-out film."""
    found = {name: np.zeros(len(films), bool) for name in ("exact_copies", "near_train", "near_held_out")}
    for fold in np.unique(films.fold):
        rows = np.flatnonzero(films.fold == fold)
        made, inside, outside = films[rows], train[train.fold == fold], held[held.fold == fold]
        found["exact_copies"][rows] = exact_copies(made.images, made.masks, inside.images, inside.masks)
        near = perceptual_copies(made.coarse, inside.coarse, outside.coarse, inside.groups, outside.groups)
        found["near_train"][rows], found["near_held_out"][rows] = near.near_train, near.near_held_out
    return found
