"""What a run has learnt from: known to who has its private/, and to nobody else."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.data_folders import breasts, row, write_data

import mammovae as mv
from mammovae.data.joined import JoinedArray
from mammovae.storage import StageFolder
from mammovae.training.leakage import TRAINING_IMAGES, exclude_training_images, record_training_images

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {"epochs": 1, "vae": {"size": 32}}
SPLITS = ("train", "train", "train", "validation", "calibration", "test")
HASHES: list[Callable[[bytes], Any]] = [hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.blake2s, hashlib.blake2b]
HASHES += [lambda text, size=size: hashlib.blake2b(text, digest_size=size) for size in (8, 16, 20, 32)]


def patients_of(folder: Path, splits: tuple[str, ...], count: int = 24) -> Path:
    """Write a folder of one image each of the patients patient-0, patient-1, ..., with the splits in turn."""
    rows = [row(f"i{n}", f"patient-{n}", splits[n % len(splits)]) for n in range(count)]
    return write_data(folder, rows, *breasts(count, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patients_of(tmp_path_factory.mktemp("patients") / "data", SPLITS)


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same patients and pixels, split otherwise."""
    return patients_of(tmp_path_factory.mktemp("patients") / "shuffled", SPLITS[::-1])


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learnt") / "run"
    return mv.train(data, out=out, preset="tiny", settings=mv.TrainSettings(**SETTINGS)).path


@pytest.fixture
def handed_on(trained: Path, tmp_path: Path) -> Path:
    """The run as it may be handed on: without private/."""
    return Path(shutil.copytree(trained, tmp_path / "handed-on", ignore=shutil.ignore_patterns("private")))


def traces(name: str) -> Iterator[bytes]:
    """Yield what a file would hold that names a patient or an image, or a hash of its name as one would make it."""
    for text in (name, f"dicom:{name}"):
        for make in HASHES:
            digest = make(text.encode())
            yield from (digest.digest(), digest.hexdigest().encode())


def named(names: list[str], files: list[Path]) -> set[str]:
    held = b"\0".join(file.read_bytes() for file in files)
    return {name for name in names if name.encode() in held or any(trace in held for trace in traces(name))}


def test_who_guesses_every_id_finds_none_outside_private_and_all_that_trained_within(trained: Path, data: Path) -> None:
    frame = mv.Data.open(data).index
    guesses = [*frame["patient_id"], *(f"patient-{number}" for number in range(100))]
    files = {path for path in trained.rglob("*") if path.is_file()}
    private = {path for path in files if path.is_relative_to(trained / "private")}
    assert not named(guesses, sorted(files - private))
    assert named(guesses, sorted(private)) == set(frame.loc[frame["split"] != "test", "patient_id"])


def test_pixels_are_known_within_private_alone(trained: Path, data: Path) -> None:
    opened = mv.Data.open(data)
    hashes = [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in opened.images]
    record = json.loads((trained / TRAINING_IMAGES).read_text())
    assert set(record["pixels"]) == {hashes[place] for place in np.flatnonzero(opened.index["split"] != "test")}
    outside = [path for path in trained.rglob("*") if path.is_file() and "private" not in path.parts]
    assert not [one for one in hashes if any(one.encode() in path.read_bytes() for path in outside)]


def test_with_private_the_patients_that_trained_are_left_out_of_a_test_and_counted(
    trained: Path, data: Path, shuffled: Path, tmp_path: Path
) -> None:
    run, other = mv.Run.open(trained), mv.Data.open(shuffled)
    positions, notes = exclude_training_images(run, other, np.arange(len(other.index)))
    kept = set(other.index["patient_id"].iloc[positions])
    assert kept == set(mv.Data.open(data).index.query("split == 'test'")["patient_id"])
    assert notes == ["20 test images left out, as the run was trained on their patients"]
    with pytest.raises(mv.InputError, match=r"no test image to evaluate \(4 test images left out"):
        mv.evaluate(trained, shuffled, out=tmp_path / "evaluation")


