"""Rasters: one grey channel, upright once, of one white; all else is one sentence, before memory is taken."""

import io
import re
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.fuzz.sentences import is_allowed
from tests.imageio.tiff_files import tiff

from mammovae.config import InputError
from mammovae.imageio.decoded_image import PixelGrid
from mammovae.imageio.raw_tree import ZipMember
from mammovae.imageio.read import plain_reason, read, read_header

SHAPE = (24, 16)
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def values_of(bits, seed=0, shape=SHAPE):
    values = np.random.default_rng(seed).integers(0, 2**bits, shape, np.uint16)
    values[0, :2] = 0, 2**bits - 1
    return values if bits > 8 else values.astype(np.uint8)


def saved(folder, image, name, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(Path(folder) / name, **options)
    return Path(folder) / name


def written(folder, content, name):
    (Path(folder) / name).write_bytes(content)
    return Path(folder) / name


def reason(path, **options):
    with pytest.raises(InputError) as caught:
        read(path, **options)
    words = str(caught.value)
    assert words.startswith(f"cannot read {path}: ")
    words = words.removeprefix(f"cannot read {path}: ")
    assert is_allowed(words), words
    return words


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples, *, colour, bits=16, before=b"", behind=b"", size=None):
    """A PNG file written by hand, with further chunks before and behind the picture."""
    rows, columns = size or samples.shape[:2]
    lines = b"".join(b"\0" + line.astype(f">u{bits // 8}").tobytes() for line in samples)
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + before + chunk(b"IDAT", zlib.compress(lines)) + behind + chunk(b"IEND", b"")


def test_eight_bits_are_multiplied_by_257_and_sixteen_kept(tmp_path):
    eight, sixteen = values_of(8), values_of(16)
    for name in ("a.png", "a.tif", "a.pgm"):
        picture = read(saved(tmp_path, eight, name))
        np.testing.assert_array_equal(picture.pixels, eight.astype(int) * 257)
        assert picture.max_value is None
        picture = read(saved(tmp_path, sixteen, name))
        np.testing.assert_array_equal(picture.pixels, sixteen)
        assert picture.pixels.dtype == np.uint16
        assert picture.header == {"rows": 24, "columns": 16} == read_header(tmp_path / name)
        assert picture.warnings == ()
    smooth = np.add.outer(np.arange(24) * 6, np.arange(16) * 5).astype(np.uint8)
    picture = read(saved(tmp_path, smooth, "a.jpg", quality=95))
    assert np.abs(picture.pixels.astype(int) - smooth.astype(int) * 257).max() < 0.02 * 65535


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_in_another_mode_is_grey(tmp_path, mode, suffix):
    values = np.where(values_of(8) > 127, 255, 0).astype(np.uint8)
    path = saved(tmp_path, Image.fromarray(values).convert(mode), f"a{suffix}")
    np.testing.assert_array_equal(read(path).pixels, values.astype(int) * 257)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_deep_colour_and_alpha_of_png_keep_all_sixteen_bits(tmp_path, colour, channels):
    grey = values_of(16)
    samples = np.repeat(grey[..., None], channels, axis=2)
    if channels in (2, 4):
        samples[..., -1] = 65535
    picture = read(written(tmp_path, png(samples, colour=colour), "a.png"))
    np.testing.assert_array_equal(picture.pixels, grey)
    assert picture.max_value == 65535
    if channels in (2, 4):
        samples[3, 3, -1] = 65534
        assert "transparent" in reason(written(tmp_path, png(samples, colour=colour), "a.png"))


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        (b"P2\n# plain\n2 1\n65535\n300 65535\n", [[300, 65535]]),
        (b"P2\n2 1\n255\n1 255\n", [[257, 65535]]),
        (b"P2 2 1 7 # seven\n0 # black\n7", [[0, 65535]]),
        (b"P5\n2 1\n4095\n" + struct.pack(">HH", 0, 4095), [[0, 65535]]),
        (b"P5\n2 1\n65535\n" + struct.pack(">HH", 7, 65535), [[7, 65535]]),
        (b"P5\n2 1\n15\n\x01\x0f", [[4369, 65535]]),
        (b"P5 # a\n# b\n2 1 255\n#\n", [[35 * 257, 10 * 257]]),
        (b"P1\n3 1\n011", [[65535, 0, 0]]),
        (b"P4\n10 1\n\x80\x40", [[0, *[65535] * 8, 0]]),
        (b"P6\n1 1\n255\n\x05\x05\x05", [[5 * 257]]),
        (b"P3 1 1 1023 512 512 512", [[round(512 / 1023 * 65535)]]),
    ],
)
def test_pnm_fills_the_range_of_its_stated_maximum(tmp_path, content, pixels):
    picture = read(written(tmp_path, content, "a.pgm"))
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.max_value is None


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"P5\n2 1\n255\n\x01", "end early"),
        (b"P5\n2 1\n9\n\x01\x0a", "above the maximum"),
        (b"P5\n2 1\n70000\n\0\0\0\0", "maximum 70000"),
        (b"P2\n2 1\n255\n1 x\n", "no number"),
        (b"P2\n2 1\n255\n1 2 3\n", "more numbers"),
        (b"P2\n2 1\n255\n1\n", "end early"),
        (b"P5\n2 1\n255\n\x01\x02P5\n2 1\n255\n\x01\x02", "several pictures"),
        (b"P5\n2\n", "no PNM header"),
        (b"P5\n99999 99999\n255\n", "more than a mammogram"),
        (b"P6\n1 1\n255\n\x05\x25\x05", "colour"),
    ],
)
def test_pnm_that_contradicts_its_header_is_refused(tmp_path, content, word):
    assert word in reason(written(tmp_path, content, "a.pgm"))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_white_brings_unscaled_bits_to_the_whole_range(tmp_path, name, bits):
    values = values_of(bits)
    path, white = saved(tmp_path, values, name), 2**bits - 1
    picture = read(path, white=white)
    np.testing.assert_array_equal(picture.pixels, np.rint(values * (65535 / white)))
    assert picture.max_value == white and picture.warnings == (f"white was taken as {white} of 65535",)
    assert f"white is {white}" in " ".join(picture.steps)
    assert f"a value of {white} is above white, {white - 1}" in reason(path, white=white - 1)


