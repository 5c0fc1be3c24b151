"""Arithmetic on a GPU is what was asked for, and afterwards what it was."""

from itertools import product
from typing import Literal

import pytest
import torch

from mammovae.models.precision import _flags, float32_products


@pytest.mark.parametrize(("outer", "inner"), [*product(["ieee", "tf32"], repeat=2)])
def test_products_are_as_asked_for_and_then_as_before_also_after_an_error(
    outer: Literal["ieee", "tf32"], inner: Literal["ieee", "tf32"]
) -> None:
    untouched = [getattr(*flag) for flag in _flags()]
    with float32_products(outer):
        before = [getattr(*flag) for flag in _flags()]
        with pytest.raises(KeyError), float32_products(inner):
            assert [getattr(*flag) for flag in _flags()] == ([inner] * 2 if outer in before else [inner == "tf32"] * 2)
            raise KeyError
        assert [getattr(*flag) for flag in _flags()] == before
    assert [getattr(*flag) for flag in _flags()] == untouched
    assert torch.backends.cudnn.allow_tf32 in (True, False), "the old name can still be read"
