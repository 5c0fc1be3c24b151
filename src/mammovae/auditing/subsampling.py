"""Random halves of patients: generated sets against real images in the same subsamples, and the reference.

The real-vs-real reference is what one half of the held-out patients reaches against the other half.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mammovae.auditing.anatomical_measures import compare_anatomy
from mammovae.auditing.audit_result import BLURRED, REAL_REFERENCE, AuditResult
from mammovae.auditing.distances import (
    frechet_distance,
    kernel_distance,
    ks_distance,
    mean_square_distance,
    prdc,
    standardise,
    two_sample_auroc,
)
from mammovae.auditing.image_set import FoldImages, one_each
from mammovae.auditing.nearness import Draw, Nearness
from mammovae.auditing.privacy import Copies, exact_copies
from mammovae.auditing.radiomics import FEATURES
from mammovae.auditing.spectrum import spectrum_error
from mammovae.config import InputError
from mammovae.statistics import Floats, Integers

SUBSAMPLES = 200
NEIGHBOURS = 5
FEWEST = 20
"""With fewer held-out patients, or half as many images in half of them, nearest neighbours mean nothing."""


def audit_sets(folds: Sequence[FoldImages], seed: int) -> AuditResult:
    """Compare generated sets with held-out real images, in random halves of the patients, drawn without replacement.

    In each subsample half of the held-out patients stand for "real"; the other half, the reference, is measured like a
    generated set, and blurred as the set that is plainly not real. Every measure is taken within a fold, whose network
    has seen none of its held-out images, and averaged over folds. The values of half samples spread about as the
    measure of the whole does (Politis & Romano, Ann. Stat. 22:2031, 1994; half-samples of a mean have its very
    variance), so their 2.5 and 97.5 % are the interval, and twice as many generated images take part as are drawn at a
    time. The estimate is the mean of the values, and holds for that number of images, the same in all arms.

    Two images of one woman are alike. A measure whose value depends on the number of images would therefore be worse
    for real images, some of which add little, than for as many independent generated ones: it takes one image a
    patient, or of one origin. The others pass over pairs of one patient, or keep them together. Membership is inferred
    by all generated images. InputError where there are too few.
    """
    real = [fold.held.measures for fold in folds]
    patients, features = np.unique(np.concatenate([one.groups for one in real])), [one.features for one in real]
    halves = [_half(patients, np.random.default_rng([seed, number])) for number in range(SUBSAMPLES)]
    rngs = [np.random.default_rng([seed, number, 1]) for number in range(SUBSAMPLES)]
    by_fold: list[list[dict[str, dict[str, float]]]] = []
    near: list[dict[str, Copies]] = []
    n = few = 0
    for number, images in enumerate(folds):
        # Holds the distances of all pairs, and so lives no longer than its turn.
        fold = _Fold(images, halves, np.concatenate(features), (seed, number))
        by_fold.append([fold.measured(*part) for part in zip(range(SUBSAMPLES), halves, rngs, strict=True)])
        near.append(fold.nearness.near)
        n, few = n + fold.n, few + fold.few
    draws = {
        arm: {name: np.mean([[draw[arm][name] for draw in fold] for fold in by_fold], axis=0) for name in names}
        for arm, names in by_fold[0][0].items()
    }
    for columns in draws.values():
        # A ratio of means: the reference of a single subsample may be 0.
        for name in ("recall", "coverage"):
            columns[f"{name}_share"] = columns[name] / max(float(draws[REAL_REFERENCE][name].mean()), 1e-9)
    return AuditResult(
        draws,
        n,
        few,
        {arm: sum(_n_exact(images, arm) for images in folds) for arm in near[0]},
        {
            arm: _sums([_n_reached(*part) for part in zip(folds, [one[arm] for one in near], strict=True)])
            for arm in near[0]
        },
        _sums([(len(np.unique(fold.train.groups)), len(np.unique(fold.held.groups))) for fold in folds]),
        {arm: [one[arm] for one in near] for arm in near[0]},
    )


def _half(patients: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.str_]:
    return rng.permutation(patients)[: len(patients) // 2]


def _sums(counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(first for first, _ in counts), sum(second for _, second in counts)


def _n_exact(images: FoldImages, arm: str) -> int:
    """Return how many of an arm's images have the very pixels of a training image."""
    return int(exact_copies(images.generated[arm].hashes, images.train.hashes).sum())


def _n_reached(images: FoldImages, near: Copies) -> tuple[int, int]:
    """Return how many patients in training, and held out, generated images are near to."""
    train = images.train.groups[near.train_row[near.train_distance < near.threshold]]
    held = images.held.groups[near.held_row[near.held_distance < near.threshold]]
    return len(np.unique(train)), len(np.unique(held))


