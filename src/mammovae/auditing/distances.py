"""How alike two sets of images are, by their features: distances, coverage, and a classifier two-sample test.

Sets are (n, F) real and (m, F) generated, a row an image. Every distance depends on the number of images: compare it
with that of real images against real images of other patients, of equal numbers.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp

from mammovae.config import InputError
from mammovae.statistics import Bools, Floats, Integers
from mammovae.statistics.bootstrap import auroc, check_finite

FOLDS = 5
FARTHEST = 5.0
"""Standard scores are cut off here: cubed or squared, those of one odd image would outweigh all the others."""
_CLASSIFIER_CUT = 2.0  # on mammograms, squares of long tails hide most differences from the classifier


class Prdc(NamedTuple):
    """Shares of images near the other set: see prdc."""

    precision: float
    recall: float
    density: float
    coverage: float


def standardise(reference: ArrayLike, *others: ArrayLike) -> tuple[Floats, ...]:
    """Return all sets, the reference first, less its mean, over its standard deviation, and cut off at +-5.

    A feature that is constant in the reference becomes 0 in all sets, for lack of a scale. Let the reference be all
    real images where only a half is compared: a set's own scale makes others look too wide, and the kernel distance
    three times as noisy.
    """
    sets = [np.asarray(x, float) for x in (reference, *others)]
    centre, deviation = sets[0].mean(axis=0), sets[0].std(axis=0)
    scale = np.where(deviation <= 1e-9 * np.maximum(1e-3, np.abs(centre)), np.inf, deviation)
    return tuple(np.clip((x - centre) / scale, -FARTHEST, FARTHEST) for x in sets)


def kernel_distance(first: ArrayLike, second: ArrayLike, first_groups: ArrayLike, second_groups: ArrayLike) -> float:
    """Return the unbiased squared maximum mean discrepancy with the kernel (x.y / F + 1)^3; 0 on average if alike.

    The KID of Binkowski et al., "Demystifying MMD GANs" (ICLR 2018), on features of our own; it may be negative.
    Groups (n,), (m,): patients, or a name of its own for an image that has none. Pairs of one group are left out, in a
    set and across the two: a woman's images are alike, and counted as a pair they look like a set of its own kind.
    InputError unless both sets have the same number, at least 2, so that two distances compare, and where all pairs of
    a set, or all across, are of one group.
    """
    x, y = _sets(first, second)
    n = len(x)
    if n != len(y) or n < 2:
        raise InputError(f"the sets have {n} and {len(y)} images: give the same number, at least 2, in each")
    groups = _checked_groups(x, y, first_groups, second_groups)
    one, two, cross = (
        _mean_kernel(a, b, of_a, of_b)
        for a, b, of_a, of_b in ((x, x, *groups[:1] * 2), (y, y, *groups[1:] * 2), (x, y, *groups))
    )
    return one + two - 2 * cross


def _mean_kernel(x: Floats, y: Floats, x_groups: Integers, y_groups: Integers) -> float:
    """Return the mean kernel of the pairs of two groups."""
    is_pair = x_groups[:, None] != y_groups
    if not (count := np.count_nonzero(is_pair)):
        raise InputError("all pairs of images are of one patient: give images of two patients, or more, in each set")
    base = x @ y.T / x.shape[1] + 1
    return float((base * base * base).sum(where=is_pair) / count)


def mean_square_distance(x: ArrayLike, groups: ArrayLike) -> float:
    """Return the mean squared distance of two images of a set (n, D) that are of two groups (n,), patients say.

    InputError where all are of one.
    """
    x, (code,) = np.asarray(x, float), common_codes(groups)
    sizes = np.bincount(code)
    if len(sizes) < 2:
        raise InputError("all images are of one patient: give images of two patients, or more")
    members = np.zeros((len(sizes), x.shape[1]))
    np.add.at(members, code, x)
    squares, sums = np.bincount(code, np.square(x).sum(axis=1)), np.square(members).sum(axis=1)
    # Over the ordered pairs of a set, |a - b|^2 sums to twice n times the sum of |x|^2 less |the sum of x|^2.
    total = len(x) * squares.sum() - np.square(members.sum(axis=0)).sum()
    return float(2 * (total - (sizes * squares - sums).sum()) / (len(x) ** 2 - np.square(sizes).sum()))


def ledoit_wolf(x: ArrayLike) -> tuple[Floats, float]:
    """Return the covariance (F, F) of rows (n, F), shrunk towards a multiple of the identity, and how far (0 to 1).

    (1 - s) S + s (trace S / F) I, s the estimated optimum: Ledoit & Wolf, "A well-conditioned estimator for
    large-dimensional covariance matrices", J. Multivar. Anal. 88:365, 2004. S divides by n. scikit-learn's function
    gives the same numbers in ten times the time.
    """
    x = np.asarray(x, float)
    n, features = x.shape
    centred = x - x.mean(axis=0)
    sample = centred.T @ centred / n
    target = np.trace(sample) / features * np.eye(features)
    spread = np.square(sample - target).sum()
    # The sum of |x x' - S|^2 over rows, multiplied out.
    error = (np.square(np.square(centred).sum(axis=1)).sum() / n - np.square(sample).sum()) / n
    shrinkage = float(np.clip(error / spread, 0, 1)) if spread > 0 else 1.0
    return (1 - shrinkage) * sample + shrinkage * target, shrinkage


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Return |m1 - m2|^2 + trace(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), a squared distance, of the sets' Gaussians.

    Dowson & Landau, J. Multivar. Anal. 12:450, 1982; what Heusel et al. (NeurIPS 2017) call FID, with features of our
    own and covariances after Ledoit & Wolf, as there are few images. Above 0 for two samples of one distribution.
    """
    x, y = _sets(first, second)
    one, two = ledoit_wolf(x)[0], ledoit_wolf(y)[0]
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ two @ root), 0)).sum()
    shift = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(max(0.0, shift + np.trace(one) + np.trace(two) - 2 * overlap))


