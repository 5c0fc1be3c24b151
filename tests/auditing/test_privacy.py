"""Copies are found, whatever was done to hide them; images of others are not called copies; membership shows or not."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from mammovae.auditing.privacy import (
    Neighbours,
    copied_by_chance,
    descriptor,
    exact_copies,
    membership_auroc,
    nearest_neighbours,
    perceptual_copies,
    pixel_hashes,
)
from mammovae.config import InputError


def disguised(images):
    """The images blurred, noisy, in other contrast, moved by a pixel."""
    changed = np.stack([ndimage.gaussian_filter(image, 1) for image in images]) * 0.8 + 0.05
    changed += np.random.default_rng(0).normal(0, 0.02, images.shape)
    return np.roll(changed, 1, axis=1)


def stored(images):
    return np.rint(images * 65535).astype(np.uint16)


def test_the_distance_of_descriptors_is_the_root_mean_square_difference():
    mask = np.ones((1, 64, 64), np.uint8)
    first = np.random.default_rng(0).random((1, 64, 64)).reshape(1, 32, 2, 32, 2)
    first = np.broadcast_to(first[:, :, :1, :, :1], first.shape).reshape(1, 64, 64)
    second = first[:, ::-1]
    one, two = ((x - x.mean()) / x.std() for x in (first, second))
    apart = np.linalg.norm(descriptor(first, mask) - descriptor(second, mask))
    assert apart == pytest.approx(np.sqrt(np.square(one - two).mean()))


def test_descriptors_ignore_brightness_contrast_and_background_and_hardly_change_with_size(breast_images):
    images, masks = breast_images(3, size=128)
    found = descriptor(images, masks)
    assert found.shape == (3, 1024)
    changed = np.where(masks > 0, 0.3 + 0.4 * images, 1.0)
    assert np.allclose(descriptor(changed, masks), found)
    small = images.reshape(3, 64, 2, 64, 2).mean(axis=(2, 4))
    moved = np.linalg.norm(descriptor(small, masks[:, ::2, ::2]) - found, axis=1)
    assert moved.max() < nearest_neighbours(found, found, (range(3), range(3)))[0].min() / 3


def test_a_square_that_is_no_multiple_of_the_grid_is_averaged_by_area(breast_images):
    images, masks = breast_images(2, size=48)
    ours = descriptor(images, masks)
    fine = descriptor(images.repeat(2, axis=1).repeat(2, axis=2), masks.repeat(2, axis=1).repeat(2, axis=2))
    assert np.allclose(ours, fine)


def test_constant_and_black_images_have_a_descriptor_of_zeros(breast_images):
    masks = breast_images(2)[1]
    assert not descriptor(np.full(masks.shape, 0.5), masks).any()
    assert not descriptor(np.zeros(masks.shape, np.uint16), masks).any()


def test_what_has_no_descriptor_is_refused(breast_images):
    images, masks = breast_images(2, size=32)
    with pytest.raises(InputError, match="fewer than 64"):
        descriptor(images, masks * 0)
    with pytest.raises(InputError, match="at least 32"):
        descriptor(np.zeros((1, 16, 16)), np.ones((1, 16, 16)))
    with pytest.raises(InputError, match="one mask an image"):
        descriptor(images, masks[:1])


def test_nearest_agrees_with_a_search_of_all_pairs():
    rng = np.random.default_rng(0)
    x, reference = rng.normal(size=(1100, 7)), rng.normal(size=(60, 7))
    distance, index = nearest_neighbours(x, reference)
    apart = np.linalg.norm(x[:, None] - reference[None], axis=2)
    assert np.allclose(distance, apart.min(axis=1))
    assert np.array_equal(index, apart.argmin(axis=1))


def test_nearest_among_subsets_agrees_with_a_search_among_them_alone():
    rng = np.random.default_rng(0)
    x, reference = (rng.normal(size=(n, 7)).astype(np.float32) for n in (50, 60))
    pairs = Neighbours(x, reference)
    for _ in range(5):
        rows, columns = rng.permutation(50)[:20], rng.permutation(60)[:9]
        assert np.array_equal(pairs.distances(rows, columns), nearest_neighbours(x[rows], reference[columns])[0])


def test_nearest_takes_memory_by_the_sum_of_both_sets_and_not_by_their_product():
    x, reference = (np.random.default_rng(n).normal(size=(n, 8)).astype(np.float32) for n in (4_000, 40_000))
    tracemalloc.start()
    nearest_neighbours(x, reference, (np.arange(len(x)), np.arange(len(reference))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(x) * len(reference) / 3


def test_nearest_passes_over_the_same_patient_and_says_when_nobody_is_left():
    x, reference = np.array([[0.0], [10.0]]), np.array([[0.0], [4.0], [9.0]])
    distance, index = nearest_neighbours(x, reference, (["a", "b"], ["a", "a", "b"]))
    assert distance.tolist() == [9, 6] and index.tolist() == [2, 1]
    distance, index = nearest_neighbours(x, reference, (["a", "b"], ["a", "a", "a"]))
    assert distance.tolist() == [np.inf, 1] and index.tolist() == [-1, 2]
    assert nearest_neighbours(x, reference[:0])[1].tolist() == [-1, -1]


def test_the_distance_to_itself_is_exactly_zero():
    x = np.random.default_rng(0).normal(size=(50, 1024)) * 1000
    assert not nearest_neighbours(x, x)[0].any()


def test_exact_copies_are_found_and_nothing_else(breast_images):
    images, masks = breast_images(6)
    reference = stored(images)
    made = reference.copy()
    made[1, 32, 5] += 1  # inside the breast
    made[2][masks[2] == 0] = 77  # outside alone
    made[4:] = stored(breast_images(2, seed=1)[0])
    known = pixel_hashes(reference, masks)
    assert exact_copies(pixel_hashes(made, masks), known).tolist() == [True, False, True, True, False, False]
    assert exact_copies(pixel_hashes((reference - 0.4) / 65535, masks), known).all()  # rounded, as when written
    assert exact_copies(pixel_hashes(reference[:3], np.zeros_like(masks[:3])), known).all()  # other masks, same square


def test_disguised_copies_are_found_and_new_images_are_not(breast_images):
    train, held, new = (breast_images(40, size=128, seed=seed) for seed in (1, 2, 3))
    made = np.concatenate([disguised(train[0][:10]), new[0]])
    masks = np.concatenate([np.roll(train[1][:10], 1, axis=1), new[1]])
    found = perceptual_copies(*(descriptor(*pair) for pair in ((made, masks), train, held)))
    assert (found.train_distance < found.threshold)[:10].all()
    assert found.train_row[:10].tolist() == list(range(10))
    assert (found.train_distance < found.threshold)[10:].sum() <= 4


def test_a_smooth_mean_image_is_no_copy(breast_images):
    train, held = breast_images(40, size=128, seed=1), breast_images(40, size=128, seed=2)
    mean = train[0][:20].mean(axis=0)[None]
    mask = (train[1][:20].mean(axis=0) > 0.5)[None]
    found = perceptual_copies(descriptor(mean, mask), descriptor(*train), descriptor(*held))
    assert (found.train_distance >= found.threshold).all()


def test_the_same_patient_s_other_images_set_no_threshold():
    train, held = np.array([[0.0], [10.0]]), np.array([[0.1], [14.0]])
    made = np.array([[0.5], [5.0]])
    loose = perceptual_copies(made, train, held)
    assert loose.threshold == pytest.approx(0.1) and (loose.train_distance >= 0.1).all()
    strict = perceptual_copies(made, train, held, ["a", "b"], ["a", "c"])
    assert strict.threshold == pytest.approx(4) and (strict.train_distance < 4).tolist() == [True, False]
    assert strict.held_distance.tolist() == pytest.approx([0.4, 4.9]) and strict.held_row.tolist() == [0, 0]
    with pytest.raises(InputError, match="different patients"):
        perceptual_copies(made, train, held, ["a", "a"], ["a", "a"])
    with pytest.raises(InputError, match="different patients"):
        perceptual_copies(made, train, held[:0])


def test_a_new_image_is_called_a_copy_as_rarely_as_the_rule_says():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        train, held, new = (rng.normal(size=(n, 3)) for n in (50, 24, 200))
        found = perceptual_copies(new, train, held)
        shares.append((found.train_distance < found.threshold).mean())
    assert np.mean(shares) == pytest.approx(1 / 25, abs=0.02)


def test_membership_of_copied_patients_shows_and_of_others_does_not(breast_images):
    train, held, new = (descriptor(*breast_images(60, seed=seed)) for seed in (1, 2, 3))

    def membership(generated: np.ndarray) -> float:
        value = membership_auroc(nearest_neighbours(train, generated)[0], nearest_neighbours(held, generated)[0])
        assert value is not None
        return value

    assert membership(train) == 1
    assert membership(descriptor(disguised(breast_images(60, seed=1)[0]), breast_images(60, seed=1)[1])) > 0.95
    assert membership(new) == pytest.approx(0.5, abs=0.12)
    assert membership_auroc([], [1.0]) is None


def test_patients_reached_in_both_kinds_alike_are_chance_and_in_training_alone_are_copied() -> None:
    assert copied_by_chance(12, 11, 50, 50) > 0.3
    assert copied_by_chance(12, 0, 50, 50) < 0.001
    assert copied_by_chance(9, 3, 75, 25) > 0.3  # three times as many patients are three times as often reached
    assert copied_by_chance(1, 0, 100, 40) > 0.7  # one plain image that all plain images resemble
    assert copied_by_chance(0, 0, 50, 50) == 1
