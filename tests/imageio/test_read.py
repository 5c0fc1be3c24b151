"""Reading pictures: every grey is what the standard says, and what cannot be read is one sentence."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)
from tests.imageio.lossless_jpeg import to_lossless_jpeg

from mammovae.config import InputError
from mammovae.imageio.decoded_image import DecodedImage
from mammovae.imageio.dicom_header import age_in_years
from mammovae.imageio.dicom_reader import is_dicom
from mammovae.imageio.read import read, read_header

SHAPE = (12, 10)


def header_of(path):
    """The header of a file that is an image."""
    header = read_header(path)
    assert header is not None
    return header


def stored_values(bits=12, signed=False, seed=0):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    values = np.random.default_rng(seed).integers(low, high, SHAPE)
    values[0, :2] = low, high - 1
    return values.astype(np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"))


def mammogram(values, *, bits=12, photometric="MONOCHROME2", **attributes):
    """A data set of one image; attributes overwrite and add."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = generate_uid()
    dataset.Modality = "MG"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 1 if values.ndim == 2 else 3
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = values.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OB" if values.itemsize == 1 else "OW"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def save(dataset, folder, name="image.dcm"):
    path = Path(folder) / name
    dataset.save_as(path, enforce_file_format=True)
    return path


def lut(entries, first, bits, *, signed=False):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return Sequence([item])


def expected(values, dataset):
    """The grey by pydicom's own functions, brought to 0..65535 by the output range that the standard gives."""
    bits, signed = dataset.BitsStored, dataset.PixelRepresentation
    codes = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else np.arange(2**bits)
    codes = codes.astype(values.dtype)
    rescaled = apply_modality_lut(codes, dataset)
    if dataset.get("ModalityLUTSequence"):
        low, high = 0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    else:
        low, high = rescaled.min(), rescaled.max()
    inputs = apply_modality_lut(values, dataset)
    if dataset.get("VOILUTSequence"):
        inputs = np.minimum(inputs.astype(float), 65535).astype(int)  # beyond every LUT here; 16 bits would overflow
    shown = apply_voi_lut(inputs, dataset)
    if "WindowWidth" in dataset and float(dataset.get("RescaleSlope", 1)) < 0:
        low, high = high, low  # pydicom shows what lies below the window as the largest value then
    if dataset.get("VOILUTSequence"):
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    grey = (shown.astype(float) - low) / (float(high) - float(low))
    return 65535 * (1 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey)