def test_a_copy_without_private_says_that_it_could_not_check(
    handed_on: Path, data: Path, shuffled: Path, tmp_path: Path
) -> None:
    sentence = "whether the run was trained on these patients could not be checked"
    result = mv.evaluate(handed_on, shuffled, out=tmp_path / "other")
    assert sentence in result["notes"][0] and sentence in str(result)
    assert sentence in (tmp_path / "other" / "report.html").read_text()
    own = mv.evaluate(handed_on, data, out=tmp_path / "own")
    assert own["notes"] == [] and own["n_healthy"] == 4, "the splits that it was trained with say it themselves"


def test_a_stress_test_without_private_says_so_too(
    run: Path, trapped_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_on = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("private")))
    other = mv.PrepareSettings(size=64, seed=3, limit=24)
    prepared = mv.prepare("vindr", trapped_raw, out=tmp_path / "data", settings=other, workers=2).path
    result = mv.stress(handed_on, prepared, out=tmp_path / "stress", workers=2)
    assert "could not be checked" in result["notes"][0] and result["notes"][0] in str(result)


def test_a_patient_of_two_folders_is_known_by_the_id_of_each(tmp_path: Path) -> None:
    images, masks = breasts(4)
    first = write_data(tmp_path / "A", [row("a", "ours"), row("b", "else", "test")], images[:2], masks[:2])
    # The same pixels under another id, and another view of that patient.
    rows = [row("c", "theirs"), row("d", "theirs", "unused", "R", healthy=False)]
    second = write_data(tmp_path / "B", rows, images[[0, 2]], masks[[0, 2]])
    third = [row("e", "theirs", "test"), row("f", "new", "test"), row("g", "ours", "test"), row("h", "else", "test")]
    tested = mv.Data.open(write_data(tmp_path / "C", third, *breasts(4, 9)))
    both, run = mv.Data.open(first, second), mv.Run(tmp_path / "run", {}, mv.TrainSettings(), {})
    record_training_images(run, both, both.for_training(mv.TrainSettings())["train"])
    positions, _ = exclude_training_images(run, tested, np.arange(4))
    assert tested.index["image_id"].iloc[positions].tolist() == ["f", "h"]


def test_of_the_pixels_no_more_is_read_than_the_rows_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, read = mv.Data.open(data), list[int]()
    monkeypatch.setattr(JoinedArray, "__getitem__", lambda self, place: read.append(place) or self.parts[0][place])
    watched = replace(opened, images=JoinedArray([opened.images[:]]))
    run = mv.Run(tmp_path, {}, mv.TrainSettings(), {})
    record_training_images(run, watched, np.array([2, 5]))
    exclude_training_images(run, watched, np.array([3, 7]))
    assert read == [2, 5, 3, 7]


def test_interrupted_before_its_end_and_repeated_a_training_leaves_the_same_record(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    settings = mv.TrainSettings(**SETTINGS)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(StageFolder, "finish", stop)
        mv.train(data, out=tmp_path / "run", preset="tiny", settings=settings)
    mv.train(data, out=tmp_path / "run", preset="tiny", settings=settings)
    assert (tmp_path / "run" / TRAINING_IMAGES).read_bytes() == (trained / TRAINING_IMAGES).read_bytes()


def test_images_named_alike_of_unknown_patients_are_not_left_out(tmp_path: Path) -> None:
    def unknown(folder: Path, seed: int) -> mv.Data:
        rows = [row(f"{n:03d}", f"{n:03d}", SPLITS[n % len(SPLITS)]) for n in range(12)]
        return mv.Data.open(write_data(folder, rows, *breasts(12, seed), by_patient=False))

    data, elsewhere, again = (unknown(tmp_path / name, seed) for name, seed in (("A", 1), ("B", 2), ("C", 1)))
    settings = mv.TrainSettings(**SETTINGS)
    run = mv.Run.open(mv.train(data.path, out=tmp_path / "run", preset="tiny", settings=settings).path)
    test = data.select("train")
    assert exclude_training_images(run, elsewhere, test)[0].tolist() == test.tolist()
    assert not len(exclude_training_images(run, again, test)[0]), "the same pixels are known"
