"""Ratios against the usual way, each measured in one run on the same work.

make bench                                                  every row, half an hour and more on two cores
python benchmarks/run_benchmarks.py prepare-jp2 [ROW ...] [--json FILE]     these rows alone

Every row runs in a process of its own. Times are the best of rounds taken in turns, so that noise hits both alike.
"""

import argparse
import contextlib
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import Line, Scope, one_core

HERE = Path(__file__).parent
VENV = HERE / ".venv-pythae"

ROWS: dict[str, str] = {
    "prepare-jp2": "prepare_speed",
    "prepare-rle": "prepare_speed",
    "prepare-raw": "prepare_speed",
    "prepare-jpegls": "prepare_speed",
    "prepare-png16": "prepare_speed",
    "prepare-png8": "prepare_speed",
    "prepare-cores": "prepare_speed",
    "train-png16": "train_speed",
    "train-png8": "train_speed",
    "train-eager": "train_speed",
    "train-pythae": "train_speed",
    "train-peak": "train_peak",
    "train-elbo": "train_elbo",
    "train-lesions": "train_lesions",
    "score": "score_speed",
    "score-dicom": "score_speed",
    "score-detect": "score_speed",
    "growth": "growth",
    "size": "size",
    "density": "density_speed",
    "overhead": "overhead",
    "listing": "tree_listing",
    "start-help": "start",
    "start-train": "start",
}
"""The module that measures each row; some rows print several lines."""
ONE_CORE = {name for name in ROWS if name.startswith("prepare-")} - {"prepare-cores"} | {"score-detect"}
BOUNDS: dict[str, str] = {
    "prepare-jp2": ">= 10",
    **{f"prepare-{kind}": ">= 2" for kind in ("rle", "raw", "jpegls", "png16", "png8")},
    "prepare-cores": ">= 1.8",
    "train-png16": ">= 8",
    "train-png8": ">= 4",
    "train-eager": ">= 1.7",
    "train-pythae": ">= 1",
    "train-peak": ">= 0.5",
    **{f"train-lesions-{kind}": "<= 0.15" for kind in ("lesion", "patch")},
    "score": ">= 1.5",
    "score-detect": ">= 0.5",
    "growth-prepare-memory": "<= 1.1",
    **{f"size-{preset}-growth": "<= 1.2" for preset in ("original", "detect")},
    **{f"size-{preset}-after": "<= 1" for preset in ("original", "detect")},
    **{f"size-{preset}-memory": "<= 4000 MB" for preset in ("original", "detect")},
    "size-calibration": "<= 1.1",
    "density-many-dimensions": "<= 60 s",
    "density-most-images": "<= 60 s",
    "density-few-dimensions": "<= 60 s",
    "density-original": "<= 60 s",
    "listing-first-line": "<= 2 s",
    "listing-rate": ">= 1000 files/s",
    "start-help": ">= 0.77",
    "start-train": "<= 3 s",
}
"""The bound of each line's ratio, or, with a unit, of ours."""
WIDTHS = {"row": 22, "work": 98, "usual": 18, "ours": 18, "ratio": 7, "wanted": 9, "repeat with": 0}


def main() -> int:
    """Run the rows asked for, print each as it is measured, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(ROWS)}; by default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file too")
    parser.add_argument("--tiny", action="store_true", help="the least work that shows that a row runs")
    parser.add_argument("--venv", type=Path, default=VENV, metavar="DIR", help="pythae's environment, made if absent")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for row in arguments.rows:
        if row not in ROWS:
            parser.error(f"there is no row {row!r}: choose from {', '.join(ROWS)}")
    if arguments.inside:
        measure_here(arguments.rows[0], Scope(arguments.tiny, arguments.venv.absolute()), arguments.json)
        return 0
    where = machine()
    print(" ".join(f"{name:<{width}}" for name, width in WIDTHS.items()), flush=True)
    records, failed = [], False
    for row in arguments.rows or ROWS:
        lines, error, seconds = measure_apart(row, arguments)
        failed |= error is not None
        if error is not None:
            print(f"{row:<{WIDTHS['row']}} FAILED: {error}", flush=True)
        for line in lines:
            records.append(record(row, line, seconds))
            print(table_line(records[-1]), flush=True)
    for entry in records:
        for words in entry["notes"]:
            print(f"{entry['name']}: {words}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": where, "rows": records}, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def measure_here(row: str, scope: Scope, target: Path) -> None:
    """Measure one row in this process."""
    if row in ONE_CORE:
        one_core()
    measured = importlib.import_module(ROWS[row]).lines(row, scope)
    target.write_text(json.dumps([asdict(line) for line in measured]), encoding="utf-8")


def measure_apart(row: str, arguments: argparse.Namespace) -> tuple[list[Line], str | None, float]:
    """Measure one row in a process of its own; return its lines, what went wrong, and how long it took."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "lines.json"
        venv, tiny = str(arguments.venv), ["--tiny"] if arguments.tiny else []
        flags = ["--inside", "--json", str(target), "--venv", venv, *tiny]
        answer = subprocess.run([sys.executable, __file__, row, *flags], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
        if answer.returncode:
            last = answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"]
            print(answer.stderr, file=sys.stderr)
            return [], last[-1], seconds
        entries = json.loads(target.read_text(encoding="utf-8"))
    return [Line(**entry | {"notes": tuple(entry["notes"])}) for entry in entries], None, seconds


def record(row: str, line: Line, seconds: float) -> dict[str, Any]:
    """Return a line with its bound, whether that is met, and how to repeat it."""
    bound = BOUNDS.get(line.name)
    return asdict(line) | {
        "wanted": bound,
        "met": None if bound is None else met(bound, line),
        "repeat": f"python benchmarks/run_benchmarks.py {row}",
        "seconds": round(seconds, 1),
    }


def met(bound: str, line: Line) -> bool:
    """Check a bound such as ">= 10" on the ratio, or one such as "<= 2 s" on ours."""
    sign, limit, *unit = bound.split()
    value = line.ours if unit else line.ratio
    if value is None:
        return False
    return value >= float(limit) if sign == ">=" else value <= float(limit)


def table_line(entry: dict[str, Any]) -> str:
    """Return a line of the table."""
    figures = {name: "-" if entry[name] is None else f"{entry[name]:.3g} {entry['unit']}" for name in ("usual", "ours")}
    cells = {
        "row": entry["name"],
        "work": entry["work"],
        **figures,
        "ratio": "-" if entry["ratio"] is None else f"{entry['ratio']:.2f}",
        "wanted": entry["wanted"] or "-",
        "repeat with": entry["repeat"],
    }
    return " ".join(f"{cells[name]:<{width}}" for name, width in WIDTHS.items())


def machine() -> dict[str, Any]:
    """Describe the machine, and its load before measuring."""
    cpu, commit = platform.processor(), ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    with contextlib.suppress(OSError):
        command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    packages = ("mammovae", "torch", "numpy", "pillow", "pydicom")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "commit": commit,
        "versions": {name: version(name) for name in packages},
    }


if __name__ == "__main__":
    sys.exit(main())
