"""Values of a DICOM header: what is written right is read right, what is not is absent and said, and nothing raises."""

import io

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mammovae.imageio.decoded_image import UnreadableError
from mammovae.imageio.dicom_header import header_warnings, read_attributes
from mammovae.imageio.dicom_values import Code, Values
from mammovae.imageio.image_kind import holds_no_image


def as_stored(name, content, vr, *, little=True):
    """A data set of one element as a file holds it, before anyone has looked at its value."""
    dataset, tag = Dataset(), Tag(name)
    dataset[tag] = RawDataElement(tag, vr, len(content), content, 0, vr is None, little)
    return dataset


def group(macro, **attributes):
    """A functional group of one macro."""
    item, outer = Dataset(), Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    setattr(outer, macro, Sequence([item]))
    return outer


@pytest.mark.parametrize(
    ("name", "vr", "content", "number"),
    [
        ("WindowCenter", "DS", b"1200 ", 1200),
        ("WindowCenter", "DS", b" -1.5e3", -1500),
        ("WindowCenter", "DS", b"+.5\0", 0.5),
        ("WindowCenter", "DS", b"7.", 7),
        ("WindowCenter", None, b"1200", 1200),
        ("WindowCenter", "UN", b"1200", 1200),
        ("WindowCenter", "LO", b"1200", 1200),
        ("WindowCenter", "FD", b"\0\0\0\0\0\xc0\x92\x40", 1200),
        ("WindowCenter", "US", b"\xb0\x04", 1200),
        ("NumberOfFrames", "IS", b"12.0", 12),
        ("Rows", "US", b"\x00\x02", 512),
        ("Rows", "US", b"  ", 0x2020),
        ("Rows", "US", b"\0\0", 0),
        ("Rows", "UN", b"\x00\x02", 512),
        ("Rows", "OW", b"\x00\x02", 512),
        ("Rows", None, b"\x00\x02", 512),
        ("Rows", "SS", b"\xff\xff", -1),
        ("Rows", "IS", b"512 ", 512),
        ("PixelPaddingValue", None, b"\xff\xff", 65535),
        ("PixelPaddingValue", "SS", b"\xff\xff", -1),
    ],
)
def test_a_number_is_read_in_whatever_representation_it_is_stored(name, vr, content, number):
    values = Values(as_stored(name, content, vr))
    assert values.number(name) == number
    assert values.numbers(name) == [number]
    assert values.warnings == []


def test_big_endian_numbers_are_turned():
    assert Values(as_stored("Rows", b"\x02\x00", "US", little=False)).number("Rows") == 512


@pytest.mark.parametrize(
    ("content", "number"), [(b"2048,0", 2048), (b"4096,0", 4096), (b"-1,5", -1.5), (b"1200,5", 1200.5), (b",5", 0.5)]
)
def test_a_comma_is_read_as_a_point_with_a_warning(content, number):
    values = Values(as_stored("WindowCenter", content, "DS"))
    assert values.number("WindowCenter") == number
    assert values.warnings == [f"WindowCenter '{content.decode()}' was read as {number:g}"]


@pytest.mark.parametrize(
    "content",
    [
        b"nan",
        b"inf",
        b"-Infinity",
        b"1e999",
        b"abc",
        b"1_0",
        b"1,200.5",
        b"1,2,3",
        b"12 34",
        b"0x10",
        "٣".encode(),
        b"--1",
    ],
)
@pytest.mark.parametrize("vr", ["DS", "IS", None, "UN"])
def test_what_is_no_finite_number_is_absent_with_a_warning(content, vr):
    values = Values(as_stored("WindowCenter", content, vr))
    assert values.number("WindowCenter") is None
    assert values.numbers("WindowCenter") == []
    assert values.integer("WindowCenter") is None
    assert values.has("WindowCenter")
    assert len(values.warnings) == 1 and values.warnings[0].endswith("is no number and was ignored")


@pytest.mark.parametrize("content", [b"\x01", b"\x01\x02\x03"])
def test_bytes_of_the_wrong_length_are_no_number(content):
    values = Values(as_stored("Rows", content, "US"))
    assert values.number("Rows") is None
    assert f"Rows holds {len(content)} bytes" in values.warnings[0]


def test_digits_that_are_stored_as_an_integers_bytes_are_not_taken_for_text():
    assert Values(as_stored("Rows", b"12\0", "US")).number("Rows") is None


def test_a_value_far_too_long_is_not_taken_apart():
    values = Values(as_stored("WindowCenter", b"1\\" * 10**6, "DS"))
    assert values.number("WindowCenter") is None
    assert "too long" in values.warnings[0]


