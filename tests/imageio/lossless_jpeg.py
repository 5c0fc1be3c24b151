"""Lossless JPEG, which pydicom does not write, by gdcm."""

from pathlib import Path

import gdcm
import pydicom
from pydicom import FileDataset
from pydicom.uid import JPEGLosslessSV1


def to_lossless_jpeg(plain: Path, packed: Path) -> FileDataset:
    """Write an uncompressed file's image as lossless JPEG to packed, and return that data set."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(packed))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    dataset = pydicom.dcmread(packed)
    assert dataset.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    return dataset
