"""Opening DICOM files: what is DICOM, in what order it is read, how much of it, and what pydicom has to say."""

import io
import logging
import struct
import subprocess
import sys
import threading
import time
import warnings
import zipfile
import zlib

import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGExtended12Bit, RLELossless
from tests.imageio.test_dicom_pixels import compressed, flat_jpeg_of_12_bits, framed, grey, read_dicom, stretched
from tests.imageio.test_read import mammogram, save

from mammovae.imageio import dicom_reader
from mammovae.imageio.decoded_image import UnreadableError
from mammovae.imageio.dicom_reader import collect_pydicom_warnings
from mammovae.imageio.raw_tree import ZipMember
from mammovae.imageio.read import read, read_header


def deflated(folder, header=b"", pixels=None, name="deflated.dcm"):
    """A deflated file of a small mammogram, with bytes before the pixels, or a blank picture of so many bytes."""
    dataset = mammogram(grey())
    plain = save(dataset, folder).read_bytes()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    meta = DicomBytesIO()
    write_file_meta_info(meta, dataset.file_meta)
    begin, end = plain.index(b"\x08\x00\x16\x00UI"), plain.index(b"\xe0\x7f\x10\x00OW")
    inflated = [plain[begin:end] + header, plain[end:]]
    deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    if pixels is None:
        content = deflate.compress(b"".join(inflated))
    else:
        content = deflate.compress(inflated[0] + plain[end : end + 8] + struct.pack("<I", pixels))
        content += b"".join(deflate.compress(bytes(2**20)) for _ in range(pixels // 2**20))
    path = folder / name
    path.write_bytes(b"\0" * 128 + b"DICM" + meta.getvalue() + content + deflate.flush())
    return path


def refusal(path, min_length=None):
    with pytest.raises(UnreadableError) as caught:
        read_dicom(path, min_length)
    return str(caught.value)


def peak_memory(path):
    """The most memory, in MB, that a process takes to read a file, above what it has when it begins."""
    code = (
        "import resource, sys; from pathlib import Path; from mammovae.imageio.read import read\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = used()\n"
        "try: read(Path(sys.argv[1]))\n"
        "except Exception: pass\n"
        "print(used() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_file_in_a_zip_is_read_as_one_in_a_folder_and_unpacked_once(tmp_path, monkeypatch):
    path = save(mammogram(grey()), tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "inner/image.dcm")
        archive.writestr("inner/notes.txt", "no image, but long enough to be looked at " * 9)
    member = ZipMember(tmp_path / "a.zip", "inner/image.dcm")
    assert read_header(ZipMember(tmp_path / "a.zip", "inner/notes.txt")) is None
    unpacked, unpack = [], zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *given: (unpacked.append(given[1]), unpack(*given))[1])
    header = read_header(member)
    assert header is not None and header == read_header(path) and len(unpacked) == 1
    np.testing.assert_array_equal(read(member).pixels, read(path).pixels)
    assert len(unpacked) == 2


def test_the_header_is_judged_before_pixels_are_read(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("pixels were read")

    monkeypatch.setattr(dicom_reader, "read_pixel_data", never)
    for attributes, words in (
        ({"Modality": "CT"}, "CT"),
        ({"NumberOfFrames": 60}, "60 frames"),
        ({"Rows": 65000, "Columns": 65000}, "more than"),
        ({"BitsStored": 40}, "BitsStored"),
    ):
        assert words in refusal(save(mammogram(grey(), **attributes), tmp_path))


def test_how_the_pixels_were_stored_is_the_first_step(tmp_path):
    plain = read_dicom(save(mammogram(grey()), tmp_path), None).steps
    assert plain[0] == "48 rows of 40 pixels are stored as Explicit VR Little Endian" and len(plain) > 1
    packed = read_dicom(save(compressed(grey(), JPEG2000Lossless), tmp_path), None).steps
    assert "a JPEG 2000 stream of 12 bits" in packed[0]
    low = read_dicom(save(mammogram(grey() << 4, HighBit=15), tmp_path), None).steps
    assert "its 12 bits were moved down from HighBit 15" in low


def test_a_reduced_decoding_is_a_step(tmp_path):
    values = np.add.outer(np.arange(600), np.arange(400)).astype(np.uint16)
    dataset = compressed(values, JPEG2000Lossless)
    picture = read_dicom(save(dataset, tmp_path), 150)
    assert picture.grid.factor == 4 and "decoded at 1/4 of the resolution" in picture.steps


def test_deflated_files_are_read(tmp_path):
    picture = read_dicom(deflated(tmp_path), None)
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))
    assert picture.warnings == () and "Deflated" in picture.steps[0]


def test_a_deflated_header_longer_than_the_first_piece_is_read(tmp_path):
    private = b"\x09\x00\x10\x10UN\0\0" + struct.pack("<I", 3 * 2**20) + bytes(3 * 2**20)
    np.testing.assert_array_equal(read_dicom(deflated(tmp_path, private), None).pixels, stretched(grey()))


@pytest.mark.slow
def test_deflated_bombs_take_no_more_than_their_image_needs(tmp_path):
    in_pixels = deflated(tmp_path, pixels=300 * 2**20)
    assert "more than its image needs" in refusal(in_pixels)
    private = b"\x09\x00\x10\x10UN\0\0" + struct.pack("<I", 300 * 2**20) + bytes(300 * 2**20)
    in_header = deflated(tmp_path, private, name="header.dcm")
    del private
    assert "more than its image needs" in refusal(in_header)
    assert peak_memory(in_pixels) < 60 and peak_memory(in_header) < 150


def test_damaged_deflated_files_are_refused(tmp_path):
    path = deflated(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-500])
    assert "truncated" in refusal(path) or "damaged" in refusal(path)
    begin = content.index(b"1.2.840.10008.1.2.1.99") + 200
    path.write_bytes(content[:begin] + bytes(200) + content[begin + 200 :])
    assert refusal(path)


