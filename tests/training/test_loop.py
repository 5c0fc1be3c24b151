"""Training: the same seed gives the same weights, undisturbed or killed and continued."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import mammovae as mv
from mammovae.config import TrainSettings
from mammovae.models.noise import StepContext, step_keys
from mammovae.models.vae import Vae
from mammovae.training import step

SMALL: dict[str, Any] = {"epochs": 4, "checkpoint_seconds": 0.0, "vae": {"size": 32, "filters": [4, 8], "latent": 4}}


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
    batch = data.batch(positions, 32)
    contexts = [StepContext.of(step_keys(0, epoch, positions, 0)) for epoch in range(50)]
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
        seen.add((self.training, torch.is_autocast_enabled("cpu")))
        with torch.autocast("cpu", enabled=False):
            return losses(self, batch, context)

    monkeypatch.setattr(step.TrainingStep, "__init__", begin_in_half)
    monkeypatch.setattr(Vae, "losses", recorded)
    mv.train(trapped_data, out=tmp_path / "run", preset="tiny", settings=mv.TrainSettings(**SMALL | {"epochs": 1}))
    assert seen == {(True, True), (False, False)}


def test_two_runs_of_one_seed_are_equal_and_another_seed_differs(
    small: Path, trapped_data: Path, tmp_path: Path
) -> None:
    mv.train(trapped_data, out=tmp_path / "same", preset="tiny", settings=mv.TrainSettings(**SMALL))
    mv.train(trapped_data, out=tmp_path / "other", preset="tiny", settings=mv.TrainSettings(seed=1, **SMALL))
    assert weights(tmp_path / "same") == weights(small)
    assert weights(tmp_path / "other") != weights(small)
    same = (tmp_path / "same" / "calibration.parquet").read_bytes()
    assert same == (small / "calibration.parquet").read_bytes()


def test_killed_and_started_again_the_weights_are_bit_for_bit_the_same(
    small: Path, trapped_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "mammovae", "train", str(trapped_data), "--preset", "tiny", "--out", str(out)]
    command += ["--epochs", "4", "--checkpoint-seconds", "0", "--vae.size", "32", "--vae.latent", "4"]
    command += ["--vae.filters", "4", "--vae.filters", "8"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    history = out / "members" / "vae" / "history.csv"
    end = time.monotonic() + 90
    while not (history.exists() and (out / "members" / "vae" / "resume.ckpt").exists()):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (out / "members" / "vae" / "resume.ckpt").exists(), "killed too late to test anything"
    with pytest.raises(mv.InputError, match="unfinished"):
        mv.Run.open(out)
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert weights(out) == weights(small)
    ours, theirs = (pd.read_csv(run / "members" / "vae" / "history.csv") for run in (out, small))
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"))
    assert not (out / "members" / "vae" / "resume.ckpt").exists()


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
    with pytest.raises(mv.UsageError, match="images of 64 px do not fit a network of 128 px"):
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
