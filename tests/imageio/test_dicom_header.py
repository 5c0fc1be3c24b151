"""What a DICOM header says of side, view, age and spacing: right where it is right, absent where it is not."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.imageio.header_examples import code, header_values

from mammovae.imageio.decoded_image import UnreadableError
from mammovae.imageio.dicom_header import age_in_years, header_steps, header_warnings, read_attributes


def header(**attributes):
    """Values of a mammogram's header; bytes are stored as a file would hold them, wrong or right."""
    return header_values("LO", **{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2", "Modality": "MG"} | attributes)


def attribute(name, **attributes):
    return read_attributes(header(**attributes)).get(name)


def grouped(macro, **attributes):
    """The shared functional groups of an enhanced object."""
    item, group = Dataset(), Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    setattr(group, macro, Sequence([item]))
    return {"SharedFunctionalGroupsSequence": Sequence([group])}


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *(("053Y", 53), ("018M", 1.5), ("53", 53), ("150Y", 150), ("52W", 52 / 52.18)),
        *((text, None) for text in ("999Y", "151Y", "000Y", "-53Y", "05,3Y", "5.3Y", "0530Y", "", None, "old")),
    ],
)
def test_an_age_is_in_years_or_unknown(text, years):
    assert age_in_years(text) == years


def test_an_age_that_no_one_reaches_is_said_and_an_anonymisers_zero_is_not():
    assert attribute("age", PatientAge="999Y") is None
    assert header_warnings(header(PatientAge="999Y")) == ["PatientAge '999Y' is no age and was ignored"]
    assert header_warnings(header(PatientAge="000Y")) == header_warnings(header(PatientAge="053Y")) == []


def test_what_cannot_be_a_mammogram_is_refused_with_its_modality():
    for read in (read_attributes, header_warnings):
        with pytest.raises(UnreadableError, match="CT"):
            read(header(Modality="CT"))


def test_the_kind_is_an_attribute_and_its_reason_a_remark():
    assert attribute("kind") == "mammogram"
    assert attribute("kind", PartialView="YES") == "partial"
    assert header_warnings(header(PartialView="YES")) == [
        "the file says that it is a part of the view (PartialView YES)"
    ]
    assert header_warnings(header()) == []


def test_spacing_with_a_comma_is_read_and_said():
    values = header(ImagerPixelSpacing=b"0,085\\0,085")
    assert read_attributes(values)["mm_per_pixel"] == 0.085
    assert values.warnings == ["ImagerPixelSpacing '0,085' was read as 0.085"]


@pytest.mark.parametrize(
    "content", [b"0.1", b"0.1\\x", b"0\\0", b"-0.1\\-0.1", b"nan\\nan", b"0.1\\0.2", b"0.1\\0.1\\0.1"]
)
def test_a_wrong_spacing_is_unknown_or_the_next_ones(content):
    assert attribute("mm_per_pixel", ImagerPixelSpacing=content) is None
    assert attribute("mm_per_pixel", ImagerPixelSpacing=content, PixelSpacing=["0.07", "0.07"]) == 0.07


def test_a_magnified_views_spacing_is_that_at_the_breast():
    spacing = {"ImagerPixelSpacing": ["0.09", "0.09"]}
    at = {"EstimatedRadiographicMagnificationFactor": "1.8"}
    assert attribute("mm_per_pixel", **spacing, **at) == pytest.approx(0.05)
    assert attribute("mm_per_pixel", NominalScannedPixelSpacing=["0.09", "0.09"], **at) == pytest.approx(0.05)
    for contact in ("1", "1.05", "1.1"):
        assert attribute("mm_per_pixel", **spacing, EstimatedRadiographicMagnificationFactor=contact) == 0.09
    calibrated = {"PixelSpacing": ["0.05", "0.05"], "PixelSpacingCalibrationType": "GEOMETRY"}
    assert attribute("mm_per_pixel", **calibrated, **at) == 0.05


def test_of_a_magnified_view_without_a_factor_the_spacing_is_unknown():
    view = Sequence([code("399162004", "SCT", "", code("R-102D6", "SRT"))])
    assert attribute("mm_per_pixel", ImagerPixelSpacing=["0.09", "0.09"], ViewCodeSequence=view) is None
    assert attribute("kind", ViewCodeSequence=view) == "magnified"