def test_a_blank_stream_of_a_hundred_million_pixels_costs_nothing(tmp_path):
    stream = bytearray(encode_array(np.zeros((64, 64), np.uint16), bits_stored=12, photometric_interpretation=2))
    for place in (8, 12, 24, 28):
        struct.pack_into(">I", stream, place, 11000)
    dataset = compressed(grey(), JPEG2000Lossless, Rows=11000, Columns=11000)
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(stream)])
    path = save(dataset, tmp_path)
    assert "no picture with content" in refusal(path) and peak_memory(path) < 30


def test_compressed_data_far_larger_than_the_pixels_are_not_read(tmp_path):
    dataset = compressed(grey(), RLELossless)
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(dataset.PixelData) + bytes(2**20)])
    assert "far more than its pixels need" in refusal(save(dataset, tmp_path))


def test_a_length_beyond_the_end_of_the_file_is_a_remark_where_all_pixels_are_there(tmp_path):
    path = save(mammogram(grey()), tmp_path)
    content = bytearray(path.read_bytes())
    place = content.index(b"\xe0\x7f\x10\x00OW") + 8
    struct.pack_into("<I", content, place, 4000)
    path.write_bytes(content)
    picture = read_dicom(path, None)
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))
    assert picture.warnings == ("Pixel Data claims 4,000 bytes of which the file holds 3,840",)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_pixels_say_how_many_there_are(tmp_path, share):
    path = save(mammogram(grey(rows=200, columns=200)), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in refusal(path) and "80,000" in refusal(path)


def test_compressed_data_whose_end_is_not_marked_are_read_with_a_remark(tmp_path):
    path = save(compressed(grey(), JPEG2000Lossless), tmp_path)
    content = path.read_bytes()
    assert content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    path.write_bytes(content[:-8])
    picture = read_dicom(path, None)
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))
    assert picture.warnings == ("the end of its compressed pixel data is not marked",)


