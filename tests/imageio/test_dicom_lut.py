"""Stored values to grey: what is wrong is left out with a remark where grey stays right, and refused where not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.imageio.header_examples import header_values

from mammovae.imageio.decoded_image import UnreadableError
from mammovae.imageio.dicom_lut import build_lut, narrow_range_warnings
from mammovae.imageio.dicom_pixels import PixelDescription


def pixels(bits=12, *, signed=False, photometric="MONOCHROME2"):
    return PixelDescription(
        rows=2,
        columns=2,
        samples=1,
        bits_allocated=16,
        bits_stored=bits,
        high_bit=bits - 1,
        is_signed=signed,
        photometric=photometric,
    )


def header(**attributes):
    return header_values("DS", **attributes)


def lut_item(entries, first=0, bits=12):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return item


def grey(values, description=None):
    return build_lut(values, description or pixels()).table.astype(int)


def remarks(values, description=None):
    lut = build_lut(values, description or pixels())
    return [*lut.warnings, *values.warnings]


PLAIN = np.rint(np.arange(4096) * (65535 / 4095))


def test_a_comma_in_a_window_is_the_window_that_was_meant():
    wrong, right = header(WindowCenter=b"1200,5", WindowWidth=b"900"), header(WindowCenter="1200.5", WindowWidth="900")
    np.testing.assert_array_equal(grey(wrong), grey(right))
    assert remarks(wrong) == ["WindowCenter '1200,5' was read as 1200.5"]
    assert remarks(right) == []


def test_a_comma_in_a_width_does_not_make_a_black_and_white_picture():
    np.testing.assert_array_equal(grey(header(WindowCenter=b"2048,0", WindowWidth=b"4096,0")), PLAIN)


def test_a_comma_in_a_rescale_is_a_point():
    wrong = header(RescaleSlope=b"0,5", RescaleIntercept=b"-1,5", WindowCenter="500", WindowWidth="1000")
    right = header(RescaleSlope="0.5", RescaleIntercept="-1.5", WindowCenter="500", WindowWidth="1000")
    np.testing.assert_array_equal(grey(wrong), grey(right))
    assert "RescaleIntercept '-1,5' was read as -1.5" in remarks(wrong)


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": b"abc", "WindowWidth": b"900"},
        {"WindowCenter": b"1200", "WindowWidth": b"nan"},
        {"WindowCenter": b"1200", "WindowWidth": b"inf"},
        {"WindowCenter": b"1200"},
        {"WindowWidth": b"900"},
        {"WindowCenter": b"1200", "WindowWidth": b"0"},
        {"WindowCenter": b"1200", "WindowWidth": b"-900"},
        {"VOILUTSequence": [Dataset()]},
        {"VOILUTSequence": [lut_item([1, 2, 3], bits=17)]},
        {"VOILUTSequence": b"junk"},
    ],
)
def test_a_wrong_window_or_voi_lut_is_left_out_with_a_remark(window):
    np.testing.assert_array_equal(grey(header(**window)), PLAIN)
    assert any("was ignored" in remark for remark in remarks(header(**window)))


def test_a_damaged_voi_lut_gives_way_to_the_window():
    window = {"WindowCenter": "1200", "WindowWidth": "900"}
    np.testing.assert_array_equal(grey(header(VOILUTSequence=[Dataset()], **window)), grey(header(**window)))


def test_a_window_that_leaves_one_grey_is_followed_with_a_remark():
    assert (grey(header(WindowCenter="90000", WindowWidth="10")) == 0).all()
    assert "one grey" in remarks(header(WindowCenter="90000", WindowWidth="10"))[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, content) for name in ("RescaleSlope", "RescaleIntercept") for content in (b"x", b"nan", b"1e999")),
        ("RescaleSlope", b"0"),
        ("RescaleSlope", b"0,0"),
        ("RescaleSlope", b"1\\2"),
        ("RescaleSlope", b"1e-330"),
        ("RescaleSlope", b"1e308"),
        ("RescaleIntercept", b"1e300"),
    ],
)
def test_a_wrong_rescale_refuses_by_name(name, content):
    with pytest.raises(UnreadableError, match=name):
        build_lut(header(**{name: content}), pixels())


@pytest.mark.parametrize(
    "descriptor",
    [[0, 0, 12], [4, 0, 12], [3, 0, 0], [3, 0, 99], [3, 0]],
    ids=["65536 entries", "one more than there is", "no bits", "99 bits", "two values"],
)
def test_a_wrong_modality_lut_refuses_by_name(descriptor):
    item = lut_item([1, 2, 3])
    item.LUTDescriptor = descriptor
    with pytest.raises(UnreadableError, match="modality LUT is damaged"):
        build_lut(header(ModalityLUTSequence=Sequence([item])), pixels())


def test_a_modality_lut_that_is_no_sequence_refuses_by_name():
    with pytest.raises(UnreadableError, match="ModalityLUTSequence is damaged"):
        build_lut(header(ModalityLUTSequence=b"junk"), pixels())


def empty_descriptor():
    item = lut_item([1, 2, 3])
    item.LUTDescriptor = None
    return item


def empty_data():
    item = lut_item([1, 2, 3])
    item.LUTData = None
    return item


@pytest.mark.parametrize("item", [Dataset(), empty_descriptor(), empty_data()], ids=["item", "descriptor", "data"])
def test_an_empty_modality_lut_is_ignored_with_a_remark_and_the_rescale_holds(item):
    values = header(ModalityLUTSequence=Sequence([item]), RescaleSlope="-1", RescaleIntercept="4095")
    np.testing.assert_array_equal(grey(values), PLAIN[::-1])
    assert remarks(values) == ["an empty modality LUT was ignored"]


def test_a_modality_lut_without_items_is_none():
    assert remarks(header(ModalityLUTSequence=Sequence([]))) == []


RAMP = np.arange(4096)


def voi(entries, bits=12):
    return header(VOILUTSequence=Sequence([lut_item(entries, 0, bits)]))


def test_one_entry_above_the_stated_bits_is_cut_and_does_not_darken_the_image():
    entries = RAMP.copy()
    entries[2000] = 5000
    table = grey(voi(entries))
    np.testing.assert_array_equal(np.delete(table, 2000), np.delete(PLAIN, 2000))
    assert table[2000] == 65535
    assert remarks(voi(entries)) == ["1 of 4096 entries of the VOI LUT are above its 12 bits and were cut"]


def test_many_entries_hardly_above_the_stated_bits_are_white():
    entries = np.minimum(RAMP * 2, 4096)
    np.testing.assert_array_equal(grey(voi(entries)), np.rint(np.minimum(RAMP * 2, 4095) * (65535 / 4095)))


def test_a_lut_that_uses_more_bits_than_it_says_has_the_range_that_holds_it():
    np.testing.assert_array_equal(grey(voi(RAMP, bits=8)), PLAIN)
    assert remarks(voi(RAMP, bits=8)) == ["the VOI LUT says that its entries have 8 bits, they have 12"]
    entries = RAMP.copy()
    entries[7] = 65535
    np.testing.assert_array_equal(np.delete(grey(voi(entries, bits=8)), 7), np.delete(PLAIN, 7))


def test_the_same_holds_for_a_modality_lut():
    entries = RAMP.copy()
    entries[2000] = 5000
    values = header(ModalityLUTSequence=Sequence([lut_item(entries)]))
    np.testing.assert_array_equal(np.delete(grey(values), 2000), np.delete(PLAIN, 2000))
    assert "modality LUT" in remarks(values)[0]


@pytest.mark.parametrize(
    "padding",
    [
        {"PixelPaddingValue": b"abc"},
        {"PixelPaddingValue": b"1.5"},
        {"PixelPaddingValue": b"1e300"},
        {"PixelPaddingValue": b"-99999"},
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095},
    ],
)
def test_a_wrong_padding_is_left_out_with_a_remark(padding):
    np.testing.assert_array_equal(grey(header(**padding)), PLAIN)
    assert len(remarks(header(**padding))) == 1


def test_padding_written_with_a_point_is_padding():
    assert grey(header(PixelPaddingValue=b"4095.0"))[4095] == 0


def test_values_in_functional_groups_make_the_same_grey():
    window = {"WindowCenter": "1200", "WindowWidth": "900", "VOILUTFunction": "SIGMOID"}
    voi_item, rescale_item, group = Dataset(), Dataset(), Dataset()
    for name, value in window.items():
        setattr(voi_item, name, value)
    rescale_item.RescaleSlope, rescale_item.RescaleIntercept = "2", "-100"
    group.FrameVOILUTSequence = Sequence([voi_item])
    group.PixelValueTransformationSequence = Sequence([rescale_item])
    enhanced = header(SharedFunctionalGroupsSequence=Sequence([group]))
    np.testing.assert_array_equal(grey(enhanced), grey(header(RescaleSlope="2", RescaleIntercept="-100", **window)))


def test_steps_tell_in_order_how_a_value_becomes_grey():
    values = header(
        RescaleSlope="2",
        RescaleIntercept="-100",
        WindowCenter=["1000", "3000"],
        WindowWidth=["1500", "10"],
        VOILUTFunction="SIGMOID",
        PixelPaddingValue=0,
    )
    assert build_lut(values, pixels(photometric="MONOCHROME1")).steps == [
        "12 of 16 bits are stored, unsigned: values of 0 to 4095",
        "rescaled by slope 2 and intercept -100: -100 to 8090",
        "window 1 of 2: center 1000, width 1500, function SIGMOID",
        "MONOCHROME1: the largest value is black",
        "padding of 0 to 0 is black",
        "grey is mapped to 0 (black) to 65535 (white)",
    ]
    plain = build_lut(header(), pixels(bits=8, signed=True)).steps
    assert plain == [
        "8 of 16 bits are stored, signed: values of -128 to 127",
        "there is no modality LUT and no rescale",
        "there is no VOI LUT and no window: all from -128 to 127 is shown",
        "MONOCHROME2: the largest value is white",
        "grey is mapped to 0 (black) to 65535 (white)",
    ]
    both = header(
        ModalityLUTSequence=Sequence([lut_item(RAMP)]), VOILUTSequence=Sequence([lut_item(RAMP), lut_item(RAMP)])
    )
    steps = build_lut(both, pixels()).steps
    assert steps[1] == "the modality LUT has 4096 entries of 12 bits, the first for 0"
    assert steps[2] == "VOI LUT 1 of 2: 4096 entries of 12 bits, the first for 0"


def test_an_image_that_uses_less_than_a_sixteenth_of_grey_gets_a_remark():
    assert "0 to 4095 of 65535" in narrow_range_warnings(np.array([0, 4095], np.uint16))[0]
    assert "65000 to 65535 of 65535" in narrow_range_warnings(np.array([65000, 65535], np.uint16))[0]
    assert narrow_range_warnings(np.array([0, 4096], np.uint16)) == []


NUMBERS = st.one_of(
    st.binary(max_size=8),
    st.floats().map(lambda number: f"{number:.10g}".encode()),
    st.text("0123456789.,-+eE\\ ", max_size=8).map(str.encode),
)
NAMES = ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue"]
DAMAGED_ITEM = st.builds(
    lambda descriptor, data: (descriptor, data),
    st.lists(st.integers(0, 65535), max_size=4) | st.sampled_from([[16, 0, 8], [8, 0, 16], [0, 0, 12]]),
    st.binary(max_size=40),
)


def damaged_lut(descriptor, data):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW", data)
    return Sequence([item])


@settings(max_examples=300, deadline=None)
@given(
    attributes=st.dictionaries(st.sampled_from(NAMES), NUMBERS),
    function=st.sampled_from([b"LINEAR", b"LINEAR_EXACT", b"SIGMOID", b"\xff"]),
    voi_lut=st.none() | DAMAGED_ITEM,
    modality_lut=st.none() | DAMAGED_ITEM,
    bits=st.integers(1, 16),
    signed=st.booleans(),
)
def test_any_header_gives_grey_or_a_sentence(attributes, function, voi_lut, modality_lut, bits, signed):
    attributes |= {"VOILUTFunction": function}
    luts = {"VOILUTSequence": voi_lut, "ModalityLUTSequence": modality_lut}
    values = header(**attributes, **{name: damaged_lut(*lut) for name, lut in luts.items() if lut is not None})
    try:
        with np.errstate(divide="raise", invalid="raise"):
            lut = build_lut(values, pixels(bits, signed=signed))
    except UnreadableError as error:
        assert str(error).startswith("its ") and str(error).isprintable()
        return
    assert lut.table.shape == (2**bits,) and lut.table.dtype == np.uint16
    assert all(sentence.isprintable() for sentence in (*lut.warnings, *lut.steps, *values.warnings))
