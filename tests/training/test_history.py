"""What history.csv says of an epoch: sums over its images, the same however they fall into batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.models.small_members import small_settings
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from mammovae.config import TrainSettings
from mammovae.data.dataset import Batch, Data
from mammovae.models.anomaly_maps import standardise_in_mask
from mammovae.models.augmentation import N_PARAMETERS
from mammovae.models.base import Member
from mammovae.models.bilateral_vae import BilateralVae
from mammovae.models.laplacian import laplacian, mask_pyramid
from mammovae.models.noise import ImageNoise, image_keys
from mammovae.models.pyramid_vae import PyramidVae
from mammovae.models.residual_vae import ResidualVae
from mammovae.models.run import MEMBERS, build_members
from mammovae.training import loop
from mammovae.training.distributed import ProcessGroup

COMMON: dict[str, Any] = {"epochs": 1, "limit": 21, "seed": 3}


@pytest.fixture(scope="module")
def data(trapped_data: Path) -> Data:
    return Data.open(trapped_data)


def parts(data: Data, chosen: TrainSettings) -> loop.Parts:
    """Several healthy images to validate on: the set's own validation split is small."""
    split = data.for_training(chosen)
    return split | {"validation": np.union1d(split["validation"], split["calibration"])}


def fit(
    name: str, data: Data, folder: Path, validation: np.ndarray | None = None, **changes: Any
) -> tuple[Member, pd.Series]:
    """Train a small member for an epoch; return it and the row of its history."""
    chosen = TrainSettings(**small_settings(name) | COMMON | changes)
    member, given = build_members(chosen)[name], parts(data, chosen)
    given |= {} if validation is None else {"validation": validation}
    return member, loop.fit(member, data, given, folder, chosen, ProcessGroup()).iloc[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMBERS)
def test_a_validation_says_the_same_in_batches_of_any_size_and_in_any_order(
    name: str, data: Data, tmp_path: Path
) -> None:
    still = {"learning_rate": 1e-30}  # the weights stay, whatever the steps
    positions = parts(data, TrainSettings(**COMMON))["validation"]
    assert len(positions) > 10
    _, expected = fit(name, data, tmp_path / "whole", batch_size=50, **still)
    shuffled = np.random.default_rng(0).permutation(positions)
    for size, order in ((1, positions), (4, shuffled)):
        _, row = fit(name, data, tmp_path / f"{size}", order, batch_size=size, **still)
        for column in (column for column in map(str, row.index) if column.startswith("validation_")):
            assert row[column] == pytest.approx(expected[column], rel=2e-6, abs=1e-6), column


def test_of_many_epochs_some_are_validated_evenly_and_the_last_one(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "VALIDATIONS", 3)
    chosen = TrainSettings(**small_settings("denoiser") | COMMON | {"epochs": 8})
    member = build_members(chosen)["denoiser"]
    history = loop.fit(member, data, parts(data, chosen), tmp_path, chosen, ProcessGroup())
    assert history["loss"].notna().all() and history["epoch"].tolist() == list(range(1, 9))
    assert history.loc[history["validation_loss"].notna(), "epoch"].tolist() == [3, 6, 8]


def gaussian(errors: Tensor, mask: Tensor) -> float:
    """Mean over images of the negative log-density of errors inside the mask, of the variance that is best for all."""
    inside = mask.expand_as(errors) > 0
    deviation = errors[inside].square().mean().sqrt()
    return -Normal(0.0, deviation).log_prob(errors)[inside].sum().item() / len(errors)


def divergence(mean: Tensor, log_variance: Tensor) -> float:
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), mean.ndim - 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), mean.ndim - 1)
    return kl_divergence(posterior, prior).mean().item()


def drawn(mean: Tensor, log_variance: Tensor, noise: ImageNoise) -> Tensor:
    return mean + (0.5 * log_variance).exp() * noise.normal(*mean.shape[1:]).double()


def residual_elbo(vae: ResidualVae, batch: Batch, noise: ImageNoise) -> dict[str, float]:
    grey = standardise_in_mask(batch.image, batch.mask)
    mean, log_variance = vae.encode_grid(grey)
    z = drawn(mean, log_variance, noise)
    reconstruction, kl = gaussian(grey - vae.decode(z)[0], batch.mask), divergence(mean, log_variance)
    return {"reconstruction": reconstruction, "kl": kl, "negative_elbo": reconstruction + kl}


