"""The parts of the ELBO, in nats."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mammovae.models.noise import ImageNoise, StepContext


def gaussian_nll(squares: Tensor, counts: Tensor, variance: Tensor) -> Tensor:
    """Gaussian negative log-likelihood of counts pixels of one variance whose squared residuals add up to squares."""
    return 0.5 * (squares / variance + counts * (2 * math.pi * variance).log())


def sigma_vae_variance(squares: Tensor, counts: Tensor, context: StepContext) -> Tensor:
    """Return the mean square of a batch's residuals from each image's sum of squares and number of pixels, (n, ...).

    A Gaussian likelihood is greatest under this variance, so that it needs no weight against the KL divergence (Rybkin,
    Daniilidis & Levine, "Simple and effective VAE training with calibrated decoders", ICML 2021).
    """
    return context.batch_sum(squares) / context.batch_sum(counts)


def epoch_nll(means: Mapping[str, Tensor]) -> Tensor:
    """Return the negative log-likelihood an image under the one variance that is best for all of an epoch's images.

    means: of what sigma_vae_variance takes, "squares" and "counts". That is counts / 2 (1 + log(2 pi variance)): over
    an epoch no mean of the batches' own likelihoods, each under the variance that is best for that batch.
    """
    squares, counts = means["squares"], means["counts"]
    return gaussian_nll(squares, counts, squares / counts)


def kl_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, I): Kingma & Welling (ICLR 2014), appendix B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def reparameterise(mean: Tensor, log_variance: Tensor, noise: ImageNoise) -> Tensor:
    """Draw z ~ N(mean, exp(log_variance)) so that gradients pass: mean + exp(log_variance / 2) * noise."""
    return mean + torch.exp(0.5 * log_variance) * noise.normal(*mean.shape[1:]).to(mean.dtype)
