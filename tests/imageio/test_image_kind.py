"""The kind of a picture is what its header says; what cannot be a mammogram is refused by name."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.imageio.header_examples import code

from mammovae.imageio.decoded_image import UnreadableError
from mammovae.imageio.dicom_values import Values
from mammovae.imageio.image_kind import holds_no_image, image_kind, kind_of_name, magnification

MAMMOGRAM, TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.13.1.3"
PROJECTION, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.13.1.4", "1.2.840.10008.5.1.4.1.1.7"
CT, RADIOGRAPH = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1"


def header(**attributes):
    """Values of a mammogram's header; attributes overwrite and add, None takes away."""
    dataset = Dataset()
    given = {"SOPClassUID": MAMMOGRAM, "Modality": "MG", "ImageType": ["ORIGINAL", "PRIMARY"]} | attributes
    for name, value in given.items():
        if value is not None:
            setattr(dataset, name, value)
    return Values(dataset)


def craniocaudal(*modifiers):
    return Sequence([code("399162004", "SCT", "cranio-caudal", *modifiers)])


def kind(**attributes):
    return image_kind(header(**attributes))[0]


def remark(**attributes):
    return image_kind(header(**attributes))[1]


def refusal(**attributes):
    with pytest.raises(UnreadableError) as caught:
        image_kind(header(**attributes))
    return str(caught.value)


def test_an_ordinary_mammogram_is_one_without_a_remark():
    ordinary = {"BodyPartExamined": "BREAST", "QualityControlImage": "NO", "BreastImplantPresent": "NO"}
    ordinary |= {"PartialView": "NO", "PaddleDescription": "24X29CM SCREENING", "ContrastBolusAgent": "NONE"}
    ordinary |= {"EstimatedRadiographicMagnificationFactor": "1.073", "SeriesDescription": "L CC"}
    for image_type in (["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY"], ["DERIVED", "PRIMARY", "", "", "", "150000"]):
        values = header(**ordinary, ImageType=image_type, ViewCodeSequence=craniocaudal())
        assert image_kind(values) == ("mammogram", None)
        assert values.warnings == []


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"QualityControlImage": "YES"}, "quality_control"),
        ({"CalibrationImage": "YES"}, "quality_control"),
        ({"BodyPartExamined": "PHANTOM"}, "quality_control"),
        ({"ViewCodeSequence": [code("127457009")]}, "specimen"),
        ({"ViewCodeSequence": [code("G-8310", "SRT")]}, "specimen"),
        ({"ViewCodeSequence": [code("x", "99LOCAL", "Tissue specimen from breast")]}, "specimen"),
        ({"SpecimenDescriptionSequence": [Dataset()]}, "specimen"),
        ({"BodyPartExamined": "SPECIMEN"}, "specimen"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "STEREO_SCOUT"]}, "stereotactic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "STEREO_MINUS"]}, "stereotactic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "PREFIRE_PLUS"]}, "stereotactic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "POSTMARKER"]}, "stereotactic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "TOMO_SCOUT"]}, "stereotactic"),
        ({"PaddleDescription": "5x5 BIOPSY"}, "stereotactic"),
        ({"BiopsyTargetSequence": [Dataset()]}, "stereotactic"),
        ({"ImageType": ["DERIVED", "PRIMARY", "POST_CONTRAST", "SUBTRACTION"]}, "contrast_enhanced"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "POST_CONTRAST", "", "HIGH_ENERGY"]}, "contrast_enhanced"),
        ({"ImageType": ["DERIVED", "PRIMARY", "", "RECOMBINED"]}, "contrast_enhanced"),
        ({"SeriesDescription": "L CC Recombined"}, "contrast_enhanced"),
        ({"ContrastBolusAgent": "Iohexol"}, "contrast_enhanced"),
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]}, "synthetic_2d"),
        ({"SOPClassUID": TOMOSYNTHESIS, "ImageType": ["DERIVED", "PRIMARY", "", "GENERATED_2D"]}, "synthetic_2d"),
        ({"SOPClassUID": TOMOSYNTHESIS, "ImageType": ["DERIVED", "PRIMARY", "TOMO_2D"]}, "synthetic_2d"),
        ({"SeriesDescription": "R MLO C-View"}, "synthetic_2d"),
        ({"SeriesDescription": "R MLO Intelligent 2D"}, "synthetic_2d"),
        ({"SeriesDescription": "V-Preview R CC"}, "synthetic_2d"),
        ({"SeriesDescription": "S-View"}, "synthetic_2d"),
        ({"SOPClassUID": TOMOSYNTHESIS}, "tomosynthesis"),
        ({"SOPClassUID": PROJECTION}, "tomosynthesis"),
        ({"SOPClassUID": PROJECTION, "PositionerMotion": "STATIC"}, "mammogram"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "TOMO_PROJ"]}, "tomosynthesis"),
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS"]}, "tomosynthesis"),
        ({"SeriesDescription": "L CC Tomosynthesis Reconstruction"}, "tomosynthesis"),
        ({"EstimatedRadiographicMagnificationFactor": "1.8"}, "magnified"),
        ({"ViewCodeSequence": craniocaudal(code("399163009"))}, "magnified"),
        ({"ViewCodeSequence": craniocaudal(code("R-102D6", "SRT"))}, "magnified"),
        ({"ViewCodeSequence": craniocaudal(code("R-102D6", "SNM3"))}, "magnified"),
        ({"ViewCodeSequence": craniocaudal(code("M", "99LOCAL", "Magnification"))}, "magnified"),
        ({"ViewPosition": "MCC"}, "magnified"),
        ({"PaddleDescription": "10CM MAG"}, "magnified"),
        ({"PaddleDescription": "MAG_SPOT_1_8"}, "magnified"),
        ({"ViewCodeSequence": craniocaudal(code("399055006"))}, "spot"),
        ({"ViewCodeSequence": craniocaudal(code("R-102D7", "SRT"))}, "spot"),
        ({"ViewModifierCodeSequence": [code("R-102D7", "SRT")]}, "spot"),
        ({"ViewPosition": "SMLO"}, "spot"),
        ({"PaddleDescription": "10CM CONTACT SPOT"}, "spot"),
        ({"BreastImplantPresent": "YES"}, "implant"),
        ({"PartialView": "YES"}, "partial"),
        ({"PartialView": "YES", "PartialViewDescription": "stitched of two"}, "mammogram"),
        ({"BodyPartExamined": "SKULL"}, "other"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "other"),
        ({"SOPClassUID": SECONDARY_CAPTURE, "SeriesDescription": "ROI mask images"}, "other"),
        ({"SOPClassUID": SECONDARY_CAPTURE, "SeriesDescription": "full mammogram images"}, "mammogram"),
    ],
)
def test_the_kind_is_what_the_header_says(attributes, expected):
    values = header(**attributes)
    found, words = image_kind(values)
    assert found == expected
    assert (words is None) == (expected == "mammogram")
    assert values.warnings == []


