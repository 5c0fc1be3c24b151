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
from mammovae.auditing.privacy import exact_copies, membership_auroc, nearest_neighbours, perceptual_copies
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
    n: int
    """Real images, and as many generated ones, in each subsample."""
    exact: dict[str, int]
    """Images with the very pixels of a training image."""
    reached: dict[str, tuple[int, int]]
    """Patients in training, and held out, whom a generated image is near to."""
    pool: tuple[int, int]
    """Patients in training and held out."""

    def estimate(self, arm: str, measure: str) -> Estimate | None:
        """Return a measure with its interval; None where it was not taken."""
        return self._estimate(self.draws[arm][measure]) if measure in self.draws[arm] else None

    def difference(self, first: str, second: str, measure: str) -> Estimate:
        """Return first less second, the interval from the differences in the same subsamples."""
        return self._estimate(self.draws[first][measure] - self.draws[second][measure])

    def rows(self) -> dict[str, list[AuditRow]]:
        """Return the table of the page, by section."""
        sections: dict[str, list[AuditRow]] = {}
        for name, label, better, section, note, primary in MEASURES:
            estimates = {arm: self.estimate(arm, name) for arm in self.draws}
            if any(estimates.values()):
                sections.setdefault(section, []).append(AuditRow(name, label, better, estimates, note, primary))
        return sections

    def _estimate(self, draws: Floats) -> Estimate:
        low, high = np.percentile(draws, [2.5, 97.5])
        return Estimate(float(draws.mean()), float(low), float(high), self.n, self.n)


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
    folds = [_Fold(held, train, arms, fold, halves, seed) for fold in np.unique(held.fold)]
    draws: dict[str, dict[str, Floats]] = {arm: {} for arm in (REAL_REFERENCE, *arms)}
    by_subsample = []
    for number, half in enumerate(halves):
        rng = np.random.default_rng([seed, number, 1])
        by_subsample.append([fold.measured(half, number, rng) for fold in folds])
    for arm, columns in draws.items():
        for name in by_subsample[0][0][arm]:
            values = [[measures[arm][name] for measures in by_fold] for by_fold in by_subsample]
            columns[name] = np.mean(values, axis=1)
        # A ratio of means: the reference of a single subsample may be 0.
        for name in ("recall", "coverage"):
            columns[f"{name}_share"] = columns[name] / max(float(draws[REAL_REFERENCE][name].mean()), 1e-9)
    return AuditResult(
        draws,
        sum(fold.n for fold in folds),
        {arm: sum(fold.n_exact(arm) for fold in folds) for arm in folds[0].arms},
        {arm: _sums([fold.n_reached(arm) for fold in folds]) for arm in folds[0].arms},
        _sums([(len(np.unique(fold.train.groups)), len(np.unique(fold.held.groups))) for fold in folds]),
    )


