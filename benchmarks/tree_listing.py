"""Listing a hundred thousand small DICOM files: the first line of progress, files a second, memory, resuming.

Nothing usual does this, so there is nothing to compare with: the bounds are on our own figures.
"""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import materials
import numpy as np
from measure import Line, Scope
from memory import anonymous

from mammovae.imageio.dicom_writer import ImageUids, file_bytes, mammogram, uid

_FILES_IN_A_FOLDER = 1000
_INSTANCE, _STUDY = "2.25." + "1" * 30, "2.25." + "2" * 30
_INTERVAL_S = 0.2
_LISTING, _PREPARING = ("listing", "reading headers"), "preparing"  # what lines of progress begin with


@dataclass
class Watched:
    """What a command that lists said and took until it began to prepare images, or was killed."""

    first_line: float | None = None  # seconds to the first line of progress
    listed: float | None = None  # seconds to the first line about preparing, or the end
    lines: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)  # seconds, bytes of the parent


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure the listing of a tree, killed half-way and resumed, and of another from beginning to end."""
    count = scope.pick(100_000, 300)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tree(folder / "raw", count)
        whole = watch(folder / "raw", folder / "whole", lambda seen: False)
        seconds = whole.listed or float("nan")
        killed = watch(folder / "raw", folder / "resumed", lambda seen: seen > 0.6 * seconds)
        resumed = watch(folder / "raw", folder / "resumed", lambda seen: False)
    notes = (
        f"{count:,} files in folders of {_FILES_IN_A_FOLDER:,}; listed in {seconds:.1f} s",
        f"killed after {killed.memory[-1][0]:.1f} s, and then listed in {resumed.listed or float('nan'):.1f} s",
        *whole.lines[:3],
    )
    middle, end = memory_at(whole, 0.4 * seconds), memory_at(whole, seconds)
    each = 1000 * (end - middle) / (0.6 * count)  # bytes, of what grows: a row a file has to be kept
    return [
        Line(f"{row}-first-line", "seconds to the first line of progress", "s", None, whole.first_line, None, notes),
        Line(f"{row}-rate", "headers read and listed on all cores", "files/s", None, count / seconds, None),
        Line(f"{row}-memory", "the parent's growth for a further file", "kB", None, each / 1e6, None),
        Line(
            f"{row}-resume",
            "killed at 60 %: the seconds of a listing from the beginning (usual) and of the second call (ours)",
            "s",
            seconds,
            resumed.listed,
            seconds / (resumed.listed or float("nan")),
        ),
    ]


def make_tree(root: Path, count: int) -> None:
    """Write small mammograms that differ in their UIDs alone, each a copy of one with its UIDs written over."""
    pixels = np.zeros((32, 24), np.uint16)
    pixels[8:24, :12] = 2000
    uids = ImageUids(uid("study"), uid("series"), uid("instance"))
    dataset = mammogram(pixels, uids, bits=12, side="L", view="CC", mm_per_pixel=0.1)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _INSTANCE
    dataset.StudyInstanceUID, dataset.PatientID = _STUDY, "P" * 10
    template = file_bytes(dataset)
    for start in range(0, count, _FILES_IN_A_FOLDER):
        folder = root / f"{start // _FILES_IN_A_FOLDER:05d}"
        folder.mkdir(parents=True)
        for number in range(start, min(count, start + _FILES_IN_A_FOLDER)):
            changed = template.replace(_INSTANCE.encode(), f"2.25.1{number:029d}".encode())
            changed = changed.replace(_STUDY.encode(), f"2.25.2{number // 4:029d}".encode())
            changed = changed.replace(b"P" * 10, f"P{number // 4:09d}".encode())
            (folder / f"{number:06d}.dcm").write_bytes(changed)


def watch(raw: Path, out: Path, is_enough: Callable[[float], bool]) -> Watched:
    """Prepare until images are prepared, or until it is enough (by the seconds), and then kill -9 all of it."""
    seen, ended = Watched(), threading.Event()
    command = materials.command("prepare", "dicom", raw, "--out", out, "--size", 16)
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def listen() -> None:
        for line in process.stderr or ():
            now = time.perf_counter() - begin
            seen.lines.append(f"{now:.1f} s: {line.strip()}")
            if line.startswith(_LISTING) and seen.first_line is None:
                seen.first_line = now
            if line.startswith(_PREPARING) or (out / ".listing.parquet").exists():
                ended.set()
        ended.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    while not ended.wait(_INTERVAL_S):
        now = time.perf_counter() - begin
        seen.memory.append((now, anonymous(process.pid)))
        if (out / ".listing.parquet").exists():
            seen.listed = now
            break
        if is_enough(now):
            break
    else:
        seen.listed = time.perf_counter() - begin
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    listener.join()
    return seen


def memory_at(seen: Watched, second: float) -> int:
    """Return the bytes that the parent held at a time."""
    return next((held for when, held in reversed(seen.memory) if when <= second), 0)
