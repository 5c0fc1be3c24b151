"""Run length coding: exact, and compared with the rows that the header states."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammovae.imageio import rle
from mammovae.imageio.decoded_image import UnreadableError


def packets(content, length=128):
    """A run of one value as one packet, anything else as literals."""
    coded = bytearray()
    for start in range(0, len(content), length):
        part = content[start : start + length]
        coded += (
            bytes([257 - len(part), part[0]])
            if len(part) > 1 and len(set(part)) == 1
            else bytes([len(part) - 1]) + part
        )
    return bytes(coded)


def frame(values, *, by_rows=True):
    """An RLE frame as PS3.5 annex G has it, or with packets that go beyond the ends of rows."""
    segments = []
    for shift in range(8 * values.itemsize - 8, -1, -8):
        plane = ((values >> shift) & 255).astype(np.uint8)
        coded = b"".join(packets(row.tobytes()) for row in plane) if by_rows else packets(plane.tobytes(), 100)
        segments.append(coded + b"\0" * (len(coded) % 2))
    offsets = np.cumsum([64, *map(len, segments)])[:-1].tolist()
    return struct.pack("<16I", len(segments), *(offsets + [0] * (15 - len(offsets)))) + b"".join(segments)


def noise(rows=30, columns=24, bits=12):
    return np.random.default_rng(rows).integers(0, 2**bits, (rows, columns)).astype("u1" if bits <= 8 else "u2")


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 300), bits=st.sampled_from([1, 8, 9, 16]))
def test_every_picture_comes_back_as_it_was(rows, columns, bits):
    values = noise(rows, columns, bits)
    pixels, warnings = rle.decode(frame(values), rows, columns)
    np.testing.assert_array_equal(pixels, values)
    assert pixels.dtype == values.dtype and warnings == []


def test_rows_and_columns_that_are_exchanged_are_refused():
    for values in (noise(), noise(bits=8), np.zeros((30, 24), np.uint16)):
        with pytest.raises(UnreadableError, match="Rows and Columns are exchanged"):
            rle.decode(frame(values), 24, 30)


def test_another_number_of_pixels_is_refused():
    for rows, columns in ((30, 23), (29, 24), (30, 25), (31, 24)):
        with pytest.raises(UnreadableError, match="Rows or Columns are wrong"):
            rle.decode(frame(noise()), rows, columns)


def test_runs_beyond_the_ends_of_rows_are_read_with_a_remark():
    pixels, warnings = rle.decode(frame(noise(), by_rows=False), 30, 24)
    np.testing.assert_array_equal(pixels, noise())
    assert len(warnings) == 1 and "could not be checked" in warnings[0]


def test_a_few_bytes_behind_a_segment_are_left_out_with_a_remark():
    pixels, warnings = rle.decode(frame(noise()) + bytes(6), 30, 24)
    np.testing.assert_array_equal(pixels, noise())
    assert warnings == ["3 bytes of its RLE data are left over"]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_data_are_refused(share):
    whole = frame(noise())
    with pytest.raises(UnreadableError, match=r"truncated|cut off|damaged"):
        rle.decode(whole[: int(len(whole) * share)], 30, 24)


def test_segments_that_contradict_the_samples_are_refused():
    with pytest.raises(UnreadableError, match="2 segments, SamplesPerPixel 3"):
        rle.decode(frame(noise()), 30, 24, samples=3)
    with pytest.raises(UnreadableError, match="4 segments"):
        rle.decode(frame(noise().astype(np.uint32)), 30, 24)


@pytest.mark.parametrize("header", [(0, 64), (16, 64), (2, 64, 60), (1, 70), (2, 64, 10**6)])
def test_a_damaged_header_is_refused(header):
    with pytest.raises(UnreadableError, match="damaged header"):
        rle.decode(struct.pack("<16I", *header, *[0] * (16 - len(header))) + bytes(100), 5, 5)


def test_a_bomb_of_runs_is_left_before_it_fills_memory():
    runs = bytes([129, 0]) * 3_000_000  # 384 million bytes
    with pytest.raises(UnreadableError, match="Rows or Columns are wrong"):
        rle.decode(struct.pack("<16I", 1, 64, *[0] * 14) + runs, 100, 100)


def test_colour_is_three_planes():
    values = np.stack([noise(bits=8)] * 3, -1)
    planes = [frame(values[..., number])[64:] for number in range(3)]
    offsets = np.cumsum([64, *map(len, planes)])[:-1].tolist()
    data = struct.pack("<16I", 3, *offsets, *[0] * 12) + b"".join(planes)
    np.testing.assert_array_equal(rle.decode(data, 30, 24, samples=3)[0], values)
