"""One torch module from prepared squares to scores and a map: a run's members and the smoothing of their map."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from mammovae.data.dataset import Data, to_tensors
from mammovae.model.run import Run, device

FINDING = "reconstruction_loss"
"""The raw score that the finding score is, as long as a run has the seed's single member."""


class Detector(nn.Module):
    """Maps (image, mask, other) to the named raw scores (n,) and one smoothed map (n, 1, S, S).

    The map is in nats a pixel, smoothed by a Gaussian of 1/64 of the image's side, 0 outside the breast.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.vae = run.members["vae"]
        self.size = run.settings.vae.size
        sigma = self.size / 64
        reach = int(np.ceil(3 * sigma))
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        self.kernel: Tensor
        self.register_buffer("kernel", kernel / kernel.sum())
        self.to(device()).eval()

    def forward(self, image: Tensor, mask: Tensor, other: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        scores, maps = self.vae.score(image, mask, other)
        return scores, self._smooth(maps["reconstruction"]) * mask

    def _smooth(self, map: Tensor) -> Tensor:
        reach = len(self.kernel) // 2
        map = nn.functional.pad(map, (reach, reach, reach, reach), mode="replicate")
        map = nn.functional.conv2d(map, self.kernel[None, None, None, :])
        return nn.functional.conv2d(map, self.kernel[None, None, :, None])

    @torch.inference_mode()
    def squares(self, images: np.ndarray, masks: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Score uint16 squares (n, S, S) with their masks: named float64 scores (n,), maps float32 (n, s, s)."""
        image, mask = to_tensors(images, masks, self.size)
        scores, map = self(image.to(device()), mask.to(device()))
        return {name: value.double().cpu().numpy() for name, value in scores.items()}, map[:, 0].cpu().numpy()

    def data(
        self, data: Data, positions: np.ndarray, batch_size: int = 32
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]]:
        """Yield (positions, scores, maps) of a DATA folder's images, a batch at a time."""
        for start in range(0, len(positions), batch_size):
            part = positions[start : start + batch_size]
            yield (part, *self.squares(data.images[part], data.masks[part]))

    def table(self, data: Data, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the named scores of a DATA folder's images, (n,) each."""
        parts = [scores for _, scores, _ in self.data(data, positions)]
        names = parts[0] if parts else {FINDING: None}
        return {name: np.concatenate([part[name] for part in parts] or [np.empty(0)]) for name in names}