class _Fold:
    """One fold's images, separate from those of all others, of which every subsample takes equally many.

    measures: of held (REAL_REFERENCE), of 2 n images of each generated set, and of held blurred, row by row; features:
    theirs in standard scores of scale (N, F), the held-out images of all folds; latents: theirs in those of held; n:
    images of each set in a subsample; few: of those, one a patient.
    """

    def __init__(
        self, images: FoldImages, halves: Sequence[NDArray[np.str_]], scale: Floats, seeds: tuple[int, int]
    ) -> None:
        held, self._train, self._seeds = images.held.measures, images.train, seeds
        generated = {arm: one.measures for arm, one in images.generated.items()}
        sides = [held.groups[side] for half in halves for side in self._sides(held.groups, half)]
        self.n = min(*map(len, sides), *(len(one.groups) // 2 for one in generated.values()))
        rng = np.random.default_rng(seeds)
        drawn = {arm: one.at(rng.permutation(len(one.groups))[: 2 * self.n]) for arm, one in generated.items()}
        origins = min(len(np.unique(one.groups)) for one in drawn.values())
        self.few = min(self.n, origins // 2, *(len(np.unique(side)) for side in sides))
        if self.few <= NEIGHBOURS or len(halves[0]) < FEWEST // 2:
            raise InputError(
                f"{len(held.groups):,} images of {len(np.unique(held.groups)):,} held-out patients beside "
                f"{min(map(len, images.generated.values())):,} generated images of {origins:,} origins are too few to "
                f"audit by (there must be {FEWEST} such patients): hold out more healthy images, or generate more"
            )
        if len(np.unique(images.train.groups)) < 2:
            raise InputError("the run was trained on one patient's images: no membership can be inferred")
        self.measures = {REAL_REFERENCE: held}
        for arm, one in drawn.items():
            # Nobody of the real patients, whatever another generator's files are called.
            self.measures[arm] = one._replace(groups=np.char.add("generated ", one.groups))
        self.measures[BLURRED] = images.blurred
        self.features = {arm: standardise(scale, one.features)[1] for arm, one in self.measures.items()}
        self.latents = {
            arm: standardise(held.latents, one.latents)[1]
            for arm, one in self.measures.items()
            if held.latents is not None and one.latents is not None
        }
        self.spread = mean_square_distance(held.coarse, held.groups)
        self.nearness = Nearness(images, {arm: one.coarse for arm, one in drawn.items()})

    @staticmethod
    def _sides(groups: NDArray[np.str_], half: NDArray[np.str_]) -> tuple[Integers, Integers]:
        """Return the rows of the patients in half, and of the others."""
        in_half = np.isin(groups, half)
        return np.flatnonzero(in_half), np.flatnonzero(~in_half)

    def measured(self, number: int, half: NDArray[np.str_], rng: np.random.Generator) -> dict[str, dict[str, float]]:
        """Return the measures of every arm in one subsample, by arm and measure."""
        private = np.random.default_rng([*self._seeds, number])
        draw = self._draw(half, rng, private)
        measures: dict[str, dict[str, float]] = {}
        for arm, images in self.measures.items():
            if arm in (REAL_REFERENCE, BLURRED):  # blurred images of other patients than those that stand for real
                rows, singles = draw.reference, draw.reference_singles
            else:
                shuffled = rng.permutation(len(images.groups))
                rows = np.sort(shuffled[: self.n])
                # The others follow: where images share origins, those drawn may be of too few.
                singles = _first_of_each(images.groups, np.concatenate([rng.permutation(rows), shuffled[self.n :]]))
            measures[arm] = self._of_all(draw.real, arm, rows, number)
            measures[arm] |= self._of_singles(draw.real_singles, arm, singles[: self.few])
            if arm != BLURRED:  # made from the very images that it would be compared with
                measures[arm] |= self.nearness.measured(arm, rows, draw, private)
        return measures

    def _draw(self, half: NDArray[np.str_], rng: np.random.Generator, private: np.random.Generator) -> Draw:
        groups = self.measures[REAL_REFERENCE].groups
        train = self._train.groups[self._train.sample]
        sides = self._sides(groups, half)
        real, reference = (np.sort(rng.permutation(side)[: self.n]) for side in sides)
        real_singles, reference_singles = (one_each(groups, side, rng)[: self.few] for side in sides)
        members, _ = self._sides(train, _half(np.unique(train), rng))
        return Draw(real, real_singles, reference, reference_singles, members, one_each(train, members, private))

    def _of_all(self, real: Integers, arm: str, rows: Integers, number: int) -> dict[str, float]:
        """Return the measures that know which images are of one patient."""
        held, images = self.measures[REAL_REFERENCE], self.measures[arm]
        groups = held.groups[real], images.groups[rows]
        one, two = self.features[REAL_REFERENCE][real], self.features[arm][rows]
        values = {
            "kernel_distance": kernel_distance(one, two, *groups),
            "two_sample_auroc": two_sample_auroc(one, two, *groups, number),
            "spread": float(np.sqrt(mean_square_distance(images.coarse[rows], groups[1]) / self.spread)),
        }
        if arm in self.latents:
            latents = self.latents[REAL_REFERENCE][real], self.latents[arm][rows]
            values["kernel_distance_encoder"] = kernel_distance(*latents, *groups)
        return values

    def _of_singles(self, real: Integers, arm: str, rows: Integers) -> dict[str, float]:
        """Return the measures that depend on the number of images, of one image a patient."""
        held, images = self.measures[REAL_REFERENCE], self.measures[arm]
        one, two = self.features[REAL_REFERENCE][real], self.features[arm][rows]
        values: dict[str, float] = {
            "frechet_distance": frechet_distance(one, two),
            "spectrum_error": spectrum_error(held.spectra[real], images.spectra[rows]),
            **prdc(one, two, NEIGHBOURS)._asdict(),
        }
        for name, feature in (("ks_area", "area"), ("ks_density", "dense_share"), ("ks_grey", "mean")):
            column = FEATURES.index(feature)
            values[name] = ks_distance(held.features[real, column], images.features[rows, column])
        values |= compare_anatomy(held.anatomy[real], images.anatomy[rows])
        if arm in self.latents:
            latents = self.latents[REAL_REFERENCE][real], self.latents[arm][rows]
            values["frechet_distance_encoder"] = frechet_distance(*latents)
        return values


def _first_of_each(groups: NDArray[np.str_], rows: Integers) -> Integers:
    """Return the first of rows of each group, in the order of rows."""
    return rows[np.sort(np.unique(groups[rows], return_index=True)[1])]
