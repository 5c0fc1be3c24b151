"""Kinds of raw data: each is a file here that defines SOURCE, an entry below, and a name in config.SourceKind."""

from mammovae.data.sources import cbis_ddsm, dicom_tree, image_folder, mias, vindr
from mammovae.data.sources.source import Source

SOURCES: dict[str, Source] = {
    "vindr": vindr.SOURCE,
    "mias": mias.SOURCE,
    "cbis-ddsm": cbis_ddsm.SOURCE,
    "folder": image_folder.SOURCE,
    "dicom": dicom_tree.SOURCE,
}
"""Kinds of raw data by the name that the command line gives them."""