def test_the_protocol_of_an_exam_says_nothing_of_its_images():
    assert kind(ProtocolName="C-View combo") == "mammogram"


def test_of_several_kinds_the_one_that_is_furthest_from_screening_is_named():
    magnified = {"EstimatedRadiographicMagnificationFactor": "1.8", "PaddleDescription": "SPOT"}
    assert kind(**magnified) == "magnified"
    assert kind(**magnified, QualityControlImage="YES") == "quality_control"
    assert kind(ImageType=["DERIVED", "PRIMARY", "TOMO", "SUBTRACTION"]) == "contrast_enhanced"


def test_a_remark_says_where_the_kind_was_read():
    words = remark(EstimatedRadiographicMagnificationFactor="1.8")
    assert words == "the file says that it is magnified (EstimatedRadiographicMagnificationFactor 1.8)"
    assert "QualityControlImage YES" in (remark(QualityControlImage="YES") or "")


@pytest.mark.parametrize(
    ("factor", "expected"),
    [("1", 1), ("1.0", 1), ("1.1", 1), ("1,8", 1.8), ("1.5", 1.5), ("180", 1), ("0", 1), ("-2", 1)],
)
def test_contact_is_no_magnification_and_nonsense_is_none(factor, expected):
    dataset = Dataset()
    dataset.add_new("EstimatedRadiographicMagnificationFactor", "LO", factor)
    assert magnification(Values(dataset)) == expected


@pytest.mark.parametrize("displaced", [{"ViewPosition": "CCID"}, {"ViewCodeSequence": craniocaudal(code("399209000"))}])
def test_a_view_with_the_implant_pushed_back_stays_a_mammogram_with_a_remark(displaced):
    assert kind(BreastImplantPresent="YES", **displaced) == "mammogram"
    assert "pushed back" in (remark(BreastImplantPresent="YES", **displaced) or "")


def test_a_low_energy_image_is_a_mammogram_though_contrast_medium_was_given():
    low = {"ImageType": ["ORIGINAL", "PRIMARY", "POST_CONTRAST", "", "LOW_ENERGY"], "ContrastBolusAgent": "Iohexol"}
    assert kind(**low) == "mammogram"
    assert "low-energy" in (remark(**low) or "")


@pytest.mark.parametrize("agent", ["", "-", "0", "N/A", "NO CONTRAST", "None given", "without"])
def test_words_for_no_contrast_medium_name_none(agent):
    assert kind(ContrastBolusAgent=agent) == "mammogram"


@pytest.mark.parametrize("agent", ["Novaray 300", "Omnipaque", "碘海醇"])
def test_any_other_words_name_a_contrast_medium(agent):
    assert kind(ContrastBolusAgent=agent) == "contrast_enhanced"


