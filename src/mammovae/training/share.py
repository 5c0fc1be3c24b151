"""A process's rows of a batch, computed as they would be in the whole batch: its random numbers, and its sums."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mammovae.training.distributed import ProcessGroup

_DRAWS = (torch.rand, torch.randn, torch.randint, torch.rand_like, torch.randn_like)


class WholeBatch(TorchFunctionMode):
    """Within it, torch draws random numbers for the whole batch and keeps the rows of this process.

    And a sum of all elements of a tensor, x.sum(), is taken over the whole batch, and so is its gradient: an analytic
    variance of the batch is then what it is in one process. axes: for each draw and sum in turn which axis is the
    batch's, or None where it has none, as batch_axes finds them; count: images of the whole batch.
    """

    def __init__(self, axes: Iterable[int | None], count: int, team: ProcessGroup) -> None:
        super().__init__()
        self._axes, self._count, self._team = iter(axes), count, team
        self._rows, self._own = team.share(count)

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        axis = self._next() if _is_draw(func) or _is_sum(func, args, kwargs) else None
        if axis is None:
            return func(*args, **kwargs)
        if _is_sum(func, args, kwargs):
            return _Total.apply(func(args[0]) if self._own else 0 * func(args[0]), self._team)
        drawn = func(*_enlarged(args, axis, self._count), **kwargs)
        return drawn.narrow(axis, self._rows.start, self._rows.stop - self._rows.start)

    def _next(self) -> int | None:
        try:
            return next(self._axes)
        except StopIteration:  # which the trainer would take for the end of the epoch
            raise RuntimeError("a member draws or sums more often than in its rehearsal") from None


def batch_axes(compute: Callable[[int], object]) -> list[int | None] | None:
    """Return what WholeBatch needs to know of compute(n), which computes n images; None where it cannot be known.

    Learnt from a rehearsal with two and with three images: the axis whose length differs is the batch's. Where the
    number of draws differs, as with windows drawn film by film, they cannot be told apart.
    """
    rehearsals = []
    for count in (2, 3):
        with _Rehearsal() as rehearsal:
            compute(count)
        rehearsals.append(rehearsal.shapes)
    if len(rehearsals[0]) != len(rehearsals[1]):
        return None
    pairs = [list(zip(two, three, strict=True)) for two, three in zip(*rehearsals, strict=True)]
    return [next((axis for axis, (two, three) in enumerate(pair) if two != three), None) for pair in pairs]


class _Rehearsal(TorchFunctionMode):
    """Notes the shapes of what is drawn and of what is summed, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if _is_draw(func):
            self.shapes.append(result.shape)
        elif _is_sum(func, args, kwargs):
            self.shapes.append(args[0].shape)
        return result


class _Total(torch.autograd.Function):
    """The sum over processes; what each makes of it flows back into the part of each."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, team: ProcessGroup) -> Tensor:
        ctx.team = team
        return team.total(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.team.total(gradients[0]), None


def _is_draw(function: Any) -> bool:
    return function in _DRAWS


def _is_sum(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    return function in (torch.sum, Tensor.sum) and len(args) == 1 and not kwargs


def _enlarged(args: Sequence[Any], axis: int, count: int) -> list[Any]:
    """Return the arguments of a draw whose axis has count rows: sizes one by one, or a shape or a tensor at the end."""
    *before, last = args
    if isinstance(last, Tensor):
        # In the order of memory that a whole batch would have, for it is filled in that order.
        strides = torch.empty_like(last).stride()
        shape, rows = (count, *last.shape[1:]), math.prod(last.shape[1:])
        return [torch.empty_strided(shape, (rows, *strides[1:]), dtype=last.dtype, device=last.device)]
    if isinstance(last, int):
        before, last = [], args
    shape = list(last)
    shape[axis] = count
    return [*before, shape]
