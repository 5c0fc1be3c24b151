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


def test_the_benchmark_of_a_gpu_runs_on_the_cpu_and_a_part_that_fails_does_not_take_the_others_with_it(
    tmp_path: Path,
) -> None:
    target, work = tmp_path / "gpu.json", tmp_path / "work"
    work.mkdir()
    (work / "run-detect").write_text("in the way of a run, which files would be scored with")
    command = [sys.executable, str(SCRIPT.with_name("gpu.py")), "files", "train", "operations", "graphs", "--tiny"]
    answer = subprocess.run([*command, "--json", str(target), "--folder", str(work)], capture_output=True, text=True)
    rows = json.loads(target.read_text())["rows"]
    assert [row["part"] for row in rows if row["failed"]] == ["files"] and answer.returncode == 1, answer.stderr
    for part in ("train", "graphs"):
        measured = [row for row in rows if row["part"] == part and row["usual"]]
        assert len(measured) == 2 and all(row["ours"] > 0 for row in measured)
    assert all(row["note"].startswith("weights differ by at most 0.0e+00") for row in measured)
    assert all(row["ours"] > 100 for row in rows if row["part"] == "operations" and row["ours"] is not None)
    assert rows[-1]["work"] in answer.stdout
