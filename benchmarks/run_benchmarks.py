"""Ratios against the usual way, each measured in one run on the same work.

make bench                                                  every row, half an hour on two cores
python benchmarks/run_benchmarks.py prepare-jp2 [ROW ...] [--json FILE]     these rows alone

Every row runs in a process of its own. Times are the best of rounds taken in turns, so that noise hits both.
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
    "score": "score_speed",
    "score-dicom": "score_speed",
    "growth": "growth",
    "overhead": "overhead",
    "start-help": "start",
    "start-train": "start",
}
"""The module that measures each row; some rows print several lines."""
ONE_CORE = {name for name in ROWS if name.startswith("prepare-")} - {"prepare-cores"}
WANTED: dict[str, str] = {
    "prepare-jp2": ">= 10",
    **{f"prepare-{kind}": ">= 2" for kind in ("rle", "raw", "jpegls", "png16", "png8")},
    "prepare-cores": ">= 1.8",
    "train-png16": ">= 8",
    "train-png8": ">= 4",
    "train-eager": ">= 1.7",
    "train-pythae": ">= 1",
    "train-peak": ">= 0.5",
    "score": ">= 1.5",
    "growth-prepare-memory": "<= 1.1",
    "start-help": ">= 0.77",
    "start-train": "<= 3 s",
}
"""The bound of each line's ratio, or, with a unit, of ours."""
WIDTHS = {"row": 22, "work": 98, "usual": 18, "ours": 18, "ratio": 7, "wanted": 9, "repeat with": 0}


def main() -> int:
    """Run the rows asked for, print the table as they come, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(ROWS)}; by default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--tiny", action="store_true", help="the least work that shows that a row runs")
    parser.add_argument("--venv", type=Path, default=VENV, metavar="DIR", help="pythae's environment; made when absent")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for row in given.rows:
        if row not in ROWS:
            parser.error(f"there is no row {row!r}: choose from {', '.join(ROWS)}")
    if given.inside:
        inside(given.rows[0], Scope(given.tiny, given.venv.absolute()), given.json)
        return 0
    where = machine()
    print(" ".join(f"{name:<{width}}" for name, width in WIDTHS.items()), flush=True)
    records, failed = [], False
    for row in given.rows or ROWS:
        found, trouble, seconds = apart(row, given)
        failed |= trouble is not None
        if trouble is not None:
            print(f"{row:<{WIDTHS['row']}} FAILED: {trouble}", flush=True)
        for line in found:
            records.append(record(row, line, seconds))
            print(table_line(records[-1]), flush=True)
    for entry in records:
        for words in entry["notes"]:
            print(f"{entry['name']}: {words}")
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": where, "rows": records}, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def inside(row: str, scope: Scope, target: Path) -> None:
    """Measure one row in this process."""
    if row in ONE_CORE:
        one_core()
    lines = importlib.import_module(ROWS[row]).lines(row, scope)
    target.write_text(json.dumps([asdict(line) for line in lines]), encoding="utf-8")


def apart(row: str, given: argparse.Namespace) -> tuple[list[Line], str | None, float]:
    """Measure one row in a process of its own; return its lines, what went wrong, and how long it took."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "lines.json"
        flags = ["--inside", "--json", str(target), "--venv", str(given.venv), *(["--tiny"] if given.tiny else [])]
        done = subprocess.run([sys.executable, __file__, row, *flags], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
        if done.returncode:
            last = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            print(done.stderr, file=sys.stderr)
            return [], last[-1], seconds
        entries = json.loads(target.read_text(encoding="utf-8"))
    return [Line(**entry | {"notes": tuple(entry["notes"])}) for entry in entries], None, seconds


def record(row: str, line: Line, seconds: float) -> dict[str, Any]:
    """Return a line with its bound, whether that is met, and how to repeat it."""
    wanted = WANTED.get(line.name)
    return asdict(line) | {
        "wanted": wanted,
        "met": None if wanted is None else met(wanted, line),
        "repeat": f"python benchmarks/run_benchmarks.py {row}",
        "seconds": round(seconds, 1),
    }


def met(wanted: str, line: Line) -> bool:
    """Say whether a bound such as ">= 10" holds of the ratio, or one such as "<= 2 s" of ours."""
    sign, bound, *unit = wanted.split()
    value = line.ours if unit else line.ratio
    if value is None:
        return False
    return value >= float(bound) if sign == ">=" else value <= float(bound)


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
    """Say what the figures are measured on, and how busy it is before."""
    cpu, commit = platform.processor(), ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    with contextlib.suppress(OSError):
        asked = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
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
