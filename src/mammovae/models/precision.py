"""How exactly numbers are multiplied: float32 on a GPU, which is torch's to say for a whole process, and halves."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

Float32Products = Literal["ieee", "tf32"]


def half_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of 16 bits that a training's precision asks for on a device; None where float32 is faster there.

    Of CPUs, those with matrix units for bfloat16 use it (Intel's AMX): others would imitate it slowly.
    """
    if device.type == "cpu":
        return torch.bfloat16 if precision == "bf16-mixed" and _has_matrix_units() else None
    return {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision)


@cache
def _has_matrix_units() -> bool:
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False


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
