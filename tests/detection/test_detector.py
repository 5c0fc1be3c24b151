"""A detector gives an image the same scores and maps in any batch, on any device, and copies no more than is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mammovae as mv
from mammovae.detection.detector import Detector

MEMBERS = ("vae", "residual_vae", "denoiser", "lesion_segmenter", "bilateral_vae")
BLOCKS = {"size": 32, "widths": (8, 12)}
SETTINGS: dict[str, Any] = {"vae": {"size": 64, "filters": (8, 16), "latent": 8}, "epochs": 1, "members": MEMBERS}
SETTINGS |= dict.fromkeys(MEMBERS[1:], BLOCKS) | {"fused": ("reconstruction_loss", "normalised_peak")}
SETTINGS |= {"fused_bilateral": ("pair_error_bilateral",), "maps": ("reconstruction", "normalised", "denoising_local")}


@pytest.fixture(scope="module")
def data(trapped_data: Path) -> mv.Data:
    return mv.Data.open(trapped_data)


@pytest.fixture(scope="module")
def several(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with members of two sizes, one of which sees both breasts."""
    out = tmp_path_factory.mktemp("several") / "run"
    mv.train(trapped_data, out=out, preset="original", settings=mv.TrainSettings(**SETTINGS))
    return out


def tables(run: Path, data: mv.Data, positions: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    detector = Detector(mv.Run.open(run))
    maps = np.zeros((len(positions), detector.size, detector.size), np.float32)
    return detector.table(data, positions, maps), maps


def assert_alike(scores: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    """Compare scores in units of the largest one's size; a difference's, in units of what it is the difference of."""
    assert set(scores) == set(expected)
    for name, values in expected.items():
        scale = np.nanmax(np.abs(expected.get(name.removesuffix("_bilateral"), values)))
        np.testing.assert_allclose(scores[name] / scale, values / scale, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("batch", [1, 64])
def test_scores_and_maps_are_the_same_in_batches_of_any_size(
    several: Path, data: mv.Data, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    positions = np.concatenate([data.select(split) for split in ("train", "test")])[:40]
    scores, maps = tables(several, data, positions)
    monkeypatch.setattr(Detector, "batch_size", batch)
    others, other_maps = tables(several, data, positions)
    assert "pair_error_bilateral" in scores and np.isfinite(scores["map_peak"]).all()
    assert_alike(others, scores, 1e-5)
    np.testing.assert_allclose(other_maps, maps, rtol=1e-5, atol=1e-5)


def test_parts_are_detected_as_by_themselves_and_in_their_order(
    several: Path, data: mv.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "batch_size", 3)
    detector, positions = Detector(mv.Run.open(several)), data.select("train")
    parts = [positions[:7], positions[9:10], positions[20:17:-1]]
    for part, found in zip(parts, detector.detect_parts(data, parts), strict=True):
        alone = detector.detect(data.images[part], data.masks[part], data.other_breasts(part))
        np.testing.assert_allclose(found.fused_map, alone.fused_map, rtol=1e-5, atol=1e-6)
        assert_alike(found.scores, alone.scores, 1e-5)


def test_members_maps_are_copied_for_those_alone_who_ask(several: Path, data: mv.Data) -> None:
    detector, positions = Detector(mv.Run.open(several)), data.select("test")[:2]
    pair = data.images[positions], data.masks[positions]
    found = detector.detect(*pair, with_maps=True)
    assert set(detector.run.settings.maps) < set(found.maps) and not detector.detect(*pair).maps
    assert found.maps["reconstruction"].shape == (2, 64, 64) and found.maps["normalised"].shape == (2, 32, 32)


def test_images_that_cannot_be_written_to_are_scored_as_they_are(several: Path, data: mv.Data) -> None:
    detector, position = Detector(mv.Run.open(several)), data.select("test")[0]
    part = slice(position, position + 1)
    copies = detector.detect(np.array(data.images[part]), np.array(data.masks[part]))
    assert (detector.detect(data.images[part], data.masks[part]).fused_map == copies.fused_map).all()


def test_batches_have_as_many_pixels_whatever_the_size_but_sixteen_images_on_a_cpu(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, sizes = Detector(mv.Run.open(several)), (64, 128, 4096)
    numbers = []
    for is_on_gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=is_on_gpu: there)
        for detector.size in sizes:
            numbers.append(detector.batch_size)
    assert numbers == [32, 16, 16, 512, 128, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scores_and_maps_on_a_gpu_are_those_of_the_cpu(
    several: Path, data: mv.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = data.select("train")
    scores, maps = tables(several, data, positions)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected, expected_maps = tables(several, data, positions)
    assert_alike(scores, expected, 1e-4)
    np.testing.assert_allclose(maps, expected_maps, rtol=1e-3, atol=1e-4 * expected_maps.max())
