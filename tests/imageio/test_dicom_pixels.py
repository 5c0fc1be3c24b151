"""What a header says of its pixels is checked, and compared with what is stored: never a wrong picture in silence."""

import io
import struct

import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from tests.imageio.test_read import mammogram, save

from mammovae.imageio import dicom_reader
from mammovae.imageio.codestream import read_stream
from mammovae.imageio.decoded_image import UnreadableError
from mammovae.imageio.dicom_pixels import describe_pixels
from mammovae.imageio.dicom_values import Values
from mammovae.imageio.raw_tree import open_raw
from mammovae.imageio.stream_decoders import decode_stream

COMPRESSED = (RLELossless, JPEGLSLossless, JPEG2000Lossless)


def by_name(syntax):
    return syntax.keyword


def grey(bits=12, rows=48, columns=40, signed=False):
    """Values that fill the range, in another order in rows than in columns."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (rows, columns))
    values[0, :2] = 0, 2**bits - 1
    return (values - 2 ** (bits - 1) * signed).astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def framed(dataset, frame, syntax, *, fragments=1):
    dataset.PixelData = encapsulate([frame], fragments_per_frame=fragments)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def compressed(values, syntax, bits=12, **attributes):
    dataset = mammogram(values, bits=bits)
    if syntax == JPEG2000Lossless:
        framed(dataset, bytes(encode_array(values, bits_stored=bits, photometric_interpretation=2)), syntax)
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def read_dicom(path, min_length=None):
    with open_raw(path) as file:
        return dicom_reader.read_dicom(file, min_length)


def read(dataset, folder, min_length=None):
    return read_dicom(save(dataset, folder), min_length)


def refusal(dataset, folder, min_length=None):
    with pytest.raises(UnreadableError) as caught:
        read(dataset, folder, min_length)
    sentence = str(caught.value)
    assert not any(word in sentence for word in ("NoneType", "object", "unexpected", "Error", "attribute")), sentence
    return sentence


def stretched(values, bits=12):
    return np.rint(values.astype(float) * 65535 / (2**bits - 1))


def flat_jpeg_of_12_bits(levels, bits=12):
    """A JPEG Extended stream (ISO/IEC 10918-1) whose 8 x 8 blocks have these values exactly: DC alone, unquantised."""

    def segment(marker, content):
        return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content

    tables = segment(0xDB, b"\0" + b"\1" * 64)
    tables += segment(0xC1, struct.pack(">BHHB", bits, 8 * levels.shape[0], 8 * levels.shape[1], 1) + b"\1\x11\0")
    tables += segment(0xC4, bytes([0, 0, 0, 0, 0, 16, *[0] * 11, *range(16)]))  # 16 categories, 5 bits each
    tables += segment(0xC4, bytes([16, 1, *[0] * 16]))  # the end of a block, 1 bit
    coded, last = "", 0
    for level in levels.ravel().tolist():
        difference, last = 8 * (level - 2 ** (bits - 1)) - last, 8 * (level - 2 ** (bits - 1))
        size = abs(difference).bit_length()
        extra = difference if difference > 0 else difference + 2**size - 1
        coded += f"{size:05b}" + (f"{extra:0{size}b}" if size else "") + "0"
    coded += "1" * (-len(coded) % 8)
    scan = bytes(int(coded[start : start + 8], 2) for start in range(0, len(coded), 8)).replace(b"\xff", b"\xff\0")
    return b"\xff\xd8" + tables + segment(0xDA, b"\1\1\0\0\x3f\0") + scan + b"\xff\xd9"


# --- the Image Pixel module -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation"],
)
@pytest.mark.parametrize("value", ["absent", None])
def test_what_is_absent_or_empty_is_named(tmp_path, name, value):
    dataset = mammogram(grey())
    if value is None:
        setattr(dataset, name, None)
    else:
        delattr(dataset, name)
    assert f"{name} is absent or empty" in refusal(dataset, tmp_path)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"Rows": 0}, "0 rows"),
        ({"Rows": 65535, "Columns": 65535}, "more than a mammogram has"),
        ({"BitsAllocated": 1}, "BitsAllocated is 1"),
        ({"BitsAllocated": 12}, "BitsAllocated is 12"),
        ({"BitsStored": 0}, "BitsStored is 0"),
        ({"BitsStored": 17}, "BitsStored is 17"),
        ({"BitsAllocated": 8}, "BitsStored is 12 of 8"),
        ({"PixelRepresentation": 7}, "PixelRepresentation is 7"),
        ({"SamplesPerPixel": 2}, "SamplesPerPixel is 2"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel 3 contradicts PhotometricInterpretation MONOCHROME2"),
        ({"PhotometricInterpretation": "NONSENSE"}, "PhotometricInterpretation is 'NONSENSE'"),
        ({"PhotometricInterpretation": "RGB"}, "SamplesPerPixel 1 contradicts PhotometricInterpretation RGB"),
        ({"NumberOfFrames": 15}, "15 frames"),
    ],
)
def test_what_is_impossible_is_named_with_its_value(tmp_path, attributes, words):
    assert words in refusal(mammogram(grey(), **attributes), tmp_path)


@pytest.mark.parametrize(("name", "vr"), [("Rows", "LO"), ("BitsStored", "LO"), ("SamplesPerPixel", "LO")])
def test_rubbish_where_a_number_belongs_is_quoted(tmp_path, name, vr):
    dataset = mammogram(grey())
    tag = dataset[name].tag
    del dataset[name]
    dataset.add_new(tag, vr, "rubbish")
    with pytest.raises(UnreadableError, match=f"{name} is 'rubbish'"):
        describe_pixels(Values(dataset))


def test_what_goes_without_saying_may_be_absent(tmp_path):
    dataset = mammogram(grey())
    del dataset.HighBit, dataset.SamplesPerPixel
    picture = read(dataset, tmp_path)
    assert picture.warnings == ()
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))


# --- bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_left_justified_values_are_moved_down_with_a_remark(tmp_path, signed):
    values = grey(signed=signed)
    left = mammogram((values.astype(np.int32) << 4).astype(values.dtype), HighBit=15)
    picture = read(left, tmp_path)
    np.testing.assert_array_equal(picture.pixels, read(mammogram(values), tmp_path).pixels)
    assert picture.warnings == ("its 12 bits were moved down from HighBit 15",)


def test_left_justified_values_with_an_overlay_below_them_are_the_same(tmp_path):
    left = mammogram(grey() << 4 | 1, HighBit=15)
    np.testing.assert_array_equal(read(left, tmp_path).pixels, stretched(grey()))


@pytest.mark.parametrize("high", [15, 7, 40])
def test_right_justified_values_are_read_whatever_the_high_bit_says(tmp_path, high):
    picture = read(mammogram(grey(), HighBit=high), tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))
    assert picture.warnings == (f"HighBit {high} contradicts 12 bits stored, the lowest 12 bits were read",)


@pytest.mark.parametrize("syntax", [None, *COMPRESSED], ids=lambda syntax: syntax.keyword if syntax else "plain")
@pytest.mark.parametrize("stated", [8, 10])
def test_values_above_the_stated_bits_are_read_in_full_with_a_remark(tmp_path, syntax, stated):
    values = grey()
    dataset = mammogram(values) if syntax is None else compressed(values, syntax)
    dataset.BitsStored, dataset.HighBit = stated, stated - 1
    picture = read(dataset, tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched(values))
    assert f"values contradict BitsStored {stated}, 12 bits were read" in picture.warnings


@pytest.mark.parametrize("syntax", [None, *COMPRESSED], ids=lambda syntax: syntax.keyword if syntax else "plain")
def test_one_pixel_above_the_stated_bits_leaves_all_others_as_bright_as_they_are(tmp_path, syntax):
    values = grey()
    values[5, 6] = 4500
    dataset = mammogram(values) if syntax is None else compressed(values, syntax, bits=13)
    dataset.BitsStored, dataset.HighBit = 12, 11
    picture = read(dataset, tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched(np.minimum(values, 4095)))
    assert "1 of 1920 pixels are above the stated 12 bits and were cut" in picture.warnings


def test_signed_values_beyond_the_stated_bits_are_read_in_full_with_a_remark(tmp_path):
    values = grey(signed=True)
    picture = read(mammogram(values, BitsStored=9, HighBit=8), tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched(values.astype(int) + 2048))
    assert "values contradict BitsStored 9, 12 bits were read" in picture.warnings


def test_a_sign_may_be_extended_or_not(tmp_path):
    values = grey(signed=True)
    bare = (values.view(np.uint16) & 0x0FFF).view(np.int16)
    for stored in (values, bare):
        picture = read(mammogram(stored), tmp_path)
        np.testing.assert_array_equal(picture.pixels, stretched(values.astype(int) + 2048))
        assert picture.warnings == ()


def test_an_overlay_in_the_bits_above_is_no_grey(tmp_path):
    values = grey()
    drawn = values | (np.random.default_rng(1).integers(0, 2, values.shape) << 14).astype(np.uint16)
    dataset = mammogram(drawn)
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 14)
    picture = read(dataset, tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched(values))
    assert picture.warnings == ()


def test_a_bit_that_is_set_in_every_pixel_says_nothing_and_is_remarked_on(tmp_path):
    picture = read(mammogram(grey() | np.uint16(0x8000)), tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))
    assert picture.warnings == ("bits above the stated 12 are set in every pixel and were left out",)


def test_padding_outside_the_stored_bits_is_background(tmp_path):
    values = grey()
    values[:10] = 63536
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        picture = read(mammogram(values, photometric=photometric, PixelPaddingValue=63536), tmp_path)
        plain = read(mammogram(grey(), photometric=photometric), tmp_path)
        assert (picture.pixels[:10] == 0).all()
        np.testing.assert_array_equal(picture.pixels[10:], plain.pixels[10:])


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless], ids=by_name)
def test_a_stream_of_fewer_bits_than_stated_has_its_own_range(tmp_path, syntax):
    dataset = compressed(grey(), syntax, BitsStored=16, HighBit=15)
    picture = read(dataset, tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))
    assert any("12 bits a pixel" in warning for warning in picture.warnings)


def test_a_stream_of_another_sign_is_read_as_the_header_says_with_a_remark(tmp_path):
    values = grey(bits=12)
    picture = read(compressed(values, JPEG2000Lossless, PixelRepresentation=1), tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched((values ^ 2048).astype(int)))
    assert any("unsigned, PixelRepresentation 1 (signed)" in warning for warning in picture.warnings)
    signed = grey(signed=True)
    picture = read(compressed(signed, JPEG2000Lossless, PixelRepresentation=0), tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched(signed.view(np.uint16) & 4095))
    assert any("signed, PixelRepresentation 0 (unsigned)" in warning for warning in picture.warnings)


def test_values_that_hardly_use_their_range_are_remarked_on_whatever_shows_them(tmp_path):
    def is_remarked_on(**attributes):
        dataset = mammogram(grey(), **{"BitsStored": 16, "HighBit": 15} | attributes)
        return [warning for warning in read(dataset, tmp_path).warnings if "nearly one grey" in warning] != []

    assert is_remarked_on() and is_remarked_on(PhotometricInterpretation="MONOCHROME1")
    assert is_remarked_on(WindowCenter=32768, WindowWidth=65536)
    assert not is_remarked_on(WindowCenter=2048, WindowWidth=4096)
    entries = Dataset()  # of 12 bits, although it says 16
    entries.LUTDescriptor = [4096, 0, 16]
    entries.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    assert is_remarked_on(VOILUTSequence=[entries])
    entries.LUTDescriptor = [4096, 0, 12]
    assert not is_remarked_on(VOILUTSequence=[entries])


# --- sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", COMPRESSED, ids=by_name)
@pytest.mark.parametrize("min_length", [None, 16])
def test_exchanged_rows_and_columns_are_refused_in_every_compression(tmp_path, syntax, min_length):
    assert "exchanged" in refusal(compressed(grey(), syntax, Rows=40, Columns=48), tmp_path, min_length)


@pytest.mark.parametrize("syntax", [None, *COMPRESSED], ids=lambda syntax: syntax.keyword if syntax else "plain")
@pytest.mark.parametrize(("name", "value"), [("Rows", 47), ("Columns", 39), ("Rows", 49), ("Columns", 41)])
def test_one_row_or_column_too_many_or_too_few_is_refused(tmp_path, syntax, name, value):
    dataset = mammogram(grey()) if syntax is None else compressed(grey(), syntax)
    setattr(dataset, name, value)
    sentence = refusal(dataset, tmp_path)
    assert "wrong" in sentence or "truncated" in sentence or "the header says" in sentence


def test_a_baseline_jpeg_of_another_size_is_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(grey(8)).save(buffer, "JPEG")
    dataset = framed(mammogram(grey(8), bits=8, Rows=40, Columns=48), buffer.getvalue(), JPEGBaseline8Bit)
    assert "exchanged" in refusal(dataset, tmp_path)


def test_one_byte_of_padding_is_no_news_and_a_few_are_a_remark(tmp_path):
    values = grey(8, rows=5, columns=7)
    padded = mammogram(values, bits=8)
    padded.PixelData += b"\0"
    assert read(padded, tmp_path).warnings == ()
    more = mammogram(grey())
    more.PixelData += bytes(20)
    picture = read(more, tmp_path)
    assert picture.warnings == ("20 bytes are left over behind its pixels",)
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))


@pytest.mark.parametrize("syntax", [None, *COMPRESSED], ids=lambda syntax: syntax.keyword if syntax else "plain")
def test_frames_without_a_number_of_frames_are_called_frames(tmp_path, syntax):
    dataset = mammogram(grey()) if syntax is None else compressed(grey(), syntax)
    if syntax is None:
        dataset.PixelData *= 3
    else:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        for has_table in (True, False):
            dataset.PixelData = encapsulate([frame] * 3, has_bot=has_table)
            assert "3 frames" in refusal(dataset, tmp_path)
    assert "frames" in refusal(dataset, tmp_path)


def test_one_frame_in_many_fragments_is_one_frame(tmp_path):
    for syntax in COMPRESSED:
        dataset = compressed(grey(), syntax)
        framed(dataset, get_frame(dataset.PixelData, 0, number_of_frames=1), syntax, fragments=5)
        np.testing.assert_array_equal(read(dataset, tmp_path).pixels, stretched(grey()))


# --- components and kinds ---------------------------------------------------------------------------------------


def colour_stream():
    return bytes(encode_array(np.stack([grey(8)] * 3, -1), photometric_interpretation=1))


def test_a_colour_stream_in_a_grey_file_is_refused_before_any_decoder_sees_it(tmp_path):
    for syntax in (JPEG2000, JPEG2000Lossless):
        dataset = framed(mammogram(grey(8), bits=8), colour_stream(), syntax)
        assert "3 components, SamplesPerPixel is 1" in refusal(dataset, tmp_path)


def test_a_grey_stream_in_a_colour_file_is_refused(tmp_path):
    dataset = compressed(grey(8), JPEG2000Lossless, 8, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    assert "1 components, SamplesPerPixel is 3" in refusal(dataset, tmp_path)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=by_name)
def test_grey_compressed_as_colour_is_grey(tmp_path, syntax):
    dataset = mammogram(np.stack([grey(8)] * 3, -1), bits=8, photometric="RGB")
    if syntax == JPEG2000Lossless:
        framed(dataset, colour_stream(), syntax)
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read(dataset, tmp_path).pixels, stretched(grey(8), 8))


def test_the_stream_says_how_it_is_coded_not_the_transfer_syntax(tmp_path):
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        for wrong in (JPEGBaseline8Bit, RLELossless, ExplicitVRLittleEndian):
            dataset = compressed(grey(), syntax)
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = wrong
            path = tmp_path / "a.dcm"
            pydicom.dcmwrite(path, dataset, enforce_file_format=False, implicit_vr=False, little_endian=True)
            picture = read_dicom(path, None)
            np.testing.assert_array_equal(picture.pixels, stretched(grey()))
            assert any("although the transfer syntax says" in warning for warning in picture.warnings)


def test_plain_pixels_under_a_compressed_transfer_syntax_are_read_where_their_length_is_exact(tmp_path):
    dataset = mammogram(grey())
    path = save(dataset, tmp_path)
    content = path.read_bytes()
    # The longer UID takes the place of another element's bytes: the same length, so nothing else moves.
    old, new = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    picture = read_dicom(path, None)
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))
    assert any("not compressed" in warning for warning in picture.warnings)


def test_an_unknown_transfer_syntax_is_named(tmp_path):
    for name in ("1.2.840.10008.1.2.4.100", "1.2.3.4"):
        dataset = framed(mammogram(grey()), bytes(50), name)
        path = tmp_path / "a.dcm"
        pydicom.dcmwrite(path, dataset, enforce_file_format=False, implicit_vr=False, little_endian=True)
        with pytest.raises(UnreadableError, match="is not supported"):
            read_dicom(path, None)


# --- JPEG of 12 bits --------------------------------------------------------------------------------------------


def test_jpeg_extended_of_12_bits_is_exact(tmp_path):
    levels = np.random.default_rng(0).integers(0, 4096, (6, 5))
    levels[0, :2] = 0, 4095
    values = np.kron(levels, np.ones((8, 8), int)).astype(np.uint16)
    dataset = framed(mammogram(values), flat_jpeg_of_12_bits(levels), JPEGExtended12Bit)
    picture = read(dataset, tmp_path)
    np.testing.assert_array_equal(picture.pixels, stretched(values))
    assert picture.warnings == ()


def test_pydicoms_own_jpeg_extended_has_the_values_that_other_decoders_give():
    dataset = pydicom.dcmread(str(get_testdata_file("JPGExtended.dcm")))
    values = decode_stream(read_stream(get_frame(dataset.PixelData, 0, number_of_frames=1)))
    assert values.shape == (1024, 256) and values[420, 140] == 244 and values[230, 120] == 95


def test_a_jpeg_extended_of_12_bits_without_its_end_is_refused(tmp_path):
    levels = np.random.default_rng(0).integers(0, 4096, (6, 5))
    stream = flat_jpeg_of_12_bits(levels)
    for length in (len(stream) // 2, len(stream) - 2):
        dataset = framed(mammogram(np.zeros((48, 40), np.uint16)), stream[:length], JPEGExtended12Bit)
        sentence = refusal(dataset, tmp_path)
        assert "truncated" in sentence or "cut off" in sentence


def test_a_jpeg_lossless_stream_without_its_end_is_refused(tmp_path):
    stream = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB", 11, 12, 48, 40, 1) + b"\1\x11\0"
    stream += b"\xff\xda" + struct.pack(">H", 8) + b"\1\1\0\1\0\0" + bytes(90)
    dataset = framed(mammogram(grey()), stream, JPEGLosslessSV1)
    assert "truncated" in refusal(dataset, tmp_path)


# --- big endian -------------------------------------------------------------------------------------------------


def test_bytes_in_big_endian_words_change_places(tmp_path):
    values = grey(8)
    dataset = mammogram(values, bits=8)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = values.reshape(-1, 2)[:, ::-1].tobytes()
    dataset["PixelData"].VR = "OW"
    np.testing.assert_array_equal(read(dataset, tmp_path).pixels, stretched(values, 8))
