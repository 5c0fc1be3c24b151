"""Distances, coverage and the two-sample test: closed forms, examples by hand, and what each is there to see."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mammovae.auditing.distances import (
    FARTHEST,
    frechet_distance,
    kernel_distance,
    ks_distance,
    ledoit_wolf,
    mean_square_distance,
    prdc,
    standardise,
    two_sample_auroc,
)
from mammovae.auditing.radiomics import measure_all
from mammovae.config import InputError


def normal(n, features=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, features))


def own(n, name="made"):
    return [f"{name}{number}" for number in range(n)]


def test_standardised_by_the_reference_alone_and_constant_features_count_for_nothing():
    reference = np.array([[1.0, 5.0, 0.1], [3.0, 5.0, 0.1], [5.0, 5.0, 0.1]])
    other = np.array([[3.0, 7.0, 9.0], [1e9, 5.0, 0.1]])
    first, second = standardise(reference, other)
    assert np.allclose(first.mean(axis=0), 0) and np.allclose(first.std(axis=0), [1, 0, 0])
    assert np.allclose(second, [[0, 0, 0], [FARTHEST, 0, 0]])


def test_kernel_distance_is_what_the_sums_over_pairs_of_two_groups_say():
    x, y = normal(5, seed=1), normal(5, seed=2) + 1
    of_x, of_y = list("aabbc"), list("adeff")
    k = lambda a, b: (a @ b / 6 + 1) ** 3  # noqa: E731

    def mean(s, t, of_s, of_t):
        return np.mean([k(a, b) for a, g in zip(s, of_s, strict=True) for b, h in zip(t, of_t, strict=True) if g != h])

    wanted = mean(x, x, of_x, of_x) + mean(y, y, of_y, of_y) - 2 * mean(x, y, of_x, of_y)
    assert kernel_distance(x, y, of_x, of_y) == pytest.approx(wanted)


def test_kernel_distance_is_zero_on_average_for_one_distribution():
    names = own(20, "real"), own(20)
    found = [kernel_distance(normal(20, seed=seed), normal(20, seed=1000 + seed), *names) for seed in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0  # unbiased
    assert kernel_distance(normal(20, seed=1), normal(20, seed=2) + 1, *names) > 3 * np.std(found)


@pytest.mark.parametrize("sizes", [[2] * 10, [1, 1, 1, 2, 2, 3, 4, 6]], ids=["pairs", "one to six"])
def test_kernel_distance_of_women_alike_in_all_their_images_is_zero_too_and_blind_to_them_it_is_not(sizes):
    # As L and R of mammograms: half of the variance is between women.
    rng, (n, patients) = np.random.default_rng(0), (sum(sizes), np.repeat(np.arange(len(sizes)), sizes))
    honest, blind = [], []
    for _ in range(400):
        x, y = ((rng.normal(size=(len(sizes), 6))[patients] + rng.normal(size=(n, 6))) / np.sqrt(2) for _ in range(2))
        honest.append(kernel_distance(x, y, patients, patients + n))
        blind.append(kernel_distance(x, y, own(n, "real"), own(n)))
    error = np.std(honest) / np.sqrt(len(honest))
    assert abs(np.mean(honest)) < 3 * error < 10 * error < np.mean(blind)


def test_kernel_distance_leaves_an_image_and_what_was_made_of_it_out_across_the_sets_too():
    x = normal(20)
    assert kernel_distance(x, x, own(20), own(20)) == pytest.approx(0, abs=1e-9)
    assert kernel_distance(x, x, own(20), own(20, "real")) < -0.3  # each is beside itself, as chance would not have it


def test_kernel_distance_wants_equal_numbers_and_pairs_of_two_patients():
    with pytest.raises(InputError, match="5 and 6"):
        kernel_distance(normal(5), normal(6), own(5), own(6))
    with pytest.raises(InputError, match="at least 2"):
        kernel_distance(normal(1), normal(1), own(1), own(1))
    with pytest.raises(InputError, match="all pairs of images are of one patient"):
        kernel_distance(normal(5), normal(5), [7] * 5, own(5))
    with pytest.raises(InputError, match="one group an image"):
        kernel_distance(normal(5), normal(5), own(6), own(4))


def test_the_mean_square_distance_is_of_pairs_of_two_groups():
    x, names = normal(9, 3), list("aabcccdef")
    pairs = [
        np.square(a - b).sum() for a, g in zip(x, names, strict=True) for b, h in zip(x, names, strict=True) if g != h
    ]
    assert mean_square_distance(x, names) == pytest.approx(np.mean(pairs))
    assert mean_square_distance(x, own(9)) == pytest.approx(2 * x.var(axis=0, ddof=1).sum())
    with pytest.raises(InputError, match="of one patient"):
        mean_square_distance(x, ["a"] * 9)


def test_ledoit_wolf_is_what_the_paper_s_sums_give():
    x = normal(12, 4) * [1, 2, 3, 4]
    centred = x - x.mean(axis=0)
    sample = centred.T @ centred / 12
    level = np.trace(sample) / 4
    spread = np.square(sample - level * np.eye(4)).sum() / 4
    error = sum(np.square(np.outer(row, row) - sample).sum() / 4 for row in centred) / 12**2
    covariance, shrinkage = ledoit_wolf(x)
    assert shrinkage == pytest.approx(min(error, spread) / spread)
    assert np.allclose(covariance, (1 - shrinkage) * sample + shrinkage * level * np.eye(4))


def test_ledoit_wolf_shrinks_few_images_much_and_many_hardly():
    scales = np.array([1, 2, 3, 4, 5, 6])
    assert ledoit_wolf(normal(100_000) * scales)[1] < 0.001
    assert ledoit_wolf(normal(7) * scales)[1] > 0.2
    assert ledoit_wolf(normal(50))[1] > 0.7  # the identity is the truth
    assert np.linalg.eigvalsh(ledoit_wolf(normal(4, 6))[0]).min() > 0
    assert np.array_equal(ledoit_wolf(np.ones((4, 3)))[0], np.zeros((3, 3)))


def test_frechet_distance_has_the_closed_form_of_gaussians():
    rng = np.random.default_rng(0)
    scale, shift = np.array([1.0, 2.0, 3.0]), np.array([1.0, -1.0, 0.5])
    x, y = rng.normal(size=(200_000, 3)), rng.normal(size=(200_000, 3)) * scale + shift
    wanted = np.square(shift).sum() + np.square(scale - 1).sum()
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=0.02)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-6)


def test_frechet_distance_of_a_set_with_itself_is_zero_and_of_a_shifted_copy_the_shift():
    x = normal(30)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 6)
    assert frechet_distance(x, np.repeat(x[:1], 30, axis=0)) > 2


def test_neighbours_by_hand():
    # With k = 1 the real balls are [-1, 1], [0, 2], [3, 7] and [5, 9]; the generated [-0.5, 1.5], [0.5, 2.5], [1.5, 38.5].
    real = np.array([[0.0], [1.0], [5.0], [7.0]])
    fake = np.array([[0.5], [1.5], [20.0]])
    found = prdc(real, fake, k=1)
    assert found.precision == pytest.approx(2 / 3)  # 20 is in no real ball
    assert found.recall == pytest.approx(1.0)  # 5 and 7 by the ball of 20 alone
    assert found.density == pytest.approx((2 + 1) / (1 * 3))
    assert found.coverage == pytest.approx(2 / 4)
    # With k = 2 the real radii are 5, 4, 4 and 6: 0.5 is in two balls, 1.5 in all four, 20 in none.
    assert prdc(real, fake, k=2).density == pytest.approx((2 + 4) / (2 * 3))


def test_identical_sets_are_covered_and_foreign_ones_are_not():
    x = normal(40)
    same = prdc(x, x)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert prdc(x, x + 100) == (0, 0, 0, 0)


def test_one_repeated_image_is_precise_but_covers_nothing():
    x = normal(100)
    found = prdc(x, np.repeat(x[[np.square(x).sum(axis=1).argmin()]], 100, axis=0))
    assert found.precision == 1
    assert found.recall <= 0.01
    assert found.coverage < 0.3


def test_neighbours_need_enough_images():
    with pytest.raises(InputError, match="neighbour number 5"):
        prdc(normal(5), normal(20))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_ks_distance_is_the_largest_gap_between_the_shares_below_a_value(first, second):
    shares = [[np.mean(np.array(sample) <= at) for at in range(-6, 7)] for sample in (first, second)]
    assert ks_distance(first, second) == pytest.approx(np.abs(np.subtract(shares[0], shares[1])).max())


def test_ks_distance_by_hand():
    assert ks_distance([1, 2], [3, 4]) == 1
    assert ks_distance([1, 2, 3, 4], [1, 2, 3, 4]) == 0
    assert ks_distance([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5


def test_images_of_one_distribution_are_not_told_apart_on_average():
    found = [
        two_sample_auroc(normal(40, seed=s), normal(40, seed=1000 + s), own(40, "real"), own(40), s) for s in range(100)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.025)


@pytest.mark.parametrize(
    "change", [lambda x: x + 0.8, lambda x: x * 0.4, lambda x: x * 2.5, lambda x: np.zeros_like(x), lambda x: x + 1e6]
)
def test_a_wrong_mean_and_a_wrong_spread_are_told(change):
    found = two_sample_auroc(normal(70, 24), change(normal(70, 24, seed=1)), own(70, "real"), own(70))
    assert found > 0.9


def test_a_patient_s_images_are_never_on_both_sides_of_a_fold():
    # Each patient has a mark of its own, and a kind by chance: with its images in two folds the mark would tell.
    rng = np.random.default_rng(0)
    marks = np.repeat(rng.normal(size=(40, 12)), 4, axis=0)
    rows = marks + 0.01 * rng.normal(size=marks.shape)
    patients = np.repeat(np.arange(40), 4)
    is_fake = np.repeat(np.arange(40) % 2 == 1, 4)
    honest, leaking = [], []
    for seed in range(12):
        honest.append(two_sample_auroc(rows[~is_fake], rows[is_fake], patients[~is_fake], patients[is_fake], seed))
        leaking.append(two_sample_auroc(rows[~is_fake], rows[is_fake], own(80, "real"), own(80), seed))
    assert np.mean(leaking) > np.mean(honest) + 0.15


def test_a_generated_image_stays_with_the_patient_it_comes_from():
    x = normal(40)
    assert two_sample_auroc(x, x, range(40), range(40)) == 0.5


def test_few_patients_make_fewer_folds_and_one_is_refused():
    x, y = normal(12), normal(12) + 5
    for seed in range(10):
        assert two_sample_auroc(x, y, np.arange(12) % 2, own(12), seed) == 1
        assert two_sample_auroc(x, y, np.arange(12) % 2, np.arange(12), seed) == 1  # two of the twelve are both
    with pytest.raises(InputError, match="fewer than 2 groups"):
        two_sample_auroc(x, y, own(12), np.zeros(12))
    with pytest.raises(InputError, match="one group an image"):
        two_sample_auroc(x, y, own(12), own(11))


def test_two_sets_of_one_image_each_are_told_apart_or_are_the_same():
    x = np.ones((10, 3))
    assert two_sample_auroc(x, x * [1, 2, 1], own(10, "real"), own(10)) == 1
    assert two_sample_auroc(x, x, own(10, "real"), own(10)) == 0.5


def test_the_same_seed_gives_the_same_and_the_order_of_features_does_not_matter():
    x, y = normal(30), normal(30, seed=1) + 0.3
    found = two_sample_auroc(x, y, own(30, "real"), own(30), 3)
    assert found == two_sample_auroc(x, y, own(30, "real"), own(30), 3)
    assert found == pytest.approx(two_sample_auroc(x[:, ::-1], y[:, ::-1] * 1.0, own(30, "real"), own(30), 3))


@pytest.mark.parametrize(
    "measure", [frechet_distance, prdc, lambda x, y: kernel_distance(x, y, own(len(x)), own(len(y)))]
)
def test_sets_that_do_not_fit_or_lack_a_value_are_refused(measure):
    with pytest.raises(InputError, match="do not fit"):
        measure(normal(10, 3), normal(10, 4))
    broken = normal(10)
    broken[2, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        measure(broken, normal(10))


def test_every_measure_tells_blurred_images_from_others_and_not_images_from_images(breast_images):
    first, masks = breast_images(50, seed=1)
    second, others = breast_images(50, seed=2)
    blurred = np.stack([ndimage.gaussian_filter(image, 1) for image in second])
    real, alike, blurry = (measure_all(x, m) for x, m in ((first, masks), (second, others), (blurred, others)))
    names = own(50, "real"), own(50)
    assert two_sample_auroc(real, alike, *names) < 0.7
    assert two_sample_auroc(real, blurry, *names) > 0.95
    x, near, far = standardise(real, alike, blurry)
    assert frechet_distance(x, far) > 2 * frechet_distance(x, near)
    assert kernel_distance(x, far, *names) > 5 * abs(kernel_distance(x, near, *names))
    assert prdc(x, near).coverage > 0.8 > 0.4 > prdc(x, far).coverage
