"""Trains pythae's VAE, its layers the original network's, and prints the epochs' seconds; run by train-pythae."""

import argparse
import json
import tempfile
import time

import numpy as np
import torch
from plain import LATENT, PARAMETERS, Plain
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback


class Encoder(BaseEncoder):
    """The plain network's encoder in pythae's form."""

    def __init__(self, plain: Plain) -> None:
        super().__init__()
        self.features, self.mean, self.log_variance = plain.encoder, plain.mean, plain.log_variance

    def forward(self, image: torch.Tensor) -> ModelOutput:
        """Return the mean and log-variance of z."""
        features = self.features(image)
        return ModelOutput(embedding=self.mean(features), log_covariance=self.log_variance(features))


class Decoder(BaseDecoder):
    """The plain network's decoder in pythae's form."""

    def __init__(self, plain: Plain) -> None:
        super().__init__()
        self.from_latent, self.pixels = plain.from_latent, plain.decoder

    def forward(self, z: torch.Tensor) -> ModelOutput:
        """Return the reconstruction."""
        return ModelOutput(reconstruction=self.pixels(self.from_latent(z).view(-1, 256, 8, 8)))


class Clock(TrainingCallback):
    """Takes the time of every epoch, without start-up and saving."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, training_config: BaseTrainerConfig, **kwargs: object) -> None:
        """Start the clock."""
        self._begin = time.perf_counter()

    def on_epoch_end(self, training_config: BaseTrainerConfig, **kwargs: object) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._begin)


def main() -> None:
    """Train and print the seconds of each epoch as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images")
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    images, plain, clock = torch.from_numpy(np.load(arguments.images)), Plain(), Clock()
    model = VAE(
        VAEConfig(input_dim=tuple(images.shape[1:]), latent_dim=LATENT, reconstruction_loss="bce"),
        encoder=Encoder(plain),
        decoder=Decoder(plain),
    )
    assert sum(values.numel() for values in model.parameters()) == PARAMETERS
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=arguments.epochs,
            learning_rate=1e-3,
            per_device_train_batch_size=32,
            optimizer_cls="Adam",
            no_cuda=True,
        )
        dataset = BaseDataset(images, torch.zeros(len(images)))
        trainer = BaseTrainer(model, train_dataset=dataset, training_config=config, callbacks=[clock])
        trainer.train()
    print(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
