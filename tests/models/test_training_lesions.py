"""Lesions to learn from: each kind is what it is called, where it is said to be, and an image's own."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests.conftest import make_breast_images
from torch import Tensor

from mammovae.config import LesionKind
from mammovae.data.dataset import Batch
from mammovae.models import lesion_parts, training_lesions
from mammovae.models.noise import ImageNoise, image_keys
from mammovae.models.training_lesions import insert_lesions

KINDS: tuple[LesionKind, ...] = get_args(LesionKind)
COUNT, SIZE = 40, 128


def breasts(count: int = COUNT, size: int = SIZE, mm: float = 1.4) -> Batch:
    images, masks = make_breast_images(count, size)
    image, mask = (torch.from_numpy(part.astype(np.float32))[:, None] for part in (images, masks))
    return Batch(image, mask, mm_per_pixel=torch.full((count,), mm))


def noise(count: int = COUNT, epoch: int = 0) -> ImageNoise:
    return ImageNoise(image_keys(0, epoch, np.arange(count)))


@pytest.fixture(scope="module")
def always() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_lesions, "_LESION_SHARE", 1.0)
        yield


def inserted(*kinds: LesionKind, batch: Batch | None = None, epoch: int = 0) -> tuple[Batch, Tensor, Tensor]:
    """Return the images before, the change, and the region of the lesions."""
    before = batch or breasts()
    after, lesion = insert_lesions(before, noise(len(before.image), epoch), kinds or KINDS)
    return before, after.image - before.image, lesion


def test_four_of_five_images_get_a_lesion_and_half_of_the_others_are_resampled_somewhere() -> None:
    parts = [inserted(epoch=epoch) for epoch in range(12)]
    has_lesion = torch.cat([lesion.flatten(1).any(dim=1) for _, _, lesion in parts]).float()
    is_changed = torch.cat([change.flatten(1).abs().amax(dim=1) > 1e-4 for _, change, _ in parts]).float()
    assert has_lesion.mean().item() == pytest.approx(0.8, abs=0.06)
    assert is_changed.mean().item() == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesion_lies_in_the_breast_and_changes_nothing_far_from_it(kind: LesionKind, always: Any) -> None:
    before, change, lesion = inserted(kind)
    assert ((lesion == 0) | (lesion == 1)).all() and lesion.flatten(1).any(dim=1).all()
    assert not (change * (1 - before.mask)).any() and not (lesion * (1 - before.mask)).any()
    for number in range(COUNT):
        y, x = lesion[number, 0].nonzero().double().mean(dim=0).tolist()
        far = torch.ones(SIZE, SIZE)
        reach = SIZE // 4
        far[max(0, int(y) - reach) : int(y) + reach + 1, max(0, int(x) - reach) : int(x) + reach + 1] = 0
        assert not (change[number, 0] * far).any()
        assert change[number, 0][lesion[number, 0] > 0].abs().max() > 0.002


@pytest.mark.parametrize("kind", ["mass", "spiculated", "calcification", "asymmetry"])
def test_what_attenuates_is_brighter_in_units_of_the_breasts_own_grey(kind: LesionKind, always: Any) -> None:
    before, change, lesion = inserted(kind)
    rises = (change * lesion).sum(dim=(1, 2, 3)) / lesion.sum(dim=(1, 2, 3))
    assert (rises > 0).float().mean() > 0.9
    flatter = before._replace(image=0.5 + 0.5 * (before.image - 0.5) * before.mask)
    _, change, lesion = inserted(kind, batch=flatter)
    halved = (change * lesion).sum(dim=(1, 2, 3)) / lesion.sum(dim=(1, 2, 3))
    assert (halved.median() / rises.median()).item() == pytest.approx(0.5, abs=0.2)


def test_a_distortion_moves_tissue_and_hardly_brightens_it(always: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_lesions, "_CONTRASTS", (1e-6, 1e-5))  # without its lines
    _, change, lesion = inserted("distortion")
    assert (change * lesion).abs().amax(dim=(1, 2, 3)).median() > 0.01
    rises = (change * lesion).sum(dim=(1, 2, 3)) / lesion.sum(dim=(1, 2, 3))
    assert abs(rises.mean().item()) < 0.1 * (change * lesion).abs().amax(dim=(1, 2, 3)).mean().item()


def test_specks_are_sub_millimetre_and_fade_in_coarse_pixels(always: Any) -> None:
    peaks = []
    for size, mm in ((512, 0.35), (128, 1.4)):
        _, change, _ = inserted("calcification", batch=breasts(16, size, mm))
        peaks.append(change.amax(dim=(1, 2, 3)).median().item())
        if size == 512:
            bright = (change > 0.5 * change.amax(dim=(1, 2, 3), keepdim=True)).sum(dim=(1, 2, 3)) * mm**2
            assert bright.float().median() < lesion_parts._SPECKS
    assert peaks[1] < 0.4 * peaks[0]


def test_lesions_are_as_large_in_mm_whatever_a_pixel_is(always: Any) -> None:
    areas = [inserted("mass", batch=breasts(COUNT, SIZE, mm))[2].sum(dim=(1, 2, 3)) * mm**2 for mm in (1.0, 1.6)]
    assert (areas[1].median() / areas[0].median()).item() == pytest.approx(1, abs=0.15)
    assert areas[0].max() <= np.pi * 17**2


def test_an_image_gets_the_same_lesion_alone_and_in_a_batch_and_another_in_another_epoch() -> None:
    batch = breasts()
    after, lesion = insert_lesions(batch, noise(), KINDS)
    keys = image_keys(0, 0, np.arange(COUNT))
    for number in (0, 7, 20):
        rows = slice(number, number + 1)
        one = Batch(batch.image[rows], batch.mask[rows], mm_per_pixel=torch.tensor([1.4]))
        alone, region = insert_lesions(one, ImageNoise(keys[rows]), KINDS)
        torch.testing.assert_close(alone.image[0], after.image[number], rtol=1e-5, atol=1e-6)
        assert torch.equal(region[0], lesion[number])
    other, _ = insert_lesions(batch, noise(epoch=1), KINDS)
    assert (other.image != after.image).flatten(1).any(dim=1).float().mean() > 0.8


def test_lesions_are_of_many_sizes_shapes_and_strengths(always: Any) -> None:
    for kind in KINDS:
        _, change, lesion = inserted(kind)
        areas, strengths = lesion.sum(dim=(1, 2, 3)), (change.abs() * lesion).amax(dim=(1, 2, 3))
        assert areas.max() > 3 * areas.min() and strengths.max() > 3 * strengths.min(), kind


def test_a_breast_without_room_and_an_empty_one_are_no_error() -> None:
    batch = breasts(2, 32)
    thin = batch._replace(mask=torch.zeros_like(batch.mask))
    thin.mask[0, 0, 10:12, :] = 1
    after, lesion = insert_lesions(thin, noise(2), KINDS)
    assert torch.isfinite(after.image).all() and not (lesion * (1 - thin.mask)).any()