def test_without_white_16_bits_are_kept_with_a_remark_where_all_is_nearly_black(tmp_path):
    dark, light = read(saved(tmp_path, values_of(12), "a.png")), read(saved(tmp_path, values_of(13), "b.png"))
    np.testing.assert_array_equal(dark.pixels, values_of(12))
    assert len(dark.warnings) == 1 and "1/16" in dark.warnings[0] and "--white" in dark.warnings[0]
    assert dark.max_value == 4095 and light.max_value == 8191 and light.warnings == ()


def test_white_of_grey_that_is_written_as_colour(tmp_path):
    grey = values_of(12)
    samples = np.repeat(grey[..., None], 3, axis=2)
    for name, content in (("a.png", png(samples, colour=2)), ("a.tif", tiff(samples))):
        picture = read(written(tmp_path, content, name), white=4095)
        np.testing.assert_array_equal(picture.pixels, np.rint(grey * (65535 / 4095)))
    samples[..., 0] = np.clip(samples[..., 0].astype(int) - 300, 0, 4095)  # a tint that 16 bits would call noise
    assert "colour" in reason(written(tmp_path, tiff(samples), "a.tif"))


def test_significant_bits_of_png_say_nothing_of_white(tmp_path):
    # By the standard samples fill 16 bits whatever sBIT says; some writers leave them unscaled: the values decide.
    content = png(values_of(12), colour=0, before=chunk(b"sBIT", b"\x0c"))
    assert read(written(tmp_path, content, "a.png")).max_value == 4095


def test_white_is_not_applied_where_the_header_states_the_range(tmp_path):
    for name, content in (
        ("packed.tif", tiff(values_of(12), bits=12)),
        ("stated.tif", tiff(values_of(12), [(281, 3, [4095])])),
        ("maximum.pgm", b"P5\n16 24\n4095\n" + values_of(12).astype(">u2").tobytes()),
    ):
        picture = read(written(tmp_path, content, name), white=1000)
        np.testing.assert_array_equal(picture.pixels, np.rint(values_of(12) * (65535 / 4095)))
        assert picture.max_value is None and picture.warnings == ()


