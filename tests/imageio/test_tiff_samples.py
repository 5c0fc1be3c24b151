"""TIFF of every layout, written by hand: read as written, or refused."""

import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fuzz.sentences import is_allowed
from tests.imageio.tiff_files import directory, head, tiff

from mammovae.config import InputError
from mammovae.imageio.read import read, read_header

SHAPE = (23, 19)


def values_of(bits, seed=0):
    values = np.random.default_rng(seed).integers(0, 2**bits, SHAPE, np.uint16)
    values[0, 0] = 2**bits - 1
    return values if bits > 8 else values.astype(np.uint8)


def written(folder, content):
    path = Path(folder) / "a.tif"
    path.write_bytes(content)
    return path


def reason(path):
    with pytest.raises(InputError) as caught:
        read(path)
    words = str(caught.value).removeprefix(f"cannot read {path}: ")
    assert is_allowed(words), words
    return words


BLOCKS = {"one strip": {}, "strips": {"rows_per_strip": 5}, "tiles": {"tile": 16}}


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 16])
def test_every_depth_order_plane_and_block_is_read_as_written(tmp_path, bits, channels, blocks):
    grey = values_of(bits)
    samples = np.repeat(grey[..., None], channels, axis=2)
    tags = []
    if channels in (2, 4):
        samples[..., -1], tags = 2**bits - 1, [(338, 3, [2])]
    for order, planar, fill_order, is_big, photometric in product("<>", (False, True), (1, 2), (False, True), (0, 1)):
        layout = {"order": order, "planar": planar, "fill_order": fill_order, "is_big": is_big} | BLOCKS[blocks]
        if channels < 3:
            layout["photometric"] = photometric
        pixels = read(written(tmp_path, tiff(samples, tags, bits=bits, **layout))).pixels
        want = np.rint(grey * (65535 / (2**bits - 1)))
        np.testing.assert_array_equal(pixels, 65535 - want if layout.get("photometric") == 0 else want, str(layout))


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("compression", [5, 8, 32946, 32773])
@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16])
def test_compressed_samples_are_read_as_written(tmp_path, bits, compression, blocks):
    grey = values_of(bits)
    for order, planar, channels, predictor in product("<>", (False, True), (1, 3), (1, 2)):
        if predictor == 2 and (bits not in (8, 16) or compression == 32773):
            continue
        layout = {"order": order, "planar": planar, "predictor": predictor, "compression": compression} | BLOCKS[blocks]
        samples = np.repeat(grey[..., None], channels, axis=2)
        pixels = read(written(tmp_path, tiff(samples, bits=bits, **layout))).pixels
        np.testing.assert_array_equal(pixels, np.rint(grey * (65535 / (2**bits - 1))), str((layout, channels)))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_bilevel_files_of_another_writer_are_read(tmp_path, compression, photometric):
    values = np.zeros((40, 30), bool)
    values[5:30, 7:20] = True
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path, compression=compression, tiffinfo={262: photometric})  # which inverts them for 0
    np.testing.assert_array_equal(read(path).pixels, values * 65535)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_within_tiff_is_close(tmp_path, mode):
    values = np.add.outer(np.arange(64) * 2, np.arange(48)).astype(np.uint8)
    path = tmp_path / "a.tif"
    Image.fromarray(values).convert(mode).save(path, compression="jpeg", quality=95)
    assert np.abs(read(path).pixels - values.astype(int) * 257).max() < 0.02 * 65535


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2"])
def test_files_of_another_writer_are_read(tmp_path, compression, kind):
    values = values_of(8 if kind == "u1" else 16).astype(kind)
    Image.fromarray(values).save(tmp_path / "a.tif", compression=compression)
    pixels = read(tmp_path / "a.tif").pixels
    np.testing.assert_array_equal(pixels, values.astype(int) * (257 if kind == "u1" else 1))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_palette_of_greys_is_looked_up(tmp_path, bits):
    values, ramp = values_of(bits), np.arange(2**bits)[::-1] * 255 // (2**bits - 1)
    table = np.tile(ramp * 256, 3)
    pixels = read(written(tmp_path, tiff(values, [(320, 3, table.tolist())], bits=bits, photometric=3))).pixels
    np.testing.assert_array_equal(pixels, ramp[values] * 257)
    table[: 2**bits] = 0
    assert "colour" in reason(written(tmp_path, tiff(values, [(320, 3, table.tolist())], bits=bits, photometric=3)))


