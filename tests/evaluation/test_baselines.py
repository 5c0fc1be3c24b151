"""The scores that a detector has to beat are what they say, of one image or of many."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import mammovae as mv
from mammovae.evaluation import baselines
from mammovae.evaluation.baselines import PcaResidual, blob_maps, image_statistics


@pytest.fixture(scope="module")
def data(trapped_data: Path) -> mv.Data:
    return mv.Data.open(trapped_data)


def test_a_pca_explains_what_it_was_fitted_on_better_than_noise(data: mv.Data) -> None:
    train, test = data.select("train"), data.select("test")
    pca = PcaResidual().fit(data, train)
    assert pca.score_samples(data, train).mean() < pca.score_samples(data, test).mean()
    np.testing.assert_allclose(pca.components_ @ pca.components_.T, np.eye(len(pca.components_)), atol=1e-6)


def test_trivial_scores_are_what_they_say(data: mv.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_BATCH", 2)
    positions = data.select("test")[:5]
    scores = image_statistics(data, positions)
    for number, position in enumerate(positions):
        inside = data.masks[position] == 1
        assert scores["breast_area"][number] == pytest.approx(inside.mean())
        assert scores["mean_grey"][number] == pytest.approx(data.images[position][inside].mean() / 65535)


def blobs_with_scipy(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    unit = len(image) / 512
    filled = np.where(mask, image, image[mask].mean())
    response = -ndimage.gaussian_laplace(filled, 4 * unit) * mask
    share = ndimage.gaussian_filter(mask.astype(float), 32 * unit)
    energy = ndimage.gaussian_filter(response**2, 32 * unit) / np.maximum(share, 1e-3)
    inner = ndimage.binary_erosion(mask, iterations=max(1, round(12 * unit)))
    return np.where(inner, np.maximum(response, 0) / np.sqrt(energy + 1e-12), 0)


def test_blobs_are_those_of_scipys_filters_also_where_the_breast_meets_the_images_edge(
    data: mv.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "_BLOB_BATCH", 3)
    positions = data.select("test")[:5]
    maps = np.stack(list(blob_maps(data, positions)))
    assert (data.masks[positions][:, :, 0] > 0).any(axis=1).all()
    for blobs, position in zip(maps, positions, strict=True):
        expected = blobs_with_scipy(data.images[position] / 65535, data.masks[position] > 0)
        np.testing.assert_allclose(blobs, expected, rtol=1e-5, atol=1e-6)
    assert (maps.max(axis=(1, 2)) > 1).all()


def test_an_empty_breast_has_no_blob_and_no_grey(data: mv.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = data.select("test")[:2]
    masks = np.array(data.masks)
    masks[positions[0]] = 0
    monkeypatch.setitem(vars(data), "masks", masks)
    assert image_statistics(data, positions)["mean_grey"][0] == 0
    empty, other = blob_maps(data, positions)
    assert not empty.any() and other.any()
