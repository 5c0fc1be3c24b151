"""Folders and results in words, for a terminal."""

from pathlib import Path

from mammovae.config import InputError
from mammovae.data.dataset import WRITERS
from mammovae.imageio.read import read
from mammovae.report.formatting import count_line
from mammovae.storage import MANIFEST, read_json


def describe(path: Path | str) -> str:
    """Say in words what a DATA folder, a RUN folder, another stage's folder or an image file is."""
    path = Path(path)
    if path.is_file():
        image = read(path)
        rows, columns = image.pixels.shape
        known = ", ".join(f"{name} {item}" for name, item in image.header.items() if item is not None)
        warnings = "".join(f"; {warning}" for warning in image.warnings)
        return f"{path}: image of {rows} x {columns} pixels; {known or 'its header says nothing more'}{warnings}"
    if not path.is_dir():
        raise InputError(f"there is no file or folder {path}: check the path")
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} is no folder of mammovae: it has no {MANIFEST}")
    manifest = read_json(path / MANIFEST)
    if not {"command", "state", "versions"} <= set(manifest):
        raise InputError(f"{path} is no folder of mammovae: its {MANIFEST} is another program's")
    state = f"{manifest['command']}, {manifest['state']}"
    if manifest["state"] == "done" and manifest["command"] in WRITERS:
        return f"{path}: DATA folder ({state}) at {manifest['size']} px; {count_line(manifest)}"
    if manifest["state"] == "done" and manifest["command"] == "train":
        images = manifest["images"]
        return (
            f"{path}: RUN folder ({state}), preset {manifest['preset']}, {sum(manifest['parameters'].values()):,} "
            f"parameters, trained on {images['train']:,} images, calibrated on {images['calibration']:,}"
        )
    return f"{path}: {state}, written {manifest['written']} by mammovae {manifest['versions']['mammovae']}"
