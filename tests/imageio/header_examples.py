"""Headers and codes that several tests make."""

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from mammovae.imageio.dicom_values import Values


def header_values(vr, **attributes):
    """Values of a header; bytes are stored as a file would hold them under that VR, wrong or right."""
    dataset = Dataset()
    for name, value in attributes.items():
        if isinstance(value, bytes):
            tag = Tag(name)
            dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        else:
            setattr(dataset, name, value)
    return Values(dataset)


def code(value, scheme="SCT", meaning="", *modifiers):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    if modifiers:
        item.ViewModifierCodeSequence = Sequence(modifiers)
    return item
