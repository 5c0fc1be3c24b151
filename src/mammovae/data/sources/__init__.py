"""Raw data sets as one table: each source is one function from a raw folder to the index's rows."""

from collections.abc import Callable

import pandas as pd

from mammovae.data.sources.cbis_ddsm import cbis_ddsm
from mammovae.data.sources.dicom_tree import dicom
from mammovae.data.sources.image_folder import folder
from mammovae.data.sources.mias import mias
from mammovae.data.sources.vindr import vindr

SOURCES: dict[str, Callable[..., pd.DataFrame]] = {
    "vindr": vindr,
    "mias": mias,
    "cbis-ddsm": cbis_ddsm,
    "folder": folder,
    "dicom": dicom,
}
"""Kinds of raw data by the name that the command line gives them."""
