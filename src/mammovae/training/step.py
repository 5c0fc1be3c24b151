"""One step of a training: the losses of a batch, their gradients, and the change of the weights."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR

from mammovae.config import TrainSettings
from mammovae.data.dataset import Batch
from mammovae.models.augmentation import augment
from mammovae.models.base import Member
from mammovae.models.noise import StepContext
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loader import StepRows


class TrainingStep:
    """A member's optimiser and arithmetic, on one device, in step with the other processes of the group.

    parts: by name, what a checkpoint holds the state of.
    """

    def __init__(self, member: Member, settings: TrainSettings, group: ProcessGroup, device: torch.device) -> None:
        self.member, self._group, self._device = member, group, device
        member.to(device, memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
        self._optimizer = adam = torch.optim.Adam(member.parameters(), lr=settings.learning_rate, fused=True)
        is_constant = settings.schedule == "constant"
        self.schedule = ConstantLR(adam, 1.0) if is_constant else CosineAnnealingLR(adam, settings.epochs)
        halves = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
        self._half = halves.get(settings.precision) if device.type == "cuda" else None
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half == torch.float16)
        self.parts: dict[str, Any] = {"member": member, "optimizer": adam}
        self.parts |= {"schedule": self.schedule, "scaler": self._scaler}

    def losses(self, batch: Batch, keys: Tensor, rows: StepRows) -> dict[str, Tensor]:
        """Return the member's losses of this process's rows of a batch, (n,) each, in training or in evaluation."""
        context = StepContext.of(keys, self._group.batch_sum(rows.count))
        is_half = self._half is not None and self.member.training  # a validation is in 32 bit, as the use will be
        with torch.autocast(self._device.type, self._half, enabled=is_half):
            if self.member.training and self.member.augmented:
                batch = augment(batch, context.noise)
            image = batch.image.contiguous(memory_format=torch.channels_last)
            return self.member.losses(batch._replace(image=image), context)

    def __call__(self, batch: Batch, keys: Tensor, rows: StepRows) -> dict[str, Tensor]:
        """Change the weights by a batch, and return the losses of this process's rows of it, without gradients."""
        losses = self.losses(batch, keys, rows)
        self._optimizer.zero_grad()
        # Weighted so that the sum over processes is the mean over images.
        self._scaler.scale(losses["loss"].mean() * (rows.own / rows.count)).backward()
        self._group.sum_gradients(self.member.parameters())
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return {name: values.detach() for name, values in losses.items()}