def test_of_several_values_the_first_is_the_number_and_a_wrong_one_spoils_only_the_list():
    values = Values(as_stored("WindowCenter", b"1000\\x\\3000", "DS"))
    assert values.number("WindowCenter") == 1000
    assert values.warnings == []
    assert values.numbers("WindowCenter") == []
    assert Values(as_stored("WindowCenter", b"1000\\3000\\", "DS")).numbers("WindowCenter") == [1000, 3000]


def test_a_whole_number_may_have_a_point_but_no_fraction():
    assert Values(as_stored("NumberOfFrames", b"12.0", "IS")).integer("NumberOfFrames") == 12
    values = Values(as_stored("NumberOfFrames", b"12.5", "IS"))
    assert values.integer("NumberOfFrames") is None
    assert values.warnings == ["NumberOfFrames 12.5 is no whole number and was ignored"]


@pytest.mark.parametrize("content", [b"", b"  ", b"\0\0"])
def test_an_empty_value_is_absent_without_a_warning(content):
    values = Values(as_stored("WindowCenter", content, "DS"))
    assert not values.has("WindowCenter")
    assert values.number("WindowCenter") is None and values.text("WindowCenter") is None
    assert values.warnings == []


def test_the_same_fault_is_said_once():
    values = Values(as_stored("WindowCenter", b"abc", "DS"))
    for _ in range(3):
        values.number("WindowCenter")
    assert len(values.warnings) == 1


def test_text_keeps_all_its_values_and_its_character_set():
    dataset = as_stored("PatientID", "Müller".encode(), "LO")
    assert Values(dataset).text("PatientID") == "MÃ¼ller"  # without a character set, bytes are Latin-1
    dataset.SpecificCharacterSet = "ISO_IR 192"
    assert Values(dataset).text("PatientID") == "Müller"
    dataset.update(as_stored("SpecificCharacterSet", b"ISO-IR 192", "CS"))
    assert Values(dataset).text("PatientID") == "Müller"
    dataset.ImageType = ["DERIVED", "", "TOMO"]
    assert Values(dataset).texts("ImageType") == ["DERIVED", "", "TOMO"]
    assert Values(dataset).text("ImageType") == "DERIVED\\\\TOMO"


def test_text_is_one_line():
    assert Values(as_stored("PatientID", b"A\r\nB\tC\x07", "LO")).text("PatientID") == "A  B C"


def test_an_unknown_character_set_is_latin_1_with_a_warning():
    dataset = as_stored("PatientID", b"M\xfcller", "LO")
    dataset.SpecificCharacterSet = "KLINGON"
    values = Values(dataset)
    assert values.text("PatientID") == "Müller"
    assert values.warnings == ["the unknown character set 'KLINGON' was taken for Latin-1"]


