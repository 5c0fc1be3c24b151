"""Studies that several tests look at: made once, read by all, changed by none."""

from pathlib import Path

import pytest

import mammovae as mv


@pytest.fixture(scope="session")
def trapped_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VinDr-shaped tree with every trap in it."""
    return mv.phantom(tmp_path_factory.mktemp("trapped") / "raw", patients=24, size=96, traps=True, workers=2)


@pytest.fixture(scope="session")
def trapped_data(trapped_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That tree, prepared."""
    out = tmp_path_factory.mktemp("trapped") / "data"
    mv.prepare("vindr", trapped_raw, out=out, size=64, workers=2)
    return out


@pytest.fixture(scope="session")
def run(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run trained on it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    mv.train(trapped_data, out=out, preset="tiny", epochs=3)
    return out
