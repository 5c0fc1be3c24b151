"""What data of a hundred to a hundred thousand rows cost: seconds and peak memory of each stage of the whole way.

python benchmarks/size.py --out FOLDER [--rows 100 1000 10000 100000] [--preset original detect] [--size PX]

One epoch is trained, then all is done that comes after it: density and calibration, score of the whole DATA folder,
evaluate, generate. Each stage is a command in a process of its own. FOLDER/size-PX.json holds every figure as it comes;
the same command again goes on where it was interrupted, and a stage that failed is tried once more.
"""

import argparse
import shutil
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import materials
import numpy as np
import pandas as pd
from measure import Line, Scope
from memory import Watch, watch
from size_data import PATIENTS, is_done, phantoms, write_data

from mammovae.config import preset
from mammovae.detection.calibration import CALIBRATION
from mammovae.generation.latent_density import DENSITY
from mammovae.models.base import WEIGHTS
from mammovae.storage import read_json, write_json

ROWS = (100, 1000, 10_000, 100_000)
PRESETS = ("original", "detect")
PHASES = ("training", "density", "calibration", "ending")
"""Parts of train: up to the last weights, to the file of the latent density, to that of the calibration, to the end."""
AFTER = ("density", "calibration", "ending", "score", "evaluate", "generate")
GENERATED = 64
LIMIT_MB = 8000
"""Memory at which a command is stopped: twice what is allowed, and less than takes the machine with it."""
CALIBRATED = (200, 20_000)
"""Calibration images between which the cost of scoring is compared."""

Figures = dict[str, dict[str, Any]]  # of one preset and number of rows, by stage: seconds and mb, or failed


class Study:
    """A folder of DATA and RUN folders for images of a size, made from so many phantom patients.

    figures: by preset, by rows, by stage; those that an earlier study left in the folder are kept.
    """

    def __init__(self, folder: Path, size: int, patients: int = PATIENTS) -> None:
        self.folder, self.size, self.patients = folder, size, patients
        self.figures: dict[str, dict[str, Figures]] = read_json(self._path)["figures"] if self._path.is_file() else {}

    @property
    def _path(self) -> Path:
        return self.folder / f"size-{self.size}.json"

    def data(self, rows: int) -> Path:
        """Return the DATA folder of so many rows."""
        source = phantoms(self.folder / f"phantoms-{self.size}", self.size, self.patients)
        return write_data(source, self.folder / f"data-{self.size}-{rows}", rows)

    def run(self, name: str, rows: int) -> Path:
        """Return the place of a preset's RUN folder."""
        return self.folder / f"{name}-{self.size}-{rows}" / "run"

    def measure(self, name: str, rows: int) -> Figures:
        """Measure the stages that no figure is known of; what needs a stage that failed is left out."""
        known = self.figures.setdefault(name, {}).setdefault(str(rows), {})
        data, run = self.data(rows), self.run(name, rows)
        for stage, words in self._commands(name, data, run).items():
            phases = PHASES if stage == "train" else (stage,)
            if "seconds" in known.get(phases[-1], {}):
                continue
            if stage != "train" and "failed" in known["training"]:
                break
            out = run.parent / words[-1]
            remove(out)
            print(f"{name}, {rows:,} rows: {stage} ...", file=sys.stderr, flush=True)
            done = watch(materials.command(*words[:-1], "--out", out), LIMIT_MB)
            # generate ends with a status too where a network is so bad that no image is any good.
            if done.status and not is_done(out):
                known |= {phase: {"failed": last_words(done)} for phase in phases}
            else:
                known |= train_phases(done, out) if stage == "train" else {stage: figure(done)}
            write_json(self._path, {"figures": self.figures})
        return known

    def _commands(self, name: str, data: Path, run: Path) -> dict[str, list[Any]]:
        """Return each stage's command line, its last word the name of its output."""
        chosen = preset(name)
        flags: list[Any] = ["--epochs", 1]
        for member in chosen.members:
            words, settings = f"--{member.replace('_', '-')}", getattr(chosen, member).model_dump()
            flags += [f"{words}.size", self.size]
            if settings.get("presentations"):
                flags += [f"{words}.presentations", 1]  # one epoch
            if patch_size := settings.get("patch_size"):
                flags += [f"{words}.patch-size", min(self.size, patch_size)]
        commands = {
            "train": ["train", data, "--preset", name, *flags, "run"],
            "score": ["score", run, data, "scores.csv"],
            "evaluate": ["evaluate", run, data, "evaluated"],
        }
        if name != "detect":
            commands["generate"] = ["generate", run, "--mode", "latent", "--count", GENERATED, "generated"]
        return commands