def test_a_persons_name_is_one_text():
    dataset = Dataset()
    dataset.PatientName = "A^B"
    assert Values(dataset).text("PatientName") == "A^B"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_file_gives_the_same_values_in_every_transfer_syntax(syntax):
    dataset = Dataset()
    dataset.Rows, dataset.WindowCenter, dataset.PatientAge = 512, ["1000", "2000.5"], "053Y"
    dataset.add_new("PixelPaddingValue", "US", 4095)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399162004", "SCT", "cranio-caudal"
    dataset.ViewCodeSequence = Sequence([code])
    buffer = io.BytesIO()
    dataset.save_as(buffer, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    buffer.seek(0)
    dataset = pydicom.dcmread(buffer, force=True)
    values = Values(dataset)
    assert values.integer("Rows") == 512
    assert values.numbers("WindowCenter") == [1000, 2000.5]
    assert values.text("PatientAge") == "053Y"
    assert values.integer("PixelPaddingValue") == 4095
    assert values.codes("ViewCodeSequence") == [Code("399162004", "SCT", "cranio-caudal")]
    assert values.warnings == []


@pytest.mark.parametrize("sequence", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_functional_groups_are_read_where_the_data_set_has_none(sequence):
    dataset = Dataset()
    merged = group("FrameVOILUTSequence", WindowCenter="1200", WindowWidth="900", VOILUTFunction="SIGMOID")
    merged.update(group("PixelValueTransformationSequence", RescaleSlope="2", RescaleIntercept="-5"))
    merged.update(group("PixelMeasuresSequence", PixelSpacing=["0.1", "0.1"]))
    merged.update(group("FrameAnatomySequence", FrameLaterality="R"))
    setattr(dataset, sequence, Sequence([merged]))
    values = Values(dataset)
    assert (values.number("WindowCenter"), values.number("WindowWidth")) == (1200, 900)
    assert values.text("VOILUTFunction") == "SIGMOID"
    assert (values.number("RescaleSlope"), values.number("RescaleIntercept")) == (2, -5)
    assert values.numbers("PixelSpacing") == [0.1, 0.1]
    assert values.text("FrameLaterality") == "R"
    dataset.WindowCenter, dataset.RescaleSlope = "7", ""
    assert Values(dataset).number("WindowCenter") == 7
    assert Values(dataset).number("RescaleSlope") == 2


def test_the_first_frames_group_goes_before_the_shared_one_and_a_damaged_one_is_passed_over():
    dataset = Dataset()
    dataset.SharedFunctionalGroupsSequence = Sequence([group("FrameVOILUTSequence", WindowCenter="1")])
    frames = [group("FrameVOILUTSequence", WindowCenter=number) for number in ("2", "3")]
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    assert Values(dataset).number("WindowCenter") == 2
    tag = Tag("PerFrameFunctionalGroupsSequence")
    dataset[tag] = RawDataElement(tag, "SQ", 4, b"junk", 0, False, True)
    values = Values(dataset)
    assert values.number("WindowCenter") == 1
    assert values.warnings == ["PerFrameFunctionalGroupsSequence is damaged and was ignored"]


def test_a_value_of_the_patient_is_not_looked_for_in_functional_groups():
    dataset = Dataset()
    dataset.SharedFunctionalGroupsSequence = Sequence([group("FrameAnatomySequence", PatientID="x")])
    assert Values(dataset).text("PatientID") is None


@pytest.mark.parametrize(("vr", "content"), [("SQ", b"junk"), ("UN", b"xyz"), ("LO", b"text"), ("US", b"\1\2")])
def test_what_is_no_sequence_has_no_items(vr, content):
    values = Values(as_stored("ViewCodeSequence", content, vr))
    assert values.items("ViewCodeSequence") == [] and values.codes("ViewCodeSequence") == []
    assert values.warnings == ["ViewCodeSequence is damaged and was ignored"]


NAMES = [
    *("WindowCenter", "WindowWidth", "RescaleSlope", "Rows", "NumberOfFrames", "PatientAge", "PatientID", "Modality"),
    *("ImageType", "ViewCodeSequence", "PixelSpacing", "SOPClassUID", "BodyPartExamined", "SpecificCharacterSet"),
    *("SharedFunctionalGroupsSequence", "EstimatedRadiographicMagnificationFactor", "VOILUTSequence", "LUTDescriptor"),
    *("PixelPaddingValue", "ImageLaterality", "AnatomicRegionSequence", "PatientName", "LUTData"),
]
REPRESENTATIONS = [None, "UN", "DS", "IS", "US", "SS", "FD", "OW", "SQ", "LO", "CS", "PN", "UI", "AS", "AT", "UT", "ZZ"]
MOSTLY_NUMBERS = st.text("0123456789.,-+eE\\ \0nainf_", max_size=12).map(str.encode)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(NAMES), vr=st.sampled_from(REPRESENTATIONS), content=st.binary(max_size=24) | MOSTLY_NUMBERS
)
def test_no_bytes_in_any_attribute_make_reading_raise(name, vr, content):
    dataset = as_stored(name, content, vr)
    values = Values(dataset)
    values.text(name), values.texts(name), values.number(name), values.numbers(name), values.integer(name)
    values.items(name), values.codes(name), values.stored(name), values.has(name), values.quote(name)
    holds_no_image(values)
    for read in (read_attributes, header_warnings):
        try:
            read(values)
        except UnreadableError as error:
            assert str(error).isprintable()
    assert all(sentence.isprintable() for sentence in values.warnings)


@settings(max_examples=400, deadline=None)
@given(content=MOSTLY_NUMBERS, vr=st.sampled_from(["DS", "IS", None, "UN"]))
def test_a_number_is_what_the_whole_text_says_or_nothing(content, vr):
    first = content.decode().split("\\")[0].strip(" \0")
    number = Values(as_stored("WindowCenter", content, vr)).number("WindowCenter")
    if number is not None:
        assert number == float(first.replace(",", "."))
        assert not set(first) & set("naif_")


def test_stored_bytes_keep_their_order_and_whole_numbers_become_words():
    assert Values(as_stored("LUTData", b"\1\2", "OW", little=False)).stored("LUTData") == (b"\1\2", False)
    assert Values(as_stored("LUTData", b"\0\0", "OW")).stored("LUTData") == (b"\0\0", True)
    dataset = Dataset()
    dataset.add_new("LUTData", "US", [1, 513])
    assert Values(dataset).stored("LUTData") == (b"\1\0\1\2", True)
    assert Values(Dataset()).stored("LUTData") is None


def test_an_items_text_has_the_character_set_of_the_data_set():
    dataset = as_stored("SpecificCharacterSet", b"ISO_IR 192", "CS")
    dataset.ViewCodeSequence = Sequence([as_stored("CodeMeaning", "schräg".encode(), "LO")])
    assert Values(dataset).codes("ViewCodeSequence") == [Code("", "", "schräg")]