WINDOW = {"WindowCenter": [1000, 3000], "WindowWidth": [1500, 10], "VOILUTFunction": "LINEAR"}
VOIS = {
    "none": {},
    "linear": WINDOW,
    "default function": {"WindowCenter": 700, "WindowWidth": 901},
    "exact": WINDOW | {"VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": WINDOW | {"VOILUTFunction": "SIGMOID"},
    "step": {"WindowCenter": 50, "WindowWidth": 1},
    "lut": {"VOILUTSequence": lut(np.linspace(5, 1023, 500) ** 2 // 1023, 20, 10)},
    "lut wins": WINDOW | {"VOILUTSequence": lut(np.arange(256)[::-1] * 257, 100, 16)},
}
MODALITIES = {
    "plain": {},
    "rescaled": {"RescaleSlope": "2.5", "RescaleIntercept": "-100", "RescaleType": "US"},
    "negative slope": {"RescaleSlope": "-1", "RescaleIntercept": "4095", "RescaleType": "US"},
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("voi", VOIS)
@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (10, False), (12, False), (12, True), (16, False), (16, True)]
)
def test_grey_is_rescale_then_voi_then_inversion(tmp_path, bits, signed, voi, modality, photometric):
    values = stored_values(bits, signed)
    dataset = mammogram(values, bits=bits, photometric=photometric, **MODALITIES[modality], **VOIS[voi])
    picture = read(save(dataset, tmp_path))
    assert picture.pixels.dtype == np.uint16
    # pydicom cuts a LUT's input off where it is rounded here: one entry further at most, of steps of up to 5 in 1023.
    slack = 330 if "lut" in voi and modality == "rescaled" else 1.01
    assert np.abs(picture.pixels - expected(values, dataset)).max() <= slack


def test_a_modality_lut_comes_first_and_its_bits_are_the_range(tmp_path):
    values, entries = stored_values(8), np.arange(200) ** 2 // 10
    inside = entries[np.clip(values.astype(int) - 10, 0, 199)]
    plain = read(save(mammogram(values, bits=8, ModalityLUTSequence=lut(entries, 10, 12)), tmp_path))
    np.testing.assert_array_equal(plain.pixels, np.rint(inside * (65535 / 4095)))
    window = {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    shown = read(save(mammogram(values, bits=8, ModalityLUTSequence=lut(entries, 10, 12), **window), tmp_path))
    assert np.abs(shown.pixels - 65535 * np.clip((inside - 1500) / 1000, 0, 1)).max() <= 1


@pytest.mark.parametrize("bits", range(8, 17))
def test_without_a_window_every_depth_fills_the_same_range(tmp_path, bits):
    values = stored_values(bits)
    pixels = read(save(mammogram(values, bits=bits), tmp_path)).pixels
    np.testing.assert_array_equal(pixels, np.rint(values.astype(float) * 65535 / (2**bits - 1)))
    if bits == 8:
        np.testing.assert_array_equal(pixels, values.astype(int) * 257)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    center=st.floats(-5000, 70000),
    width=st.floats(1, 70000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    signed=st.booleans(),
)
def test_any_window_keeps_the_order_of_greys_and_monochrome1_is_its_mirror(tmp_path, center, width, function, signed):
    values = np.sort(stored_values(16, signed).ravel()).reshape(SHAPE)
    attributes = {"WindowCenter": f"{center:.8g}", "WindowWidth": f"{width:.8g}", "VOILUTFunction": function}
    light = read(save(mammogram(values, bits=16, **attributes), tmp_path)).pixels.astype(int)
    dark = read(save(mammogram(values, bits=16, photometric="MONOCHROME1", **attributes), tmp_path)).pixels.astype(int)
    assert (np.diff(light.ravel()) >= 0).all()
    assert np.abs(light + dark - 65535).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("padding", "limit"), [(0, None), (4095, None), (4095, 4000), (4000, 4095)])
def test_padding_is_background_even_after_inversion(tmp_path, photometric, padding, limit):
    values = stored_values(12)
    attributes = {"PixelPaddingValue": padding} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
    pixels = read(save(mammogram(values, photometric=photometric, **attributes), tmp_path)).pixels
    ends = sorted((padding, padding if limit is None else limit))
    padded = (values >= ends[0]) & (values <= ends[1])
    plain = read(save(mammogram(values, photometric=photometric), tmp_path)).pixels
    assert (pixels[padded] == 0).all()
    np.testing.assert_array_equal(pixels[~padded], plain[~padded])


def test_negative_padding_of_signed_pixels_is_background(tmp_path):
    values = stored_values(16, signed=True)
    pixels = read(
        save(mammogram(values, bits=16, photometric="MONOCHROME1", PixelPaddingValue=-32768), tmp_path)
    ).pixels
    assert pixels[0, 0] == 0 and values[0, 0] == -32768


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "warned"),
    [
        ("MONOCHROME1", "INVERSE", True, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME2", "INVERSE", False, True),
        ("MONOCHROME1", "IDENTITY", True, True),
    ],
)
def test_the_presentation_shape_never_inverts_twice(tmp_path, photometric, shape, inverted, warned):
    values = stored_values(16)
    picture = read(save(mammogram(values, bits=16, photometric=photometric, PresentationLUTShape=shape), tmp_path))
    np.testing.assert_array_equal(picture.pixels, 65535 - values if inverted else values)
    assert any("PresentationLUTShape" in warning for warning in picture.warnings) == warned


def test_rubbish_above_the_stored_bits_is_dropped(tmp_path):
    values = stored_values(12)
    pixels = read(save(mammogram(values | np.uint16(0x8000)), tmp_path)).pixels
    np.testing.assert_array_equal(pixels, read(save(mammogram(values), tmp_path)).pixels)


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"WindowCenter": 10, "WindowWidth": 0}, "width 0"),
        ({"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "CUBIC"}, "CUBIC"),
        ({"VOILUTSequence": Sequence([Dataset()])}, "damaged VOI LUT"),
        ({"HighBit": 15}, "HighBit 15"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for-processing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2.1"}, "for-processing"),
        ({"BurnedInAnnotation": "YES"}, "text"),
        ({"BreastImplantPresent": "YES"}, "implant"),
    ],
)
def test_what_is_odd_but_readable_gets_a_warning(tmp_path, attributes, word):
    values = stored_values(12)
    picture = read(save(mammogram(values, **attributes), tmp_path))
    assert len(picture.warnings) == 1 and word in picture.warnings[0]
    assert np.abs(picture.pixels - values * (65535 / 4095)).max() <= 1


def test_an_ordinary_file_has_no_warnings(tmp_path):
    assert read(save(mammogram(stored_values()), tmp_path)).warnings == ()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_little_endian_is_exact(tmp_path, syntax):
    dataset = mammogram(stored_values(16), bits=16)
    dataset.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(read(save(dataset, tmp_path)).pixels, stored_values(16))


def test_uncompressed_big_endian_is_exact(tmp_path):
    dataset = mammogram(stored_values(16), bits=16)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = stored_values(16).astype(">u2").tobytes()
    np.testing.assert_array_equal(read(save(dataset, tmp_path)).pixels, stored_values(16))


def smooth(bits=12, signed=False):
    y, x = np.mgrid[:48, :40]
    values = (y * 40 + x) * (2**bits - 1) // (48 * 40) - (2 ** (bits - 1) if signed else 0)
    return values.astype(np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (16, True)])
