"""The tables of formats and metrics against what the code writes: the same columns and keys, of the stated types and ranges."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mammovae as mv

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
TEXT = "\n## ".join((REFERENCE / f"{name}.md").read_text() for name in ("formats", "metrics"))
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*)\|$", flags=re.M)
TYPES: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "integer": Integral,
    "number": Real,
    "true/false": (bool, np.bool_),
    "list": (list, np.ndarray),
    "object": dict,
}


@dataclass(frozen=True)
class Entry:
    """A documented column or key."""

    name: str
    type: str
    range: str

    @property
    def literal(self) -> str:
        return re.sub(r"<\w+>", "", self.name)

    @property
    def pattern(self) -> str:
        return re.sub(r"<\w+>", r"\\w+", self.name.replace("<prefix_>", "(?:[a-z0-9_]+_)?"))

    def check(self, value: Any) -> None:
        """Fail unless a value has the documented type and range."""
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            assert "null" in self.range, f"{self.name} is null"
            return
        assert isinstance(value, TYPES[self.type]), f"{self.name} is {value!r}, not {self.type}"
        limits = self.range.removesuffix(" or null")
        if match := re.fullmatch(r"(-?[\d.]+) to (-?[\d.]+)", limits):
            assert float(match[1]) - 1e-9 <= value <= float(match[2]) + 1e-9, f"{self.name} is {value}"
        elif match := re.fullmatch(r"([≥>]) ([\d.]+)", limits):
            assert value > float(match[2]) or (match[1] == "≥" and value == float(match[2])), f"{self.name} is {value}"
        elif match := re.fullmatch(r"one of (.*)", limits):
            assert value in match[1].split(", "), f"{self.name} is {value!r}"
        else:
            assert limits in ("any", "null"), f"{self.name} has a range that cannot be read: {limits}"


def documented(heading: str) -> list[Entry]:
    """Return the entries of the table under a heading."""
    found = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##|\Z)", TEXT, flags=re.M | re.S)
    assert found, heading
    entries = [Entry(name, kind.strip(), limits.strip()) for name, kind, _, limits, _ in ROW.findall(found[1])]
    assert entries, heading
    return entries


def compare(entries: list[Entry], columns: Mapping[str, Iterable[Any]]) -> None:
    """Fail unless each column is documented, each documented one is there, and values are as documented."""
    exact = {entry.name: entry for entry in entries if "<" not in entry.name}
    # Of several patterns that fit, the one that says most of the name.
    patterns = sorted((entry for entry in entries if "<" in entry.name), key=lambda entry: -len(entry.literal))
    used = set()
    for name, values in columns.items():
        bare = re.sub(r"_(low|high)$", "", name)
        entry = exact.get(name) or exact.get(bare)
        if entry is None:
            entry = next((one for one in patterns if re.fullmatch(one.pattern, bare)), None)
        assert entry is not None, f"{name} is not in docs/reference"
        used.add(entry.name)
        for value in values:
            entry.check(value)
    missing = set(exact) - used
    assert not missing, f"docs/reference names {sorted(missing)}, which is not there"


def cells(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the values of each column as plain Python, null as None."""
    return {
        str(name): [None if not isinstance(v, (list, np.ndarray)) and pd.isna(v) else v for v in column.tolist()]
        for name, column in frame.items()
    }


def items(value: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [item] for name, item in value.items()}


def test_a_data_folder_holds_what_the_document_says(trapped_data: Path) -> None:
    compare(documented("DATA/index.parquet"), cells(pd.read_parquet(trapped_data / "index.parquet")))
    compare(documented("DATA/measurements.parquet"), cells(pd.read_parquet(trapped_data / "measurements.parquet")))
    compare(documented("DATA/failures.csv"), cells(pd.read_csv(trapped_data / "failures.csv")))
    manifest = json.loads((trapped_data / "manifest.json").read_text())
    compare(documented("manifest.json") + documented("manifest.json of a DATA folder"), items(manifest))


def test_a_run_folder_holds_what_the_document_says(run: Path, trapped_data: Path, tmp_path: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    compare(documented("manifest.json") + documented("manifest.json of a RUN folder"), items(manifest))
    history = pd.read_csv(run / "members" / "vae" / "history.csv")
    compare(documented("RUN/members/NAME/history.csv"), cells(history))
    compare(documented("RUN/calibration.parquet"), cells(pd.read_parquet(run / "calibration.parquet")))
    mv.evaluate(run, trapped_data, out=tmp_path / "evaluation")
    mv.stress(run, trapped_data, out=tmp_path / "stress", workers=2)
    figures = sorted((run / "figures").iterdir())
    assert {path.name.partition("-")[0] for path in figures} == {"evaluate", "stress"}
    for path in figures:
        compare(documented("RUN/figures/evaluate-HASH.json"), items(json.loads(path.read_text())))
    compare(
        documented("RUN/private/training_images.json"),
        items(json.loads((run / "private" / "training_images.json").read_text())),
    )


@pytest.mark.slow
def test_generated_folders_and_scores_hold_what_the_document_says(
    run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    mv.generate(run, out=tmp_path / "generated", mode="vary", source=trapped_data, count=4)
    manifest = json.loads((tmp_path / "generated" / "manifest.json").read_text())
    parts = ("manifest.json", "manifest.json of a DATA folder", "manifest.json of a generated DATA folder")
    compare([entry for part in parts for entry in documented(part)], items(manifest))
    compare(documented("DATA/index.parquet"), cells(pd.read_parquet(tmp_path / "generated" / "index.parquet")))
    compare(documented("DATA/generated.csv"), cells(pd.read_csv(tmp_path / "generated" / "generated.csv")))
    mv.score(run, trapped_data, out=tmp_path / "scores.csv", flag=0.3)
    frame = pd.read_csv(tmp_path / "scores.csv", dtype={"flag": "string", "other": "string"})
    compare(documented("scores.csv"), cells(frame))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "stress"])
def test_metrics_are_what_the_document_says(command: str, run: Path, trapped_data: Path, tmp_path: Path) -> None:
    metrics = getattr(mv, command)(run, trapped_data, out=tmp_path / command)
    compare(documented(f"metrics.json of {command}"), items(dict(metrics)))
