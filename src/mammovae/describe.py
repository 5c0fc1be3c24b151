"""Folders and images in words, for a terminal."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mammovae.arguments import AnyPath, checked
from mammovae.config import InputError
from mammovae.data.dataset import WRITERS
from mammovae.data.explain import explain
from mammovae.data.index import printable
from mammovae.imageio.raw_tree import RawTree
from mammovae.parallel import pool
from mammovae.report.formatting import count_line, plural
from mammovae.storage import MANIFEST, read_json


@checked
def describe(paths: Annotated[Sequence[AnyPath], Field(min_length=1)]) -> tuple[dict[str, str], int]:
    """Say in words what each path is, and count those of which only the reason can be said why they are nothing known.

    A DATA folder, a RUN folder, another stage's folder and a zip archive are a line, an image file is several. Files
    are read by a worker process, as their decoders may crash or never end.
    """
    descriptions: dict[str, str] = {}
    failed = 0
    files = [path for path in paths if path.is_file() and not zipfile.is_zipfile(path)]
    explained = dict(pool.map_unordered(explain, files, workers=1))
    for path in paths:
        try:
            descriptions[str(path)] = _checked(explained[path]) if path in explained else printable(_describe(path))
        except InputError as error:
            descriptions[str(path)] = printable(str(error))
            failed += 1
    return descriptions, failed


def _checked(result: str | InputError) -> str:
    if isinstance(result, InputError):
        raise result
    return result


def _describe(path: Path) -> str:
    if path.is_file():
        files = plural(len(RawTree.scan(path).files), "file")
        return f"{path}: zip archive of {files}, which mammovae prepare and score read in place"
    if not path.is_dir():
        raise InputError(f"there is no file or folder {path}: check the path")
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} is no folder of mammovae: it has no {MANIFEST}")
    manifest = read_json(path / MANIFEST)
    if not {"command", "state", "versions"} <= set(manifest):
        raise InputError(f"{path} is no folder of mammovae: its {MANIFEST} is another program's")
    state, done = f"{manifest['command']}, {manifest['state']}", manifest["state"] == "done"
    if done and manifest["command"] in WRITERS:
        return f"{path}: DATA folder ({state}) at {manifest['size']} px; {count_line(manifest)}"
    if done and manifest["command"] == "train":
        images, weights = manifest["images"], sum(manifest["parameters"].values())
        run = f"RUN folder ({state}), preset {manifest['preset']}, {weights:,} parameters"
        return f"{path}: {run}, trained on {images['train']:,} images, calibrated on {images['calibration']:,}"
    return f"{path}: {state}, written {manifest['written']} by mammovae {manifest['versions']['mammovae']}"
