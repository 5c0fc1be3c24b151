"""The DICOM files that pydicom brings for its own tests: none is a mammogram, and each is refused for a true reason.

What is expected was read off the files (their attributes, and their pixels as other programs show them).
"""

import re
from fnmatch import fnmatch
from pathlib import Path

import pydicom
import pytest

import mammovae as mv
from mammovae.config import InputError
from mammovae.data import index
from mammovae.imageio.read import read, read_header

FOLDER = Path(pydicom.__file__).parent / "data"

PASSED_OVER = "passed over"
"""By its nature no image: read_header returns None, so that prepare has no row for it."""
TAKEN = "taken"
"""A secondary capture that may be anything: read, as a mammogram, with a remark on its modality."""

CT, MR, NM, US = r"modality is CT\b", r"modality is MR\b", r"modality is NM\b", r"modality is US\b"
COLOUR = r"in colour"
NO_PIXELS = r"pixel data"
EXPECTED: list[tuple[str, str]] = [
    # Files that are not DICOM, by content, whatever else stands in the folder.
    ("*.txt", PASSED_OVER),
    ("*.md", PASSED_OVER),
    ("*.json", PASSED_OVER),
    ("*.icc", PASSED_OVER),
    ("*.dump", PASSED_OVER),
    ("*.gz", PASSED_OVER),
    ("*/README", PASSED_OVER),
    # A cervical spine and a chest, computed radiography; the chests have no pixels either.
    ("*/dicomdirtests/77654033/CR?/*", r"body part is CSPINE"),
    ("charset_files/chrJapMulti*.dcm", rf"body part is CHEST|{NO_PIXELS}"),
    ("charset_files/chrKoreanMulti.dcm", rf"body part is CHEST|{NO_PIXELS}"),
    # Names in many alphabets, around a small grey picture; two hold a sequence and no picture.
    ("charset_files/chrSQEncoding*.dcm", rf"MR Image|{NO_PIXELS}"),
    ("charset_files/*.dcm", TAKEN),
    ("palettes/*.dcm", PASSED_OVER),
    ("*/DICOMDIR*", PASSED_OVER),
    ("*/dicomdirtests/*/CT*/*", CT),
    ("*/dicomdirtests/*/MR*/*", MR),
    ("*/dicomdirtests/TINY_ALPHA/*", CT),
    # Computed tomography, magnetic resonance, nuclear medicine and ultrasound, in every encoding.
    ("*/693_J2KI.dcm", CT),
    ("*/CT_small.dcm", CT),
    ("*/J2K_pixelrep_mismatch.dcm", CT),
    ("*/MR_*.dcm", MR),
    ("*/examples_overlay.dcm", MR),
    ("*/JPEG-lossy.dcm", NM),
    ("*/JPGExtended.dcm", NM),
    ("*/JPEG2000*.dcm", NM),
    ("*/ExplVR_BigEnd.dcm", US),
    ("*/examples_*.dcm", US),
    # Radiotherapy, segmentations, reports and waveforms.
    ("*/ExplVR_*NoMeta.dcm", PASSED_OVER),
    ("*/rtplan*.dcm", PASSED_OVER),
    ("*/rtstruct.dcm", PASSED_OVER),
    ("*/rtdose*.dcm", PASSED_OVER),
    ("*/badVR.dcm", PASSED_OVER),
    ("*/liver*.dcm", PASSED_OVER),
    ("*/report*.dcm", PASSED_OVER),
    ("*/test-SR.dcm", PASSED_OVER),
    ("*/waveform_ecg.dcm", PASSED_OVER),
    # Secondary captures: colour bars and the like, some of two frames or 32 bits; and three grey ones.
    ("*/SC_rgb_rle_16bit_2frame.dcm", rf"2 frames|{COLOUR}"),
    ("*/SC_rgb_rle_2frame.dcm", rf"2 frames|{COLOUR}"),
    ("*/SC_rgb_rle_32bit*.dcm", rf"32 bits|of 32\b|BitsAllocated|BitsStored|2 frames|{COLOUR}"),
    ("*/SC_*.dcm", COLOUR),
    ("*/GDCMJ2K_TextGBR.dcm", COLOUR),
    ("*/JPEGLSNearLossless_*.dcm", TAKEN),
    ("*/image_dfl.dcm", TAKEN),
    # Parts of files: a few elements of an MR, a CT, a portal image, of nothing known; pixels that nothing describes.
    ("*/UN_sequence.dcm", rf"CT Image|{NO_PIXELS}"),
    ("*/no_meta_group_length.dcm", rf"RT Image|{NO_PIXELS}"),
    ("*/no_meta.dcm", r"no image of a known kind"),
    ("*/priv_SQ.dcm", rf"MR Image|{NO_PIXELS}"),
    ("*/empty_charset_LEI.dcm", NO_PIXELS),
    ("*/meta_missing_tsyntax.dcm", r"Rows|rows"),
    ("*/nested_priv_SQ.dcm", r"Rows|rows"),
]
"""The first pattern that a file's path matches says what is right."""


def foreign_files() -> list[str]:
    files = (path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())
    return sorted(name for name in files if not name.endswith((".py", ".pyc")))


def expected(name: str) -> str:
    return next((right for pattern, right in EXPECTED if fnmatch(name, pattern)), "no pattern matches it")


@pytest.mark.parametrize("name", foreign_files())
def test_a_foreign_file_is_known_for_what_it_is(name: str) -> None:
    right = expected(name)
    if right == PASSED_OVER:
        assert read_header(FOLDER / name) is None
        with pytest.raises(InputError):
            read(FOLDER / name)
    elif right == TAKEN:
        picture = read(FOLDER / name)
        assert picture.header["kind"] == "mammogram"
        assert any("modality" in remark for remark in picture.warnings), picture.warnings
    else:
        with pytest.raises(InputError) as caught:
            read(FOLDER / name)
        assert re.search(right, str(caught.value)), str(caught.value)


def test_every_pattern_is_of_a_file() -> None:
    # A pattern of nothing says that the table is out of date; only versions of pydicom differ in their files.
    names = foreign_files()
    if len(names) > 150:
        assert [pattern for pattern, _ in EXPECTED if not any(fnmatch(name, pattern) for name in names)] == []


@pytest.mark.slow
def test_prepare_has_a_row_for_each_that_is_an_image_and_none_for_others(tmp_path: Path) -> None:
    mv.prepare("dicom", FOLDER, out=tmp_path / "data", workers=2, settings=mv.PrepareSettings(size=16))
    frame = index.read(tmp_path / "data" / "index.parquet").set_index("source")
    images = [name for name in foreign_files() if expected(name) != PASSED_OVER]
    assert sorted(frame.index) == images
    refused = [name for name in images if expected(name) != TAKEN]
    assert set(frame.loc[refused, "status"]) == {"failed"}
    assert [name for name in refused if not re.search(expected(name), frame["reason"][name])] == []
