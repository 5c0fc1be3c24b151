"""Random numbers that belong to an image: distributed as they should be, and the same wherever the image is."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mammovae.models.noise import ImageNoise, StepContext, image_keys, step_keys


def noise(positions: range | list[int] = range(64), *, seed: int = 0, epoch: int = 0) -> ImageNoise:
    return ImageNoise(image_keys(seed, epoch, positions))


def test_the_generator_is_splitmix64() -> None:
    """From the state 1234567, the numbers of its authors' C code."""
    from mammovae.models.noise import _mix

    state = 1234567 + torch.arange(3) * (0x9E3779B97F4A7C15 - 2**64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [int(value) % 2**64 for value in _mix(state)] == expected


def test_uniform_numbers_are_uniform_in_value_in_pairs_and_bit_by_bit() -> None:
    values = noise().uniform(20_000).double()
    assert values.min() >= 0 and values.max() < 1
    assert stats.kstest(values.flatten().numpy(), "uniform").pvalue > 1e-3
    pairs, *_ = np.histogram2d(*values.view(-1, 2).T.numpy(), bins=32)
    assert stats.chisquare(pairs.flatten()).pvalue > 1e-3
    bits = noise()._bits(20_000)
    for place in range(64):
        share = (bits >> place & 1).double().mean().item()
        assert abs(share - 0.5) < 4.5 * 0.5 / bits.numel() ** 0.5, place


def test_normal_numbers_are_normal_in_their_tails_too_and_both_of_a_pair_are_independent() -> None:
    values = noise().normal(20_001).double()
    assert torch.isfinite(values).all()
    assert stats.kstest(values.flatten().numpy(), "norm").pvalue > 1e-3
    for bound in (3.0, 4.0):
        expected = values.numel() * 2 * stats.norm.sf(bound)
        assert abs(int((values.abs() > bound).sum()) - expected) < 5 * expected**0.5
    first, second = values[:, :10_000].flatten(), values[:, 10_001:].flatten()
    for a, b in ((first, second), (first.square(), second.square())):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / len(a) ** 0.5


@pytest.mark.parametrize("high", [2, 3, 64, 1000])
def test_whole_numbers_below_a_bound_are_equally_frequent(high: int) -> None:
    values = noise().integers(high, 5_000)
    assert stats.chisquare(np.bincount(values.flatten(), minlength=high)).pvalue > 1e-3


def test_images_calls_epochs_and_seeds_are_independent_of_one_another() -> None:
    base = noise()
    rows = {"image": base.normal(4096), "next call": base.normal(4096)}
    rows |= {"epoch": noise(epoch=1).normal(4096), "seed": noise(seed=1).normal(4096)}
    rows["other images"] = noise(range(64, 128)).normal(4096)
    table = torch.cat(list(rows.values())).numpy()
    correlation = np.corrcoef(table)
    np.fill_diagonal(correlation, 0)
    # The largest of 51,000 coefficients of independent rows lies near 4.4 standard errors.
    assert np.abs(correlation).max() < 6 / 4096**0.5
    for (one, a), (two, b) in itertools.combinations(rows.items(), 2):
        assert not (a == b).any(dim=1).all(), (one, two)
    # Neighbouring numbers and columns are no more alike: means over images at a place are normal about 0.
    assert stats.kstest(table.mean(axis=0) * len(table) ** 0.5, "norm").pvalue > 1e-3


def test_an_images_numbers_do_not_depend_on_the_batch_its_order_or_another_images_draws() -> None:
    def draws(positions: list[int]) -> dict[int, list[Tensor]]:
        source = noise(positions, seed=5, epoch=7)
        parts = [source.normal(3, 5), source.uniform(), source.integers(9, 2), source.normal(1, 2, 2)]
        return {position: [part[row] for part in parts] for row, position in enumerate(positions)}

    together = draws([4, 9, 1, 30])
    for positions in ([9], [30, 1], [1, 2, 3, 9, 30, 4]):
        for position, parts in draws(positions).items():
            if position in together:
                assert all(map(torch.equal, parts, together[position]))
    assert [part.shape for part in together[4]] == [(3, 5), (), (2,), (1, 2, 2)]


def test_the_same_key_gives_the_same_bytes_whatever_torchs_own_generator_holds_and_touches_it_not() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = noise().normal(1000)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(noise().normal(1000), first)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(noise().normal(1000), first)
    finally:
        torch.set_num_threads(threads)


def test_a_step_has_noise_for_each_image_and_noise_that_its_batch_shares() -> None:
    contexts = [StepContext.of(step_keys(0, 2, np.array(rows), 3)) for rows in ([5, 6], [6])]
    both, one = (context.noise.normal(4) for context in contexts)
    assert both.shape == (2, 4) and torch.equal(both[1:], one)
    shared, same = (context.batch_noise.normal(4) for context in contexts)
    assert shared.shape == (1, 4) and torch.equal(shared, same)
    other = StepContext.of(step_keys(0, 2, np.array([5, 6]), 4)).batch_noise.normal(4)
    assert not torch.equal(other, shared)
    assert contexts[0].batch_sum(torch.tensor([[1.0, 2], [3, 4]])).tolist() == [4, 6]
