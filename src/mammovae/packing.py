"""A run to hand on: a zip archive of what others need of it, in which nothing shows or names a patient.

What goes is listed, and made of what mammovae knows to be in it: tables of known columns of numbers, weights of the
hash that train recorded, a figure and a card drawn anew. Values of the manifest's known keys go as they are.
"""

import csv
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mammovae.arguments import AnyPath, checked
from mammovae.config import InputError, PrepareSettings
from mammovae.data.index import printable
from mammovae.detection.calibration import CALIBRATION, PATIENT
from mammovae.detection.quality import MEASURES, REFERENCE_MEASUREMENTS, TEMPLATES
from mammovae.generation.gaussian_mixture import KINDS
from mammovae.generation.latent_density import DENSITY, LatentDensity
from mammovae.models.base import HISTORY, WEIGHTS
from mammovae.models.run import CONFIG, Run
from mammovae.report.charts import loss_curves
from mammovae.report.recorded_figures import FIGURES, json_text, read_figures
from mammovae.report.style import to_png
from mammovae.storage import MANIFEST, atomic_write, check_replaceable
from mammovae.training.model_card import CARD, epochs, model_card

ELSEWHERE = "a folder that is not named here"
"""What the manifest of a packed run says of where its DATA folder lies."""
_MARK = f'{MANIFEST}{{\n  "command": "train"'
"""How an archive of pack begins, behind the first header: its files are stored as they are, the manifest first."""
_PLAIN = ("settings", "seconds", "written", "versions", "git_commit", "machine", "preset", "devices", "device")
_PLAIN += ("training_seconds", "images", "parameters", "weights", "map_scales", "map_scale", "calibration_patients")
_PLAIN += ("training_data",)
_PREPARED = (*PrepareSettings.model_fields, "stored_as", "phantoms")
_TEMPLATE_ARRAYS = {"mean", "cut_direction", "inverse"}
_TEMPLATE_ARRAYS |= {f"{of}_{part}" for of in ("image", "outline") for part in ("mean", "axes", "spread", "rest")}
_BLOCK = 2**20  # bytes that are copied at a time


@checked
def pack(run: AnyPath, out: AnyPath) -> dict[str, Any]:
    """Do mammovae pack; return the names of the files in the archive, and of what was left out of it.

    The same run gives the same bytes. InputError when a file of the run does not hold what mammovae writes there.
    """
    opened = Run.open(run)
    check_replaceable("out", out, _MARK)
    contents = _contents(opened)
    left_out = [printable(name) for name in _files(opened.path) if name not in contents]
    with atomic_write(out) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, content in contents.items():
            _add(archive, name, content, opened)
    return {"files": list(contents), "left_out": left_out}


