"""On a CPU the networks of a run are fitted side by side, each in a process with its share of the threads."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.small_members import small_settings
from tests.training.kill_within_epoch import kill_within_epoch
from tests.training.same_training import assert_same_training

import mammovae as mv
from mammovae import config
from mammovae.training import loop
from mammovae.training.distributed import run_side_by_side
from mammovae.training.train import train_on

pytestmark = pytest.mark.slow

NAMES = ("residual_vae", "denoiser", "lesion_segmenter")
SETTINGS: dict[str, Any] = small_settings(*NAMES) | {"epochs": 3, "limit": 21, "batch_size": 4, "checkpoint_seconds": 0}


def train(data: Path, out: Path, threads: int) -> subprocess.Popen[str]:
    """Start a training in a process of its own, by a script without a main guard."""
    script = out.with_suffix(".py")
    script.write_text(
        f"import mammovae as mv, torch; torch.set_num_threads({threads})\n"
        f"mv.train({str(data)!r}, out={str(out)!r}, preset='tiny', settings={SETTINGS!r})"
    )
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def one_after_the_other(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(train(trapped_data, out, 1))
    return out


def test_side_by_side_networks_become_what_they_become_one_after_the_other(
    one_after_the_other: Path, trapped_data: Path, tmp_path: Path
) -> None:
    said = finish(train(trapped_data, tmp_path / "run", 2))
    assert_same_training(tmp_path / "run", one_after_the_other, NAMES)
    assert all(line.startswith(("training ", "drawing ")) for line in said.splitlines()), said


def test_killed_while_two_are_fitted_it_goes_on_to_the_same_weights(
    one_after_the_other: Path, trapped_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    kill_within_epoch(train(trapped_data, out, 2), out / "members" / "denoiser" / loop.CHECKPOINT)
    finish(train(trapped_data, out, 2))
    assert_same_training(out, one_after_the_other, NAMES)


def test_a_network_that_is_left_over_is_fitted_as_beside_the_others(
    one_after_the_other: Path, trapped_data: Path, tmp_path: Path
) -> None:
    out, name = tmp_path / "run", "lesion_segmenter"
    chosen, cache, data = config.preset("tiny", SETTINGS), tmp_path / "cache", mv.Data.open(trapped_data)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_on(data, out, "tiny", chosen, cache)
        (left,) = cache.glob(f"{name}-*")
        for file in left.iterdir():
            file.unlink()
        again = tmp_path / "again"
        train_on(data, again, "tiny", chosen, cache)
    finally:
        torch.set_num_threads(before)
    for run in (out, again):
        assert_same_training(run, one_after_the_other, NAMES)


def test_what_one_of_several_raises_is_raised_and_ends_the_others() -> None:
    with pytest.raises(mv.UsageError, match="there is no preset 'tyny'"):
        run_side_by_side(config.preset, [("tiny",), ("tyny",), ("detect",)], at_once=2, threads=1)
    with pytest.raises(mv.InputError, match=r"exit code 7, perhaps for lack of memory: .* OMP_NUM_THREADS=1"):
        run_side_by_side(os._exit, [(7,)], at_once=2, threads=1)


def test_no_more_run_at_a_time_than_asked_for_and_all_run(tmp_path: Path) -> None:
    run_side_by_side(_note, [(tmp_path, number) for number in range(3)], at_once=1, threads=1)
    assert sorted(path.read_text() for path in tmp_path.glob("*.done")) == ["1", "1", "1"]


def _note(folder: Path, number: int) -> None:
    (folder / f"{number}.begun").touch()
    running = len(list(folder.glob("*.begun"))) - len(list(folder.glob("*.done")))
    (folder / f"{number}.done").write_text(str(running))
