"""Two hundred files of the fuzz, which `make fuzz` does at length."""

from functools import partial
from pathlib import Path

import pytest
from tests.fuzz.driver import run
from tests.fuzz.mutate import make_case
from tests.fuzz.samples import DICOM_SAMPLES, RASTER_SAMPLES, SUFFIXES
from tests.fuzz.sentences import fault_of_reason, fault_of_remarks

from mammovae.data.prepare_image import prepare_image

COUNT = 200


@pytest.mark.parametrize("name", DICOM_SAMPLES)
def test_a_dicom_sample_is_a_breast_before_it_is_changed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sample.dcm"
    path.write_bytes(DICOM_SAMPLES[name]().encode())
    assert fault_of_remarks(prepare_image(path, size=64).fields["reason"] or "") is None


@pytest.mark.parametrize("name", RASTER_SAMPLES)
def test_another_sample_is_a_breast_before_it_is_changed(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"sample{SUFFIXES[name.split()[0].rstrip(',')]}"
    path.write_bytes(RASTER_SAMPLES[name]())
    assert fault_of_remarks(prepare_image(path, size=64).fields["reason"] or "") is None


def test_a_number_always_gives_the_same_file_and_another_seed_another() -> None:
    assert make_case(1, 5) == make_case(1, 5)
    assert make_case(1, 5).content != make_case(2, 5).content


@pytest.mark.slow
def test_mutated_files_are_answered_in_words_within_time_and_memory(tmp_path: Path) -> None:
    verdicts = list(run(map(partial(make_case, 0), range(COUNT)), tmp_path))
    assert len(verdicts) == COUNT
    wrong = [f"{one.case.number} ({one.case.name}): {fault}" for one in verdicts for fault in one.faults]
    assert wrong == []
    # A fuzz whose files are all refused, or all read, tries little.
    assert {one.outcome for one in verdicts} >= {"ok", "refused"}


@pytest.mark.parametrize(
    "sentence",
    [
        "cannot read PATH: it is damaged ('NoneType' object has no attribute 'encode')",
        "unexpected KeyError: 'x'",
        "cannot read PATH: invalid literal for int() with base 10: 'x'",
        "cannot read PATH: it is\ndamaged",
        "cannot read PATH: something that nobody has said before",
    ],
)
def test_a_programmers_words_are_no_reason(sentence: str) -> None:
    assert fault_of_reason(sentence, Path("PATH")) is not None
    assert fault_of_remarks(sentence) is not None
