"""Studies and images that several tests look at: made once, read by all, changed by none."""

import os

# Before torch is imported: with more threads networks are fitted in other processes, where a test can replace nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import mammovae as mv

BreastImages = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="session")
def trapped_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VinDr-shaped tree with every trap in it."""
    return mv.phantom(out=tmp_path_factory.mktemp("trapped") / "raw", patients=24, size=96, traps=True, workers=2).path


@pytest.fixture(scope="session")
def trapped_data(trapped_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That tree, prepared."""
    out = tmp_path_factory.mktemp("trapped") / "data"
    mv.prepare("vindr", trapped_raw, out=out, workers=2, settings=mv.PrepareSettings(size=64))
    return out


@pytest.fixture(scope="session")
def run(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run trained on it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    mv.train(trapped_data, out=out, preset="tiny", settings=mv.TrainSettings(epochs=3))
    return out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def make_breast_images(count: int, size: int = 64, seed: int = 0, beta: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Small images to measure: power-law noise on a breast that thins to its edge, the chest wall at column 0.

    Return images, float (count, size, size) in 0..1, and masks; power falls with frequency to the power of beta.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    frequency[0, 0] = 1
    rows, columns = np.mgrid[:size, :size] / size
    images, masks = np.zeros((count, size, size)), np.zeros((count, size, size), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        height, width = rng.uniform(0.3, 0.45), rng.uniform(0.4, 0.7)
        inside = ((rows - 0.5) / height) ** 2 + (columns / width) ** 2
        field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * frequency ** (-beta / 2)).real
        grey = rng.uniform(0.45, 0.55) + 0.1 * field / field.std() - 0.3 * np.clip(inside, 0, 1) ** 4
        mask[:] = inside < 1
        image[:] = np.clip(grey, 0, 1) * mask
    return images, masks


@pytest.fixture(scope="session")
def breast_images() -> BreastImages:
    return make_breast_images