def test_spacing_and_side_of_an_enhanced_object_stand_in_its_functional_groups():
    assert attribute("mm_per_pixel", **grouped("PixelMeasuresSequence", PixelSpacing=["0.1", "0.1"])) == 0.1
    assert attribute("side", **grouped("FrameAnatomySequence", FrameLaterality="R")) == "R"
    assert attribute("side", ImageLaterality="L", **grouped("FrameAnatomySequence", FrameLaterality="R")) == "L"
    view = Sequence([code("R-10226", "SRT", "medio-lateral oblique")])
    assert attribute("view", **grouped("FrameAnatomySequence", ViewCodeSequence=view)) == "MLO"


@pytest.mark.parametrize(
    ("item", "view"),
    [
        (code("399162004", "SCT"), "CC"),
        (code("R-10242", "SRT"), "CC"),
        (code("R-10242", "SNM3"), "CC"),
        (code("R-10226", "SRT"), "MLO"),
        (code("V1", "99LOCAL", "Cranio-caudal"), "CC"),
        (code("V2", "99LOCAL", "medio-lateral oblique"), "MLO"),
        (code("399260004", "SCT", "medio-lateral"), None),
        (code("399192008", "SCT", "cranio-caudal exaggerated laterally"), None),
        (code("399162004", "SCT", "", code("399209000")), "CC"),
        (code("399162004", "SCT", "", code("R-102D5", "SRT")), "CC"),
        (code("399162004", "SCT", "", code("V3", "99LOCAL", "Implant Displaced")), "CC"),
        (code("399162004", "SCT", "", code("399197002", "SCT", "Rolled Lateral")), None),
        (code("399162004", "SCT", "", code("V4", "99LOCAL", "Cleavage")), None),
    ],
)
def test_the_view_is_known_by_codes_of_every_scheme_and_by_their_meaning(item, view):
    assert attribute("view", ViewCodeSequence=Sequence([item])) == view


@pytest.mark.parametrize(
    ("position", "view"), [("CCID", "CC"), ("MLOIDNP", "MLO"), ("SCC", None), ("CCRL", None), ("ID", None)]
)
def test_a_harmless_modifier_behind_the_position_leaves_the_view(position, view):
    assert attribute("view", ViewPosition=position) == view


def test_a_modifier_beside_the_view_counts_as_one_of_the_view():
    assert attribute("view", ViewPosition="CC", ViewModifierCodeSequence=[code("399197002")]) is None


def test_rows_are_numbers_however_they_are_written():
    assert attribute("rows", Rows=512) == 512
    assert attribute("rows", Rows=b"512.0") == 512
    assert "rows" not in read_attributes(header(Rows=b"many"))


def test_every_text_of_the_header_may_be_rubbish():
    rubbish = dict.fromkeys(
        ("PatientAge", "PatientID", "ImageLaterality", "ViewPosition", "Manufacturer", "ViewCodeSequence"),
        b"\xff\xfe\0,",
    )
    found = read_attributes(header(**rubbish))
    assert found["kind"] == "mammogram"
    assert not {"age", "side", "view"} & set(found)


def test_steps_tell_where_kind_side_view_and_spacing_were_read():
    view = Sequence([code("399162004")])
    full = header(
        ImageLaterality="L",
        ViewCodeSequence=view,
        ImagerPixelSpacing=["0.09", "0.09"],
        EstimatedRadiographicMagnificationFactor="1.8",
    )
    assert header_steps(full) == [
        "kind magnified: the file says that it is magnified (EstimatedRadiographicMagnificationFactor 1.8)",
        "side L: ImageLaterality",
        "view CC: ViewCodeSequence",
        "mm a pixel 0.05: ImagerPixelSpacing, 1.8 times magnified",
    ]
    assert header_steps(header()) == ["kind mammogram", "side unknown", "view unknown", "mm a pixel unknown"]
    film = header(PatientOrientation="MLO", Laterality="R", PixelSpacing=["0.1", "0.1"])
    assert header_steps(film)[1:] == [
        "side R: Laterality",
        "view MLO: PatientOrientation",
        "mm a pixel 0.1: PixelSpacing",
    ]
