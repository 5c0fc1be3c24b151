"""Folders and results in words, for a terminal."""

from pathlib import Path
from typing import Any

from mammovae.config import InputError
from mammovae.data.read import read
from mammovae.folders import MANIFEST, read_json


def describe(path: Path | str) -> str:
    """Say in words what a DATA folder, a RUN folder, another stage's folder or an image file is."""
    path = Path(path)
    if path.is_file():
        picture = read(path)
        rows, columns = picture.pixels.shape
        known = ", ".join(f"{name} {item}" for name, item in picture.header.items() if item is not None)
        remarks = "".join(f"; {remark}" for remark in picture.remarks)
        return f"{path}: image of {rows} x {columns} pixels; {known or 'its header says nothing more'}{remarks}"
    if not path.is_dir():
        raise InputError(f"there is no file or folder {path}: check the path")
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} is no folder of mammovae: it has no {MANIFEST}")
    manifest = read_json(path / MANIFEST)
    state = f"{manifest['command']}, {manifest['state']}"
    if manifest["state"] == "done" and manifest["command"] == "prepare":
        return f"{path}: DATA folder ({state}) at {manifest['size']} px; {count_line(manifest['counts'])}"
    if manifest["state"] == "done" and manifest["command"] == "train":
        images = manifest["images"]
        return (
            f"{path}: RUN folder ({state}), preset {manifest['preset']}, {sum(manifest['parameters'].values()):,} "
            f"parameters, trained on {images['train']:,} images, calibrated on {images['calibration']:,}"
        )
    return f"{path}: {state}, written {manifest['written']} by mammovae {manifest['versions']['mammovae']}"


def count_line(counts: dict[str, Any]) -> str:
    """Say in one line what a prepare found."""
    splits = ", ".join(f"{name} {number:,}" for name, number in counts["splits"].items())
    return (
        f"{counts['images']:,} images of {counts['patients']:,} patients: {counts['healthy']:,} healthy, "
        f"{counts['finding']:,} with findings, {counts['unknown']:,} of unknown health; {counts['failed']:,} failed, "
        f"{counts['missing']:,} missing, {counts['remarked']:,} with a remark; {splits}"
    )


def headline(metrics: dict[str, Any]) -> str:
    """Say in one line what an evaluation found."""
    numbers = f"{metrics['n_healthy']:,} healthy images, {metrics['n_finding']:,} with findings"
    if metrics["auroc"] is None:
        return f"no AUROC: {numbers} in the test split"
    low, high = metrics["auroc_low"], metrics["auroc_high"]
    interval = "too few patients for an interval" if low is None else f"95 % interval {low:.2f} to {high:.2f}"
    return f"AUROC {metrics['auroc']:.2f} ({interval}), {numbers}"