def remove(out: Path) -> None:
    """Remove what a command began: its folder, or its file with the journal beside it."""
    for path in (out, *out.parent.glob(f".{out.name}.*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def last_words(done: Watch) -> str:
    """Return why a command failed."""
    if done.peak_mb() > LIMIT_MB:
        return f"it held {done.peak_mb():,.0f} MB and was stopped after {done.seconds:.0f} s"
    return (done.words.splitlines() or [f"exit status {done.status}"])[-1]


def figure(done: Watch, begin: float = 0.0, end: float = float("inf")) -> dict[str, float]:
    """Return what is kept of a command, or of its part between two times."""
    seconds = done.seconds if begin == 0 else end - begin
    return {"seconds": round(seconds, 2), "mb": round(done.peak_mb(begin, end))}


def train_phases(done: Watch, run: Path) -> Figures:
    """Return the figures of train's phases, told apart by when it wrote its files; one without a file is left out."""
    ends = [max(path.stat().st_mtime for path in (run / "members").rglob(WEIGHTS))]
    for name in (DENSITY, CALIBRATION):
        file = run / name
        ends.append(max(file.stat().st_mtime, ends[-1]) if file.is_file() else ends[-1])
    bounds = [done.begin, *ends, done.begin + done.seconds]
    parts = zip(PHASES, pairwise(bounds), strict=True)
    return {phase: figure(done, *part) for phase, part in parts if part[1] > part[0]}


def scaling(figures: dict[int, Figures], stage: str) -> float | None:
    """Return the seconds at the largest size over those that a straight line through the two before it foretells.

    1 is linear, less is better. None where a size is missing; a stage of less than a second is none.
    """
    rows = sorted(figures)[-3:]
    seconds = [figures[count].get(stage, {}).get("seconds") for count in rows]
    if len(rows) < 3 or None in seconds or seconds[2] < 1:
        return None
    slope = max(0.0, seconds[1] - seconds[0]) / (rows[1] - rows[0])
    return seconds[2] / max(seconds[1] + slope * (rows[2] - rows[1]), 1.0)


def table(name: str, figures: dict[int, Figures]) -> list[str]:
    """Return the lines of a preset's table: a row a stage, seconds and MB at each size."""
    rows = sorted(figures)
    lines = [f"{name:<14}" + "".join(f"{count:>20,}" for count in rows) + f"{'of linear':>12}"]
    for stage in dict.fromkeys(stage for count in rows for stage in figures[count]):
        growth, text = scaling(figures, stage), f"{stage:<14}"
        for count in rows:
            cell = figures[count].get(stage, {})
            if "seconds" in cell:
                text += f"{cell['seconds']:>9.1f} s{cell['mb']:>6,} MB"
            else:
                text += f"{'failed' if cell else '-':>20}"
        lines.append(text + (f"{'-':>12}" if growth is None else f"{growth:>12.2f}"))
        failed = {count: figures[count].get(stage, {}).get("failed") for count in rows}
        lines += [f"  {count:,} rows: {why}" for count, why in failed.items() if why]
    return lines


def calibration_line(row: str, study: Study, rows: int, counts: tuple[int, int] = CALIBRATED, rounds: int = 3) -> Line:
    """Return what scoring a DATA folder with `detect` costs with few and with many calibration images, in turns.

    The calibration images are the run's own, drawn again and a little changed.
    """
    data, run = study.data(rows), study.run("detect", rows)
    best = dict.fromkeys(counts, float("inf"))
    for count in counts:
        _with_calibration(run, run.parent / f"calibrated-{count}", count)
    for count in counts * rounds:
        copy = run.parent / f"calibrated-{count}"
        done = watch(materials.command("score", copy, data, "--out", copy / "scores.csv"), LIMIT_MB)
        if done.status:
            raise RuntimeError(f"score with {count:,} calibration images failed: {last_words(done)}")
        best[count] = min(best[count], 1000 * done.seconds / rows)
    few, many = best.values()
    work = f"score {rows:,} rows with detect: {counts[0]:,} calibration images (usual), {counts[1]:,} (ours)"
    return Line(row, work, "ms/image", few, many, many / few, ("start-up included, best of rounds in turns",))


def _with_calibration(run: Path, copy: Path, count: int) -> None:
    """Copy a run, with so many calibration images."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    healthy, rng = pd.read_parquet(run / CALIBRATION), np.random.default_rng(count)
    drawn = healthy.iloc[rng.integers(len(healthy), size=count)].reset_index(drop=True)
    drawn = drawn + rng.normal(0, 0.05, drawn.shape) * healthy.std().to_numpy()
    if "patient" in drawn:
        drawn["patient"] = np.arange(count)
    drawn.to_parquet(copy / CALIBRATION, index=False)


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure the row size: both presets at the smaller sizes, and what calibration images cost in scoring."""
    sizes, px, patients = scope.pick(((100, 1000, 10_000), 64, PATIENTS), ((96,), 32, 24))
    presets, measured = scope.pick(PRESETS, PRESETS[:1]), []
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), px, patients=patients)
        for name in presets:
            measured += preset_lines(f"{row}-{name}", name, {count: study.measure(name, count) for count in sizes})
        if "detect" in presets:
            measured.append(calibration_line(f"{row}-calibration", study, sizes[1]))
    return measured