@pytest.mark.parametrize("stated", [3977, 65535, 1023])
def test_a_largest_value_that_is_no_depth_is_the_images_own_and_no_range(tmp_path, stated):
    values = np.minimum(values_of(12), 3977)
    picture = read(written(tmp_path, tiff(values, [(281, 3, [stated])]), "a.tif"), white=4095)
    np.testing.assert_array_equal(picture.pixels, np.rint(values * (65535 / 4095)))
    assert picture.max_value == 3977


@pytest.mark.parametrize("order", "<>")
def test_white_is_zero_is_inverted_within_white(tmp_path, order):
    values = values_of(12)
    path = written(tmp_path, tiff(values, photometric=0, order=order), "a.tif")
    np.testing.assert_array_equal(read(path, white=4095).pixels, np.rint((4095 - values) * (65535 / 4095)))
    np.testing.assert_array_equal(read(path).pixels, 65535 - values)
    assert any("inverted" in step for step in read(path).steps)


def with_orientation(folder, values, orientation, kind):
    exif = Image.Exif()
    exif[274] = orientation
    name = f"{orientation}.{kind.partition(' ')[0]}"
    if kind == "png":
        return saved(folder, values, name, exif=exif)
    if kind == "jpg":
        return saved(folder, values, name, exif=exif, quality=100)
    options = {"compression": kind.partition(" ")[2]} if " " in kind else {}
    return saved(folder, values, name, tiffinfo={274: orientation}, **options)


@pytest.mark.parametrize("shape", [SHAPE, (16, 16), (8, 24)])
@pytest.mark.parametrize(
    ("kind", "bits"),
    [*product(["png", "tif", "tif tiff_lzw", "tif tiff_adobe_deflate"], [8, 16]), ("tif jpeg", 8), ("jpg", 8)],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_upright_once(tmp_path, orientation, kind, bits, shape):
    is_lossy = kind in ("jpg", "tif jpeg")
    values = np.linspace(0, 255, shape[0] * shape[1]).reshape(shape).astype(np.uint8)
    values = values if is_lossy else values_of(bits, shape=shape)
    path = with_orientation(tmp_path, values, orientation, kind)
    image = Image.fromarray(values)
    upright = np.asarray(image.transpose(TRANSPOSES[orientation]) if orientation > 1 else image).astype(int)
    picture = read(path)
    slack = 6 * 257 if is_lossy else 0
    assert np.abs(picture.pixels - upright * (257 if bits == 8 else 1)).max() <= slack
    assert read_header(path) == picture.header == {"rows": upright.shape[0], "columns": upright.shape[1]}
    assert picture.grid == PixelGrid(*upright.shape)
    told = [f"turned upright as its orientation tag {orientation} says"] if orientation > 1 else []
    assert list(picture.warnings) == told and set(told) <= set(picture.steps)


def test_orientation_behind_the_picture_of_a_png_counts_and_a_damaged_one_does_not(tmp_path):
    values = values_of(16)
    exif = Image.Exif()
    exif[274] = 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    late = written(tmp_path, png(values, colour=0, behind=chunk(b"eXIf", block)), "a.png")
    np.testing.assert_array_equal(read(late).pixels, np.rot90(values, -1))
    for damaged in (block[:11], b"", b"\xff" * 40, block.replace(b"\x06\0", b"\x63\0")):
        path = written(tmp_path, png(values, colour=0, before=chunk(b"eXIf", damaged)), "b.png")
        np.testing.assert_array_equal(read(path).pixels, values)


@pytest.mark.parametrize(
    ("form", "name"), [("GIF", "GIF"), ("BMP", "BMP"), ("WEBP", "WebP"), ("JPEG2000", "JPEG 2000"), ("PDF", "PDF")]
)
def test_another_format_under_a_known_suffix_is_named_and_otherwise_passed_by(tmp_path, form, name):
    saved(tmp_path, values_of(8), "a.png", format=form)
    assert reason(tmp_path / "a.png") == f"it is a {name} file by its content: save it as PNG or TIFF of 16 bit"
    with pytest.raises(InputError, match=name):
        read_header(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "picture")
    assert read_header(tmp_path / "picture") is None


def test_a_header_is_found_by_content_and_missed_only_where_a_suffix_promises_one(tmp_path):
    saved(tmp_path, values_of(8), "1.2.3", format="PNG")
    assert read_header(tmp_path / "1.2.3") == {"rows": 24, "columns": 16}
    for name, content in (("notes.txt", b"P1 is the patient, 3 5"), ("list.csv", b"a,b"), ("DONE", b"")):
        assert read_header(written(tmp_path, content, name)) is None
        with pytest.raises(InputError):
            read_header(written(tmp_path, content, name + ".PNG"))


def test_a_file_in_an_archive_is_read_as_one_in_a_folder(tmp_path):
    path = with_orientation(tmp_path, values_of(16), 6, "tif")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "folder/a.tif")
    member = ZipMember(tmp_path / "a.zip", "folder/a.tif")
    np.testing.assert_array_equal(read(member).pixels, read(path).pixels)
    assert read_header(member) == read_header(path)


