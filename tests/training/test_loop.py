"""Training: the same seed gives the same weights, undisturbed or killed and continued."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tests.models.small_members import small_settings
from tests.training.kill_within_epoch import kill_within_epoch

import mammovae as mv
from mammovae.config import TrainSettings
from mammovae.models.noise import StepContext, step_keys
from mammovae.models.run import device
from mammovae.models.vae import Vae
from mammovae.training import loop, step

SMALL: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 2,  # 20 steps an epoch
    "checkpoint_seconds": 0.0,
    "vae": {"size": 32, "filters": [4, 8], "latent": 4},
}


def weights(run: Path) -> bytes:
    return (run / "members" / "vae" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def small(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "run"
    mv.train(trapped_data, out=out, preset="tiny", settings=mv.TrainSettings(**SMALL))
    return out


def test_the_history_has_a_row_an_epoch_with_the_elbo_and_its_parts(small: Path) -> None:
    history = pd.read_csv(small / "members" / "vae" / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    for prefix in ("", "validation_"):
        parts = history[f"{prefix}reconstruction"] + history[f"{prefix}kl"]
        np.testing.assert_allclose(history[f"{prefix}loss"], parts, rtol=1e-6)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_history_is_the_mean_over_images_of_the_members_own_losses(small: Path, trapped_data: Path) -> None:
    run, data = mv.Run.open(small), mv.Data.open(trapped_data)
    positions = data.for_training(run.settings)["validation"]
    batch = data.batch(positions, 32).to(device())
    contexts = [StepContext.of(step_keys(0, epoch, positions, 0).to(device())) for epoch in range(50)]
    with torch.no_grad():
        loss = np.mean([run.members["vae"].losses(batch, context)["loss"].mean().item() for context in contexts])
    recorded = pd.read_csv(small / "members" / "vae" / "history.csv")["validation_loss"].iloc[-1]
    assert loss == pytest.approx(recorded, rel=0.02)


def test_nothing_but_the_result_is_left(small: Path) -> None:
    files = sorted(str(path.relative_to(small)) for path in small.rglob("*") if path.is_file())
    assert files == [
        "calibration.parquet",
        "config.toml",
        "density.safetensors",
        "loss.png",
        "manifest.json",
        "members/vae/history.csv",
        "members/vae/model.safetensors",
        "model_card.md",
        "private/reconstructions.png",
        "private/training_images.json",
        "quality_reference.parquet",
        "quality_templates.safetensors",
    ]


def test_half_precision_is_for_the_steps_and_not_for_the_validation(
    trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, losses, seen = step.TrainingStep.__init__, Vae.losses, set[tuple[bool, bool]]()

    def begin_in_half(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        self._half = torch.bfloat16  # as on a GPU

    def recorded(self: Vae, batch: Any, context: Any) -> dict[str, torch.Tensor]:
        seen.add((self.training, torch.is_autocast_enabled(device().type)))
        with torch.autocast(device().type, enabled=False):
            return losses(self, batch, context)

    monkeypatch.setattr(step.TrainingStep, "__init__", begin_in_half)
    monkeypatch.setattr(Vae, "losses", recorded)
    mv.train(trapped_data, out=tmp_path / "run", preset="tiny", settings=mv.TrainSettings(**SMALL | {"epochs": 1}))
    assert seen == {(True, True), (False, False)}


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_and_another_seed_differs(
    small: Path, trapped_data: Path, tmp_path: Path
) -> None:
    mv.train(trapped_data, out=tmp_path / "same", preset="tiny", settings=mv.TrainSettings(**SMALL))
    mv.train(trapped_data, out=tmp_path / "other", preset="tiny", settings=mv.TrainSettings(seed=1, **SMALL))
    assert weights(tmp_path / "same") == weights(small)
    assert weights(tmp_path / "other") != weights(small)
    same = (tmp_path / "same" / "calibration.parquet").read_bytes()
    assert same == (small / "calibration.parquet").read_bytes()


@pytest.mark.slow
def test_killed_within_an_epoch_and_started_again_weights_and_history_are_bit_for_bit_the_same(
    small: Path, trapped_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "mammovae", "train", str(trapped_data), "--preset", "tiny", "--out", str(out)]
    command += ["--epochs", "4", "--checkpoint-seconds", "0", "--vae.size", "32", "--vae.latent", "4"]
    command += ["--vae.filters", "4", "--vae.filters", "8", "--batch-size", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    checkpoint = out / "members" / "vae" / "resume.ckpt"
    epochs, steps = kill_within_epoch(process, checkpoint)
    assert 0 < epochs < 4 and 0 < steps < 20
    with pytest.raises(mv.InputError, match="unfinished"):
        mv.Run.open(out)
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert weights(out) == weights(small)
    ours, theirs = (pd.read_csv(run / "members" / "vae" / "history.csv") for run in (out, small))
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"), check_exact=True)
    assert not checkpoint.exists()


@pytest.mark.slow
def test_the_seconds_of_an_epoch_count_those_before_an_interruption(
    trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, settings = loop._Training._save, mv.TrainSettings(**SMALL | {"epochs": 1})

    def stop(training: loop._Training) -> None:
        training._seconds += 1000
        save(training)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Training, "_save", stop)
        mv.train(trapped_data, out=tmp_path / "run", preset="tiny", settings=settings)
    mv.train(trapped_data, out=tmp_path / "run", preset="tiny", settings=settings)
    seconds = pd.read_csv(tmp_path / "run" / "members" / "vae" / "history.csv")["seconds"]
    assert 1000 < seconds.item() < 1060


def test_a_gpu_is_waited_for_every_so_many_steps_alone_and_the_weights_are_the_same(
    small: Path, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    look = loop._Training._look

    def noted(training: loop._Training) -> tuple[float, bool]:
        looked.append(training._sums.steps)
        return look(training)

    monkeypatch.setattr(loop._Training, "_look", noted)
    monkeypatch.setitem(loop.STEPS_A_LOOK, "cpu", 6)  # as on a GPU
    mv.train(trapped_data, out=tmp_path / "run", preset="tiny", settings=mv.TrainSettings(**SMALL))
    assert looked == [6, 12, 18, 20] * 4
    assert weights(tmp_path / "run") == weights(small)


@pytest.mark.parametrize("steps_a_look", [1, 50])
def test_a_loss_that_is_not_finite_in_one_step_alone_is_seen_at_the_next_look(
    steps_a_look: int, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, calls = Vae.losses, list[int]()

    def once(self: Vae, batch: Any, context: Any) -> dict[str, torch.Tensor]:
        calls.append(0)
        return {name: v * (torch.inf if len(calls) == 3 else 1) for name, v in losses(self, batch, context).items()}

    monkeypatch.setattr(Vae, "losses", once)
    monkeypatch.setattr(step.TrainingStep, "__call__", lambda self, *given: self.losses(*given))
    monkeypatch.setitem(loop.STEPS_A_LOOK, "cpu", steps_a_look)
    with torch.no_grad(), pytest.raises(mv.InputError, match="the loss became inf in epoch 1: lower learning_rate"):
        mv.train(trapped_data, out=tmp_path / "run", preset="tiny", settings=mv.TrainSettings(**SMALL))
    assert len(calls) == (3 if steps_a_look == 1 else 20)


def test_the_same_call_on_a_finished_run_changes_nothing(small: Path, trapped_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*") if path.is_file()}
    facts = mv.train(trapped_data, out=small, preset="tiny", settings=mv.TrainSettings(**SMALL))
    assert facts["state"] == "done"
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob("*") if path.is_file()}


def test_training_touches_healthy_training_images_alone(trapped_data: Path) -> None:
    data = mv.Data.open(trapped_data)
    parts = data.for_training(TrainSettings())
    for split, positions in parts.items():
        rows = data.index.iloc[positions]
        assert (rows["split"] == split).all() and rows["healthy"].all() and (rows["status"] == "ok").all()


def test_limit_draws_by_the_seed(trapped_data: Path) -> None:

    data = mv.Data.open(trapped_data)
    first, again, other = (
        data.for_training(TrainSettings(limit=10, seed=seed))["train"].tolist() for seed in (0, 0, 1)
    )
    assert len(first) == 10 and first == again and first != other


def test_an_image_size_that_does_not_fit_is_one_sentence_and_leaves_nothing(trapped_data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        mv.UsageError, match="holds images of 64 px, and the networks take 128 px: prepare it again with --size 128"
    ):
        mv.train(trapped_data, out=tmp_path / "run", preset="original", settings=mv.TrainSettings(epochs=1))
    assert not (tmp_path / "run").exists()


def test_opening_a_run_leaves_the_callers_random_numbers_alone(small: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    mv.Run.open(small)
    assert torch.rand(1) == expected


def test_a_loss_that_explodes_stops_with_advice(trapped_data: Path, tmp_path: Path) -> None:
    with pytest.raises(mv.InputError, match="lower learning_rate"):
        mv.train(
            trapped_data, out=tmp_path / "run", preset="tiny", settings=mv.TrainSettings(**SMALL, learning_rate=1e6)
        )


@pytest.mark.slow
def test_a_run_without_a_network_that_reconstructs_goes_the_whole_way(trapped_data: Path, tmp_path: Path) -> None:
    chosen = small_settings("denoiser") | {"members": ["denoiser"]}
    chosen |= {"fused": ["denoising_peak"], "maps": ["denoising"]}
    settings = mv.TrainSettings(**chosen, epochs=1, limit=12)
    run = mv.train(trapped_data, out=tmp_path / "run", preset="detect", settings=settings).path
    assert not (run / "private" / "reconstructions.png").exists()
    mv.evaluate(run, trapped_data, out=tmp_path / "evaluation")
    assert "No reconstructions" in (tmp_path / "evaluation" / "report.html").read_text()


def test_damaged_weights_are_named(small: Path, trapped_data: Path, tmp_path: Path) -> None:

    copy = tmp_path / "run"
    shutil.copytree(small, copy)
    file = copy / "members" / "vae" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(mv.InputError, match="does not hold this member's weights"):
        mv.Run.open(copy)
    assert set(load_file(small / "members" / "vae" / "model.safetensors")) == set(
        mv.Run.open(small).members["vae"].state_dict()
    )