def bilateral_elbo(vae: BilateralVae, batch: Batch, noise: ImageNoise) -> dict[str, float]:
    assert batch.other is not None and batch.other_mask is not None
    grey, other = standardise_in_mask(batch.image, batch.mask), standardise_in_mask(batch.other, batch.other_mask)
    mean, log_variance = vae._encode(grey, other, batch.mask)
    made = vae.decoder(torch.cat([other, batch.mask], dim=1), drawn(mean, log_variance, noise))
    reconstruction, kl = gaussian(grey - made, batch.mask), divergence(mean, log_variance)
    return {"reconstruction": reconstruction, "kl": kl, "loss": reconstruction + kl}


def pyramid_elbo(vae: PyramidVae, batch: Batch, noise: ImageNoise) -> dict[str, float]:
    """Every band weighs an image's pixels as if there were as many as in the finest."""
    mean, log_variance = vae.encode(batch)
    assert batch.condition is not None
    nothing_done = batch.condition.new_zeros(len(batch.condition), N_PARAMETERS)
    made, logits = vae.decode(drawn(mean, log_variance, noise), torch.cat([nothing_done, batch.condition], dim=1))
    bands = laplacian(((batch.image - made) * batch.mask).contiguous(), vae.settings.bands)
    insides = [share >= 0.5 for share in mask_pyramid(batch.mask, vae.settings.bands)]
    outline = -torch.distributions.Bernoulli(logits=logits).log_prob(batch.mask).sum() / len(made)
    reconstruction = outline.item()
    for band, inside in zip(bands, insides, strict=True):
        density = Normal(0.0, band[inside].square().mean().sqrt()).log_prob(band)
        for image in range(len(band)):
            share = insides[0][image].sum() / inside[image].sum()
            reconstruction -= (share * density[image][inside[image]].sum()).item() / len(band)
    kl = divergence(mean, log_variance)
    return {"reconstruction": reconstruction, "kl": kl, "composite": reconstruction + kl, "outline": outline.item()}


@pytest.mark.parametrize(
    ("name", "elbo"),
    [("residual_vae", residual_elbo), ("bilateral_vae", bilateral_elbo), ("pyramid_vae", pyramid_elbo)],
)
def test_a_validation_from_the_first_epoch_on_is_the_elbo_of_all_images_at_once_with_z_drawn(
    name: str, elbo: Any, data: Data, tmp_path: Path
) -> None:
    member, row = fit(name, data, tmp_path, batch_size=4)
    positions = parts(data, TrainSettings(**COMMON))["validation"]
    if member.bilateral:
        positions = positions[np.isin(data.others[positions], positions)]
    parted = data.batch(positions, member.size, True)._asdict().items()
    batch = Batch(**{part: values.double() for part, values in parted if values is not None})
    noise = ImageNoise(image_keys(COMMON["seed"], loop.VALIDATION, positions))
    with torch.no_grad():
        expected = elbo(member.double(), batch, noise)
    for column, value in expected.items():
        assert row[f"validation_{column}"] == pytest.approx(value, rel=2e-6), column


def test_no_more_validation_images_are_used_than_asked_for_evenly_spaced_and_the_same_in_each_epoch(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    validate = loop._Training._validate

    def noted(training: loop._Training) -> dict[str, float]:
        seen.append(training._validation)
        return validate(training)

    monkeypatch.setattr(loop._Training, "_validate", noted)
    positions = parts(data, TrainSettings(**COMMON))["validation"]
    rows = [
        fit("vae", data, tmp_path / "few", validation_images=4, epochs=2)[1],
        fit("vae", data, tmp_path / "all", validation_images=len(positions))[1],
        fit("vae", data, tmp_path / "chosen", positions[np.arange(4) * len(positions) // 4], epochs=2)[1],
    ]
    assert [len(each) for each in seen] == [4, 4, len(positions), 4, 4]
    np.testing.assert_array_equal(seen[0], seen[1])
    places = np.searchsorted(positions, seen[0])
    assert places[0] == 0 and np.ptp(np.diff(places)) <= 1
    assert rows[0]["validation_loss"] == rows[2]["validation_loss"] != rows[1]["validation_loss"]
