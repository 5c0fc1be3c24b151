"""The benchmarks still run; what they measure is for make bench to say."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mammovae as mv

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "run_benchmarks.py"


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_data_of_any_size_has_patients_of_its_own_in_one_split_each(
    trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    data = mv.Data.open(importlib.import_module("size_data").write_data(trapped_data, tmp_path / "data", 300))
    assert len(data.index) == len(data.measurements) == len(data.images) == 300
    splits = data.index.groupby("patient_id")["split"].unique().map(lambda names: set(names) - {"unused"})
    assert (splits.map(len) <= 1).all() and {"train", "test"} <= set().union(*splits)
    of_one_phantom = data.index["image_id"].str.rpartition("-")[0]
    first, second, *_ = np.flatnonzero(of_one_phantom == of_one_phantom[0])
    assert (data.masks[first] == data.masks[second]).all()
    assert 0.85 / 1.01 < data.images[first].sum() / data.images[second].sum() < 1.01 / 0.85
    assert (data.images[first] != data.images[second]).any()


@pytest.mark.parametrize(("seconds", "expected"), [((2, 3, 13), 1.0), ((2, 3, 103), 103 / 13), ((4, 4, 4), 1.0)])
def test_growth_is_read_against_a_straight_line(
    seconds: tuple[float, ...], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    stages = {rows: {"score": {"seconds": one}} for rows, one in zip((0, 100, 1100), seconds, strict=True)}
    assert importlib.import_module("size").scaling(stages, "score") == pytest.approx(expected)
