"""Scoring: DATA against the plain network, DICOM files with the share of each stage, detect against preparing."""

import cProfile
import csv
import pstats
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import materials
import numpy as np
import plain
import torch
import usual
from measure import Line, Scope, race, spread

import mammovae
from mammovae.config import preset
from mammovae.data.prepare_image import prepare_image
from mammovae.detection.detector import Detector
from mammovae.models.run import build_members
from mammovae.parallel import pool

STAGES = {
    "opening the run": ("models/run.py", "open"),
    "decoding": ("imageio/read.py", "read"),
    "preparing": ("data/prepare_image.py", "prepare_image"),
    "model": ("detection/detector.py", "detect"),
    "writing": ("pandas/core/generic.py", "to_csv"),
}
"""The function of each stage whose time counts, callees included; decoding, part of preparing, is subtracted there."""


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure score, score-dicom or score-detect."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if row == "score-detect":
            return [detect(row, folder, scope)]
        run = materials.run(folder / "trained", "original")
        if row == "score-dicom":
            return [dicom(f"score-{kind}", kind, run, folder, scope) for kind in ("jp2", "rle")]
        return prepared(row, run, folder, scope)


def prepared(row: str, run: Path, folder: Path, scope: Scope) -> list[Line]:
    """Score a DATA folder with all that mammovae score does, against the plain network's loss alone."""
    count, distinct, rounds = scope.pick((1000, 100, 3), (8, 8, 1))
    data = materials.data(folder / "scored", count, distinct)
    network = plain.Plain().eval()
    images = np.load(data / "images.npy", mmap_mode="r")
    works = (
        lambda: loop(network, images, 1),
        lambda: loop(network, images, 16),
        lambda: table(run, data, folder),
    )
    one, batches, ours = race(works, rounds)
    measured = []
    for name, words, usual_seconds in ((row, "one by one", one), (f"{row}-batches", "in batches of 16", batches)):
        work = f"{count} prepared images, original network; usual: the eager network alone {words}"
        notes = (
            f"{torch.get_num_threads()} threads; usual: {spread(usual_seconds)}; ours: {spread(ours)}",
            "ours: opening the run, scores, maps, quality, percentiles, reasons, CSV",
        )
        rates = count / min(usual_seconds), count / min(ours)
        measured.append(Line(name, work, "images/s", *rates, rates[1] / rates[0], notes))
    return measured


def loop(network: plain.Plain, images: np.ndarray, batch: int) -> None:
    """Score prepared images in an eager loop."""
    losses: list[float] = []
    with torch.no_grad():
        for start in range(0, len(images), batch):
            part = torch.from_numpy(images[start : start + batch].astype(np.float32))[:, None] / 65535
            losses += network.score(part).tolist()
    assert len(losses) == len(images)


def table(run: Path, path: Path, folder: Path) -> None:
    """Score as the command does, files in one process."""
    scored = mammovae.score(run, path, out=folder / "scores.csv", workers=1)["table"]
    assert scored["finding"].notna().all(), scored["reason"].tolist()


def dicom(name: str, kind: str, run: Path, folder: Path, scope: Scope) -> Line:
    """Score DICOM files in one process against decoding, resizing and the plain network; then note where time goes."""
    count, rounds = scope.pick((6, 2), (1, 1))
    films = materials.encoded(kind, folder / kind, count)
    network = plain.Plain().eval()

    def usual_way() -> None:
        with (folder / "usual.csv").open("w", encoding="utf-8") as file, torch.no_grad():
            writer = csv.writer(file)
            for film in films:
                small = torch.from_numpy(usual.small(film).astype(np.float32))[None, None]
                writer.writerow([film.name, network.score(small).item()])

    def ours() -> None:
        table(run, folder / kind, folder)

    seconds = race((usual_way, ours), rounds)
    best = [min(times) / count for times in seconds]
    work = f"{count} {materials.FILMS}, {kind.upper()}; usual: pydicom, scikit-image, plain network"
    return Line(name, work, "s/image", *best, best[0] / best[1], (f"time of ours for {count} files: {shares(ours)}",))


def detect(row: str, folder: Path, scope: Scope) -> Line:
    """Score a batch of 16 films by all members of detect, untrained, against preparing one for them."""
    count, rounds = scope.pick((8, 3), (1, 1))
    settings = preset("detect")
    size = max(getattr(settings, name).size for name in settings.members)
    files = materials.encoded("jp2", folder / "films", count)
    films = [prepare_image(file, size=size) for file in files]
    images, masks = (np.stack([getattr(film, name) for film in films * (16 // count)]) for name in ("image", "mask"))
    run: Any = SimpleNamespace(members=build_members(settings), settings=settings, manifest={})
    detector = Detector(run)

    def prepare() -> None:
        for file in files:
            prepare_image(file, size=size)

    def score() -> None:
        detector.detect(images, masks)

    preparing, scoring = race((prepare, score), rounds)
    usual_seconds, ours = min(preparing) / count, min(scoring) / len(images)
    work = f"{count} {materials.FILMS}; usual: preparing one, JP2, to {size} px, ours: scoring it by detect, one core"
    return Line(row, work, "s/image", usual_seconds, ours, usual_seconds / ours)


def in_this_process(function: Callable[[Any], Any], tasks: Iterable[Any], **_: object) -> Iterator[tuple[Any, Any]]:
    """Do the pool's work where the profile sees it."""
    return ((task, function(task)) for task in tasks)


def shares(work: Callable[[], None]) -> str:
    """Profile a call and return the share of each stage in words."""
    profile = cProfile.Profile()
    with mock.patch.object(pool, "map_unordered", in_this_process):
        profile.runcall(work)
    stats = pstats.Stats(profile)
    total = stats.total_tt  # pyrefly: ignore
    seconds_by_stage = dict.fromkeys(STAGES, 0.0)
    for (file, _, function), (*_, cumulative, _) in stats.stats.items():  # pyrefly: ignore
        for stage, (end, name) in STAGES.items():
            if function == name and file.endswith(end):
                seconds_by_stage[stage] = max(seconds_by_stage[stage], cumulative)
    for stage, seconds in seconds_by_stage.items():
        if not seconds:
            raise RuntimeError(f"no call of {STAGES[stage]} was profiled: has {stage} moved? see STAGES in {__file__}")
    seconds_by_stage["preparing"] -= seconds_by_stage["decoding"]
    seconds_by_stage["other"] = total - sum(seconds_by_stage.values())
    return ", ".join(f"{stage} {seconds / total:.0%}" for stage, seconds in seconds_by_stage.items())
