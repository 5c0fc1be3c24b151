"""Figures recorded within a folder: some keys of metrics.json, nothing else, and one file a measurement."""

import json
from pathlib import Path
from typing import Any

import pytest

from mammovae.config import InputError, UsageError
from mammovae.report.recorded_figures import FIGURES, read_figures, record_figures

ABOUT: dict[str, Any] = {"command": "evaluate", "seed": 0, "protocol": "full", "kind": "vindr", "phantoms": False}
ABOUT |= {"by_patient": True, "is_own": True, "training_images_left_out": True}
METRICS: dict[str, Any] = {"auroc": 0.7, "auroc_low": 0.6, "auroc_high": 0.8, "n_healthy": 1200, "n_finding": 30}
METRICS |= {"auroc_affected": None, "auroc_affected_low": None, "auroc_affected_high": None, "n_healthy_affected": 0}
OTHERS = {"notes": ["patient-1"], "auroc_vendor_jane_doe": 0.5, "patient_id": 3}


def recorded(folder: Path, metrics: dict[str, Any] = METRICS, index: str = "a", **about: Any) -> Path:
    before = set((folder / FIGURES).glob("*"))
    record_figures(folder, metrics, {"index": index}, **ABOUT | about)
    return next(iter(set((folder / FIGURES).glob("*")) - before), folder)


def test_no_key_is_recorded_but_those_that_are_shown(tmp_path: Path) -> None:
    path = recorded(tmp_path, METRICS | OTHERS)
    assert json.loads(path.read_text()) == ABOUT | {"figures": METRICS}


def test_figures_are_shown_with_interval_and_numbers_of_images(tmp_path: Path) -> None:
    recorded(tmp_path)
    (found,) = read_figures(tmp_path).values()
    first, second = found.rows
    assert first[1:] == ("0.70 (0.60–0.80)", "1,200 healthy, 30 with a finding")
    assert second[1:] == ("not defined", "0 healthy, 30 with a finding")
    assert found.remarks == [] and found.headline.endswith("AUROC 0.70 (0.60–0.80), 1,200 healthy images of patients "
                                                           "without any finding and 30 with a finding")  # fmt: skip


def test_figures_that_may_rest_on_training_images_or_not_on_patients_say_so(tmp_path: Path) -> None:
    recorded(tmp_path, is_own=False, by_patient=False, training_images_left_out=False)
    (found,) = read_figures(tmp_path).values()
    assert "of another DATA folder" in found.title
    assert "Not by patient" in found.remarks[0] and "could not be checked" in found.remarks[1]


def test_the_same_measurement_takes_the_place_of_the_first_and_another_its_own(tmp_path: Path) -> None:
    first = recorded(tmp_path)
    assert recorded(tmp_path, METRICS | {"auroc": 0.9}) == tmp_path, "no new file"
    assert json.loads(first.read_text())["figures"]["auroc"] == 0.9
    changes: list[dict[str, Any]] = [{"index": "b"}, {"seed": 1}, {"protocol": "original"}, {"command": "stress"}]
    for change in changes:
        assert recorded(tmp_path, **change).parent == first.parent, change
    assert len(read_figures(tmp_path)) == 5


def test_a_foreign_file_without_figures_has_a_headline_all_the_same(tmp_path: Path) -> None:
    for command in ("evaluate", "stress", "audit"):
        path = recorded(tmp_path / command, command=command)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"figures": {}}))
        (found,) = read_figures(tmp_path / command).values()
        assert found.headline == found.title


def test_what_is_recorded_already_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr("mammovae.storage.atomic_write", refuse)
    recorded(tmp_path)
    with pytest.raises(OSError, match="Read-only"):
        recorded(tmp_path, seed=1)


@pytest.mark.parametrize(
    "content",
    [
        "nonsense",
        "[]",
        "{}",
        json.dumps(ABOUT | {"figures": METRICS, "patients": ["patient-1"]}),
        json.dumps(ABOUT | {"figures": {"patient_id": 3}}),
        json.dumps(ABOUT | {"figures": {"auroc": "patient-1"}}),
        json.dumps(ABOUT | {"figures": METRICS, "kind": "patient-1"}),
        json.dumps(ABOUT | {"figures": METRICS, "command": "score"}),
    ],
)
def test_a_file_of_anything_else_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    path = recorded(tmp_path)
    path.write_text(content)
    with pytest.raises(InputError, match=path.name) as error:
        read_figures(tmp_path)
    assert "delete it" in str(error.value) and "\n" not in str(error.value)


def test_files_of_other_names_and_kinds_are_passed_by(tmp_path: Path) -> None:
    recorded(tmp_path)
    (tmp_path / FIGURES / "notes.json").write_text("nonsense")
    (tmp_path / FIGURES / f"stress-{'0' * 16}.json").mkdir()
    assert len(read_figures(tmp_path)) == 1


def test_a_kind_of_data_set_that_there_is_not_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path, kind="vindr, generated")
    with pytest.raises(UsageError, match="kind"):
        recorded(tmp_path, kind="vindr, hospital of X")
