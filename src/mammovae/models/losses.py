"""Log-densities of the ELBO, one value an image, in nats."""

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mammovae.models.noise import ImageNoise, StepContext

_MOMENTUM = 0.02


def bernoulli_nll(logits: Tensor, target: Tensor) -> Tensor:
    """Bernoulli negative log-likelihood of each pixel: -x log p - (1 - x) log(1 - p), p = sigmoid(logits).

    Both (n, 1, S, S), target in [0, 1]; the result has their shape. Grey values between 0 and 1 are taken as
    probabilities, as in Kingma & Welling, "Auto-Encoding Variational Bayes" (ICLR 2014), appendix C.1.
    """
    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def gaussian_nll(squares: Tensor, counts: Tensor, variance: Tensor) -> Tensor:
    """Gaussian negative log-likelihood, (n,), of counts pixels of one variance with these sums of squared residuals."""
    return 0.5 * (squares / variance + counts * (2 * math.pi * variance).log())


def batch_variance(squares: Tensor, counts: Tensor, running: Tensor, context: StepContext) -> Tensor:
    """Return the mean squared residual of a batch, and let the running one, which scores use, follow it slowly.

    It is the variance under which gaussian_nll is least, so that reconstruction and KL divergence need no weight
    (sigma-VAE: Rybkin, Daniilidis & Levine, "Simple and effective VAE training with calibrated decoders", ICML 2021).
    squares and counts: (n, ...), sums over an image's pixels.
    """
    variance = context.batch_sum(squares) / context.batch_sum(counts)
    running.lerp_(variance.detach(), _MOMENTUM)
    return variance


def kl_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, I) in each dimension, (n, d), in nats.

    Kingma & Welling (ICLR 2014), appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def reparameterise(mean: Tensor, log_variance: Tensor, noise: ImageNoise) -> Tensor:
    """Draw z ~ N(mean, exp(log_variance)) so that gradients pass: mean + exp(log_variance / 2) * noise."""
    return mean + torch.exp(0.5 * log_variance) * noise.normal(*mean.shape[1:]).to(mean.dtype)
