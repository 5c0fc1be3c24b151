"""Log-densities of the ELBO, one value an image, in nats."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def bernoulli_nll(logits: Tensor, target: Tensor) -> Tensor:
    """Bernoulli negative log-likelihood of each pixel: -x log p - (1 - x) log(1 - p), p = sigmoid(logits).

    Both (n, 1, S, S), target in [0, 1]; the result has their shape. Grey values between 0 and 1 are taken as
    probabilities, as in Kingma & Welling, "Auto-Encoding Variational Bayes" (ICLR 2014), appendix C.1.
    """
    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def kl_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, I) in each dimension, (n, d), in nats.

    Kingma & Welling (ICLR 2014), appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def reparameterise(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Draw z ~ N(mean, exp(log_variance)) so that gradients pass: mean + exp(log_variance / 2) * noise."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
