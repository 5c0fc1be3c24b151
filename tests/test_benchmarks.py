"""The benchmarks still run; what they measure is for make bench to say."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "run_benchmarks.py"


def test_a_row_is_measured_printed_and_written(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "start-help", "--tiny", "--json", str(tmp_path / "bench.json")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert row["name"] == "start-help" and row["ratio"] > 0
    assert f"{row['ratio']:.2f}" in answer.stdout and "python benchmarks/run_benchmarks.py start-help" in answer.stdout


def test_an_unknown_row_is_refused_with_the_known_ones() -> None:
    answer = subprocess.run([sys.executable, str(SCRIPT), "speed"], capture_output=True, text=True)
    assert answer.returncode == 2 and "choose from prepare-jp2" in answer.stderr