def test_lossless_compression_changes_nothing(tmp_path, syntax, bits, signed):
    if signed and syntax == JPEGLSLossless:
        syntax = RLELossless  # JPEG-LS has no signed pixels
    plain = mammogram(smooth(bits, signed), bits=bits)
    want = read(save(plain, tmp_path)).pixels
    compress(plain, syntax)
    np.testing.assert_array_equal(read(save(plain, tmp_path)).pixels, want)


@pytest.mark.parametrize(
    ("syntax", "options"),
    [(JPEG2000, {"compression_ratios": [4], "photometric_interpretation": 2}), (JPEGLSNearLossless, {"jls_error": 3})],
    ids=["j2k", "jls"],
)
def test_lossy_compression_is_close(tmp_path, syntax, options):
    dataset = mammogram(smooth())
    want = read(save(dataset, tmp_path)).pixels.astype(int)
    compress(dataset, syntax, **options)
    assert np.abs(read(save(dataset, tmp_path)).pixels - want).max() < 0.02 * 65535


def compress(dataset, syntax, **options):
    """Compress by pydicom, or by OpenJPEG alone where pydicom wants a package more for JPEG 2000."""
    if syntax not in (JPEG2000, JPEG2000Lossless):
        dataset.compress(syntax, generate_instance_uid=False, **options)
        return
    frame = encode_array(dataset.pixel_array, bits_stored=dataset.BitsStored, **options)
    encapsulated(dataset, frame, syntax)


