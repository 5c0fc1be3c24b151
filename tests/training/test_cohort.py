"""Whom a run was trained on, in numbers: no group so small that it tells of anyone."""

from pathlib import Path
from typing import Any

import numpy as np
from tests.data.data_folders import breasts, row, write_data

import mammovae as mv
from mammovae.training.cohort import REST, describe_cohort


def described(folder: Path, rows: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    listed = [row(f"i{n}", one.pop("patient_id", f"p{n}"), **one) for n, one in enumerate(rows)]
    data = mv.Data.open(write_data(folder, listed, *breasts(len(rows)), **facts))
    return describe_cohort(data, data.parts(mv.TrainSettings()))


def test_groups_of_five_patients_are_counted_by_images_and_smaller_ones_together(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"density": "B", "vendor": "ACME", "age": 44.0, "patient_id": f"p{n % 5}"} for n in range(8)
    ]
    rows += [{"density": "C", "vendor": "JANE DOE'S DEVICE", "age": 91.0} for _ in range(4)]
    rows += [{"density": None, "vendor": "ACME", "age": 49.9} for _ in range(2)]
    found = described(tmp_path / "data", rows)
    assert found["density"] == {"B": 8, REST: 6} and found["vendor"] == {"ACME": 10, REST: 4}
    assert found["age"] == {"40 to 49": 10, REST: 4}
    assert found["patients"] == {"train": 11, "validation": 0, "calibration": 0}


def test_four_images_of_one_patient_are_no_group(tmp_path: Path) -> None:
    found = described(tmp_path / "data", [{"patient_id": "p", "density": "A", "side": side} for side in "LRLRLR"])
    assert found["density"] == found["vendor"] == found["age"] == {}


def test_training_images_alone_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"density": "A", "split": "train"} for _ in range(6)]
    rows += [
        {"density": "D", "split": split} for split in ("validation", "calibration", "test", "unused") for _ in range(5)
    ]
    found = described(tmp_path / "data", rows, kind="mias")
    assert found["density"] == {"A": 6} and found["kind"] == "mias"
    assert found["patients"] == {"train": 6, "validation": 5, "calibration": 5}


def test_no_group_is_named_where_patients_are_unknown(tmp_path: Path) -> None:
    found = described(tmp_path / "data", [{"density": "A"} for _ in range(6)], by_patient=False)
    assert found["density"] == found["vendor"] == found["age"] == {} and not found["by_patient"]


def test_ages_are_told_in_tens_of_years(tmp_path: Path) -> None:
    ages = np.repeat([39.99, 40, 59, 60, 70, 104], 5)
    found = described(tmp_path / "data", [{"age": float(age)} for age in ages[:12]])
    assert found["age"] == {"0 to 39": 5, "40 to 49": 5, REST: 2}
    found = described(tmp_path / "others", [{"age": float(age)} for age in ages[18:30]])
    assert found["age"] == {"70 and over": 10, REST: 2}
