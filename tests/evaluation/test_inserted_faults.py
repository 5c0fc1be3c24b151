"""Which files take part when faults are inserted: donors of other patients, images of other views, wherever they lie."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mammovae as mv
from mammovae.config import UsageError
from mammovae.evaluation.inserted_faults import _Columns, _Donors, _jobs, images_of_other_view


@pytest.mark.parametrize("left_out", [[], [0], [9], [0, 1, 2], [2, 3, 7], [8, 9], list(range(10))])
def test_donors_are_all_but_those_left_out_in_order(left_out: list[int]) -> None:
    healthy = np.arange(100, 110)
    donors = _Donors(healthy, left_out)
    assert [donors[number] for number in range(len(donors))] == np.delete(healthy, left_out).tolist()


def test_images_of_other_kinds_give_to_none(data: mv.Data) -> None:
    position = int(healthy_positions(data)[0])
    kinds = data.index["kind"].where(data.index.index != position, "magnified")
    columns = _Columns.of(replace(data, index=data.index.assign(kind=kinds)))
    assert position in _Columns.of(data).healthy and position not in columns.healthy


@pytest.fixture
def data(trapped_data: Path) -> mv.Data:
    return mv.Data.open(trapped_data)


def healthy_positions(data: mv.Data) -> np.ndarray:
    return np.flatnonzero((data.index["status"] == "ok") & data.healthy(np.arange(len(data.index))))


def test_no_image_gives_to_its_own_patient_and_the_other_view_is_another(data: mv.Data) -> None:
    root, frame = Path(data.manifest["inputs"]["root"]), data.index
    positions = healthy_positions(data)
    of_source = frame.set_index("source")
    jobs = _jobs(data, positions, 1, [])
    assert [job.row for job in jobs] == positions.tolist()
    for job in jobs:
        row = frame.iloc[job.row]
        donor = of_source.loc[Path(str(job.donor)).relative_to(root).as_posix()]
        assert donor["patient_id"] != row["patient_id"] and donor["healthy"]
        if isinstance(job.other_view, Path):
            other = of_source.loc[job.other_view.relative_to(root).as_posix()]
            assert {other["view"], row["view"]} == {"CC", "MLO"}
    assert any(isinstance(job.other_view, Path) for job in jobs)
    again = _jobs(data, positions[::-1][:3], 1, [])
    assert [job.row for job in again] == positions[::-1][:3].tolist()


def test_raw_files_are_found_in_a_zip_archive(data: mv.Data, trapped_raw: Path, tmp_path: Path) -> None:
    position = healthy_positions(data)[:1]
    source = data.index["source"].iloc[position[0]]
    for name in ("whole", "lacking"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
            file.write(trapped_raw / source, "raw/x/other.dcm" if name == "lacking" else f"raw/{source}")
    inputs = data.manifest["inputs"] | {"root": str(tmp_path / "whole.zip")}
    packed = replace(data, manifest=data.manifest | {"inputs": inputs})
    assert str(_jobs(packed, position, 1, [])[0].path).startswith(f"{tmp_path / 'whole.zip'}/")
    packed.manifest["inputs"]["root"] = str(tmp_path / "lacking.zip")
    with pytest.raises(UsageError, match="stress reads the raw files; put them back there"):
        _jobs(packed, position, 1, [])


def test_images_of_another_view_are_known_by_suffix_or_content(trapped_raw: Path, tmp_path: Path) -> None:
    files = [path for path in sorted(trapped_raw.rglob("*.dicom")) if path.stat().st_size > 2000][:2]
    shutil.copy(files[0], tmp_path / "1.2.840.7")
    shutil.copy(files[1], tmp_path / "b.dcm")
    (tmp_path / "notes.txt").write_text(json.dumps({"no": "image"}))
    assert [Path(str(file)).name for file in images_of_other_view(tmp_path, 1)] == ["1.2.840.7", "b.dcm"]
    (tmp_path / "1.2.840.7").unlink()
    (tmp_path / "b.dcm").unlink()
    with pytest.raises(UsageError, match="there is no image in"):
        images_of_other_view(tmp_path, 1)
