"""Training with several processes ends where training with one does, but for the rounding of sums."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from tests.models.small_members import small_settings
from tests.training.kill_within_epoch import kill_within_epoch
from tests.training.same_training import assert_same_training

import mammovae as mv
from mammovae import config
from mammovae.models.run import MEMBERS
from mammovae.training import loop
from mammovae.training.distributed import ProcessGroup, launch

pytestmark = pytest.mark.slow

NAMES = list(MEMBERS)
# 21 images in batches of 5: two and three for each process, and one batch that leaves nothing for the first.
# A small step: Adam makes as much of what rounding leaves of a gradient that is nearly 0 as of any other.
SMALL: dict[str, Any] = small_settings(*NAMES) | {
    "epochs": 2,
    "limit": 21,
    "batch_size": 5,
    "learning_rate": 1e-4,
    "checkpoint_seconds": 0.0,
}
TOLERANCE = 1e-6
"""Relative, of every loss of every member in every epoch: as near as the rounding of sums in float32 allows."""


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """Without GPUs, of which two processes would need two; so the one that they are compared with is without, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr("torch.cuda.is_available", lambda: False)
        patch.setattr("torch.cuda.device_count", lambda: 0)
        yield


@pytest.fixture(scope="module")
def alone(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    mv.train(trapped_data, out=out, preset="tiny", settings=mv.TrainSettings(**SMALL))
    return out


def assert_alike(run: Path, other: Path, names: list[str]) -> None:
    for name in names:
        folders = [path / "members" / name for path in (run, other)]
        ours, theirs = (pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in folders)
        pd.testing.assert_frame_equal(ours, theirs, rtol=TOLERANCE, atol=1e-6, obj=name)
    weights, others = (load_file(path / "members" / "vae" / "model.safetensors") for path in (run, other))
    for key, values in weights.items():
        np.testing.assert_allclose(others[key], values, rtol=0, atol=1e-4 * np.abs(values).max(), err_msg=key)


def test_two_processes_train_every_member_to_the_losses_of_one_and_go_on_from_where_one_stopped(
    alone: Path, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, script = tmp_path / "run", tmp_path / "script.py"

    def stop(training: loop._Training) -> None:
        save(training)
        raise KeyboardInterrupt

    save = loop._Training._save
    monkeypatch.setattr(loop._Training, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        mv.train(trapped_data, out=out, preset="tiny", settings=mv.TrainSettings(**SMALL))
    assert (out / "members" / "vae" / "resume.ckpt").exists()

    # No main guard: what a new process imports must not be the user's script.
    call = f"mv.train({str(trapped_data)!r}, out={str(out)!r}, preset='tiny', devices=2, settings={SMALL!r})"
    script.write_text(f"import mammovae as mv\nprint({call}['devices'])")
    answer = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert answer.stdout == "2\n", answer.stderr
    assert all(line.startswith("training ") for line in answer.stderr.splitlines()), answer.stderr
    assert_alike(out, alone, NAMES)


def test_two_processes_killed_within_an_epoch_end_with_weights_and_history_of_two_undisturbed_ones(
    trapped_data: Path, tmp_path: Path
) -> None:
    names = ["pyramid_vae"]
    settings: dict[str, Any] = SMALL | small_settings(*names) | {"epochs": 3, "batch_size": 4}

    def command(out: Path) -> list[str]:
        call = f"mv.train({str(trapped_data)!r}, out={str(out)!r}, preset='tiny', devices=2, settings={settings!r})"
        return [sys.executable, "-c", f"import mammovae as mv; {call}"]

    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    process = subprocess.Popen(command(killed), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    kill_within_epoch(process, killed / "members" / "pyramid_vae" / loop.CHECKPOINT)
    for out in (killed, undisturbed):
        answer = subprocess.run(command(out), capture_output=True, text=True, timeout=300)
        assert answer.returncode == 0, answer.stderr
    assert_same_training(killed, undisturbed, names)


def test_torchrun_trains_to_the_losses_of_one_process_and_speaks_once(
    alone: Path, trapped_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    flags = "--epochs 2 --limit 21 --batch-size 5 --learning-rate 1e-4 --vae.size 32 --vae.latent 4 --vae.filters 4 --vae.filters 8"
    command = ["-m", "mammovae", "train", str(trapped_data), "--preset", "tiny", "--out", str(out), *flags.split()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    answer = subprocess.run([*torchrun, *command], capture_output=True, text=True, timeout=300)
    assert answer.stdout.startswith("trained on 21 images") and answer.stdout.count("\n") == 1, answer.stderr
    assert_alike(out, alone, ["vae"])


def test_an_interruption_ends_all_processes() -> None:
    work = "import time; from mammovae.training.distributed import launch; launch(2, time.sleep, 60)"
    process = subprocess.Popen([sys.executable, "-c", work], stderr=subprocess.PIPE, text=True)
    children: list[int] = []
    end = time.monotonic() + 60
    while len(children) < 2:
        assert time.monotonic() < end and process.poll() is None
        listed = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
        children = [int(child) for child in listed.stdout.split()]
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert said.count("Traceback") == 1 and "KeyboardInterrupt" in said
    assert not any(running(child) for child in children)


def running(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_batch_is_shared_out_whole_and_once(size: int) -> None:
    for count in range(1, 20):
        shares = [ProcessGroup(rank, size).rows_of(count) for rank in range(size)]
        counted = [row for rows, own in shares for row in range(count)[rows][:own]]
        assert counted == list(range(count))
        assert all(len(range(count)[rows]) == max(own, 1) for rows, own in shares)


def test_data_go_to_another_process_by_path_with_their_own_table(trapped_data: Path) -> None:
    data = mv.Data.open(trapped_data)
    folded = replace(data, index=data.index.assign(split="test"))
    sent = pickle.dumps(folded)
    assert len(sent) < data.images[:].nbytes / 2
    there = pickle.loads(sent)
    assert (there.index["split"] == "test").all() and isinstance(there.images, np.memmap)
    np.testing.assert_array_equal(there.images[3], data.images[3])


def test_what_a_process_raises_is_raised_where_it_was_started() -> None:
    with pytest.raises(mv.UsageError, match="there is no preset 'tyny'"):
        launch(2, config.preset, "tyny")
    with pytest.raises(mv.InputError, match="exit code 7"):
        launch(2, os._exit, 7)


def test_devices_that_cannot_be_are_one_sentence(
    trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(mv.UsageError, match="setting 'devices' cannot be 0: "):
        mv.train(trapped_data, out=tmp_path / "run", preset="tiny", devices=0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(mv.UsageError, match="devices is 3, but there are 2 GPUs on this machine"):
        mv.train(trapped_data, out=tmp_path / "run", preset="tiny", devices=3)
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(mv.UsageError, match="torchrun started 2 processes here, not 1"):
        mv.train(trapped_data, out=tmp_path / "run", preset="tiny", devices=1)
    assert not (tmp_path / "run").exists()
