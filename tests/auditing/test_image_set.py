"""Sets of images are read a batch at a time, by any number of processes alike, and training images for copies alone."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import BreastImages

from mammovae.auditing import image_set
from mammovae.auditing.image_set import BLUR, ImageSet, read_images
from mammovae.auditing.privacy import descriptor
from mammovae.auditing.radiomics import measure_all
from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.dataset import Data


def stored(folder: Path, images: np.ndarray, masks: np.ndarray) -> Data:
    """A DATA folder's arrays on disk, two images a patient; grey values outside the mask too."""
    grey = np.where(masks > 0, images, 0.3)
    np.save(folder / "images.npy", np.rint(grey * 65535).astype(np.uint16))
    np.save(folder / "masks.npy", masks)
    frame = index.table([{"image_id": f"i{n}", "patient_id": f"p{n // 2}"} for n in range(len(images))])
    stored_images, stored_masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
    patients = frame["patient_id"].to_numpy(object)
    return Data((folder,), {}, frame, stored_images, stored_masks, patients, (0, len(frame)))


def test_worker_processes_find_what_one_process_does(
    tmp_path: Path, breast_images: BreastImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = stored(tmp_path, *breast_images(70))
    positions = np.arange(70)[::-1]
    alone = ImageSet.of(data, positions, 64, 0)
    measured = alone.measure(None, BLUR)
    monkeypatch.setattr(image_set, "_RECOGNISED_ALONE", 0)
    monkeypatch.setattr(image_set, "_MEASURED_ALONE", 0)
    monkeypatch.setattr(image_set, "_CHUNK", 8)
    together = ImageSet.of(data, positions, 64, 0)
    assert np.array_equal(together.coarse, alone.coarse) and together.hashes == alone.hashes
    for one, other in zip(together.measure(None, BLUR)[:4], measured[:4], strict=True):
        assert np.array_equal(one, other)


def test_an_image_that_cannot_be_measured_is_refused_by_workers_too(
    tmp_path: Path, breast_images: BreastImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks = breast_images(3)
    masks[1] = 0
    monkeypatch.setattr(image_set, "_RECOGNISED_ALONE", 0)
    with pytest.raises(InputError, match="0 pixels inside"):
        ImageSet.of(stored(tmp_path, images, masks), np.arange(3), 64, 0)


def test_measures_are_of_the_breast_in_the_order_of_the_sample(tmp_path: Path, breast_images: BreastImages) -> None:
    images, masks = breast_images(6)
    data = stored(tmp_path, images, masks)
    one = ImageSet.of(data, np.array([4, 1, 3]), 64, 0)
    found = one.measure(None)
    assert one.groups.tolist() == found.groups.tolist() == ["p2", "p0", "p1"]
    inside = np.rint(images * 65535).astype(np.uint16)
    assert np.array_equal(found.features, measure_all(inside[[4, 1, 3]], masks[[4, 1, 3]]))
    assert np.array_equal(one.images(np.array([2, 0])), inside[[3, 4]] * (masks[[3, 4]] > 0))
    # Blurred: smoother, by the same breast.
    blurred = one.measure(None, BLUR)
    assert (blurred.spectra[:, -6:] < found.spectra[:, -6:] - 3).all()
    assert np.array_equal(blurred.features[:, 0], found.features[:, 0])


def test_images_of_twice_the_size_are_averaged(tmp_path: Path, breast_images: BreastImages) -> None:
    data = stored(tmp_path, *breast_images(2, size=128))
    images, masks = read_images(data, np.arange(2), 64)
    mean = np.asarray(data.images, float).reshape(2, 64, 2, 64, 2).mean(axis=(2, 4))
    assert images.dtype == np.uint16 and np.abs(images - mean).max() <= 0.51
    assert masks.dtype == np.uint8 and masks.shape == (2, 64, 64)


def test_reading_for_copies_measures_nothing_and_holds_no_images(
    tmp_path: Path, breast_images: BreastImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("measure_all", "radial_spectrum", "_encode"):
        monkeypatch.delattr(image_set, name)
    images, masks = (np.tile(part, (40, 1, 1)) for part in breast_images(20, size=128))
    data = stored(tmp_path, images, masks)
    tracemalloc.start()
    found = ImageSet.of(data, np.arange(len(images)), 128, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.allclose(found.coarse[:20], descriptor(data.images[:20], masks[:20]), atol=1e-6)
    assert peak < images.size  # half of what uint16 takes