def encapsulated(dataset, frame, syntax):
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def test_baseline_jpeg_is_close(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(smooth(8)).save(buffer, "JPEG", quality=95)
    path = save(encapsulated(mammogram(smooth(8), bits=8), buffer.getvalue(), JPEGBaseline8Bit), tmp_path)
    assert np.abs(read(path).pixels.astype(int) - smooth(8).astype(int) * 257).max() < 0.02 * 65535


def test_lossless_jpeg_is_exact(tmp_path):
    plain, packed = save(mammogram(smooth(16), bits=16), tmp_path, "plain.dcm"), tmp_path / "packed.dcm"
    to_lossless_jpeg(plain, packed)
    np.testing.assert_array_equal(read(packed).pixels, smooth(16))


def test_grey_written_as_colour_is_grey_and_true_colour_is_refused(tmp_path):
    grey = np.repeat(stored_values(8)[..., None], 3, axis=2)
    dataset = mammogram(grey, bits=8, photometric="RGB")
    np.testing.assert_array_equal(read(save(dataset, tmp_path)).pixels, stored_values(8).astype(int) * 257)
    dataset.compress(RLELossless)
    np.testing.assert_array_equal(read(save(dataset, tmp_path)).pixels, stored_values(8).astype(int) * 257)
    grey[3, 3] = 255, 0, 0
    refused(save(mammogram(grey, bits=8, photometric="RGB"), tmp_path), "colour")


@pytest.mark.parametrize("coloured", [False, True])
def test_a_palette_of_greys_is_grey(tmp_path, coloured):
    values = stored_values(8)
    ramp = (np.arange(256) * 257).astype("<u2")
    dataset = mammogram(values, bits=8, photometric="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        entries = ramp[::-1] if coloured and colour == "Blue" else ramp
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", entries.tobytes())
    path = save(dataset, tmp_path)
    if coloured:
        refused(path, "colour")
    else:
        np.testing.assert_array_equal(read(path).pixels, values.astype(int) * 257)


def code(value, scheme="SCT", *modifiers):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = value, scheme
    if modifiers:
        item.ViewModifierCodeSequence = Sequence([code(name) for name in modifiers])
    return item


@pytest.mark.parametrize(
    ("attributes", "view"),
    [
        ({"ViewPosition": "CC"}, "CC"),
        ({"ViewPosition": "MLO"}, "MLO"),
        ({"ViewPosition": "ML"}, None),
        ({"ViewPosition": "XCCL"}, None),
        ({"ViewCodeSequence": [code("R-10242", "SNM3")]}, "CC"),
        ({"ViewCodeSequence": [code("399368009")]}, "MLO"),
        ({"ViewCodeSequence": [code("399192008")], "ViewPosition": "CC"}, None),
        ({"ViewCodeSequence": [code("399162004")], "ViewPosition": "MLO"}, None),
        ({"ViewCodeSequence": [code("399162004", "SCT", "399055006")], "ViewPosition": "CC"}, None),
        ({"ViewCodeSequence": [code("399162004", "SCT", "399209000")], "ViewPosition": "CCID"}, "CC"),
        ({"ViewCodeSequence": [code("X1", "99LOCAL")], "ViewPosition": "MLO"}, "MLO"),
        ({"PatientOrientation": "CC"}, "CC"),
        ({"PatientOrientation": ["P", "L"]}, None),
        ({"ViewPosition": "ML", "PatientOrientation": "MLO"}, None),
        ({}, None),
    ],
)
def test_the_view_is_what_the_header_says_and_never_a_guess(tmp_path, attributes, view):
    assert header_of(save(mammogram(stored_values(), **attributes), tmp_path)).get("view") == view


@pytest.mark.parametrize(
    ("attributes", "side"),
    [
        ({"ImageLaterality": "L", "Laterality": "R"}, "L"),
        ({"Laterality": "R"}, "R"),
        ({"ImageLaterality": "B"}, None),
        ({"ImageLaterality": "", "Laterality": "L"}, "L"),
        ({}, None),
    ],
)
def test_the_side_is_the_images_before_the_series(tmp_path, attributes, side):
    assert header_of(save(mammogram(stored_values(), **attributes), tmp_path)).get("side") == side


def test_the_side_of_an_enhanced_object_stands_in_its_functional_groups(tmp_path):
    anatomy, group = Dataset(), Dataset()
    anatomy.FrameLaterality = "R"
    group.FrameAnatomySequence = Sequence([anatomy])
    path = save(mammogram(stored_values(), SharedFunctionalGroupsSequence=Sequence([group])), tmp_path)
    assert header_of(path)["side"] == "R"


def test_the_header_holds_only_what_the_file_says(tmp_path):
    full = mammogram(
        stored_values(),
        PatientID="p1",
        PatientAge="053Y",
        Manufacturer="Maker",
        ManufacturerModelName="M 1",
        ImagerPixelSpacing=[0.085, 0.085],
        PixelSpacing=[0.1, 0.1],
    )
    path = save(full, tmp_path)
    header = header_of(path)
    assert header == read(path).header
    assert header == {
        "image_id": full.SOPInstanceUID,
        "patient_id": "p1",
        "study_id": full.StudyInstanceUID,
        "age": 53.0,
        "vendor": "Maker",
        "model": "M 1",
        "modality": "MG",
        "mm_per_pixel": 0.085,
        "rows": 12,
        "columns": 10,
        "kind": "mammogram",
    }
    assert "mm_per_pixel" not in header_of(save(mammogram(stored_values(), PixelSpacing=[0.1, 0.2]), tmp_path))
    assert (
        header_of(save(mammogram(stored_values(), NominalScannedPixelSpacing=[0.05, 0.05]), tmp_path))["mm_per_pixel"]
        == 0.05
    )


@pytest.mark.parametrize(
    ("text", "years"),
    [("053Y", 53), ("018M", 1.5), ("53", 53), ("000Y", None), ("", None), (None, None), ("old", None)],
)
def test_ages_are_years_or_unknown(text, years):
    assert age_in_years(text) == years


def test_a_file_without_preamble_is_still_dicom(tmp_path):
    for little, implicit in ((True, True), (True, False), (False, False)):
        dataset = mammogram(stored_values(16), bits=16)
        if not little:
            dataset.PixelData = stored_values(16).astype(">u2").tobytes()
        path = tmp_path / f"bare{little}{implicit}"
        del dataset.file_meta
        dataset.save_as(path, implicit_vr=implicit, little_endian=little)
        assert is_dicom(path.read_bytes()[:132])
        np.testing.assert_array_equal(read(path).pixels, stored_values(16))


def raster(folder, image, name, **options):
    path = Path(folder) / name
    image.save(path, **options)
    return path


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence and len(sentence) < 700, sentence
    for word in words:
        assert word in sentence, sentence


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_what_is_no_file_is_refused(tmp_path):
    refused(tmp_path, "folder")
    refused(tmp_path / "absent.png", "no such file")
    (tmp_path / "empty.dcm").touch()
    refused(tmp_path / "empty.dcm", "empty")
    (tmp_path / "text.png").write_text("no picture at all")
    refused(tmp_path / "text.png", "no image of a known kind")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "regular file")


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    path = raster(tmp_path, Image.new("L", (4, 4)), "a.png")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    refused(path, "permission")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.jpg"])
def test_truncated_rasters_are_refused(tmp_path, name):
    refused(cut(raster(tmp_path, Image.fromarray(np.tile(stored_values(8), (20, 20))), name)))


@pytest.mark.parametrize(
    "syntax", [None, RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.keyword if uid else "plain"
)
@pytest.mark.parametrize("share", [0.03, 0.3, 0.9])
def test_truncated_dicom_is_refused(tmp_path, syntax, share):
    dataset = mammogram(np.tile(stored_values(), (20, 20)))
    if syntax:
        compress(dataset, syntax)
    refused(cut(save(dataset, tmp_path), share))


def test_truncated_jpeg_in_dicom_is_refused(tmp_path):
    buffer = io.BytesIO()
    values = np.tile(stored_values(8), (20, 20))
    Image.fromarray(values).save(buffer, "JPEG")
    half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    refused(save(encapsulated(mammogram(values, bits=8), half, JPEGBaseline8Bit), tmp_path))


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"NumberOfFrames": 15}, "15 frames"),
        ({"Rows": 0}, "0 rows"),
        ({"Rows": 65535, "Columns": 65535}, "more than a mammogram has"),
        ({"BitsStored": 20}, "bits"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0"),
        ({"PhotometricInterpretation": "NONSENSE", "SamplesPerPixel": 2}, ""),
    ],
)
def test_dicom_that_is_no_mammogram_is_refused(tmp_path, attributes, word):
    refused(save(mammogram(stored_values(), **attributes), tmp_path), word)


def test_dicom_without_pixels_says_what_it_is(tmp_path):
    report = mammogram(stored_values(), SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    del report.PixelData
    refused(save(report, tmp_path), "Basic Text SR")


def test_a_missing_decoder_is_named(tmp_path):
    dataset = encapsulated(mammogram(stored_values()), b"\xff\x4f" + bytes(50), "1.2.840.10008.1.2.4.100")
    refused(save(dataset, tmp_path), "MPEG2")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), byte=st.integers(0, 255), kind=st.sampled_from(["dcm", "png", "tif", "pgm", "jpg"]))
def test_one_wrong_byte_gives_a_picture_or_a_sentence(tmp_path, place, byte, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "dcm":
        save(mammogram(stored_values(), WindowCenter=5, WindowWidth=6, ViewPosition="CC"), tmp_path, path.name)
    else:
        raster(tmp_path, Image.fromarray(stored_values(8)), path.name)
    content = bytearray(path.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] = byte
    path.write_bytes(content)
    try:
        assert isinstance(read(path), DecodedImage)
    except InputError as error:
        assert "\n" not in str(error)