def test_a_file_without_pixels_says_what_it_is(tmp_path):
    dataset = mammogram(grey(), SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    del dataset.PixelData
    assert "Secondary Capture" in refusal(save(dataset, tmp_path))
    dataset.FloatPixelData = np.zeros(48 * 40, np.float32).tobytes()
    assert "no integer pixel data" in refusal(save(dataset, tmp_path))


@pytest.mark.parametrize("depth", [50, 2000])  # pydicom runs out of bytes, or of Python's stack
def test_sequences_in_sequences_without_end_are_refused_in_words(tmp_path, depth):
    path = save(mammogram(grey()), tmp_path)
    content = path.read_bytes()
    place = content.index(b"\x20\x00\x0d\x00") if b"\x20\x00\x0d\x00" in content else content.index(b"\x28\x00\x02\x00")
    nested = (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth
    path.write_bytes(content[:place] + nested + content[place:])
    sentence = refusal(path)
    assert "recursion" not in sentence and ("sequences" in sentence or "damaged" in sentence)


def test_what_pydicom_remarks_on_is_a_clause_without_the_files_own_words():
    with collect_pydicom_warnings() as said:
        logging.getLogger("pydicom").warning("Invalid value for VR PN: 'Doe^Jane'. Please see the standard")
        logging.getLogger("pydicom.filereader").warning("Expected explicit VR, but found implicit VR - using implicit")
        logging.getLogger("pydicom").warning("Invalid value for VR PN: 'Roe^Richard'")
        logging.getLogger("pydicom").warning("Unknown encoding '\x01Doe' - using default encoding instead")
    assert said == ["invalid value for VR PN", "expected explicit VR, but found implicit VR", "unknown encoding"]


def test_pydicoms_remarks_do_not_name_a_file_that_has_no_name_here():
    with collect_pydicom_warnings() as said:
        logging.getLogger("pydicom").warning(
            "End of file reached before delimiter (FFFE,E0DD) found in file <no filename>"
        )
    assert said == ["end of file reached before delimiter (FFFE,E0DD)"]


def test_pydicoms_remark_on_a_file_is_in_its_row(tmp_path):
    path = save(mammogram(grey()), tmp_path)
    content = bytearray(path.read_bytes())
    dataset = Dataset()
    dataset.update(pydicom.dcmread(path))
    implicit = io.BytesIO()
    pydicom.filewriter.write_dataset(_implicit(implicit), dataset)
    begin = content.index(b"\x08\x00\x16\x00UI")
    path.write_bytes(bytes(content[:begin]) + implicit.getvalue())
    picture = read_dicom(path, None)
    np.testing.assert_array_equal(picture.pixels, stretched(grey()))
    assert picture.warnings == ("expected explicit VR, but found implicit VR",)


def _implicit(buffer):
    stream = pydicom.filebase.DicomIO(buffer)
    stream.is_little_endian, stream.is_implicit_VR = True, True
    return stream


def test_remarks_are_few_and_of_their_own_thread():
    started, done = threading.Event(), threading.Event()
    logger = logging.getLogger("pydicom")

    def other():
        started.wait()
        logger.warning("from another thread")
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with collect_pydicom_warnings() as said:
        started.set()
        done.wait()
        for number in range(9):
            logger.warning("remark %d", number)
    thread.join()
    assert said == ["remark 0", "remark 1", "remark 2"]


def test_threads_that_read_leave_warnings_and_handlers_as_they_were(tmp_path):
    path = save(compressed(grey(), JPEG2000Lossless), tmp_path)
    before = list(logging.getLogger("pydicom").handlers), list(warnings.filters), warnings.showwarning
    threads = [threading.Thread(target=lambda: [read_dicom(path, None) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (list(logging.getLogger("pydicom").handlers), list(warnings.filters), warnings.showwarning) == before


@pytest.mark.parametrize("min_length", [None, 150])
def test_what_is_wrong_with_a_header_value_is_remarked_on_however_the_pixels_are_decoded(tmp_path, min_length):
    values = np.add.outer(np.arange(600), np.arange(400)).astype(np.uint16)
    path = save(compressed(values, JPEG2000Lossless, WindowCenter="512", WindowWidth="1024"), tmp_path)
    content = path.read_bytes()
    assert content.count(b"1024") == 1
    path.write_bytes(content.replace(b"1024", b"10x4"))
    assert any("WindowWidth '10x4'" in warning for warning in read_dicom(path, min_length).warnings)


def test_reading_prints_nothing(tmp_path):
    dataset = mammogram(grey(), StudyInstanceUID="1.2.03.4")
    dataset.PixelData += bytes(6)
    twelve = np.full((6, 5), 700)
    jpeg = framed(mammogram(np.zeros((48, 40), np.uint16)), flat_jpeg_of_12_bits(twelve), JPEGExtended12Bit)
    paths = save(dataset, tmp_path, "plain.dcm"), save(jpeg, tmp_path, "jpeg.dcm")
    code = (
        "import sys; from pathlib import Path; from mammovae.imageio.read import read\n"
        "for path in sys.argv[1:]: read(Path(path))\n"
        "print('the end', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == "the end\n"


@pytest.mark.parametrize("kept", [132, 145, 233, 500])
def test_a_file_whose_rest_was_never_fetched_is_refused_at_once(tmp_path, kept):
    path = save(mammogram(grey()), tmp_path)
    path.write_bytes(path.read_bytes()[:kept] + bytes(40_000_000))
    begin = time.process_time()
    assert "ends in zeros" in refusal(path)
    assert time.process_time() - begin < 2