def preset_lines(row: str, name: str, figures: dict[int, Figures]) -> list[Line]:
    """Return a preset's lines: the stage that grows most, the longest after training, and the highest peak."""
    rows = sorted(figures)
    last, work = figures[rows[-1]], f"{name}, {rows[-1]:,} rows"
    for stages in figures.values():
        for stage, cell in stages.items():
            if "failed" in cell:
                raise RuntimeError(f"{name}, {stage}: {cell['failed']}")
    growth = {stage: value for stage in last if (value := scaling(figures, stage)) is not None}
    most = max(growth, key=growth.__getitem__, default="training")
    longest = max((stage for stage in last if stage in AFTER), key=lambda stage: last[stage]["seconds"])
    training, most_s, longest_s = (last[stage]["seconds"] for stage in ("training", most, longest))
    peak = max(last, key=lambda stage: last[stage]["mb"])
    line = f"{work}: {most} against a straight line through the two sizes before; ratio: growth"
    notes = tuple(table(name, figures))
    return [
        Line(f"{row}-growth", line, "s", None, most_s, growth.get(most), notes),
        Line(
            f"{row}-after",
            f"{work}: training (usual), {longest} (ours)",
            "s",
            training,
            longest_s,
            longest_s / training,
        ),
        Line(f"{row}-memory", f"{work}: peak, anonymous, process tree, of {peak}", "MB", None, last[peak]["mb"], None),
    ]


def main() -> int:
    """Measure what is asked for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where DATA, RUNs and figures go")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, metavar="N", help="rows of the DATA folders")
    parser.add_argument("--preset", nargs="+", choices=PRESETS, default=PRESETS, help="by default both")
    parser.add_argument("--size", type=int, default=64, metavar="PX", help="of images and networks (64)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    study, failed = Study(arguments.out, arguments.size), False
    for name in arguments.preset:
        figures = {rows: study.measure(name, rows) for rows in sorted(arguments.rows)}
        failed |= any("failed" in one for stages in figures.values() for one in stages.values())
        print("\n".join(table(name, figures)), flush=True)
    if "detect" in arguments.preset and 1000 in arguments.rows:
        try:
            line = calibration_line("calibration", study, 1000)
            print(f"{line.work}: {line.usual:.2f} and {line.ours:.2f} ms/image, ratio {line.ratio:.3f}")
        except RuntimeError as error:
            failed = True
            print(error)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
