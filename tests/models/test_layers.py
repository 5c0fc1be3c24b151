"""The building blocks: enlarging, and its gradients."""

import pytest
import torch
from torch.nn.functional import interpolate

from mammovae.models.layers import enlarge, upsample


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_what_is_enlarged_and_its_gradients_are_the_librarys_within_rounding(
    size: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(size)
    image = torch.rand(3, 4, size, size).contiguous(memory_format=layout).requires_grad_()
    weights = torch.rand(3, 4, 2 * size, 2 * size)
    pair = upsample(image), interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)
    ours, theirs = (torch.autograd.grad((values * weights).sum(), image)[0] for values in pair)
    torch.testing.assert_close(*pair, rtol=0, atol=4e-7)
    torch.testing.assert_close(ours, theirs, rtol=4e-7, atol=4e-7)
    assert torch.equal(enlarge(image, 3 * size), interpolate(image, size=(3 * size, 3 * size), mode="bilinear"))


def test_the_gradients_of_enlarging_are_those_of_its_differences() -> None:
    image = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(upsample, (image,))
