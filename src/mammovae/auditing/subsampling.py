"""The measures of an audit: generated sets against real images in the same subsamples of patients, and the reference.

The real-vs-real reference is what one half of the held-out patients reaches against the other half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mammovae.auditing.distances import (
    frechet_distance,
    kernel_distance,
    ks_distance,
    prdc,
    standardise,
    two_sample_auroc,
)
from mammovae.auditing.image_set import ImageSet
from mammovae.auditing.privacy import Copies, exact_copies, membership_auroc, nearest_neighbours, perceptual_copies
from mammovae.auditing.radiomics import FEATURES
from mammovae.auditing.spectrum import spectrum_error
from mammovae.config import InputError
from mammovae.report.audit_page import AuditRow
from mammovae.statistics import Bools, Floats, Integers
from mammovae.statistics.bootstrap import Estimate

REAL_REFERENCE = "real against real"
BLURRED = "real, blurred"
SUBSAMPLES = 200
NEIGHBOURS = 5
FEWEST = 20
"""With fewer held-out patients, or half as many images in half of them, nearest neighbours mean nothing."""


class _Measure(NamedTuple):
    """One measure: its key, words for people, what is best, and whether its section rests on it."""

    name: str
    label: str
    better: Literal["lower", "higher", "half"]
    section: str
    note: str
    primary: bool = False


_AREA, _GREY, _DENSE = (FEATURES.index(name) for name in ("area", "mean", "dense_share"))
_KS = "Kolmogorov-Smirnov distance"
_HALVES = "1 = as two halves of real images"
MEASURES = (
    _Measure("kernel_distance", "Kernel distance, radiomic", "lower", "Realism", "unbiased squared MMD", True),
    _Measure("frechet_distance", "Fréchet distance, radiomic", "lower", "Realism", "covariances shrunk"),
    _Measure("kernel_distance_encoder", "Kernel distance, encoder", "lower", "Realism", "the run's latents, by fold"),
    _Measure("frechet_distance_encoder", "Fréchet distance, encoder", "lower", "Realism", "covariances shrunk"),
    _Measure("spectrum_error", "Spectrum error", "lower", "Realism", "dB, root mean square over frequencies"),
    _Measure("ks_area", "Breast area", "lower", "Realism", _KS),
    _Measure("ks_density", "Dense share", "lower", "Realism", _KS),
    _Measure("ks_grey", "Mean grey", "lower", "Realism", _KS),
    _Measure("two_sample_auroc", "Classifier two-sample test", "half", "Realism", "AUROC; 1 = always distinguished"),
    _Measure("precision", "Precision", "higher", "Diversity", "generated among the real"),
    _Measure("recall", "Recall", "higher", "Diversity", "real among the generated", True),
    _Measure("density", "Density", "higher", "Diversity", "real neighbourhoods a generated image is in"),
    _Measure("coverage", "Coverage", "higher", "Diversity", "real neighbourhoods reached"),
    _Measure("recall_share", "Recall, share of the reference", "higher", "Diversity", _HALVES),
    _Measure("coverage_share", "Coverage, share of the reference", "higher", "Diversity", _HALVES),
    _Measure("spread", "Spread", "higher", "Diversity", "mean distance of two images, over that of real images"),
    _Measure("near_train", "Near a training image", "lower", "Privacy", "share nearer than two patients' images are"),
    _Measure("near_held_out", "Near a held-out image", "lower", "Privacy", "the same, where nothing was copied"),
    _Measure("nearness", "Distance to training, share", "higher", "Privacy", "over that to as many held-out images"),
    _Measure("membership_auroc", "Membership inference", "half", "Privacy", "AUROC; 0.5 = nothing disclosed", True),
)
"""Every measure of the audit, in the order of its table."""


@dataclass(frozen=True)
class AuditResult:
    """The measures of an audit: draws[arm][measure] (R,) of the subsamples, and what is counted over all images."""

    draws: dict[str, dict[str, Floats]]
    counts: tuple[int, int]
    """Real and generated images in each subsample."""
    exact: dict[str, int]
    """Images with the very pixels of a training image."""
    reached: dict[str, tuple[int, int]]
    """Patients in training, and held out, whom a generated image is near to."""
    pool: tuple[int, int]
    """Patients in training and held out."""

    def estimate(self, arm: str, measure: str) -> Estimate | None:
        """Return a measure with its interval; None where it was not taken."""
        return _estimate(self.draws[arm][measure], *self.counts) if measure in self.draws[arm] else None

    def difference(self, first: str, second: str, measure: str) -> Estimate:
        """Return first less second, the interval from the differences in the same subsamples."""
        return _estimate(self.draws[first][measure] - self.draws[second][measure], *self.counts)

    def rows(self) -> dict[str, list[AuditRow]]:
        """Return the table of the page, by section."""
        sections: dict[str, list[AuditRow]] = {}
        for measure in MEASURES:
            estimates = {arm: self.estimate(arm, measure.name) for arm in self.draws}
            if any(estimate is not None for estimate in estimates.values()):
                name, label, better, section, note, primary = measure
                sections.setdefault(section, []).append(AuditRow(name, label, better, estimates, note, primary))
        return sections


def _estimate(draws: Floats, real: int, generated: int) -> Estimate:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(draws.mean()), float(low), float(high), real, generated)


def audit_sets(held: ImageSet, train: ImageSet, arms: Mapping[str, ImageSet], seed: int) -> AuditResult:
    """Compare generated sets with held-out real images, in random halves of the patients, drawn without replacement.

    In each subsample half of the held-out patients stand for "real"; the other half, the reference, is measured like a
    generated set. Every measure is taken within a fold, whose network has seen none of its held-out images, and
    averaged over folds. The values of half samples spread about as the measure of the whole does (Politis & Romano,
    Ann. Stat. 22:2031, 1994; half-samples of a mean have its very variance), so their 2.5 and 97.5 % are the interval,
    and twice as many generated images take part as are drawn at a time. The estimate is the mean of the values, and
    holds for that number of images, the same in all arms. Nearest neighbours are looked for among one image a patient,
    as two of one woman are alike. Membership is inferred by all generated images. InputError where there are too few.
    """
    patients = np.unique(held.groups)
    halves = [_half(patients, np.random.default_rng([seed, number])) for number in range(SUBSAMPLES)]
    folds = [_Fold.of(held, train, arms, fold, halves, seed) for fold in np.unique(held.fold)]
    values: dict[str, dict[str, list[float]]] = {arm: {} for arm in (REAL_REFERENCE, *arms)}
    for number, half in enumerate(halves):
        rng = np.random.default_rng([seed, number, 1])
        by_fold = [fold.measured(half, number, rng) for fold in folds]
        for arm, by_measure in values.items():
            for name in by_fold[0][arm]:
                by_measure.setdefault(name, []).append(float(np.mean([fold[arm][name] for fold in by_fold])))
    draws = {arm: {name: np.array(column) for name, column in columns.items()} for arm, columns in values.items()}
    for columns in draws.values():
        # A ratio of means: the reference of a single subsample may be 0.
        for name in ("recall", "coverage"):
            columns[f"{name}_share"] = columns[name] / max(float(draws[REAL_REFERENCE][name].mean()), 1e-9)
    generated = [arm for arm in arms if arm != BLURRED]
    total = sum(fold.n for fold in folds)
    return AuditResult(
        draws,
        (total, total),
        {arm: sum(fold.exact(arm) for fold in folds) for arm in generated},
        {arm: _summed([fold.reached(arm) for fold in folds]) for arm in generated},
        _summed([(len(np.unique(fold.train.groups)), len(np.unique(fold.held.groups))) for fold in folds]),
    )


def _half(patients: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.str_]:
    return rng.permutation(patients)[: len(patients) // 2]


def _summed(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


class _Subsample(NamedTuple):
    """One subsample of a fold: rows of held-out images that stand for real, rows of the reference, training members."""

    real: Integers
    reference: Integers
    members: Bools


@dataclass(frozen=True)
class _Fold:
    """One fold's images, separate from those of all others."""

    held: ImageSet
    train: ImageSet
    arms: dict[str, ImageSet]
    drawn: dict[str, ImageSet]
    """2 n images of each arm."""
    scaled: dict[str, Floats]
    """Features of held (REAL_REFERENCE) and drawn in standard scores."""
    n: int
    """Images of each set in a subsample."""
    few: int
    """Of those, one image a patient."""
    train_distance: dict[str, Floats]
    held_distance: dict[str, Floats]
    """Of each real image, the distance to the nearest of an arm's images."""
    near: dict[str, Copies]
    """Of each arm's images, the nearest real ones."""

    @classmethod
    def of(
        cls,
        held: ImageSet,
        train: ImageSet,
        arms: Mapping[str, ImageSet],
        fold: int,
        halves: Sequence[NDArray[np.str_]],
        seed: int,
    ) -> "_Fold":
        """Select a fold's images, and settle how many are drawn so that every subsample has as many."""
        held_here, train_here = held[held.fold == fold], train[train.fold == fold]
        sets = {arm: images[images.fold == fold] for arm, images in arms.items()}
        generated = {arm: images for arm, images in sets.items() if arm != BLURRED}
        sides = [held_here.groups[side] for half in halves for side in _sides(held_here, half)]
        n = min(*(len(side) for side in sides), *(len(images) // 2 for images in sets.values()))
        few = min(n, *(len(np.unique(side)) for side in sides))
        if few <= NEIGHBOURS or len(np.unique(held.groups)) < FEWEST:
            raise InputError(
                f"{len(held_here)} images of {len(np.unique(held_here.groups))} held-out patients beside "
                f"{min(len(images) for images in generated.values())} generated images are too few to audit by "
                f"(there must be {FEWEST} such patients): hold out more healthy images, or generate more"
            )
        rng = np.random.default_rng([seed, int(fold)])
        drawn = {arm: images[rng.permutation(len(images))[: 2 * n]] for arm, images in sets.items()}
        scaled = {REAL_REFERENCE: held_here, **drawn}
        near_real = (train_here.coarse, held_here.coarse, train_here.groups, held_here.groups)
        return cls(
            held=held_here,
            train=train_here,
            arms=generated,
            drawn=drawn,
            scaled={arm: standardise(held.features, images.features)[1] for arm, images in scaled.items()},
            n=n,
            few=few,
            train_distance={arm: nearest_neighbours(train_here.coarse, x.coarse)[0] for arm, x in generated.items()},
            held_distance={arm: nearest_neighbours(held_here.coarse, x.coarse)[0] for arm, x in generated.items()},
            near={arm: perceptual_copies(x.coarse, *near_real) for arm, x in generated.items()},
        )

    def measured(self, half: NDArray[np.str_], number: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
        """Return the measures of every arm in one subsample, by arm and measure."""
        sides = [np.flatnonzero(side) for side in _sides(self.held, half)]
        real, reference = (np.sort(rng.permutation(side)[: self.n]) for side in sides)
        real_singles, reference_singles = (_one_each(self.held.groups, side, rng)[: self.few] for side in sides)
        members = np.isin(self.train.groups, _half(np.unique(self.train.groups), rng))
        subsample = _Subsample(real, reference, members)
        measures: dict[str, dict[str, float]] = {}
        for arm, features in self.scaled.items():
            is_reference = arm == REAL_REFERENCE
            images = self.held if is_reference else self.drawn[arm]
            rows = reference if is_reference else np.sort(rng.permutation(len(images))[: self.n])
            singles = reference_singles if is_reference else rng.permutation(rows)[: self.few]
            values = self._realism(real, images, features, rows)
            is_real = arm in (REAL_REFERENCE, BLURRED)
            groups = images.groups[rows] if is_real else np.char.add("generated ", images.groups[rows])
            values["two_sample_auroc"] = two_sample_auroc(
                self.scaled[REAL_REFERENCE][real], features[rows], self.held.groups[real], groups, number
            )
            values |= prdc(self.scaled[REAL_REFERENCE][real_singles], features[singles], NEIGHBOURS)._asdict()
            values["spread"] = _spread(images.coarse[rows]) / _spread(self.held.coarse)
            if arm != BLURRED:  # made from the very images that it would be compared with
                values |= self._privacy(arm, subsample, images.coarse[rows], rng)
            measures[arm] = values
        return measures

    def _realism(self, real: Integers, images: ImageSet, features: Floats, rows: Integers) -> dict[str, float]:
        held, real_features = self.held, self.scaled[REAL_REFERENCE][real]
        values = {
            "kernel_distance": kernel_distance(real_features, features[rows]),
            "frechet_distance": frechet_distance(real_features, features[rows]),
            "spectrum_error": spectrum_error(held.spectra[real], images.spectra[rows]),
        }
        for name, column in (("ks_area", _AREA), ("ks_density", _DENSE), ("ks_grey", _GREY)):
            values[name] = ks_distance(held.features[real, column], images.features[rows, column])
        if held.latents is not None and images.latents is not None:
            _, one, two = standardise(held.latents, held.latents[real], images.latents[rows])
            values["kernel_distance_encoder"] = kernel_distance(one, two)
            values["frechet_distance_encoder"] = frechet_distance(one, two)
        return values

    def _privacy(self, arm: str, drawn: _Subsample, coarse: Floats, rng: np.random.Generator) -> dict[str, float]:
        """Return membership inference, nearness, and the shares that are near to a training or a held-out image.

        coarse: (n, 1024) of the arm's images in this subsample.
        """
        train, held = self.train.coarse[drawn.members], self.held.coarse[drawn.real]
        n = min(len(train), len(held))
        if arm == REAL_REFERENCE:
            inner, outer = (nearest_neighbours(real, coarse)[0] for real in (train, held))
        else:
            # An attacker has all the images that were released.
            inner, outer = self.train_distance[arm][drawn.members], self.held_distance[arm][drawn.real]
        to_train = nearest_neighbours(coarse, rng.permutation(train)[:n])[0]
        to_held = nearest_neighbours(coarse, self.held.coarse[rng.permutation(drawn.real)[:n]])[0]
        values = {"nearness": float((to_train / np.maximum(to_held, 1e-9)).mean())}
        membership = membership_auroc(inner, outer)
        if membership is not None:
            values["membership_auroc"] = membership
        if arm != REAL_REFERENCE:
            near, chosen = self.near[arm], rng.permutation(len(self.arms[arm]))[: len(self.arms[arm]) // 2]
            values["near_train"] = float((near.train_distance[chosen] < near.threshold).mean())
            values["near_held_out"] = float((near.held_distance[chosen] < near.threshold).mean())
        return values

    def exact(self, arm: str) -> int:
        """Return how many of an arm's images have the very pixels of a training image."""
        images = self.arms[arm]
        return int(exact_copies(images.images, images.masks, self.train.images, self.train.masks).sum())

    def reached(self, arm: str) -> tuple[int, int]:
        """Return how many patients in training, and held out, an arm's images are near to."""
        near = self.near[arm]
        sides = ((near.train_distance, near.train_row, self.train), (near.held_distance, near.held_row, self.held))
        counts = [len(np.unique(real.groups[row[distance < near.threshold]])) for distance, row, real in sides]
        return counts[0], counts[1]


def _sides(images: ImageSet, half: NDArray[np.str_]) -> tuple[Bools, Bools]:
    """Say which images are of the patients in half, and which of the others."""
    in_half = np.isin(images.groups, half)
    return in_half, ~in_half


def _one_each(groups: NDArray[np.str_], rows: Integers, rng: np.random.Generator) -> Integers:
    shuffled = rng.permutation(rows)
    _, places = np.unique(groups[shuffled], return_index=True)
    return rng.permutation(shuffled[places])


def _spread(coarse: Floats) -> float:
    """Return the root mean square distance of two images of a set."""
    return float(np.sqrt(2 * coarse.var(axis=0, ddof=1).sum()))
