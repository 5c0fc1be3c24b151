"""How exactly a GPU multiplies float32 numbers, which is torch's to say for a whole process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Float32Products = Literal["ieee", "tf32"]


@contextmanager
def float32_products(kind: Float32Products) -> Iterator[None]:
    """Multiply float32 matrices and convolve on a GPU in float32 ("ieee"), or with 10 bits of mantissa ("tf32").

    Before and after, what torch was told by others holds: by default its convolutions are "tf32". A CPU is not
    concerned. https://docs.pytorch.org/docs/stable/notes/cuda.html
    """
    before = [(module, name, getattr(module, name)) for module, name in _flags()]
    try:
        for module, name, _ in before:
            setattr(module, name, kind if name == "fp32_precision" else kind == "tf32")
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _flags() -> list[tuple[Any, str]]:
    """Return the settings by their place and name: torch 2.9 renamed them, and takes no mixture of old and new."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):
        return [(matmul, "fp32_precision"), (cudnn.conv, "fp32_precision")]
    return [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]