def _half(patients: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.str_]:
    return rng.permutation(patients)[: len(patients) // 2]


def _sums(counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(first for first, _ in counts), sum(second for _, second in counts)


class _Fold:
    """One fold's images, separate from those of all others, of which every subsample takes equally many.

    arms: generated sets; drawn: 2 n images of each set; scaled: features of held (REAL_REFERENCE) and drawn in standard
    scores; n: images of each set in a subsample; few: of those, one image a patient; train_distance, held_distance: of
    each real image, to the nearest of an arm's images; near: of each of an arm's images, the nearest real ones.
    """

    def __init__(
        self,
        held: ImageSet,
        train: ImageSet,
        arms: Mapping[str, ImageSet],
        fold: int,
        halves: Sequence[NDArray[np.str_]],
        seed: int,
    ) -> None:
        self.held, self.train = held[held.fold == fold], train[train.fold == fold]
        sets = {arm: images[images.fold == fold] for arm, images in arms.items()}
        self.arms = {arm: images for arm, images in sets.items() if arm != BLURRED}
        sides = [self.held.groups[side] for half in halves for side in self._sides(half)]
        self.n = min(*map(len, sides), *(len(images) // 2 for images in sets.values()))
        self.few = min(self.n, *(len(np.unique(side)) for side in sides))
        if self.few <= NEIGHBOURS or len(np.unique(held.groups)) < FEWEST:
            raise InputError(
                f"{len(self.held)} images of {len(np.unique(self.held.groups))} held-out patients beside "
                f"{min(map(len, self.arms.values()))} generated images are too few to audit by "
                f"(there must be {FEWEST} such patients): hold out more healthy images, or generate more"
            )
        rng = np.random.default_rng([seed, int(fold)])
        self.drawn = {arm: images[rng.permutation(len(images))[: 2 * self.n]] for arm, images in sets.items()}
        scaled = {REAL_REFERENCE: self.held, **self.drawn}
        self.scaled = {arm: standardise(held.features, images.features)[1] for arm, images in scaled.items()}
        real = (self.train.coarse, self.held.coarse, self.train.groups, self.held.groups)
        self.train_distance, self.held_distance = (
            {arm: nearest_neighbours(coarse, images.coarse)[0] for arm, images in self.arms.items()}
            for coarse in real[:2]
        )
        self.near = {arm: perceptual_copies(images.coarse, *real) for arm, images in self.arms.items()}

    def _sides(self, half: NDArray[np.str_]) -> tuple[Bools, Bools]:
        """Say which held-out images are of the patients in half, and which of the others."""
        in_half = np.isin(self.held.groups, half)
        return in_half, ~in_half

    def measured(self, half: NDArray[np.str_], number: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
        """Return the measures of every arm in one subsample, by arm and measure."""
        sides = [np.flatnonzero(side) for side in self._sides(half)]
        real, reference = (np.sort(rng.permutation(side)[: self.n]) for side in sides)
        real_singles, reference_singles = (_one_each(self.held.groups, side, rng)[: self.few] for side in sides)
        members = np.isin(self.train.groups, _half(np.unique(self.train.groups), rng))
        real_features = self.scaled[REAL_REFERENCE]
        measures: dict[str, dict[str, float]] = {}
        for arm, features in self.scaled.items():
            if arm == REAL_REFERENCE:
                images, rows, singles = self.held, reference, reference_singles
            else:
                images = self.drawn[arm]
                rows = np.sort(rng.permutation(len(images))[: self.n])
                singles = rng.permutation(rows)[: self.few]
            groups = (
                images.groups[rows]
                if arm in (REAL_REFERENCE, BLURRED)
                else np.char.add("generated ", images.groups[rows])
            )
            measures[arm] = self._realism(real, images, features, rows)
            measures[arm]["two_sample_auroc"] = two_sample_auroc(
                real_features[real], features[rows], self.held.groups[real], groups, number
            )
            measures[arm] |= prdc(real_features[real_singles], features[singles], NEIGHBOURS)._asdict()
            measures[arm]["spread"] = _spread(images.coarse[rows]) / _spread(self.held.coarse)
            if arm != BLURRED:  # made from the very images that it would be compared with
                measures[arm] |= self._privacy(arm, images.coarse[rows], (members, real), rng)
        return measures

    def _realism(self, real: Integers, images: ImageSet, features: Floats, rows: Integers) -> dict[str, float]:
        held, real_features = self.held, self.scaled[REAL_REFERENCE][real]
        values = {
            "kernel_distance": kernel_distance(real_features, features[rows]),
            "frechet_distance": frechet_distance(real_features, features[rows]),
            "spectrum_error": spectrum_error(held.spectra[real], images.spectra[rows]),
        }
        for name, feature in (("ks_area", "area"), ("ks_density", "dense_share"), ("ks_grey", "mean")):
            column = FEATURES.index(feature)
            values[name] = ks_distance(held.features[real, column], images.features[rows, column])
        if held.latents is not None and images.latents is not None:
            _, one, two = standardise(held.latents, held.latents[real], images.latents[rows])
            values["kernel_distance_encoder"] = kernel_distance(one, two)
            values["frechet_distance_encoder"] = frechet_distance(one, two)
        return values

    def _privacy(
        self, arm: str, coarse: Floats, real: tuple[Bools, Integers], rng: np.random.Generator
    ) -> dict[str, float]:
        """Return membership inference, nearness, and the shares that are near to a training or a held-out image.

        coarse: (n, 1024) of the arm's images in this subsample; real: which training and held-out images take part.
        """
        members, rows = real
        train, held = self.train.coarse[members], self.held.coarse[rows]
        n = min(len(train), len(held))
        if arm == REAL_REFERENCE:
            inner, outer = (nearest_neighbours(side, coarse)[0] for side in (train, held))
        else:
            # An attacker has all the images that were released.
            inner, outer = self.train_distance[arm][members], self.held_distance[arm][rows]
        to_train, to_held = (nearest_neighbours(coarse, rng.permutation(side)[:n])[0] for side in (train, held))
        values = {"nearness": float((to_train / np.maximum(to_held, 1e-9)).mean())}
        membership = membership_auroc(inner, outer)
        if membership is not None:
            values["membership_auroc"] = membership
        if arm != REAL_REFERENCE:
            near, chosen = self.near[arm], rng.permutation(len(self.arms[arm]))[: len(self.arms[arm]) // 2]
            values["near_train"] = float((near.train_distance[chosen] < near.threshold).mean())
            values["near_held_out"] = float((near.held_distance[chosen] < near.threshold).mean())
        return values

    def n_exact(self, arm: str) -> int:
        """Return how many of an arm's images have the very pixels of a training image."""
        images, train = self.arms[arm], self.train
        return int(exact_copies(images.images, images.masks, train.images, train.masks).sum())

    def n_reached(self, arm: str) -> tuple[int, int]:
        """Return how many patients in training, and held out, an arm's images are near to."""
        train_distance, train_row, held_distance, held_row, threshold = self.near[arm]
        train, held = (
            self.train.groups[train_row[train_distance < threshold]],
            self.held.groups[held_row[held_distance < threshold]],
        )
        return len(np.unique(train)), len(np.unique(held))


def _one_each(groups: NDArray[np.str_], rows: Integers, rng: np.random.Generator) -> Integers:
    shuffled = rng.permutation(rows)
    _, places = np.unique(groups[shuffled], return_index=True)
    return rng.permutation(shuffled[places])


def _spread(coarse: Floats) -> float:
    """Return the root mean square distance of two images of a set."""
    return float(np.sqrt(2 * coarse.var(axis=0, ddof=1).sum()))
