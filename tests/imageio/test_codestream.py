"""What compressed frames say of themselves: read before a decoder is asked, and bombs are seen for what they are."""

import io
import struct

import jpeg_ls
import numpy as np
import pytest
from openjpeg.utils import encode_array
from PIL import Image

from mammovae.imageio.codestream import count_streams, is_codestream, read_stream
from mammovae.imageio.decoded_image import UnreadableError

GREY = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint16) * 40


def jpeg_2000(values=GREY, bits=12, **options):
    return bytes(encode_array(values, bits_stored=bits, photometric_interpretation=2, **options))


def jpeg(values=GREY >> 4, **options):
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_size(stream, **fields):
    """A JPEG 2000 stream with other numbers in its SIZ segment."""
    places = {"columns": 8, "rows": 12, "tile_columns": 24, "tile_rows": 28}
    changed = bytearray(stream)
    for name, value in fields.items():
        struct.pack_into(">I", changed, places[name], value)
    return bytes(changed)


def in_jp2(stream, length=None):
    boxes = struct.pack(">I4sI", 12, b"jP  ", 0x0D0A870A) + struct.pack(">I4s4xI", 16, b"ftyp", 0)
    return boxes + struct.pack(">I4s", len(stream) + 8 if length is None else length, b"jp2c") + stream


def refusal(stream):
    with pytest.raises(UnreadableError) as caught:
        read_stream(stream)
    return str(caught.value)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (jpeg_2000(), ("JPEG 2000", 48, 40, 1, 12, False)),
        (jpeg_2000(GREY.astype(np.int16) - 700, 13), ("JPEG 2000", 48, 40, 1, 13, True)),
        (in_jp2(jpeg_2000()), ("JPEG 2000", 48, 40, 1, 12, False)),
        (in_jp2(jpeg_2000(), length=0), ("JPEG 2000", 48, 40, 1, 12, False)),
        (bytes(jpeg_ls.encode_array(GREY)), ("JPEG-LS", 48, 40, 1, 12, False)),
        (jpeg(), ("JPEG", 48, 40, 1, 8, False)),
        (jpeg(progressive=True), ("JPEG", 48, 40, 1, 8, False)),
        (jpeg(np.stack([GREY >> 4] * 3, -1)), ("JPEG", 48, 40, 3, 8, False)),
    ],
    ids=["j2k", "signed j2k", "jp2", "jp2 of unknown length", "jls", "jpeg", "progressive", "colour"],
)
def test_a_stream_states_its_kind_size_components_depth_and_sign(frame, expected):
    assert is_codestream(frame)
    assert read_stream(frame)[:6] == expected
    assert is_codestream(read_stream(frame).content[:4])


@pytest.mark.parametrize("frame", [jpeg_2000(), bytes(jpeg_ls.encode_array(GREY)), jpeg()], ids=["j2k", "jls", "jpeg"])
def test_a_stream_cut_anywhere_is_refused(frame):
    for length in {*range(4, min(len(frame), 150)), *range(150, len(frame) - 2, 37)}:
        assert any(word in refusal(frame[:length]) for word in ("cut off", "truncated", "damaged")), length


def test_padding_behind_the_end_is_no_second_frame_and_a_second_frame_is():
    for frame in (jpeg_2000(), jpeg()):
        assert count_streams(frame) == count_streams(frame + b"\0\0\0") == 1
        assert count_streams(frame + frame) == count_streams(frame + b"\0" + frame) == 2


def test_a_jpeg_2000_stream_without_its_last_marker_is_whole_where_no_tile_part_is_missing():
    assert read_stream(jpeg_2000()[:-2]).rows == 48


def test_what_claims_more_pixels_than_a_mammogram_has_is_refused():
    assert "more than a mammogram has" in refusal(with_size(jpeg_2000(), columns=60000, rows=60000))


def test_what_claims_millions_of_pixels_in_a_few_bytes_is_refused_and_a_small_blank_picture_is_not():
    bomb = with_size(jpeg_2000(), columns=11000, rows=11000, tile_columns=11000, tile_rows=11000)
    assert "11000 x 11000 pixels in" in refusal(bomb)
    blank = np.zeros((1500, 1000), np.uint16)
    assert read_stream(jpeg_2000(blank)).rows == 1500


def test_millions_of_tiles_and_no_tiles_are_refused():
    assert "1,920 tiles" not in refusal(with_size(jpeg_2000(), tile_columns=1, tile_rows=1))  # it lacks all but one
    assert "tiles (" in refusal(with_size(jpeg_2000(), columns=4000, rows=4000, tile_columns=1, tile_rows=1))
    assert "0 tiles" in refusal(with_size(jpeg_2000(), tile_columns=0))


def test_impossible_wavelet_levels_and_millions_of_precincts_are_refused():
    stream = bytearray(jpeg_2000())
    place = stream.index(b"\xff\x52")
    stream[place + 9] = 60
    assert "60 wavelet levels" in refusal(bytes(stream))
    stream = jpeg_2000()
    length = struct.unpack_from(">H", stream, place + 2)[0]
    levels = stream[place + 9]
    style = bytearray(stream[place : place + 2 + length]) + bytes(levels + 1)  # precincts of 1 x 1 pixel
    style[4] |= 1
    struct.pack_into(">H", style, 2, length + levels + 1)
    fine = stream[:place] + bytes(style) + stream[place + 2 + length :]
    bomb = with_size(fine, columns=2000, rows=2000, tile_columns=2000, tile_rows=2000)
    assert "precincts" in refusal(bomb)


def test_a_jpeg_of_a_thousand_scans_is_refused():
    stream = jpeg(progressive=True)
    scan = stream.rindex(b"\xff\xda")
    assert "scans" in refusal(stream[:scan] + stream[scan:-2] * 1000 + b"\xff\xd9")


@pytest.mark.parametrize(("marker", "word"), [(0xC9, "SOF9"), (0xC5, "SOF5")])
def test_a_jpeg_that_no_decoder_knows_is_named(marker, word):
    assert word in refusal(jpeg().replace(b"\xff\xc0", bytes([0xFF, marker]), 1))


def test_a_jpeg_that_claims_sixteen_bits_without_being_lossless_is_refused():
    stream = bytearray(jpeg())
    stream[stream.index(b"\xff\xc0") + 4] = 16
    assert "16 bits" in refusal(bytes(stream))


def test_components_of_different_depth_are_refused():
    colour = bytearray(
        bytes(encode_array(np.stack([GREY >> 4] * 3, -1).astype(np.uint8), photometric_interpretation=1))
    )
    colour[45] = 11
    assert "different" in refusal(bytes(colour))


@pytest.mark.parametrize(
    ("stream", "place"),
    [(jpeg_2000(), 42), (bytes(jpeg_ls.encode_array(GREY)), 6)],
    ids=["JPEG 2000", "JPEG-LS"],
)
def test_more_than_sixteen_bits_a_pixel_are_refused(stream, place):
    deeper = bytearray(stream)
    deeper[place] = 36
    assert "bits a pixel, not 1 to 16" in refusal(bytes(deeper))


@pytest.mark.parametrize("bits", [1, 2, 7, 17])
def test_lossless_jpeg_of_a_depth_that_ends_its_decoder_is_refused_before_it(bits):
    frame = b"\xff\xc3" + struct.pack(">HBHHB", 11, bits, 48, 40, 1) + b"\x01\x11\x00"
    assert f"{bits} bits a pixel, not 8 to 16" in refusal(b"\xff\xd8" + frame + b"\xff\xda" + bytes(64) + b"\xff\xd9")
