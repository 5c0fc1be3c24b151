"""The parts of gpu.py about scoring: DATA folders, files, agreement with the CPU, and what follows a training."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from gpu_study import Row, Study, wait

import mammovae
from mammovae.data.dataset import Batch, Data
from mammovae.models.run import Run, device
from mammovae.storage import read_json

PRESETS = ("detect", "original", "generate")
BATCHES = (16, 64, 256, 1024)
MILESTONES = {"density": "density.safetensors", "calibration": "calibration.parquet", "the rest": "manifest.json"}
SCORE = "import sys, mammovae; mammovae.score(sys.argv[1], sys.argv[2], out=sys.argv[3])"


def after_training(study: Study) -> Iterator[Row]:
    """Seconds from the last weights of a training to each file that follows."""
    for name in PRESETS:
        run = study.run(name)
        manifest = read_json(run / "manifest.json")
        last = max(path.stat().st_mtime for path in run.glob("members/*/model.safetensors"))
        for stage, file in MILESTONES.items():
            if (run / file).is_file():
                done = (run / file).stat().st_mtime
                work = f"{name}, after training on {manifest['images']['train']} images: {stage}"
                yield Row("after", work, "s", ours=max(0.0, done - last))
                last = done
        yield Row("after", f"{name}, one epoch and all that follows", "s", ours=manifest["seconds"])


def best_of(call: int, run: Path, paths: list[Path], out: Path) -> float:
    """Return the least seconds of so many calls of score."""
    seconds = []
    for number in range(call):
        begin = time.perf_counter()
        mammovae.score(run, *paths, out=out.with_name(f"{out.stem}-{number}.csv"))
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def against_the_forward_pass(study: Study) -> Iterator[Row]:
    """Score of a DATA folder against the scores of the members alone, images on the device, at their best batch."""
    path = study.data(study.scale.scored)
    data = Data.open(path)
    rows = np.flatnonzero(data.index["status"] == "ok")
    for name in PRESETS[:2]:
        run = study.run(name)
        opened = Run.open(run)
        rates = {size: forward_rate(opened, data, rows, size) for size in BATCHES if size <= max(16, len(rows))}
        best = max(rates, key=lambda size: rates[size])
        seconds = best_of(2, run, [path], study.folder / f"scores-{name}.csv")
        work = f"{name}, a DATA folder of {len(rows)} images; usual: forward pass alone, {best} at once"
        yield Row("score", work, "images/s", rates[best], len(rows) / seconds)


@torch.inference_mode()
def forward_rate(run: Run, data: Data, rows: np.ndarray, size: int) -> float:
    """Return the images a second of the members' scores of batches that are on the device already."""
    batches = {member.size: data.batch(rows[:size], member.size).to(device()) for member in run.members.values()}
    members = [member for member in run.members.values() if not member.bilateral]
    repeats = max(2, min(len(rows), 2048) // size)

    def once() -> None:
        for member in members:
            member.score(Batch(*batches[member.size]))

    once()
    wait()
    begin = time.perf_counter()
    for _ in range(repeats):
        once()
    wait()
    return repeats * len(rows[:size]) / (time.perf_counter() - begin)


def files(study: Study) -> Iterator[Row]:
    """Image files scored: PNG, then DICOM."""
    scale = study.scale
    for layout in ("folder", "dicom"):
        raw = study.folder / f"raw-{layout}"
        if not raw.exists():
            patients = -(-scale.files // 4)
            mammovae.phantom(out=raw, layout=layout, patients=patients, size=scale.pixels, finding_share=0)
        seconds = best_of(2 if study.on_gpu else 1, study.run("detect"), [raw], study.folder / f"scores-{layout}.csv")
        work = f"detect, {scale.files} files of {scale.pixels} px, {'PNG' if layout == 'folder' else 'DICOM'}"
        yield Row("files", work, "images/s", ours=scale.files / seconds)


def agreement(study: Study) -> Iterator[Row]:
    """Compare raw scores of this machine's device with those of its CPU."""
    path = study.data(min(64, study.scale.scored))
    for name in PRESETS[:2]:
        run, tables = study.run(name), []
        for visible in (os.environ.get("CUDA_VISIBLE_DEVICES"), ""):
            out = study.folder / f"agreement-{name}-{'gpu' if visible != '' else 'cpu'}.csv"
            environment = os.environ | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
            command = [sys.executable, "-c", SCORE, str(run), str(path), str(out)]
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            tables.append(pd.read_csv(out).set_index("image_id"))
        scores = [score for score in Run.open(run).score_meanings if score in tables[0]]
        here, there = (table[[*scores, "map_peak"]].to_numpy(float) for table in tables)
        # Of a score's own size, for one that may be 0 differs by any number of times from itself.
        differences = np.nanmax(np.abs(here - there), axis=0) / np.nanmax(np.abs(there), axis=0)
        own = np.nanmax(np.abs(here - there) / np.maximum(np.abs(there), 1e-6))
        name_of_worst = [*scores, "map_peak"][int(np.argmax(differences))]
        note = f"{name_of_worst}, in units of the largest score; of one image in units of its own: {own:.1e}"
        work = f"{name}: difference of scores, device and CPU"
        yield Row("agreement", work, "relative", ours=float(differences.max()), note=note)