def _contents(run: Run) -> dict[str, bytes | Path]:
    """Return what goes, by name: bytes, or of weights the file that they are copied from. The manifest is the first."""
    manifest, histories = _manifest(run), {name: _history(run, name) for name in run.members}
    figures = read_figures(run.path)
    card = model_card(manifest, run.settings, epochs(run.path, run.settings), figures.values())
    contents: dict[str, bytes | Path] = {
        MANIFEST: (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode(),
        CARD: card.encode(),
        CONFIG: tomli_w.dumps(run.settings.model_dump(exclude_none=True)).encode(),
        CALIBRATION: _numbers(run, CALIBRATION, {*_scores(run), "quality", PATIENT}),
    }
    optional: dict[str, Callable[[], bytes]] = {
        REFERENCE_MEASUREMENTS: lambda: _numbers(run, REFERENCE_MEASUREMENTS, MEASURES),
        TEMPLATES: lambda: _templates(run.path / TEMPLATES),
        DENSITY: lambda: _density(run.path / DENSITY),
    }
    contents |= {name: read() for name, read in optional.items() if (run.path / name).exists()}
    contents["loss.png"] = to_png(loss_curves({name: table for name, (table, _) in histories.items()}, run.curves))
    for name, (_, text) in histories.items():
        contents[f"members/{name}/{HISTORY}"] = text
        contents[f"members/{name}/{WEIGHTS}"] = run.path / "members" / name / WEIGHTS
    return contents | {f"{FIGURES}/{name}": json_text(one).encode() for name, one in figures.items()}


def _manifest(run: Run) -> dict[str, Any]:
    """Return the manifest without the places of the DATA folders, and without what mammovae does not write there."""
    old = run.manifest
    if lacking := [name for name in (*_PLAIN, "inputs", "prepared") if name not in old]:
        remedy = "it was trained by an older mammovae; train again"
        raise InputError(f"cannot pack {run.path}: its {MANIFEST} does not say {lacking[0]}: {remedy}")
    plain = {name: old[name] for name in _PLAIN} | {"settings": {"preset": old["preset"]} | _settings(run)}
    prepared = {name: old["prepared"][name] for name in _PREPARED if name in old["prepared"]}
    inputs = {"data": ELSEWHERE, "index": old["inputs"]["index"]}
    begin = {"command": "train", "state": "done", "inputs": inputs, "prepared": prepared, "joined": []}
    return begin | plain


def _settings(run: Run) -> dict[str, Any]:
    return run.settings.model_dump(mode="json")


def _scores(run: Run) -> set[str]:
    scores = {"map_peak", *run.score_meanings}
    return scores | {f"{name}_bilateral" for name in scores}


def _numbers(run: Run, name: str, known: Collection[str]) -> bytes:
    """Return a Parquet file of a run written anew: its known columns of numbers, without an index or notes."""
    path = run.path / name
    with _reading(path) as content:
        table = pd.read_parquet(io.BytesIO(content))
    _check_columns(path, table, known)
    buffer = io.BytesIO()
    pd.DataFrame({column: table[column].to_numpy() for column in table}).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _history(run: Run, name: str) -> tuple[pd.DataFrame, bytes]:
    """Return a member's history as a table and as it is, numbers alone."""
    path = run.path / "members" / name / HISTORY
    with _reading(path) as content:
        table = pd.read_csv(io.BytesIO(content))
        widths = {len(cells) for cells in csv.reader(content.decode().splitlines())}
    columns = [str(column) for column in table if re.fullmatch("[a-z][a-z_0-9]*", str(column))]
    _check_columns(path, table, columns)
    if len(widths) > 1:  # pandas would take what is too much for names of rows
        raise InputError(f"{path} has rows of different lengths: restore the file that train wrote, or train again")
    return table, content


def _check_columns(path: Path, table: pd.DataFrame, known: Collection[str]) -> None:
    """Raise InputError unless a table holds numbers alone, in known columns."""
    for column in table:
        if str(column) not in known or not pd.api.types.is_numeric_dtype(table[column]):
            what = f"{path} has a column {str(column)[:40]!r} that mammovae does not write there"
            raise InputError(f"{what}, which might name patients: restore the file that train wrote, or train again")


def _templates(path: Path) -> bytes:
    """Return the arrays of the quality score's templates, written anew without notes."""
    with _reading(path) as content:
        arrays = load(content)
    if unknown := sorted(set(arrays) - _TEMPLATE_ARRAYS):
        raise InputError(f"{path} has an array {unknown[0][:40]!r} that mammovae does not write there: train again")
    return save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})


def _density(path: Path) -> bytes:
    """Return the fitted distribution's file, whose notes name distributions alone."""
    density = LatentDensity.open(path)
    if unknown := [name for name in density.held_out if not re.fullmatch(rf"({'|'.join(KINDS)}) \d+", name)]:
        raise InputError(f"{path} has a note {unknown[0][:40]!r} that mammovae does not write there: train again")
    return density.to_bytes()


@contextmanager
def _reading(path: Path) -> Iterator[bytes]:
    """Give the bytes of a file of the run; what goes wrong with them is an InputError of one sentence."""
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"there is no file {path}: restore it, or train the run again")
    try:
        yield path.read_bytes()
    except (OSError, ValueError, csv.Error, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot read {path} ({reason}): train the run again") from error


def _files(folder: Path) -> Iterator[str]:
    """Yield the names of all files and links within a folder, in order; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield (Path(place) / name).relative_to(folder).as_posix()


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path, run: Run) -> None:
    """Add a file as it is, without a time: what is compressed would differ from one zlib to another."""
    entry = zipfile.ZipInfo(name)  # of 1980
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    if isinstance(content, bytes):
        archive.writestr(entry, content)
        return
    entry.file_size, written = content.stat().st_size, hashlib.sha256()
    with content.open("rb") as file, archive.open(entry, "w") as target:
        while block := file.read(_BLOCK):
            written.update(block)
            target.write(block)
    if written.hexdigest() != run.manifest["weights"].get(content.parent.name):
        remedy = "restore the file that train wrote, or train again"
        raise InputError(f"{content} holds other weights than {MANIFEST} says (SHA-256): {remedy}")
