"""The original network: its size, its ELBO, and what its scores mean."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mammovae.config import PRESETS, UsageError, VaeSettings
from mammovae.data.dataset import Batch
from mammovae.models.noise import StepContext, step_keys
from mammovae.models.vae import Vae

SMALL = VaeSettings(size=16, filters=(4, 8), latent=3)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def batch(image: Tensor) -> Batch:
    return Batch(image, torch.ones_like(image))


def keyed(count: int, epoch: int = 0) -> StepContext:
    return StepContext.of(step_keys(0, epoch, np.arange(count), 0))


@pytest.fixture(scope="module")
def vae() -> Vae:
    torch.manual_seed(0)
    return Vae(SMALL).eval()


def test_the_original_preset_has_51_125_505_parameters() -> None:
    assert sum(p.numel() for p in Vae(PRESETS["original"].vae).parameters()) == 51_125_505


def test_the_elbo_agrees_with_its_closed_form_given_the_noise(vae: Vae, image: Tensor) -> None:
    losses = vae.losses(batch(image), keyed(5))
    mean, log_variance = vae.encode(image)
    z = mean + log_variance.exp().sqrt() * keyed(5).noise.normal(3)
    p = vae.decode(z).double()
    x = image.double()
    nll = -(x * p.log() + (1 - x) * (1 - p).log()).sum(dim=(1, 2, 3))
    kl = sum(
        0.5 * (math.exp(v) + m * m - 1 - v)
        for m, v in zip(mean[0].double().tolist(), log_variance[0].double().tolist(), strict=True)
    )
    torch.testing.assert_close(losses["reconstruction"].double(), nll, rtol=1e-5, atol=1e-3)
    assert losses["kl"][0].item() == pytest.approx(kl, rel=1e-4)
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + losses["kl"])


def test_the_kl_divergence_agrees_with_a_monte_carlo_estimate(vae: Vae, image: Tensor) -> None:
    mean, log_variance = (10 * value.detach().double() for value in vae.encode(image[:1]))
    posterior = torch.distributions.Normal(mean, log_variance.div(2).exp())
    z = posterior.sample((400_000,))
    terms = (posterior.log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z)).sum(dim=(1, 2))
    from mammovae.models.losses import kl_standard_normal

    exact = kl_standard_normal(mean, log_variance).sum().item()
    assert terms.mean().item() == pytest.approx(exact, abs=5 * terms.std().item() / math.sqrt(len(terms)))


def test_the_elbo_is_below_the_log_evidence(vae: Vae, image: Tensor) -> None:
    """Importance sampling of log p(x) with many draws is an upper neighbour of the mean ELBO (Burda et al., 2016)."""
    torch.manual_seed(0)
    x = image[:1].expand(4000, -1, -1, -1)
    elbo = -torch.cat([vae.losses(batch(image[:1]), keyed(1, epoch))["loss"] for epoch in range(400)]).mean()
    mean, log_variance = vae.encode(x)
    posterior = torch.distributions.Normal(mean, log_variance.div(2).exp())
    z = posterior.sample()
    p = vae.decode(z)
    log_likelihood = (x * p.log() + (1 - x) * (1 - p).log()).sum(dim=(1, 2, 3))
    prior = torch.distributions.Normal(0, 1).log_prob(z).sum(dim=1)
    weights = log_likelihood + prior - posterior.log_prob(z).sum(dim=1)
    evidence = torch.logsumexp(weights, 0) - math.log(len(z))
    assert elbo.item() <= evidence.item() + 1e-2


def test_pooling_before_relu_computes_what_pooling_after_it_does(vae: Vae, image: Tensor) -> None:
    plain = image
    for layer in vae.encoder:
        if isinstance(layer, torch.nn.Conv2d):
            plain = torch.nn.functional.max_pool2d(torch.relu(layer(plain)), 2)
    torch.testing.assert_close(vae.encoder(image), plain.flatten(1))


class Plain(nn.Module):
    """The original network as it would be written at first, with the weights of another."""

    def __init__(self, vae: Vae) -> None:
        super().__init__()
        self.vae = vae
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 3, stride=2, padding=1, output_padding=1)
            for layer in vae.decoder
            if isinstance(layer, nn.ConvTranspose2d)
        ).to(vae.mean.weight.dtype)
        state = {f"{int(name[0]) // 2}{name[1:]}": value for name, value in vae.decoder.state_dict().items()}
        self.up.load_state_dict(state)

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        x = image
        for layer in self.vae.encoder:
            if isinstance(layer, nn.Conv2d):
                x = nn.functional.max_pool2d(torch.relu(layer(x)), 2)
        mean, log_variance = self.vae.mean(x.flatten(1)), self.vae.log_variance(x.flatten(1))
        z = mean + torch.exp(0.5 * log_variance) * noise
        first, second = self.up
        made = torch.sigmoid(second(torch.relu(first(self.vae.from_latent(z).view(-1, 8, 4, 4)))))
        reconstruction = nn.functional.binary_cross_entropy(made, image, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (reconstruction + kl) / len(image)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_loss_and_gradients_are_those_of_the_plain_form(dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(1)
    fast = Vae(SMALL).to(dtype)
    plain = Plain(copy.deepcopy(fast))
    fast.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
    image = torch.rand(5, 1, 16, 16, dtype=dtype)
    noise = keyed(5).noise.normal(3).to(dtype)
    ours = fast.losses(batch(image.contiguous(memory_format=torch.channels_last)), keyed(5))["loss"].mean()
    theirs = plain(image, noise)
    assert ours.item() == pytest.approx(theirs.item(), rel=bound)
    ours.backward()
    theirs.backward()
    wanted = {name: value.grad for name, value in plain.vae.named_parameters() if value.grad is not None}
    for name, value in plain.up.named_parameters():
        assert value.grad is not None
        wanted[f"decoder.{2 * int(name[0])}{name[1:]}"] = value.grad
    grads = {name: value.grad for name, value in fast.named_parameters() if value.grad is not None}
    assert grads.keys() == wanted.keys()
    for name, grad in grads.items():
        scale = wanted[name].abs().max().item()
        torch.testing.assert_close(grad, wanted[name], rtol=0, atol=bound * scale, msg=name)


def test_a_score_does_not_depend_on_noise_or_on_the_batch(vae: Vae, image: Tensor) -> None:
    together, _ = vae.score(batch(image))
    alone, _ = vae.score(batch(image[2:3]))
    for name, value in together.items():
        assert alone[name].item() == pytest.approx(value[2].item(), rel=1e-5)


def test_the_map_is_zero_only_where_the_reconstruction_is_perfect(vae: Vae, image: Tensor) -> None:
    reconstruction = vae.decode(vae.encode(image)[0])
    _, maps = vae.score(batch(image))
    assert maps["reconstruction"].min() >= -1e-5
    target = image.clone()
    kept = target.detach()
    p, x = reconstruction.double(), kept.double()
    divergence = x * (x / p).log() + (1 - x) * ((1 - x) / (1 - p)).log()
    torch.testing.assert_close(maps["reconstruction"].double(), divergence, atol=1e-4, rtol=1e-3)


def test_a_size_that_cannot_be_halved_often_enough_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot be halved 2 times: choose vae\.size as a multiple of 4"):
        Vae(VaeSettings(size=18, filters=(4, 8)))