def test_the_kind_of_an_enhanced_object_stands_in_its_functional_groups():
    frame_type, group = Dataset(), Dataset()
    frame_type.FrameType = ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]
    group.XRay3DFrameTypeSequence = Sequence([frame_type])
    assert kind(SOPClassUID=TOMOSYNTHESIS, SharedFunctionalGroupsSequence=Sequence([group])) == "synthetic_2d"


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "XA", "NM", "PT", "RF", "ES", "SM", "IO", "PX", "OCT"])
def test_modalities_that_cannot_be_mammograms_are_refused_by_name(modality):
    for sop_class in (MAMMOGRAM, SECONDARY_CAPTURE, None):
        assert f"modality is {modality}" in refusal(Modality=modality, SOPClassUID=sop_class)


@pytest.mark.parametrize(
    ("sop_class", "name"),
    [
        (CT, "CT Image"),
        ("1.2.840.10008.5.1.4.1.1.4", "MR Image"),
        ("1.2.840.10008.5.1.4.1.1.6.2", "Enhanced US Volume"),
        ("1.2.840.10008.5.1.4.1.1.12.1", "X-Ray Angiographic"),
        ("1.2.840.10008.5.1.4.1.1.20", "Nuclear Medicine"),
        ("1.2.840.10008.5.1.4.1.1.128", "Positron"),
        ("1.2.840.10008.5.1.4.1.1.481.1", "RT Image"),
    ],
)
def test_classes_that_cannot_be_mammograms_are_refused_whatever_the_modality(sop_class, name):
    assert not holds_no_image(header(SOPClassUID=sop_class))
    assert name in refusal(SOPClassUID=sop_class, Modality="MG")
    assert name in refusal(SOPClassUID=sop_class, Modality=None)


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "OT", "HC", None, "NEW"])
def test_what_may_be_a_mammogram_stays_possible_with_a_remark(modality):
    for part in (None, "BREAST", "UNKNOWN"):
        attributes = {"Modality": modality, "SOPClassUID": SECONDARY_CAPTURE, "BodyPartExamined": part}
        assert kind(**attributes) == "mammogram"
        assert (modality or "does not say its modality") in (remark(**attributes) or "")


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "OT", None])
def test_a_radiograph_of_another_part_of_the_body_is_refused(modality):
    attributes = {"Modality": modality, "SOPClassUID": RADIOGRAPH}
    assert "TIBIA" in refusal(**attributes, BodyPartExamined="TIBIA", ViewPosition="ML")
    region = Sequence([code("12611008", "SCT", "Tibia")])
    assert "TIBIA" in refusal(**attributes, AnatomicRegionSequence=region)
    for breast in ({"BodyPartExamined": "LEFT BREAST"}, {"BodyPartExamined": "CHEST", "ViewPosition": "MLO"}):
        assert kind(**attributes, **breast) == "mammogram"
    assert kind(**attributes, BodyPartExamined="CHEST", ViewCodeSequence=craniocaudal()) == "mammogram"
    assert kind(**attributes, AnatomicRegionSequence=Sequence([code("T-04000", "SRT")])) == "mammogram"


@pytest.mark.parametrize(
    "number",
    [
        *("88.11", "88.22", "88.33", "88.50", "88.59", "88.67", "11.1", "66", "66.1", "66.4", "66.5", "104.1", "9.1.1"),
        *("481.2", "481.3", "481.5", "481.8"),
    ],
)
def test_objects_without_an_image_are_known_by_their_class(number):
    sop_class = f"1.2.840.10008.5.1.4.1.1.{number}"
    assert holds_no_image(header(SOPClassUID=sop_class, Modality=None))
    assert "holds no image" in refusal(SOPClassUID=sop_class, Modality=None)


@pytest.mark.parametrize(
    "modality", ["SR", "PR", "KO", "SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "REG", "DOC", "AU", "ECG", "PLAN"]
)
def test_objects_without_an_image_are_known_by_their_modality(modality):
    for sop_class in (None, "1.3.6.1.4.1.5962.1"):
        assert holds_no_image(header(SOPClassUID=sop_class, Modality=modality))
    assert modality in refusal(SOPClassUID=None, Modality=modality)
    assert modality in refusal(SOPClassUID=SECONDARY_CAPTURE, Modality=modality)


def test_a_directory_holds_no_image_and_images_do():
    assert holds_no_image(header(SOPClassUID=None, DirectoryRecordSequence=[Dataset()]))
    for sop_class in (MAMMOGRAM, TOMOSYNTHESIS, SECONDARY_CAPTURE, CT, None, "1.2.3"):
        assert not holds_no_image(header(SOPClassUID=sop_class))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("P1_L_CM_MLO.jpg", "contrast_enhanced"),
        ("folder/P123_R_CM_CC.png", "contrast_enhanced"),
        ("p1_l_dm_mlo", "mammogram"),
        ("P1_L_DM_CC2.jpg", "mammogram"),
        ("P1_L_CC.jpg", None),
        ("XP1_L_CM_MLO.jpg", None),
        ("", None),
    ],
)
def test_a_name_tells_recombined_from_low_energy(name, expected):
    assert kind_of_name(name) == expected
