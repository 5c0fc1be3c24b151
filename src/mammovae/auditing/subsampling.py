"""The figures of an audit: generated sets against real films in the same subsamples of patients, and their floor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
from mammovae.auditing.privacy import (
    Copies,
    exact_copies,
    membership_auroc,
    nearest_neighbours,
    perceptual_copies,
)
from mammovae.auditing.radiomics import FEATURES
from mammovae.auditing.spectrum import spectrum_error
from mammovae.config import InputError
from mammovae.report.audit_page import AuditRow
from mammovae.statistics import Bools, Floats, Integers
from mammovae.statistics.bootstrap import Estimate

REAL_REFERENCE = "real-vs-real reference"
BLURRED = "real, blurred"
SUBSAMPLES = 200
NEIGHBOURS = 5
FEWEST = 20
"""With fewer held-out patients, or half as many images in half of them, nearest neighbours mean nothing."""


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
    _Measure("two_sample_auroc", "Classifier two-sample test", "half", "Realism", "AUROC; 1 = always distinguished"),
    _Measure("precision", "Precision", "higher", "Diversity", "generated among the real"),
    _Measure("recall", "Recall", "higher", "Diversity", "real among the generated", True),
    _Measure("density", "Density", "higher", "Diversity", "real neighbourhoods a generated image is in"),
    _Measure("coverage", "Coverage", "higher", "Diversity", "real neighbourhoods reached"),
    _Measure(
        "recall_share", "Recall, share of the reference", "higher", "Diversity", "1 = as two halves of real films"
    ),
    _Measure(
        "coverage_share", "Coverage, share of the reference", "higher", "Diversity", "1 = as two halves of real films"
    ),
    _Measure("spread", "Spread", "higher", "Diversity", "mean distance of two images, over that of real films"),
    _Measure(
        "near_train", "Near a training film", "lower", "Privacy", "share nearer than two patients' films ever are"
    ),
    _Measure("near_held_out", "Near a held-out film", "lower", "Privacy", "the same, where nothing was copied"),
    _Measure("nearness", "Distance to training, share", "higher", "Privacy", "over that to as many held-out films"),
    _Measure("membership_auroc", "Membership inference", "half", "Privacy", "AUROC; 0.5 = nothing is given away", True),
)
"""Every figure of the audit, in the order of its table."""


@dataclass(frozen=True)
class AuditResult:
    """The figures of an audit: draws[arm][measure] (R,) of the subsamples, and what is counted over all images.

    counts: real and generated images in each subsample; exact: images with the very pixels of a training film; reached:
    patients in training, and held out, whom a generated image is near to; pool: patients in training and held out.
    """

    draws: dict[str, dict[str, Floats]]
    counts: tuple[int, int]
    exact: dict[str, int]
    reached: dict[str, tuple[int, int]]
    pool: tuple[int, int]

    def estimate(self, arm: str, measure: str) -> Estimate | None:
        """Return a figure with its interval; None where it was not measured."""
        if measure not in self.draws[arm]:
            return None
        return _estimate(self.draws[arm][measure], *self.counts)

    def difference(self, first: str, second: str, measure: str) -> Estimate:
        """Return first less second, the interval from the differences in the same subsamples."""
        return _estimate(self.draws[first][measure] - self.draws[second][measure], *self.counts)

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


def audit_sets(held: ImageSet, train: ImageSet, arms: Mapping[str, ImageSet], seed: int) -> AuditResult:
    """Measure generated sets against held-out real films, in random halves of the patients, drawn without replacement.

    In each subsample half of the held-out patients stand for "real"; the other half, FLOOR, is judged like a generated
    set. Every figure is taken within a fold, whose network has seen none of its held-out films, and averaged over
    folds. The values of half samples spread about as the figure of the whole does (Politis & Romano, Ann. Stat.
    22:2031, 1994; half-samples of a mean have its very variance), so their 2.5 and 97.5 % are the interval, and twice
    as many generated images take part as are drawn at a time. The figure itself is the mean of the values, and holds
    for that number of images, the same in all arms. Nearest neighbours are looked for among one image a patient, as
    two of one woman are alike. Membership is inferred by all generated images. InputError where there are too few.
    """
    patients = np.unique(held.groups)
    halves = [_half(patients, np.random.default_rng([seed, number])) for number in range(SUBSAMPLES)]
    folds = [_Fold.of(held, train, arms, fold, halves, seed) for fold in np.unique(held.fold)]
    draws: dict[str, dict[str, list[float]]] = {arm: {} for arm in (REAL_REFERENCE, *arms)}
    for number, half in enumerate(halves):
        rng = np.random.default_rng([seed, number, 1])
        values = [fold.measured(half, number, rng) for fold in folds]
        for arm, found in draws.items():
            for name in values[0][arm]:
                found.setdefault(name, []).append(float(np.mean([value[arm][name] for value in values])))
    whole = {arm: {name: np.array(values) for name, values in found.items()} for arm, found in draws.items()}
    for found in whole.values():
        # A ratio of means: a single subsample may hold a floor of 0.
        for name in ("recall", "coverage"):
            found[f"{name}_share"] = found[name] / max(float(whole[REAL_REFERENCE][name].mean()), 1e-9)
    judged = [arm for arm in arms if arm != BLURRED]
    total = sum(fold.n for fold in folds)
    return AuditResult(
        whole,
        (total, total),
        {arm: sum(fold.exact(arm) for fold in folds) for arm in judged},
        {arm: _summed([fold.reached(arm) for fold in folds]) for arm in judged},
        _summed([(len(np.unique(fold.train.groups)), len(np.unique(fold.held.groups))) for fold in folds]),
    )


def _half(patients: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.str_]:
    return rng.permutation(patients)[: len(patients) // 2]


def _summed(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


@dataclass(frozen=True)
class _Fold:
    """One fold's films, all that no network of another fold has a say in.

    drawn: 2 n images of each arm; scaled: features of held (FLOOR) and drawn in standard scores; n: images of each set
    in a subsample; few: of those, one image a patient; train_distance, held_distance: of each real film, the distance
    to the nearest of an arm's images; near: of each arm's images, what perceptual_copies says.
    """

    held: ImageSet
    train: ImageSet
    arms: dict[str, ImageSet]
    drawn: dict[str, ImageSet]
    scaled: dict[str, Floats]
    n: int
    few: int
    train_distance: dict[str, Floats]
    held_distance: dict[str, Floats]
    near: dict[str, Copies]

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
        """Take a fold's films out of all, and settle how many are drawn so that every subsample has as many."""
        own, inside = held[held.fold == fold], train[train.fold == fold]
        sets = {arm: films[films.fold == fold] for arm, films in arms.items()}
        judged = {arm: films for arm, films in sets.items() if arm != BLURRED}
        sides = [own.groups[side] for half in halves for side in _sides(own, half)]
        n = min(*(len(side) for side in sides), *(len(films) // 2 for films in sets.values()))
        few = min(n, *(len(np.unique(side)) for side in sides))
        if few <= NEIGHBOURS or len(np.unique(held.groups)) < FEWEST:
            raise InputError(
                f"{len(own)} images of {len(np.unique(own.groups))} held-out patients beside "
                f"{min(len(films) for films in judged.values())} generated images are too few to audit by "
                f"(there must be {FEWEST} such patients): hold out more healthy images, or generate more"
            )
        rng = np.random.default_rng([seed, int(fold)])
        drawn = {arm: films[rng.permutation(len(films))[: 2 * n]] for arm, films in sets.items()}
        return cls(
            held=own,
            train=inside,
            arms=judged,
            drawn=drawn,
            scaled={
                name: standardise(held.features, some.features)[1]
                for name, some in {REAL_REFERENCE: own, **drawn}.items()
            },
            n=n,
            few=few,
            train_distance={arm: nearest_neighbours(inside.coarse, made.coarse)[0] for arm, made in judged.items()},
            held_distance={arm: nearest_neighbours(own.coarse, made.coarse)[0] for arm, made in judged.items()},
            near={
                arm: perceptual_copies(made.coarse, inside.coarse, own.coarse, inside.groups, own.groups)
                for arm, made in judged.items()
            },
        )

    def measured(self, half: NDArray[np.str_], number: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
        """Return the figures of every arm in one subsample, by arm and measure."""
        sides = [np.flatnonzero(side) for side in _sides(self.held, half)]
        first, second = (np.sort(rng.permutation(side)[: self.n]) for side in sides)
        ones, others = (_one_each(self.held.groups, side, rng)[: self.few] for side in sides)
        members = np.isin(self.train.groups, _half(np.unique(self.train.groups), rng))
        found: dict[str, dict[str, float]] = {}
        for arm, features in self.scaled.items():
            floor = arm == REAL_REFERENCE
            films = self.held if floor else self.drawn[arm]
            rows = second if floor else np.sort(rng.permutation(len(films))[: self.n])
            made = others if floor else rng.permutation(rows)[: self.few]
            values = self._realism(first, films, features, rows)
            named = (
                films.groups[rows]
                if arm in (REAL_REFERENCE, BLURRED)
                else np.char.add("generated ", films.groups[rows])
            )
            values["two_sample_auroc"] = two_sample_auroc(
                self.scaled[REAL_REFERENCE][first], features[rows], self.held.groups[first], named, number
            )
            values |= prdc(self.scaled[REAL_REFERENCE][ones], features[made], NEIGHBOURS)._asdict()
            values["spread"] = _spread(films.coarse[rows]) / _spread(self.held.coarse)
            if arm != BLURRED:  # made from the very films that it would be judged by
                values |= self._privacy(arm, first, second, members, films, rows, rng)
            found[arm] = values
        return found

    def _realism(self, first: Integers, films: ImageSet, features: Floats, rows: Integers) -> dict[str, float]:
        held, real = self.held, self.scaled[REAL_REFERENCE][first]
        values = {
            "kernel_distance": kernel_distance(real, features[rows]),
            "frechet_distance": frechet_distance(real, features[rows]),
            "spectrum_error": spectrum_error(held.spectra[first], films.spectra[rows]),
        }
        for name, column in (("ks_area", _AREA), ("ks_density", _DENSE), ("ks_grey", _GREY)):
            values[name] = ks_distance(held.features[first, column], films.features[rows, column])
        if held.latents is not None and films.latents is not None:
            _, one, two = standardise(held.latents, held.latents[first], films.latents[rows])
            values["kernel_distance_encoder"] = kernel_distance(one, two)
            values["frechet_distance_encoder"] = frechet_distance(one, two)
        return values

    def _privacy(
        self,
        arm: str,
        first: Integers,
        second: Integers,
        members: Bools,
        films: ImageSet,
        rows: Integers,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Return membership inference, nearness, and the shares that are near to a training or a held-out film."""
        made = films[rows]
        inside = self.train.coarse[members]
        if arm == REAL_REFERENCE:
            inner, outer = (nearest_neighbours(coarse, made.coarse)[0] for coarse in (inside, self.held.coarse[first]))
        else:
            # Whoever attacks has all the images that were released.
            inner, outer = self.train_distance[arm][members], self.held_distance[arm][first]
        n = min(len(inside), len(first))
        to_train = nearest_neighbours(made.coarse, rng.permutation(inside)[:n])[0]
        to_held = nearest_neighbours(made.coarse, self.held.coarse[rng.permutation(first)[:n]])[0]
        values = {"nearness": float((to_train / np.maximum(to_held, 1e-9)).mean())}
        told = membership_auroc(inner, outer)
        if told is not None:
            values["membership_auroc"] = told
        if arm != REAL_REFERENCE:
            near, chosen = self.near[arm], rng.permutation(len(self.arms[arm]))[: len(self.arms[arm]) // 2]
            values |= {
                "near_train": float((near.train_distance[chosen] < near.threshold).mean()),
                "near_held_out": float((near.held_distance[chosen] < near.threshold).mean()),
            }
        return values

    def exact(self, arm: str) -> int:
        """Return how many of an arm's images have the very pixels of a training film."""
        made = self.arms[arm]
        return int(exact_copies(made.images, made.masks, self.train.images, self.train.masks).sum())

    def reached(self, arm: str) -> tuple[int, int]:
        """Return how many patients in training, and held out, an arm's images are near to."""
        near = self.near[arm]
        sides = ((near.train_distance, near.train_row, self.train), (near.held_distance, near.held_row, self.held))
        counts = [len(np.unique(films.groups[row[apart < near.threshold]])) for apart, row, films in sides]
        return counts[0], counts[1]


def _sides(films: ImageSet, half: NDArray[np.str_]) -> tuple[Bools, Bools]:
    """Say which films are of the patients in half, and which of the others."""
    there = np.isin(films.groups, half)
    return there, ~there


def _one_each(groups: NDArray[np.str_], rows: Integers, rng: np.random.Generator) -> Integers:
    shuffled = rng.permutation(rows)
    _, places = np.unique(groups[shuffled], return_index=True)
    return rng.permutation(shuffled[places])


def _spread(coarse: Floats) -> float:
    """Return the root mean square distance of two images of a set."""
    return float(np.sqrt(2 * coarse.var(axis=0, ddof=1).sum()))
