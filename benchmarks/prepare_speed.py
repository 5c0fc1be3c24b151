"""Preparing: one image on one core against the usual way, and two cores against one."""

import json
import tempfile
import time
from pathlib import Path

import materials
import numpy as np
import usual
from measure import Line, Scope, race, spread

from mammovae.data.prepare_image import prepare_image

ENCODINGS = {
    "jp2": "lossless JPEG 2000 DICOM",
    "rle": "RLE DICOM",
    "raw": "uncompressed DICOM",
    "jpegls": "lossless JPEG-LS DICOM",
    "png16": "PNG of 16 bit",
    "png8": "PNG of 8 bit",
}


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure prepare-ENCODING or prepare-cores."""
    return [cores(row, scope) if row == "prepare-cores" else image(row, scope)]


def image(row: str, scope: Scope) -> Line:
    """Decode, resize with anti-aliasing and save a PNG, against ours with mask, geometry, measurements and storing."""
    kind = row.removeprefix("prepare-")
    count, rounds = scope.pick((4, 3), (1, 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = materials.encoded(kind, folder / "films", count)
        works = (lambda: usual.prepare(files, folder), lambda: store(files, folder))
        usual_seconds, ours = race(works, rounds)
    work = f"{count} {materials.FILMS}, {ENCODINGS[kind]}, to 128 px, one core"
    notes = (f"usual, all films: {spread(usual_seconds)}; ours: {spread(ours)}",)
    each = min(usual_seconds) / count, min(ours) / count
    return Line(row, work, "s/image", *each, each[0] / each[1], notes)


def store(files: list[Path], out: Path) -> None:
    """Prepare files and write images, masks and a journal, as mammovae prepare does."""
    shape = (len(files), usual.SIZE, usual.SIZE)
    images = np.lib.format.open_memmap(out / "images.npy", mode="w+", dtype=np.uint16, shape=shape)
    masks = np.lib.format.open_memmap(out / "masks.npy", mode="w+", dtype=np.uint8, shape=shape)
    with (out / "rows.jsonl").open("w", encoding="utf-8") as journal:
        for number, file in enumerate(files):
            prepared = prepare_image(file, size=usual.SIZE)
            images[number], masks[number] = prepared.image, prepared.mask
            journal.write(json.dumps([prepared.fields, prepared.digest, prepared.measurements]) + "\n")
    images.flush()
    masks.flush()


def cores(row: str, scope: Scope) -> Line:
    """Time the command with one worker and with two on a folder of many links and of few.

    The difference of the two folders is what an image costs; the rest is start-up.
    """
    few, seconds, rounds = scope.pick((8, 40.0, 2), (2, 1.0, 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        films = materials.films(few)
        begin = time.perf_counter()
        for film in films:
            prepare_image(film, size=usual.SIZE)
        rate = few / (time.perf_counter() - begin)
        many = few * min(1000, max(3, round(seconds * rate / few)))
        for count in (few, many):
            materials.links(films, folder / f"{count}", count)

        def work(count: int, workers: int) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                source = folder / f"{count}"
                materials.call("prepare", "folder", source, "--out", Path(out) / "data", "--workers", workers)

        cases = [(count, workers) for count in (few, many) for workers in (1, 2)]
        seconds_by_case = race([lambda one=one: work(*one) for one in cases], rounds)
    best = {one: min(times) for one, times in zip(cases, seconds_by_case, strict=True)}
    each = {workers: (best[many, workers] - best[few, workers]) / (many - few) for workers in (1, 2)}
    starts = (f"{workers} worker(s): {best[few, workers] - few * each[workers]:.2f} s" for workers in (1, 2))
    total = f"whole command on {many} files: {best[many, 1]:.1f} s and {best[many, 2]:.1f} s"
    work_words = f"{many} links to {few} {materials.FILMS}, RLE; usual: --workers 1, ours: --workers 2"
    notes = (f"start-up and end, left out of the ratio: {', '.join(starts)}; {total}",)
    return Line(row, work_words, "s/image", each[1], each[2], each[1] / each[2], notes)
