"""What becomes of one image file, step by step and in words: how its values became grey, and what prepare would do."""

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pydicom

from mammovae.config import InputError
from mammovae.data.index import printable
from mammovae.data.laterality import against_header
from mammovae.data.prepare_image import PreparedImage, prepare_image
from mammovae.imageio.decoded_image import DecodedImage, white_of
from mammovae.imageio.dicom_header import header_steps
from mammovae.imageio.dicom_reader import is_dicom, open_dataset
from mammovae.imageio.dicom_values import Values
from mammovae.imageio.image_kind import kind_of_name, view_modifiers
from mammovae.imageio.raster_reader import HEAD_BYTES
from mammovae.imageio.raw_tree import open_raw
from mammovae.imageio.read import read
from mammovae.report.formatting import value

_STATED = ("ImageLaterality", "Laterality", "FrameLaterality", "ViewPosition", "PatientOrientation")
_SIZE = 128  # pixels of the prepared image, prepare's default
_LABEL, _WIDTH = 10, 110  # of lines, in characters


def explain(path: Path) -> str:
    """Describe an image file in a few lines.

    The whole image is decoded, and prepared as if it were the only one of its set. InputError when it cannot be read.
    """
    decoded = read(path)
    white = None if decoded.max_value is None else white_of(decoded.max_value)
    decoded = decoded if white is None else read(path, white=white)
    with open_raw(path) as file:
        dataset = open_dataset(file) if is_dicom(file.read(HEAD_BYTES)) else None
    header, kind = decoded.header, decoded.header.get("kind") or kind_of_name(path.name)
    steps = [f"{number}. {step}" for number, step in enumerate(decoded.steps, start=1)]
    if white is not None:
        steps.append(
            f"prepare takes for white the smallest 2^k - 1 that holds all values of a set: of this file {white:,}"
        )
    blocks: dict[str, Iterable[str]] = {
        "header": _header_lines(kind, dataset),
        "patient": _fields(header, {"patient_id": "{}", "age": "{} years", "study_id": "study {}"}),
        "device": _fields(header, {"vendor": "{}", "model": "{}"}),
        "grey": steps,
        "remarks": decoded.warnings,
    }
    try:
        blocks["prepare"] = [_prepared(decoded, prepare_image(path, size=_SIZE, white=white), kind)]
    except InputError as error:
        blocks["prepare"] = [f"would refuse it: {error}"]
    shape = f"{decoded.grid.rows:,} x {decoded.grid.columns:,} pixels (rows x columns)"
    first = f"{printable(str(path))}: image of {shape}, {_format(path, dataset)}"
    return "\n".join([first, *(line for name, texts in blocks.items() for line in _lines(name, texts))])


def _header_lines(kind: str | None, dataset: pydicom.FileDataset | None) -> Iterator[str]:
    """Yield what the file is known to show, and where that was read; then all that it says of side and view."""
    if dataset is None:
        yield (f"kind {kind}: its name" if kind else "it says nothing of kind, side and view")
        return
    values = Values(dataset)
    yield from header_steps(values)
    stated = [f"{name} {text}" for name in _STATED if (text := values.text(name)) is not None]
    for name, codes in (("ViewCodeSequence", values.codes("ViewCodeSequence")), ("modifier", view_modifiers(values))):
        stated += [f"{name} {code.meaning or f'{code.value} {code.scheme}'}" for code in codes]
    yield f"of side and view it says {', '.join(stated) or 'nothing'}"


def _fields(header: dict[str, Any], texts: dict[str, str]) -> list[str]:
    known = ", ".join(text.format(value(header[name])) for name, text in texts.items() if header.get(name) is not None)
    return [known] if known else []


def _format(path: Path, dataset: pydicom.FileDataset | None) -> str:
    if dataset is None:
        return path.suffix.lstrip(".").upper() or "no DICOM"
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    return "DICOM" if syntax is None else f"DICOM, {syntax.name}"


def _prepared(decoded: DecodedImage, result: PreparedImage, kind: str | None) -> str:
    geometry, pixels = result.geometry, result.fields["mask_pixels"]
    rows, columns = geometry.crop_y1 - geometry.crop_y0, geometry.crop_x1 - geometry.crop_x0
    share = 100 * pixels / (decoded.grid.rows * decoded.grid.columns)
    mm = decoded.header.get("mm_per_pixel")
    area = f"{share:.0f} % of the image" + ("" if mm is None else f", {pixels * mm**2 / 100:,.0f} cm2")
    use = "" if kind in (None, "mammogram") else f"; of kind {kind} it is listed, and used only with --kinds {kind}"
    wall = f"chest wall at the {result.chest_wall} edge"
    if against_header(side := decoded.header.get("side"), result.chest_wall, "standard"):
        wall += f", where side {side} has it in mirrored sets alone"
    return f"ok: cropped to {rows:,} x {columns:,} pixels, {wall}, breast area {area}{use}"


def _lines(name: str, texts: Iterable[str]) -> Iterator[str]:
    """Yield texts as paragraphs beside their name, each wrapped."""
    label, indent = f"  {name}".ljust(_LABEL + 2), " " * (_LABEL + 2)
    for text in texts:
        yield from textwrap.wrap(printable(text), _WIDTH, initial_indent=label, subsequent_indent=indent)
        label = indent
