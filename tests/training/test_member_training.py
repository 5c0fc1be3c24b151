"""A member's weights depend on its images, its settings and the seed, and on nothing that happens beside or before."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from tests.models.small_members import SIZE, SMALL, small_settings
from torch import Tensor

import mammovae as mv
from mammovae.config import PRESETS, PresetName, TrainSettings
from mammovae.data.dataset import Batch, Data
from mammovae.models.base import HISTORY, WEIGHTS, Autoencoder, Member
from mammovae.models.noise import StepContext
from mammovae.models.run import MEMBERS, build_members
from mammovae.training import loop, train
from mammovae.training.distributed import ProcessGroup
from mammovae.training.step import TrainingStep
from mammovae.training.train import train_on

pytestmark = pytest.mark.slow

# Some steps an epoch, the last of a smaller batch, and a checkpoint after each step.
COMMON: dict[str, Any] = {"epochs": 3, "limit": 21, "batch_size": 5, "checkpoint_seconds": 0.0}
Weights = dict[str, dict[str, Tensor]]


class Beside(NamedTuple):
    """Members that were trained in one run: their weights, and the folder of their histories."""

    weights: Weights
    folder: Path


def settings(*names: str) -> TrainSettings:
    return TrainSettings(**small_settings(*names), **COMMON)


def fit(members: dict[str, Member], data: Path, folder: Path, chosen: TrainSettings) -> Weights:
    opened = mv.Data.open(data)
    parts = opened.for_training(chosen)
    for name, member in members.items():
        loop.fit(member, opened, parts, folder / name, chosen, ProcessGroup())
    return {name: member.state_dict() for name, member in members.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [key for key, values in one.items() if not torch.equal(values, other[key])]


@pytest.fixture(scope="module")
def beside(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Beside:
    """All members, trained one after the other in one run."""
    chosen, folder = settings(*MEMBERS), tmp_path_factory.mktemp("beside")
    return Beside(fit(build_members(chosen), trapped_data, folder, chosen), folder)


@pytest.mark.parametrize("name", MEMBERS)
def test_trained_alone_after_it_was_scored_a_member_is_what_it_becomes_beside_others(
    name: str, beside: Beside, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(name)
    members, data = build_members(chosen), mv.Data.open(trapped_data)
    modes: list[bool] = []
    for member in members.values():
        member.eval()
        with torch.inference_mode():
            member.score(data.batch(data.select("train")[:1], member.size, member.bilateral))
    losses = members[name].losses

    def noted(batch: Batch, context: StepContext) -> dict[str, Tensor]:
        modes.append(members[name].training)
        return losses(batch, context)

    monkeypatch.setattr(members[name], "losses", noted)
    torch.manual_seed(8)
    assert_same(fit(members, trapped_data, tmp_path, chosen)[name], beside.weights[name])
    assert modes.index(False) >= 1 and modes[0], "an epoch is some steps in training mode, then validation"


@pytest.mark.parametrize("place", [(0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("name", MEMBERS)
def test_interrupted_and_resumed_a_member_is_what_it_becomes_undisturbed(
    name: str,
    place: tuple[int, int],
    beside: Beside,
    trapped_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = settings(name)
    interrupted = build_members(chosen)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, name, place)
        fit(interrupted, trapped_data, tmp_path, chosen)
    assert (tmp_path / name / loop.CHECKPOINT).exists()
    torch.manual_seed(8)
    resumed = {key: member.eval() for key, member in build_members(chosen).items()}
    assert_same(fit(resumed, trapped_data, tmp_path, chosen)[name], beside.weights[name])
    ours, theirs = (pd.read_csv(path / name / HISTORY) for path in (tmp_path, beside.folder))
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"), check_exact=True)


def interrupt(patch: pytest.MonkeyPatch, name: str, place: tuple[int, int]) -> None:
    """Stop the training of a member at the checkpoint after so many epochs, and so many steps of the next one."""
    save = loop._Training._save

    def stop(training: loop._Training) -> None:
        save(training)
        if (training.member.name, len(training.rows), training._sums.steps) == (name, *place):
            raise KeyboardInterrupt

    patch.setattr(loop._Training, "_save", stop)


def weights(run: Path, name: str) -> bytes:
    return (run / "members" / name / WEIGHTS).read_bytes()


class PresetRun(NamedTuple):
    """A preset's members, small, trained in one run beside another one, from which they went into a cache."""

    name: PresetName
    chosen: TrainSettings
    out: Path
    cache: Path

    def of(self, *members: str) -> TrainSettings:
        """Return the preset's settings for some of its members, and one that reconstructs."""
        shown = MEMBERS[members[-1]]
        if not any(issubclass(MEMBERS[name], Autoencoder) for name in members):
            members = (next(n for n in self.chosen.members if issubclass(MEMBERS[n], Autoencoder)), *members)
        names = [name for name in MEMBERS if name in members]
        scores = {"fused": [next(iter(shown.scores))], "maps": [shown.maps[0]]}
        return self.chosen.merged({"members": names, **scores})


