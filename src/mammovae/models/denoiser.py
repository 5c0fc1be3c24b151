"""The denoiser: it takes coarse noise out of healthy images, and with it whatever else does not belong there."""

from typing import ClassVar

import torch
from torch import Tensor

from mammovae.config import DenoiserSettings
from mammovae.data.dataset import Batch
from mammovae.models import anomaly_maps
from mammovae.models.anomaly_maps import masked_max, masked_mean, smooth_inside, standardise_in_mask
from mammovae.models.base import Member
from mammovae.models.layers import UNet, downsampled_size, enlarge
from mammovae.models.noise import ImageNoise, StepContext


class Denoiser(Member):
    """A U-Net that returns the image without the coarse Gaussian noise added to it.

    Kascenas, Pugeault & O'Neil, "Denoising autoencoders for unsupervised anomaly detection in brain MRI" (MIDL 2022):
    the noise is drawn on a coarse grid, enlarged, and rolled at random, as large as lesions are.
    """

    name, augmented = "denoiser", True
    scores: ClassVar = {
        "denoising_local_peak": "a place that the denoiser takes away, given what it takes nearby",
        "denoising_peak": "a place that the denoiser takes away",
        "denoising_error": "the denoiser changes it much",
    }
    maps = ("denoising", "denoising_local")
    curve: ClassVar = {"loss": "half the squared error (sum inside the breast)"}

    def __init__(self, settings: DenoiserSettings) -> None:
        super().__init__()
        self.settings, self.size = settings, settings.size
        downsampled_size(settings.size, len(settings.widths) - 1, self.name)
        self.net = UNet(1, settings.widths, 1)

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return half the squared error of the denoised image, summed inside the mask, (n,)."""
        grey = standardise_in_mask(batch.image, batch.mask)
        denoised = self.net(grey + self._coarse_noise(batch.mask, context.noise))
        return {"loss": 0.5 * ((denoised - grey).square() * batch.mask).sum(dim=(1, 2, 3))}

    def _coarse_noise(self, mask: Tensor, noise: ImageNoise) -> Tensor:
        """Draw coarse noise inside the mask, (n, 1, S, S), in units of the grey's standard deviation."""
        size, grid = mask.shape[-1], self.settings.grid
        coarse = noise.normal(1, grid, grid) * self.settings.noise
        fine = enlarge(coarse, size)
        # Each image rolled by its own rows and columns, at once.
        rows, columns = ((torch.arange(size, device=mask.device) + noise.integers(size, 1)) % size for _ in range(2))
        images = torch.arange(len(mask), device=mask.device)[:, None, None]
        return fine[images, 0, rows[:, :, None], columns[:, None, :]][:, None] * mask

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return mean |r| and peaks and maps of r = grey - denoised, no noise added, a rim of 3 pixels of 128 left out.

        denoising_peak: r smoothed by 1 pixel. denoising_local_peak: that over the root of r^2 smoothed by 10 pixels.
        """
        grey = standardise_in_mask(batch.image, batch.mask)
        residual = (grey - self.net(grey)) * batch.mask
        inner, scale = anomaly_maps.erode(batch.mask, 3), grey.shape[-1] / 128
        removed = smooth_inside(residual, batch.mask, scale)
        local = anomaly_maps.local_contrast_normalise(residual, batch.mask, 1, 10)
        scores = {"denoising_error": masked_mean(residual.abs(), batch.mask)}
        scores |= {"denoising_peak": masked_max(removed, inner), "denoising_local_peak": masked_max(local, inner)}
        return scores, {"denoising": removed.clamp(min=0) * inner, "denoising_local": local.clamp(min=0) * inner}
