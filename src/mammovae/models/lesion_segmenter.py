"""The marker: a network that learnt on healthy films alone to mark what was planted into them."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate

from mammovae.config import LesionSegmenterSettings
from mammovae.data.dataset import Batch
from mammovae.models.anomaly_maps import erode, masked_max, smooth_inside, standardise_in_mask
from mammovae.models.base import Member
from mammovae.models.layers import UNet, downsampled_size
from mammovae.models.residual_vae import ResidualVae
from mammovae.models.tiling import sample_patches, sliding_window_inference

PATCHES_PER_IMAGE = 4
"""Windows of a film in an epoch, where a marker works on tiles."""


class LesionSegmenter(Member):
    """A U-Net from film, reconstruction and log-variance to the log-odds of a lesion in each pixel.

    Two thirds of its training films carry one or two planted lesions of family TRAIN. Learning from planted
    anomalies: Zavrtanik, Kristan & Skocaj, "DRAEM" (ICCV 2021); Tan et al., "Detecting outliers with foreign patch
    interpolation" (MELBA 2022).
    """

    augmented = True

    def __init__(self, settings: LesionSegmenterSettings, vae: ResidualVae, name: str) -> None:
        super().__init__()
        self.settings, self.size, self.name = settings, settings.size, name
        downsampled_size(settings.patch_size or settings.size, len(settings.widths) - 1, name)
        self.net = UNet(3, settings.widths, 1)
        self.kinds = settings.kinds
        self._vae = (vae,)  # in a tuple: it is another member, with weights of its own

    def inputs(self, batch: Batch) -> Tensor:
        """Return film grey, reconstruction and log-variance as channels, (n, 3, S, S).

        The VAE sees the film at its own size; what it says is enlarged to the marker's.
        """
        vae = self._vae[0].to(batch.image.device).eval()
        size, ratio = batch.image.shape[-1], batch.image.shape[-1] // vae.settings.size
        with torch.no_grad():
            if ratio <= 1:
                return torch.cat(vae.predict(batch), dim=1)
            image, mask = (avg_pool2d(part, ratio) for part in (batch.image, batch.mask))
            _, *said = vae.predict(Batch(image, (mask >= 0.5).float()))
            enlarged = [interpolate(part, size=(size, size), mode="bilinear", align_corners=False) for part in said]
            return torch.cat(
                [standardise_in_mask(batch.image, batch.mask), *(part * batch.mask for part in enlarged)], dim=1
            )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy a pixel (ten times) plus one less the soft Dice overlap, inside the mask, (n,).

        Milletari, Navab & Ahmadi, "V-Net" (3DV 2016), for the overlap. With tiles, n is the number of windows.
        """
        assert batch.lesion is not None
        inputs, lesion, mask = self.inputs(batch), batch.lesion, batch.mask
        if (tile := self.settings.patch_size) is not None:
            windows = sample_patches(mask, lesion, tile, PATCHES_PER_IMAGE)
            inputs, lesion, mask = (
                torch.stack([part[film, :, y : y + tile, x : x + tile] for film, y, x in windows])
                for part in (inputs, lesion, mask)
            )
        logits = self.net(inputs)
        entropy = binary_cross_entropy_with_logits(logits, lesion, reduction="none") * mask
        entropy = entropy.sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp(min=1)
        marked = torch.sigmoid(logits) * mask
        both, either = (part.sum(dim=(1, 2, 3)) for part in (marked * lesion, marked + lesion))
        overlap = 1 - (2 * both + 1) / (either + 1)
        loss = 10 * entropy + overlap * (lesion.amax(dim=(1, 2, 3)) > 0.5)
        films = len(batch.image)
        return {"loss": loss.view(films, -1).mean(dim=1), "entropy": entropy.view(films, -1).mean(dim=1)}

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Map a batch to NAME_peak, the maximum of the log-odds smoothed by 1 pixel of 128, and NAME_area, with a map.

        NAME_area is the log of the sum of the probabilities, in pixels of 128 x 128. Both without a rim of 2 pixels.
        The map, NAME, is the probability.
        """
        tile, inputs = self.settings.patch_size, self.inputs(batch)
        logits = self.net(inputs) if tile is None else sliding_window_inference(inputs, batch.mask, tile, self.net)
        inner, scale = erode(batch.mask, 2), batch.mask.shape[-1] / 128
        smooth = smooth_inside(logits, batch.mask, scale)
        probability = torch.sigmoid(smooth) * inner
        area = probability.sum(dim=(1, 2, 3)) / scale**2
        scores = {f"{self.name}_peak": masked_max(smooth, inner), f"{self.name}_area": torch.log(area + 1e-3)}
        return scores, {self.name: probability}