def prdc(real: ArrayLike, fake: ArrayLike, k: int = 5) -> Prdc:
    """Return precision, recall, density and coverage, from balls that reach to each image's k-th nearest of its set.

    precision: generated images in any real ball; recall: real images in any generated ball (Kynkaanniemi et al.,
    NeurIPS 2019); density: real balls that a generated image lies in, over k (may exceed 1); coverage: real balls with
    a generated image in them (Naeem et al., ICML 2020). One image a patient, or real balls are as small as a pair's
    distance. InputError for k or fewer images in a set.
    """
    x, y = _sets(real, fake)
    if k < 1 or min(len(x), len(y)) <= k:
        raise InputError(f"the sets have {len(x)} and {len(y)} images: neighbour number {k} needs more in each")
    radius, fake_radius = (np.sort(cdist(points, points), axis=1)[:, k] for points in (x, y))
    distance = cdist(x, y)
    in_real_ball = distance <= radius[:, None]
    return Prdc(
        precision=float(in_real_ball.any(axis=0).mean()),
        recall=float((distance <= fake_radius).any(axis=1).mean()),
        density=float(in_real_ball.sum() / (k * len(y))),
        coverage=float(in_real_ball.any(axis=1).mean()),
    )


def ks_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Return the largest difference between the distribution functions of two samples (n,), (m,): 0 to 1."""
    return float(ks_2samp(first, second, method="asymp").statistic)  # the exact p-value would take long


def two_sample_auroc(
    real: ArrayLike, fake: ArrayLike, real_groups: ArrayLike, fake_groups: ArrayLike, seed: int = 0
) -> float:
    """Return how well a classifier distinguishes generated images from unseen real ones: 0.5 not at all, 1 always.

    A classifier two-sample test (Lopez-Paz & Oquab, ICLR 2017): a linear discriminant with the pooled covariance after
    Ledoit & Wolf, on standard scores, cut off at +-2, and their squares, so that a wrong spread is detected as well as
    a wrong mean. Groups (n,), (m,): patients, and for generated images the patient or a name of their own; a group is
    never in two of the 5 folds. The mean of the folds' AUROCs, each by its pairs: scores of two folds do not compare.
    InputError when real or generated images have fewer than 2 groups.
    """
    x, y = _sets(real, fake)
    rows, is_fake = np.concatenate([x, y]), np.arange(len(x) + len(y)) >= len(x)
    fold = _folds(np.concatenate(_checked_groups(x, y, real_groups, fake_groups)), is_fake, seed)
    aurocs, pairs = [], []
    for test in fold == np.arange(fold.max() + 1)[:, None]:
        scores = _discriminant(rows[~test], is_fake[~test], rows[test])
        aurocs.append(auroc(scores[~is_fake[test]], scores[is_fake[test]]) or 0.0)
        pairs.append(is_fake[test].sum() * (~is_fake[test]).sum())  # none where a class is empty
    return float(np.average(aurocs, weights=pairs))


def _folds(group: Integers, is_fake: Bools, seed: int) -> Integers:
    """Return the fold of each image: groups dealt out at random, each kind (real, generated, mixed) evenly."""
    kinds = np.array([np.bincount(group[part], minlength=group.max() + 1) > 0 for part in (~is_fake, is_fake)])
    folds = int(min(FOLDS, *kinds.sum(axis=1)))
    if folds < 2:
        raise InputError("the real or the generated images are of fewer than 2 groups: a test needs images of others")
    shuffled = np.random.default_rng(seed).permutation(kinds.shape[1])
    ordered = shuffled[np.argsort((kinds[1].astype(int) - kinds[0])[shuffled], kind="stable")]
    fold_of_group = np.empty(len(ordered), int)
    fold_of_group[ordered] = np.arange(len(ordered)) % folds
    return fold_of_group[group]


def _discriminant(train: Floats, is_fake: Bools, test: Floats) -> Floats:
    """Return scores of test (n,), higher for generated; scikit-learn's shrinks each class's covariance by itself."""
    cut = (np.clip(x, -_CLASSIFIER_CUT, _CLASSIFIER_CUT) for x in standardise(train, test))
    train, test = standardise(*(np.hstack([x, x**2]) for x in cut))
    means = [train[part].mean(axis=0) for part in (~is_fake, is_fake)]
    covariance, _ = ledoit_wolf(train - np.where(is_fake[:, None], means[1], means[0]))
    return test @ np.linalg.solve(covariance + 1e-6 * np.eye(len(covariance)), means[1] - means[0])


def common_codes(*names: ArrayLike) -> list[Integers]:
    """Return whole numbers for several arrays of names (n,), the same for the same name."""
    parts = [np.asarray(part).astype(str) for part in names]
    codes = np.unique(np.concatenate(parts), return_inverse=True)[1]
    return np.split(codes, np.cumsum([len(part) for part in parts])[:-1])


def _checked_groups(x: Floats, y: Floats, x_groups: ArrayLike, y_groups: ArrayLike) -> list[Integers]:
    groups = common_codes(x_groups, y_groups)
    if (count := sum(map(len, groups))) != len(x) + len(y) or len(groups[0]) != len(x):
        raise InputError(f"{count} groups for {len(x) + len(y)} images: give one group an image")
    return groups


def _sets(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    x, y = check_finite(first, "a feature"), check_finite(second, "a feature")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise InputError(f"sets of features {x.shape} and {y.shape} do not fit: give (images, features) of both")
    return x, y