@pytest.mark.parametrize("kind", ["f4", "f2", "i2", "i1", "u4"])
def test_numbers_of_another_kind_are_refused(tmp_path, kind):
    values = values_of(8).astype(kind)
    form = {"f": 3, "i": 2, "u": 1}[kind[0]]
    samples = values if values.itemsize != 2 or kind[0] != "f" else values.view("u2")
    words = reason(written(tmp_path, tiff(samples, [(339, 3, [form])])))
    assert "save 8 or 16 bit" in words


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ([(258, 3, [8])], "more bytes than its header states"),
        ([(256, 4, [SHAPE[1] - 1])], "more bytes than its header states"),
        ([(256, 4, [SHAPE[1] + 1])], "fewer bytes than its header states"),
        ([(279, 4, [SHAPE[0] * SHAPE[1]])], "fewer bytes than its header states"),
        ([(277, 3, [3]), (258, 3, [16] * 3), (262, 3, [2])], "fewer bytes than its header states"),
        ([(257, 4, [SHAPE[0] + 9]), (278, 4, [SHAPE[0]])], "strips or tiles, not 2"),
        ([(258, 3, [16, 8]), (277, 3, [2])], "differ in their number of bits"),
        ([(262, 3, [2])], "contradicts itself"),
        ([(262, 3, [5])], "CMYK ink"),
        ([(262, 3, [77])], "unknown kind 77"),
        ([(262, 3, [3])], "palette"),
        ([(259, 3, [34712])], "JPEG 2000"),
        ([(259, 3, [6])], "old JPEG"),
        ([(259, 3, [8]), (317, 3, [3])], "predictor"),
        ([(259, 3, [8])], "compressed data are wrong"),
        ([(259, 3, [5])], "compressed data are wrong"),
        ([(259, 3, [7])], "unsupported compression (JPEG, 16 bits)"),
        ([(273, 4, [2**31])], "end early"),
        ([(273, 4, None), (279, 4, None)], "0 strips or tiles, not 1"),
        ([(256, 4, [0])], "0 columns"),
        ([(277, 3, [60000])], "samples a pixel"),
    ],
)
def test_a_header_that_contradicts_its_samples_is_refused(tmp_path, tags, word):
    assert word in reason(written(tmp_path, tiff(values_of(16), tags)))


def test_what_a_lax_writer_leaves_out_or_adds_is_no_matter(tmp_path):
    values = values_of(16)
    last_strip_is_whole = tiff(np.pad(values, ((0, 2), (0, 0))), [(257, 4, [SHAPE[0]])], rows_per_strip=5)
    for content in (
        tiff(values, [(279, 4, None)]),
        tiff(values, [(278, 4, [2**32 - 1])]),
        tiff(values, [(284, 3, None), (277, 3, None)]),
        last_strip_is_whole,
    ):
        np.testing.assert_array_equal(read(written(tmp_path, content)).pixels, values)
    unsaid = read(written(tmp_path, tiff(values, [(262, 3, None)])))
    np.testing.assert_array_equal(unsaid.pixels, values)
    assert "does not say whether 0 is black" in unsaid.warnings[0]


def pages(*parts, following=0):
    """A file of several pages, each (samples, tags); following is what the last page names as its next."""
    body, lists, at = b"", [], 8
    for samples, tags in parts:
        entries = {256: (4, [samples.shape[1]]), 257: (4, [samples.shape[0]]), 258: (3, [16]), 259: (3, [1])}
        entries |= {262: (3, [1]), 273: (4, [at + len(body)]), 278: (4, [samples.shape[0]]), 279: (4, [samples.nbytes])}
        entries |= {tag: (3, [value]) for tag, value in tags.items()}
        body += samples.astype("<u2").tobytes()
        lists.append(entries)
    starts = [at + len(body)]
    for entries in lists:
        starts.append(starts[-1] + len(directory(entries, starts[-1])))
    following = starts[0] if following == "first" else following
    out = head("<", starts[0]) + body
    for entries, start, after in zip(lists, starts[:-1], [*starts[1:-1], following], strict=True):
        out += directory(entries, start, following=after)
    return out


def test_several_pages_are_refused_and_a_smaller_copy_or_mask_passed_by(tmp_path):
    film, thumb = values_of(16), values_of(16, 1)[:4, :5]
    assert reason(written(tmp_path, pages((film, {}), (film, {})))) == "it has 2 pages, give one picture a file"
    for mark in ({254: 1}, {255: 2}, {254: 4}):
        for parts in ([(film, {}), (thumb, mark)], [(thumb, mark), (film, {274: 6})]):
            path = written(tmp_path, pages(*parts))
            want = np.rot90(film, -1) if parts[0][0] is thumb else film
            np.testing.assert_array_equal(read(path).pixels, want)
            assert read_header(path) == {"rows": want.shape[0], "columns": want.shape[1]}
    np.testing.assert_array_equal(read(written(tmp_path, pages((film, {254: 1})))).pixels, film)


def test_pages_in_a_circle_are_one_page(tmp_path):
    film = values_of(16)
    np.testing.assert_array_equal(read(written(tmp_path, pages((film, {}), following="first"))).pixels, film)


def test_thousands_of_pages_that_share_their_values_take_no_memory(tmp_path):
    entries = {273: (4, [8])}
    part, start = len(directory(entries, 0)), 8 + 2**22
    out = head("<", start) + bytes(2**22)
    for page in range(1000):
        listed = bytearray(directory(entries, 0, following=start + (page + 1) * part))
        struct.pack_into("<II", listed, 2 + 4, 2**19, 8)
        out += listed
    assert "no sensible length" in reason(written(tmp_path, out))


def test_a_next_page_beyond_the_end_is_refused(tmp_path):
    assert "end early" in reason(written(tmp_path, pages((values_of(16), {}), following=2**31)))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
def test_a_truncated_file_is_refused(tmp_path, compression, share):
    content = tiff(values_of(16), compression=compression)
    reason(written(tmp_path, content[: int(len(content) * share)]))
