"""Journals: what was done is known after a kill, a power cut and a full disk, and no more than that."""

from contextlib import suppress
from pathlib import Path

import pytest

from mammovae import journal as journals
from mammovae.journal import Journal


def test_a_journal_resumes_after_a_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Journal(path, "work") as journal:
        for number in range(3):
            journal.add({"row": number, "words": "ä" * 40_000})  # a line is longer than what is read at once
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b'"row": 2') + 40_000])
    with Journal(path, "work") as journal:
        assert [entry["row"] for entry in journal.entries()] == [0, 1]
        journal.add({"row": 7})
        assert [entry["row"] for entry in journal.entries()] == [0, 1, 7]
        journal.delete()
    assert not path.exists()


def test_after_a_power_cut_a_journal_has_only_what_had_reached_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"

    def rows() -> list[int]:
        with Journal(path, "work") as journal:
            return [entry["row"] for entry in journal.entries()]

    with suppress(KeyboardInterrupt), Journal(path, "work") as journal:
        for number in range(4):
            journal._marked_at -= journals.SYNC_INTERVAL_S * (number == 1)  # after which all is brought to the disk
            journal.add({"row": number})
        raise KeyboardInterrupt  # as for a kill: what ends without an error is brought to the disk
    before = path.read_bytes()
    assert rows() == [0, 1, 2, 3], "of the same boot all is there"
    path.write_bytes(before[:-3])  # as a power cut leaves it
    monkeypatch.setattr(journals, "boot_id", lambda: "another")
    assert rows() == [0, 1]
    with Journal(path, "work") as journal:
        journal.add({"row": 5})
    assert rows() == [0, 1, 5]


@pytest.mark.parametrize("content", [b"", b'{"journal of": "wo', b'{"journal of": "other"}\n{"row": 1}\n', b"\xff\n"])
def test_a_journal_of_another_job_starts_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with Journal(path, "work") as journal:
        assert list(journal.entries()) == []


def test_a_journal_on_a_disk_that_fills_up_says_so_and_resumes_once_there_is_room(small_disk: Path) -> None:
    path, ballast = small_disk / "rows.jsonl", small_disk / "ballast"
    ballast.write_bytes(bytes(1_500_000))
    with pytest.raises(OSError, match=r"No space left on device: .*rows\.jsonl"), Journal(path, "work") as journal:
        for number in range(1000):
            journal.add({"row": number, "words": "x" * 3000})
    ballast.unlink()
    with Journal(path, "work") as journal:
        rows = [entry["row"] for entry in journal.entries()]
        journal.add({"row": -1})
        assert [entry["row"] for entry in journal.entries()] == [*rows, -1]
    assert rows == list(range(len(rows))) and len(rows) > 50