@pytest.mark.parametrize(("mode", "word"), [("CMYK", "CMYK ink"), ("RGB", "colour")])
def test_jpeg_in_ink_or_colour_is_refused(tmp_path, mode, word):
    path = saved(tmp_path, Image.new(mode, (16, 16), (200, 10, 10, 100)[: len(mode)]), "a.jpg")
    assert word in reason(path)


@pytest.mark.parametrize(("marker", "bits", "word"), [(0xC1, 12, "JPEG of 12 bits"), (0xC3, 8, "lossless")])
def test_jpeg_of_another_process_is_named(tmp_path, marker, bits, word):
    content = saved(tmp_path, values_of(8), "a.jpg").read_bytes()
    at = content.index(b"\xff\xc0")
    content = content[: at + 1] + bytes([marker]) + content[at + 2 : at + 4] + bytes([bits]) + content[at + 5 :]
    assert word in reason(written(tmp_path, content, "a.jpg"))


def test_a_dicom_file_with_the_preamble_of_a_tiff_file_is_no_tiff(tmp_path):
    path = written(tmp_path, tiff(values_of(16))[:128].ljust(128, b"\0") + b"DICM" + bytes(20), "a.tif")
    with pytest.raises(InputError) as caught:
        read(path)
    assert "strips" not in str(caught.value)


def jpeg_of_size(rows, columns):
    """A small JPEG that claims another size."""
    out = io.BytesIO()
    Image.fromarray(values_of(8)).save(out, "JPEG", progressive=True)
    at = out.getvalue().index(b"\xff\xc2")
    return out.getvalue()[: at + 5] + struct.pack(">HH", rows, columns) + out.getvalue()[at + 9 :]


def test_jpeg_of_endless_scans_is_refused(tmp_path):
    content = saved(tmp_path, values_of(8), "a.jpg", progressive=True).read_bytes()
    scan = content[content.rindex(b"\xff\xda") : -2]
    path = written(tmp_path, content[:-2] + scan * 300 + content[-2:], "a.jpg")
    assert "more than 200 scans" in reason(path)


def test_an_animated_png_is_refused(tmp_path):
    page = Image.fromarray(values_of(8))
    path = saved(tmp_path, page, "a.png", save_all=True, append_images=[Image.fromarray(values_of(8, 1))])
    assert reason(path) == "it has 2 frames, give one picture a file"


def test_a_value_marked_as_transparent_is_kept_with_a_remark(tmp_path):
    content = png(values_of(16), colour=0, before=chunk(b"tRNS", b"\0\0"))
    picture = read(written(tmp_path, content, "a.png"))
    np.testing.assert_array_equal(picture.pixels, values_of(16))
    assert "transparent" in picture.warnings[0]


def test_text_profiles_and_their_checksums_are_no_matter(tmp_path):
    info = PngInfo()
    info.add_text("side", "L")
    assert set(read(saved(tmp_path, values_of(8), "a.png", pnginfo=info)).header) == {"rows", "columns"}
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24))) + chunk(
        b"iCCP", b"a\0\0" + zlib.compress(bytes(2**24))
    )
    content = png(values_of(16), colour=0, before=bomb[:-4] + b"\0\0\0\0")
    np.testing.assert_array_equal(read(written(tmp_path, content, "b.png")).pixels, values_of(16))


