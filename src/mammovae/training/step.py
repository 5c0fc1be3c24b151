"""One step of a training: the losses of a batch, their gradients, and the change of the weights."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR

from mammovae.config import TrainSettings
from mammovae.data.dataset import Batch
from mammovae.models.augmentation import augment
from mammovae.models.base import Member
from mammovae.models.noise import StepContext
from mammovae.models.precision import float32_products, half_precision
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loader import StepRows

Losses = dict[str, Tensor]
_WARM_UP = 3
"""Steps before one is recorded, in which libraries choose their algorithms and reserve memory."""


class TrainingStep:
    """A member's optimiser and arithmetic, on one device, in step with the other processes of the group.

    parts: by name, what a checkpoint holds the state of.
    """

    def __init__(self, member: Member, settings: TrainSettings, group: ProcessGroup, device: torch.device) -> None:
        self.member, self._group, self._device = member, group, device
        # The faster one for a CPU's convolutions. On a GPU float32 has few kernels for it, and group norms undo it.
        self._layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
        member.to(device, memory_format=self._layout)  # pyrefly: ignore[no-matching-overload]
        is_recorded = settings.cuda_graphs and group.size == 1 and settings.precision != "16-mixed"
        on_gpu = is_recorded and device.type == "cuda"
        # What a recorded step reads has to lie on the GPU, or it would stay what it was.
        rate = torch.tensor(settings.learning_rate, device=device) if on_gpu else settings.learning_rate
        adam = torch.optim.Adam(member.parameters(), lr=rate, fused=True, capturable=on_gpu)
        self._optimizer, is_constant = adam, settings.schedule == "constant"
        self.schedule = ConstantLR(adam, 1.0) if is_constant else CosineAnnealingLR(adam, settings.epochs)
        self._half = half_precision(settings.precision, device)
        self._is_tf32 = settings.precision == "tf32"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half == torch.float16)
        self._recorded = RecordedStep(self._change, adam, device) if is_recorded else None
        self._batch_size = settings.batch_size
        self.parts: dict[str, Any] = {"member": member, "optimizer": adam}
        self.parts |= {"schedule": self.schedule, "scaler": self._scaler}

    def load(self, states: Mapping[str, Any]) -> None:
        """Go on from states of the parts, which may come from another kind of device."""
        options = [(group["lr"], group["capturable"]) for group in self._optimizer.param_groups]
        for name, part in self.parts.items():
            part.load_state_dict(states[name])
        for group, (rate, is_capturable) in zip(self._optimizer.param_groups, options, strict=True):
            group["capturable"], loaded = is_capturable, float(group["lr"])
            group["lr"] = rate.fill_(loaded) if isinstance(rate, Tensor) else loaded
        for weights, state in self._optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):  # where the weights lie in another order, these have to as well
                state[name] = torch.empty_like(weights).copy_(state[name])

    def losses(self, batch: Batch, keys: Tensor, rows: StepRows) -> Losses:
        """Return the member's losses of this process's rows of a batch, (n,) each, in training or in evaluation."""
        context = StepContext.of(keys, self._group.batch_sum(rows.count))
        is_half = self._half is not None and self.member.training  # a validation is in 32 bit, as the use will be
        with torch.autocast(self._device.type, self._half, enabled=is_half):
            if self.member.training and self.member.augmented:
                batch = augment(batch, context.noise, self.member.mirrored)
            image = batch.image.contiguous(memory_format=self._layout)
            return self.member.losses(batch._replace(image=image), context)

    def __call__(self, batch: Batch, keys: Tensor, rows: StepRows) -> Losses:
        """Change the weights by a batch, and return the losses of this process's rows of it, without gradients.

        They are valid until the next call.
        """
        with float32_products("tf32") if self._is_tf32 else nullcontext():
            if self._recorded is not None and rows.count == self._batch_size:
                return self._recorded(batch, keys, rows)
            return self._change(batch, keys, rows)

    def _change(self, batch: Batch, keys: Tensor, rows: StepRows) -> Losses:
        self._optimizer.zero_grad()
        losses = self.losses(batch, keys, rows)
        # Weighted so that the sum over processes is the mean over images.
        self._scaler.scale(losses["loss"].mean() * (rows.own / rows.count)).backward()
        self._group.sum_gradients(self.member.parameters())
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return {name: values.detach() for name, values in losses.items()}


class RecordedStep:
    """A step for batches of one size, which a GPU records once and replays: each input is always in the same memory.

    All steps are steps of the training: the first ones are made one operation at a time, then one is recorded, which
    computes nothing, and from it on all are replayed. After the example of a whole network in
    https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture. On a CPU nothing is recorded.
    """

    def __init__(
        self, change: Callable[[Batch, Tensor, StepRows], Losses], optimizer: Optimizer, device: torch.device
    ) -> None:
        self._change, self._optimizer, self._is_on_gpu = change, optimizer, device.type == "cuda"
        self._inputs: tuple[Batch, Tensor] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._steps, self._losses = 0, Losses()

    def __call__(self, batch: Batch, keys: Tensor, rows: StepRows) -> Losses:
        """Make the step; the losses are valid until the next one."""
        if self._inputs is None:
            copies = {name: part.clone() for name, part in _tensors(batch).items()}
            self._inputs = batch._replace(**copies), keys.clone()
        held, held_keys = self._inputs
        given = _tensors(batch)
        for name, part in _tensors(held).items():
            part.copy_(given[name])
        held_keys.copy_(keys)
        if not self._is_on_gpu:
            return self._change(held, held_keys, rows)
        self._steps += 1
        if self._steps <= _WARM_UP:
            return self._warm_up(held, held_keys, rows)
        if self._graph is None:
            self._graph = self._record(held, held_keys, rows)
        self._graph.replay()
        return self._losses

    def _warm_up(self, batch: Batch, keys: Tensor, rows: StepRows) -> Losses:
        """Make a step as it will be recorded, beside the stream that the process uses."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = self._change(batch, keys, rows)
        torch.cuda.current_stream().wait_stream(stream)
        return losses

    def _record(self, batch: Batch, keys: Tensor, rows: StepRows) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)  # so that gradients lie in the graph's own memory
        # The thread that pins the memory of batches may go on.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._losses = self._change(batch, keys, rows)
        return graph


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: part for name, part in batch._asdict().items() if part is not None}
