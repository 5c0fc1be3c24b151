"""What the rest of the package relies on, of every member of the registry."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from tests.models.small_members import SIZE, batch, build, only, small_settings

from mammovae.config import MemberName, TrainSettings
from mammovae.models.base import Autoencoder, Generator, load_weights, save_weights
from mammovae.models.noise import ImageNoise, StepContext, image_keys, step_keys
from mammovae.models.run import MEMBERS, build_members

POSITIONS = np.array([4, 9, 11])


def context(rows: slice = slice(None), epoch: int = 0) -> StepContext:
    return StepContext.of(step_keys(0, epoch, POSITIONS[rows], 0))


@pytest.fixture(params=MEMBERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_registry_the_names_and_the_settings_are_the_same() -> None:
    assert sorted(MEMBERS) == sorted(get_args(MemberName))
    for name, member in MEMBERS.items():
        assert member.name == name and name in TrainSettings.model_fields
        assert member.scores and member.maps and all(member.scores.values())
        assert set(member.reported) <= set(member.scores)


def test_scores_and_maps_are_those_declared_finite_and_inside_the_breast(name: str) -> None:
    member, images = build(name).eval(), batch()
    with torch.inference_mode():
        scores, maps = member.score(images)
    assert set(scores) == set(member.scores) and set(maps) == set(member.maps)
    assert all(values.shape == (3,) and torch.isfinite(values).all() for values in scores.values())
    for anomaly_map in maps.values():
        assert anomaly_map.shape == (3, 1, SIZE, SIZE) and torch.isfinite(anomaly_map).all()


def test_an_image_scores_the_same_again_alone_and_in_a_batch(name: str) -> None:
    member, images = build(name).eval(), batch()
    with torch.inference_mode():
        scores, maps = member.score(images)
        again, _ = member.score(images)
        alone, alone_maps = member.score(only(images, 1))
    for key, values in scores.items():
        assert torch.equal(values, again[key])
        torch.testing.assert_close(alone[key][0], values[1], rtol=1e-5, atol=1e-5)
    for key, values in maps.items():
        torch.testing.assert_close(alone_maps[key][0], values[1], rtol=1e-4, atol=1e-4)


def test_without_the_other_breast_a_bilateral_score_is_unknown_and_any_other_the_same(name: str) -> None:
    member, images = build(name).eval(), batch()
    nothing = torch.zeros_like(images.image)
    with torch.inference_mode():
        scores, _ = member.score(images)
        without, maps = member.score(images._replace(other=nothing, other_mask=nothing))
    for key, values in without.items():
        assert values.isnan().all() if member.bilateral else torch.equal(values, scores[key])
    if member.bilateral:
        assert all(key.endswith("_bilateral") for key in scores) and not any(part.any() for part in maps.values())


def test_losses_are_finite_by_image_and_the_same_for_the_same_keys_whatever_torch_would_draw(name: str) -> None:
    images = batch()
    for training in (True, False):
        member = build(name).train(training)
        torch.manual_seed(1)
        state = torch.get_rng_state()
        losses = member.losses(images, context())
        assert torch.equal(torch.get_rng_state(), state), "draws from torch's own generator"
        member = build(name).train(training)
        again = member.losses(images, context())
        assert losses.keys() == again.keys() and "loss" in losses
        for key, values in losses.items():
            assert values.shape[:1] == (3,) and values.ndim in (1, 2)
            assert torch.isfinite(values).all() and torch.equal(values, again[key])


def test_in_evaluation_an_images_terms_do_not_depend_on_its_batch_nor_does_what_is_said_of_many(name: str) -> None:
    member, images = build(name).eval(), batch()
    with torch.no_grad():
        losses = member.losses(images, context())
        alone = [member.losses(only(images, row), context(slice(row, row + 1))) for row in range(3)]
    for key in losses.keys() - {"loss"}:
        torch.testing.assert_close(alone[1][key][0], losses[key][1], rtol=1e-5, atol=1e-5, msg=key)
    whole = {key: values.double().mean(dim=0) for key, values in losses.items()}
    parts = {key: torch.cat([part[key] for part in alone]).double().mean(dim=0) for key in losses}
    rows = [member.epoch_losses(means) for means in (whole, parts)]
    assert rows[0].keys() == rows[1].keys() >= {"loss", *member.curve}
    assert all(member.curve.values())
    for key, value in rows[0].items():
        assert torch.isfinite(value).all() and value.ndim == (key == "kl_dimensions")
        torch.testing.assert_close(rows[1][key], value, rtol=1e-5, atol=1e-5, msg=key)


def test_what_an_epoch_says_of_one_batch_is_what_training_minimised(name: str) -> None:
    member, images = build(name), batch()
    with torch.no_grad():
        losses = member.losses(images, context())
    row = member.epoch_losses({key: values.double().mean(dim=0) for key, values in losses.items()})
    assert row["loss"].item() == pytest.approx(losses["loss"].mean().item(), rel=1e-5)


def test_a_few_steps_lower_the_loss_and_reach_every_parameter(name: str) -> None:
    member, images = build(name).train(), batch()
    optimizer, seen = torch.optim.Adam(member.parameters(), lr=3e-3), []
    reached: set[str] = set()
    for _ in range(16):
        loss = member.losses(images, context())["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        reached |= {key for key, part in member.named_parameters() if part.grad is not None and part.grad.any()}
        optimizer.step()
        seen.append(loss.item())
    assert reached == {key for key, _ in member.named_parameters()}
    assert np.isfinite(seen).all() and np.mean(seen[-4:]) < np.mean(seen[:4])


def test_a_step_in_bfloat16_is_near_one_in_float32_and_its_gradients_are_float32(name: str) -> None:
    images, steps = batch(), []
    for is_half in (False, True):
        member = build(name).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            loss = member.losses(images, context())["loss"].mean()
        loss.backward()
        gradients = [part.grad for part in member.parameters() if part.grad is not None]
        assert all(gradient.dtype == torch.float32 and torch.isfinite(gradient).all() for gradient in gradients)
        steps.append((loss.item(), len(gradients)))
    assert steps[1] == (pytest.approx(steps[0][0], rel=0.05), steps[0][1])


def test_weights_survive_their_file_and_do_not_depend_on_which_other_members_there_are(
    name: str, tmp_path: Path
) -> None:
    first, images = build(name).eval(), batch()
    first.finalize_fit([(images, ImageNoise(image_keys(0, 0, POSITIONS)))])
    save_weights(first, tmp_path / "model.safetensors")
    second = build(name, seed=1).train()
    load_weights(second, tmp_path / "model.safetensors")
    assert not second.training
    state = second.state_dict()
    assert all(torch.equal(values, state[key]) for key, values in first.state_dict().items())
    together = build_members(TrainSettings(**small_settings(*MEMBERS)))[name].state_dict()
    assert all(torch.equal(values, together[key]) for key, values in build(name).state_dict().items())


def test_what_is_taken_from_the_training_images_is_the_same_again_and_in_other_batches(name: str) -> None:
    images, keys = batch(), image_keys(0, 0, POSITIONS)
    whole, parts = build(name).eval(), build(name).eval()
    whole.finalize_fit([(images, ImageNoise(keys))])
    torch.manual_seed(9)
    parts.finalize_fit((only(images, row), ImageNoise(keys[row : row + 1])) for row in range(3))
    for key, values in whole.state_dict().items():
        if key != "latent_axes":  # the directions of equal variance may be any
            torch.testing.assert_close(parts.state_dict()[key], values, rtol=1e-4, atol=1e-5, msg=key)


def test_what_reconstructs_gives_images_and_what_generates_gives_images_and_masks(name: str) -> None:
    member, images = build(name).eval(), batch()
    with torch.inference_mode():
        if isinstance(member, Autoencoder):
            made = member.reconstruct(images)
            assert made.shape == images.image.shape and made.min() >= 0 and made.max() <= 1
        if isinstance(member, Generator):
            mean, variance = member.posterior(images)
            assert mean.shape == variance.shape == (3, member.dimensions) and (variance > 0).all()
            assert images.condition is not None
            generators = [torch.Generator().manual_seed(number) for number in range(3)]
            made, masks = member.generate_images(mean, images.condition, generators)
            assert made.shape == images.image.shape and made.min() >= 0 and made.max() <= 1
            assert masks is None or ((masks == 0) | (masks == 1)).all()
