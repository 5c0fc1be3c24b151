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
from mammovae.imageio.decoded_image import DecodedImage
from mammovae.imageio.dicom_reader import is_dicom
from mammovae.imageio.dicom_values import Values
from mammovae.imageio.raw_tree import open_raw
from mammovae.imageio.read import read
from mammovae.report.formatting import value

_SIDE, _VIEW = ("ImageLaterality", "Laterality", "FrameLaterality"), ("ViewPosition", "PatientOrientation")
_SIZE = 128  # pixels of the prepared image, prepare's default
_LABEL, _WIDTH = 10, 110  # of lines, in characters


def explain(path: Path) -> str:
    """Describe an image file in a few lines.

    The whole image is decoded, and prepared as if it were the only one of its set. InputError when it cannot be read.
    """
    decoded = read(path)
    header, dataset = decoded.header, _dataset(path)
    values = Values(dataset)
    rows = {
        "kind": header.get("kind") or "mammogram, as nothing says otherwise",
        "side": _with_origin(header.get("side"), _stated(values, _SIDE)),
        "view": _with_origin(header.get("view"), [*_stated(values, _VIEW), *_coded(values)]),
        "patient": _fields(header, {"patient_id": "{}", "age": "{} years", "study_id": "study {}"}),
        "device": _fields(header, {"vendor": "{}", "model": "{}", "mm_per_pixel": "{} mm a pixel"}),
    }
    white = None if decoded.max_value is None else 2 ** max(8, decoded.max_value.bit_length()) - 1
    steps = [f"{number}. {step}" for number, step in enumerate(decoded.steps, start=1)]
    if white is not None:
        taken = f"prepare takes {white:,}, the smallest 2^k - 1 that holds all values, if those of its whole set allow"
        unsaid = f"white: the file does not say it, its greatest value is {decoded.max_value:,}"
        steps.append(f"{len(steps) + 1}. {unsaid}; {taken}")
    blocks = {name: [text] for name, text in rows.items() if text} | {"grey": steps, "remarks": decoded.warnings}
    try:
        result = prepare_image(path, size=_SIZE, white=white)
        blocks["prepare"] = [_prepared(decoded, result)]
    except InputError as error:
        blocks["prepare"] = [f"would refuse it: {error}"]
    shape = f"{decoded.grid.rows:,} x {decoded.grid.columns:,} pixels (rows x columns)"
    first = f"{printable(str(path))}: image of {shape}, {_format(path, dataset)}"
    return "\n".join([first, *(line for name, texts in blocks.items() for line in _lines(name, texts))])


def _dataset(path: Path) -> pydicom.Dataset:
    """Return what a DICOM file says, nothing for any other."""
    if not is_dicom(path):
        return pydicom.Dataset()
    with open_raw(path) as file:
        return pydicom.dcmread(file, force=True, stop_before_pixels=True)


def _stated(values: Values, names: Iterable[str]) -> list[str]:
    return [f"{name} {text}" for name in names if (text := values.text(name)) is not None]


def _coded(values: Values) -> Iterator[str]:
    """Yield the codes of the view and of its modifiers, in words where they have any."""
    for item in map(values.within, values.items("ViewCodeSequence")[:1]):
        modifiers = [_code(item.within(modifier)) for modifier in item.items("ViewModifierCodeSequence")]
        yield f"ViewCodeSequence {_code(item)}" + "".join(f", modifier {code}" for code in modifiers)


def _code(item: Values) -> str:
    return item.text("CodeMeaning") or item.text("CodeValue") or "without a code"


def _with_origin(found: str | None, stated: list[str]) -> str:
    """Return a side or view and all that the file says of it, whichever of these decided."""
    origin = f" ({'; '.join(stated)})" if stated else ": the file does not say it"
    return f"{found or 'unknown'}{origin}"


def _fields(header: dict[str, Any], texts: dict[str, str]) -> str:
    return ", ".join(text.format(value(header[name])) for name, text in texts.items() if header.get(name) is not None)


def _format(path: Path, dataset: pydicom.Dataset) -> str:
    if not isinstance(dataset, pydicom.FileDataset):
        return path.suffix.lstrip(".").upper() or "without a suffix"
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    return "DICOM" if syntax is None else f"DICOM, {syntax.name}"


def _prepared(decoded: DecodedImage, result: PreparedImage) -> str:
    geometry, pixels = result.geometry, result.fields["mask_pixels"]
    rows, columns = geometry.crop_y1 - geometry.crop_y0, geometry.crop_x1 - geometry.crop_x0
    share = 100 * pixels / (decoded.grid.rows * decoded.grid.columns)
    mm = decoded.header.get("mm_per_pixel")
    area = f"{share:.0f} % of the image" + ("" if mm is None else f", {pixels * mm**2 / 100:,.0f} cm2")
    kind = decoded.header.get("kind")
    use = "" if kind in (None, "mammogram") else f"; of kind {kind} it is listed, and used only with --kinds {kind}"
    wall = f"chest wall at the {result.chest_wall} edge"
    if against_header(side := decoded.header.get("side"), result.chest_wall, "standard"):
        wall += f", where a breast of side {side} has it in mirrored sets alone"
    return f"ok: cropped to {rows:,} x {columns:,} pixels, {wall}, breast area {area}{use}"


def _lines(name: str, texts: Iterable[str]) -> Iterator[str]:
    """Yield texts as paragraphs beside their name, each wrapped."""
    label, indent = f"  {name}".ljust(_LABEL + 2), " " * (_LABEL + 2)
    for text in texts:
        yield from textwrap.wrap(printable(text), _WIDTH, initial_indent=label, subsequent_indent=indent)
        label = indent
