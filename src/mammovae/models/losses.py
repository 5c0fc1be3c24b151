"""The parts of the ELBO, in nats."""

import math

import torch
from torch import Tensor

from mammovae.models.noise import ImageNoise, StepContext

_MOMENTUM = 0.02


def sigma_vae_nll(squares: Tensor, counts: Tensor, running: Tensor, context: StepContext | None) -> Tensor:
    """Gaussian negative log-likelihood of counts pixels with these sums of squared residuals, (n, ...) each.

    Its one variance is the batch's mean square, under which it is least, so that it needs no weight against the KL
    divergence (Rybkin, Daniilidis & Levine, "Simple and effective VAE training with calibrated decoders", ICML 2021).
    The running variance follows slowly, and takes its place in evaluation, without a context.
    """
    variance = running
    if context is not None:
        variance = context.batch_sum(squares) / context.batch_sum(counts)
        running.lerp_(variance.detach(), _MOMENTUM)
    return 0.5 * (squares / variance + counts * (2 * math.pi * variance).log())


def kl_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, I): Kingma & Welling (ICLR 2014), appendix B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def reparameterise(mean: Tensor, log_variance: Tensor, noise: ImageNoise) -> Tensor:
    """Draw z ~ N(mean, exp(log_variance)) so that gradients pass: mean + exp(log_variance / 2) * noise."""
    return mean + torch.exp(0.5 * log_variance) * noise.normal(*mean.shape[1:]).to(mean.dtype)
