"""The original network and its loop as a first version would be; torch alone, for pythae's environment too."""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

FILTERS, LATENT, SIDE = (32, 64, 128, 256), 1024, 8
PARAMETERS = 51_125_505


class Plain(nn.Module):
    """ReLU before max-pooling, a sigmoid at the end; layers in the order of mammovae's, so a seed gives its weights."""

    def __init__(self) -> None:
        super().__init__()
        flat = FILTERS[-1] * SIDE * SIDE
        steps = [
            layer
            for before, after in pairwise((1, *FILTERS))
            for layer in (nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        ]
        self.encoder = nn.Sequential(*steps, nn.Flatten())
        self.mean, self.log_variance = nn.Linear(flat, LATENT), nn.Linear(flat, LATENT)
        self.from_latent = nn.Linear(LATENT, flat)
        back = [
            layer
            for before, after in pairwise((*FILTERS[::-1], 1))
            for layer in (nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1), nn.ReLU())
        ]
        self.decoder = nn.Sequential(*back[:-1], nn.Sigmoid())

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and log-variance of z."""
        features = self.encoder(image)
        return self.mean(features), self.log_variance(features)

    def decode(self, z: Tensor) -> Tensor:
        """Return the image, in 0..1."""
        return self.decoder(self.from_latent(z).view(-1, FILTERS[-1], SIDE, SIDE))

    def forward(self, image: Tensor) -> Tensor:
        """Return the negative ELBO, mean over the batch, in nats, with z drawn once."""
        mean, log_variance = self.encode(image)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        reconstruction = nn.functional.binary_cross_entropy(self.decode(z), image, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (reconstruction + kl) / len(image)

    def score(self, image: Tensor) -> Tensor:
        """Return the Bernoulli loss of each image at z = mean."""
        reconstruction = self.decode(self.encode(image)[0])
        return nn.functional.binary_cross_entropy(reconstruction, image, reduction="none").sum(dim=(1, 2, 3))


class Trainer:
    """The default loop: Adam with its defaults, a step a batch."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.network = Plain()
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def epoch(self, batches: Iterable[Tensor]) -> float:
        """Train on each batch once; return the mean of their losses."""
        losses = []
        for image in batches:
            self._optimizer.zero_grad()
            loss = self.network(image)
            loss.backward()
            self._optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)


def shuffled(images: Tensor, size: int = 32) -> list[Tensor]:
    """Return images (n, 1, S, S) as batches in random order."""
    return [images[part] for part in torch.randperm(len(images)).split(size)]
