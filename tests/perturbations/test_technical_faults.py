"""Inserted faults: each does what its name says, the same for the same seed, and the two families differ."""

import numpy as np
import pytest

from mammovae.config import InputError
from mammovae.data.prepare_image import prepare_decoded
from mammovae.data.segmentation import find_breast
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid
from mammovae.perturbations.technical_faults import FAULTS, FaultContext, FaultFamily, SourceImage, insert_fault
from mammovae.phantoms.anatomy import make_phantom

PHANTOM = make_phantom(3, 1, "L", "MLO", size=384)
BREAST = find_breast(PHANTOM.image)
CONTEXT = FaultContext(
    BREAST.mask,
    BREAST.chest_wall,
    PHANTOM.mm_per_pixel,
    donor=make_phantom(4, 2, "L", "MLO", size=384).image,
    other_view=make_phantom(3, 1, "L", "CC", size=384).image,
)


def damaged(fault: str, family: FaultFamily = "test", seed: int = 0) -> SourceImage:
    return insert_fault(SourceImage(PHANTOM.image, "L", "MLO"), CONTEXT, fault, family, [seed])


def decoded(pixels: np.ndarray) -> DecodedImage:
    return DecodedImage(pixels, {}, (), PixelGrid(*pixels.shape))


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len(FAULTS) == 21 and len(set(FAULTS)) == 21


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_the_image_or_its_header_the_same_way_for_one_seed(fault: str) -> None:
    first, again, validation = damaged(fault), damaged(fault), damaged(fault, "validation")
    assert first.side == again.side and (first.pixels == again.pixels).all()
    changed = first.side != "L" or first.pixels.shape != PHANTOM.image.shape or (first.pixels != PHANTOM.image).any()
    assert changed and first.pixels.dtype == np.uint16
    if fault not in ("wrong_side", "upside_down", "other_view"):
        assert validation.pixels.shape != first.pixels.shape or (validation.pixels != first.pixels).any()


def test_a_wrong_side_leaves_every_pixel_as_it_is() -> None:
    assert damaged("wrong_side").side == "R" and (damaged("wrong_side").pixels == PHANTOM.image).all()


@pytest.mark.parametrize("fault", ["blank", "inverted"])
def test_what_shows_no_breast_is_refused_by_prepare(fault: str) -> None:
    with pytest.raises(InputError):
        prepare_decoded(decoded(damaged(fault, "validation").pixels), size=64)


MEASURE = {
    "under_exposed": ("grey_median", -1),
    "over_exposed": ("air_median", 1),
    "saturated": ("saturated", 1),
    "motion_blur": ("fine_energy", -1),
    "noise": ("fine_energy", 1),
    "implant": ("plateau", 1),
    "skin_marker": ("ball_height", 1),
    "clip_or_wire": ("metal", 1),
    "missing_rows": ("dead_rows", 1),
    "collimator": ("shaded_edge", 1),
    "burned_in_text": ("print_outside", 1),
}


@pytest.mark.parametrize("fault", MEASURE)
def test_the_measure_that_is_meant_for_a_fault_moves_the_way_it_should(fault: str) -> None:
    name, sign = MEASURE[fault]
    clean = prepare_decoded(decoded(PHANTOM.image), size=64).measurements[name]
    with_fault = [prepare_decoded(decoded(damaged(fault, seed=s).pixels), size=64).measurements[name] for s in range(3)]
    assert sign * (np.mean(with_fault) - clean) > 0.005
