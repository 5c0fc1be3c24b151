"""The convolutional variational autoencoder of the original study, behind the interface of a member."""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Generator as TorchGenerator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bernoulli_nll

from mammovae.config import VaeSettings
from mammovae.data.dataset import Batch
from mammovae.models.base import ELBO_PARTS, Generator
from mammovae.models.layers import UpsampleConv, downsampled_size
from mammovae.models.losses import kl_standard_normal, reparameterise
from mammovae.models.noise import StepContext


class Vae(Generator):
    """3x3 convolutions with ReLU and max-pooling to a Gaussian latent; transposed convolutions back to pixels.

    Kingma & Welling, "Auto-Encoding Variational Bayes" (ICLR 2014); grey values between 0 and 1 are taken as
    probabilities, as in its appendix C.1. With the default settings it is the original study's network, 51,125,505
    parameters in PyTorch's default initialisation.
    """

    name, shown_mode = "vae", "vary"
    reported: ClassVar = {"kl_divergence": "KL divergence"}
    scores: ClassVar = {
        "reconstruction_loss": "the VAE reconstructs it badly",
        "kl_divergence": "the VAE needs more to describe it than healthy images",
    }
    maps = ("reconstruction",)
    curve: ClassVar = {"loss": "negative ELBO (nats)"} | ELBO_PARTS

    def __init__(self, settings: VaeSettings) -> None:
        super().__init__()
        self.settings, self.size, self.dimensions = settings, settings.size, settings.latent
        filters = settings.filters
        side = downsampled_size(settings.size, len(filters), self.name)
        self._grid = (filters[-1], side, side)
        flat = filters[-1] * side * side
        encoder, decoder = list[nn.Module](), list[nn.Module]()
        for before, after in pairwise((1, *filters)):
            # max-pool(ReLU(x)) = ReLU(max-pool(x)), and the second way touches a quarter of the pixels.
            encoder += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        self.encoder = nn.Sequential(*encoder, nn.Flatten())
        self.mean = nn.Linear(flat, settings.latent)
        self.log_variance = nn.Linear(flat, settings.latent)
        self.from_latent = nn.Linear(settings.latent, flat)
        for before, after in pairwise((*filters[::-1], 1)):
            decoder += [UpsampleConv(before, after), nn.ReLU()]
        self.decoder = nn.Sequential(*decoder[:-1])

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | image), both (n, latent)."""
        features = self.encoder(image)
        return self.mean(features), self.log_variance(features)

    def decode_logits(self, z: Tensor) -> Tensor:
        """Return the logits of the Bernoulli means, (n, 1, S, S), for latent vectors (n, latent)."""
        return self.decoder(self.from_latent(z).unflatten(1, self._grid))

    def decode(self, z: Tensor) -> Tensor:
        """Return images (n, 1, S, S) in [0, 1] for latent vectors (n, latent)."""
        return torch.sigmoid(self.decode_logits(z))

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(z | image), (n, latent) each."""
        mean, log_variance = self.encode(batch.image)
        return mean, log_variance.exp()

    def generate_images(self, z: Tensor, condition: Tensor, generators: list[TorchGenerator]) -> tuple[Tensor, None]:
        """Return the Bernoulli means (n, 1, S, S), which are the original study's images, and no masks."""
        return self.decode(z), None

    def reconstruct(self, batch: Batch) -> Tensor:
        """Return the Bernoulli means at z = mean, (n, 1, S, S)."""
        return self.decode(self.encode(batch.image)[0])

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return the negative ELBO of each image and its two parts, (n,) each, in nats, with z drawn once."""
        image = batch.image
        mean, log_variance = self.encode(image)
        logits = self.decode_logits(reparameterise(mean, log_variance, context.noise))
        reconstruction = bernoulli_nll(logits, image, reduction="none").sum(dim=(1, 2, 3))
        divergence = kl_standard_normal(mean, log_variance)
        kl = divergence.sum(dim=1)
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl, "kl_dimensions": divergence}

    def score(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return its scores in nats at z = mean over the whole image, as the original study measured it, and the map.

        That is each pixel's loss above the entropy of its grey value, the least that any reconstruction could have.
        """
        image = batch.image
        mean, log_variance = self.encode(image)
        nll = bernoulli_nll(self.decode_logits(mean), image, reduction="none")
        least = torch.special.entr(image) + torch.special.entr(1 - image)
        kl = kl_standard_normal(mean, log_variance).sum(dim=1)
        return {"reconstruction_loss": nll.sum(dim=(1, 2, 3)), "kl_divergence": kl}, {"reconstruction": nll - least}
