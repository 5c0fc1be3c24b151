"""Folders and images in words, for a terminal."""

from pathlib import Path

from mammovae.config import InputError
from mammovae.data.dataset import WRITERS
from mammovae.imageio.read import read
from mammovae.report.formatting import count_line
from mammovae.storage import MANIFEST, read_json


def describe(path: Path) -> str:
    """Say in one sentence what a DATA folder, a RUN folder, another stage's folder or an image file is."""
    if path.is_file():
        image = read(path)
        rows, columns = image.pixels.shape
        header = ", ".join(f"{name} {value}" for name, value in image.header.items() if value is not None)
        header = "; ".join([header or "its header says nothing more", *image.warnings])
        return f"{path}: image of {rows} x {columns} pixels; {header}"
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