def test_a_wrong_checksum_of_the_picture_is_refused(tmp_path):
    content = bytearray(png(values_of(16), colour=0))
    content[60] ^= 1
    assert "checksum" in reason(written(tmp_path, bytes(content), "a.png"))


def test_a_picture_of_thirty_million_pixels_is_no_bomb(tmp_path):
    path = saved(tmp_path, Image.new("L", (5000, 6000), 3), "big.png", compress_level=1)
    assert read(path).pixels.shape == (6000, 5000)


BOMBS = {
    "huge.png": lambda: png(values_of(16), colour=0, size=(2**31 - 1, 2**31 - 1)),
    "large.png": lambda: png(values_of(16), colour=2, size=(11000, 12000)),
    "huge.tif": lambda: tiff(values_of(16), [(256, 4, [2**32 - 1]), (257, 4, [2**32 - 1])]),
    "large.tif": lambda: tiff(values_of(16), [(256, 4, [11000]), (257, 4, [12000]), (278, 4, [12000])], compression=8),
    "tiles.tif": lambda: tiff(
        values_of(16), [(256, 4, [11000]), (257, 4, [12000]), (322, 4, [1]), (323, 4, [1])], tile=16
    ),
    "deflated.tif": lambda: tiff(np.zeros((8000, 8000), np.uint16), [(257, 4, [20]), (278, 4, [20])], compression=8),
    "count.tif": lambda: tiff(values_of(16), [(279, 4, [2**32 - 1])]),
    "large.jpg": lambda: jpeg_of_size(11000, 12000),
    "tile.tif": lambda: tiff(values_of(16), [(322, 4, [11008]), (323, 4, [11008])], tile=16, compression=8),
    "large.pgm": lambda: b"P5 11000 12000 65535\n",
    "plain.pgm": lambda: b"P2 11000 12000 65535\n1 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_what_claims_to_be_large_takes_no_memory(tmp_path, name):
    path = written(tmp_path, BOMBS[name](), name)
    reason(path)
    script = (
        "import resource, sys, time; from mammovae.imageio.read import read\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()\n"
        "try: read(__import__('pathlib').Path(sys.argv[1]))\n"
        "except ValueError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - start)"
    )
    out = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True).stdout
    kilobytes, seconds = map(float, out.split())
    assert kilobytes < 100_000 and seconds < 2


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("string"),
        TypeError("'NoneType' object is not iterable"),
        AttributeError("'list' object has no attribute 'x'"),
        ValueError("cannot reshape array of size 5 into shape (2,3)"),
        KeyError("PixelData"),
        IndexError("list index out of range"),
        struct.error("unpack requires a buffer of 4 bytes"),
        OSError(5, "Input/output error"),
        MemoryError(),
        RecursionError("maximum recursion depth exceeded"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ValueError("could not convert string to float: '1,5'"),
        EOFError(),
        RuntimeError("broken data stream when reading image file"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_reason_is_a_python_message(error):
    words = plain_reason(error)
    assert is_allowed(words), words
    assert not re.search(r"object|list|array|index|buffer|recursion|utf|string|Error", words), words


def test_the_steps_say_how_values_became_grey(tmp_path):
    samples = np.repeat(values_of(16)[..., None], 3, axis=2)
    steps = read(written(tmp_path, tiff(samples, [(274, 3, [3])]), "a.tif")).steps
    assert steps == (
        "16 bits a sample are stored",
        "red, green and blue agree, green was taken",
        "its header does not state the range, white is 65535",
        "0..65535 was mapped to 0..65535",
        "turned upright as its orientation tag 3 says",
    )


def test_a_png_without_its_end_is_refused(tmp_path):
    assert "end early" in reason(written(tmp_path, png(values_of(16), colour=0)[:-12], "a.png"))


def test_a_jpeg_whose_rest_was_never_fetched_is_refused_at_once(tmp_path):
    path = written(tmp_path, b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(40_000_000), "a.jpg")
    begin = time.process_time()
    assert "end early" in reason(path)
    assert time.process_time() - begin < 1


def test_a_png_whose_rest_was_never_fetched_is_refused_at_once(tmp_path):
    content = png(np.zeros((24, 16), np.uint16), colour=0)
    assert "none of PNG's" in reason(written(tmp_path, content[:33] + bytes(10_000_000), "a.png"))