@pytest.fixture(scope="module", params=PRESETS)
def preset_run(
    request: pytest.FixtureRequest, trapped_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> PresetRun:
    folder, usual = tmp_path_factory.mktemp(request.param), PRESETS[request.param]
    small: dict[str, Any] = {name: {"size": SIZE} | SMALL[name] for name in MEMBERS}
    for name in MEMBERS:
        if getattr(getattr(usual, name), "presentations", None) is not None:
            small[name] |= {"presentations": 60}  # three epochs
    common = {"epochs": 2, "limit": 21, "batch_size": 11, "checkpoint_seconds": 0.0}
    run = PresetRun(request.param, usual.merged(small | common), folder / "beside", folder / "cache")
    other = "bilateral_vae" if "denoiser" in usual.members else "denoiser"
    beside = run.chosen.merged({"members": [name for name in MEMBERS if name in (*usual.members, other)]})
    train_on(mv.Data.open(trapped_data), run.out, run.name, beside, run.cache)
    assert len(list(run.cache.iterdir())) == len(beside.members)
    return run


def test_a_member_of_a_preset_is_the_same_trained_alone_beside_others_and_from_their_cache(
    preset_run: PresetRun, trapped_data: Path, tmp_path: Path
) -> None:
    data, cached = mv.Data.open(trapped_data), set(preset_run.cache.iterdir())
    for name in preset_run.chosen.members:
        alone = preset_run.of(name)
        for out, cache in ((f"{name}-alone", None), (f"{name}-cached", preset_run.cache)):
            train_on(data, tmp_path / out, preset_run.name, alone, cache)
            for member in alone.members:
                assert weights(tmp_path / out, member) == weights(preset_run.out, member), (out, member)
    assert set(preset_run.cache.iterdir()) == cached, "nothing was trained anew"


def test_a_preset_that_was_interrupted_within_an_epoch_of_any_member_ends_as_undisturbed_and_steps_in_training_mode(
    preset_run: PresetRun, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, chosen = mv.Data.open(trapped_data), preset_run.chosen
    step, modes = TrainingStep.__call__, list[bool]()

    def noted(self: TrainingStep, *arguments: Any) -> dict[str, Tensor]:
        modes.append(self.member.training)
        return step(self, *arguments)

    monkeypatch.setattr(TrainingStep, "__call__", noted)
    for name in chosen.members:
        for place in ((0, 1), (1, 1)):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                interrupt(patch, name, place)
                train_on(data, tmp_path / "run", preset_run.name, chosen)
    train_on(data, tmp_path / "run", preset_run.name, chosen)
    for name in chosen.members:
        assert weights(tmp_path / "run", name) == weights(preset_run.out, name), name
    assert modes and all(modes)
    presented = [getattr(chosen, name).model_dump().get("presentations") or 2 * 21 for name in chosen.members]
    assert len(modes) == sum(2 * math.ceil(images / 21) for images in presented)


def test_a_member_is_not_taken_from_the_cache_where_anything_that_decides_its_weights_differs(
    trapped_data: Path,
) -> None:
    data, chosen = mv.Data.open(trapped_data), settings("pyramid_vae")

    def key(data: Data = data, chosen: TrainSettings = chosen, size: int = 1, name: str = "pyramid_vae") -> str:
        parts = data.for_training(chosen)
        job = train._Job(data, parts, chosen, {}, Path("unused"), ProcessGroup(size=size))
        return job._key(name)

    first = data.for_training(chosen)["train"][0]
    images, masks = np.array(data.images), np.array(data.masks)
    images[first, 30, 3] += 1
    masks[first, 30, 3] ^= 1
    others = [
        key(replace(data, images=images)),
        key(replace(data, masks=masks)),
        key(size=2),
        key(name="vae"),
        *(
            key(chosen=chosen.merged(change))
            for change in ({"seed": 1}, {"limit": 20}, {"epochs": 4}, {"batch_size": 4})
        ),
        *(key(chosen=chosen.merged(change)) for change in ({"learning_rate": 0.1}, {"schedule": "cosine"})),
        key(chosen=chosen.merged({"pyramid_vae": {"kl_weight": 1}})),
    ]
    assert len({key(), *others}) == 1 + len(others)
    same = {"members": ["pyramid_vae", "denoiser"], "fused": ["band_error"], "denoiser": {"noise": 2.0}}
    assert key(chosen=chosen.merged(same)) == key()


def test_the_generate_preset_makes_images_of_256_pixels_on_a_gpu_where_the_data_has_them(
    trapped_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mv.Data.open(trapped_data)
    large = replace(data, images=np.zeros((len(data.index), 512, 512), np.uint8))

    def size(data: Data, preset: PresetName = "generate", **given: Any) -> int:
        return train.settings_for(data, preset, TrainSettings(**given)).pyramid_vae.size

    assert size(large) == 128
    monkeypatch.setattr(train, "device", lambda: torch.device("cuda"))
    assert size(large) == 256 and size(data) == 128 and size(large, "detect") == 128
    assert size(large, pyramid_vae={"size": 64}) == 64 and size(large, pyramid_vae={"bands": 3}) == 256
