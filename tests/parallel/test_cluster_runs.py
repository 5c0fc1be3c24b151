"""Prepare and score on a Dask cluster, one of whose two workers is killed half-way: the same bytes as here, undisturbed."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mammovae as mv
from mammovae.parallel.dask_cluster import local_cluster

pytestmark = pytest.mark.slow

distributed = pytest.importorskip("distributed")

DATA = ("images.npy", "masks.npy", "index.parquet", "measurements.parquet", "failures.csv")


@pytest.fixture
def cluster() -> Iterator[str]:
    with local_cluster(2) as address:
        yield address


@contextmanager
def a_worker_killed(address: str, journal: Path, rows: int) -> Iterator[list[int]]:
    """Kill one worker process as soon as the journal has so many rows; gives its process id and those rows seen."""
    killed: list[int] = []
    with distributed.Client(address, set_as_default=False) as client:
        victim = next(iter(client.run(os.getpid).values()))

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            seen = journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0
            if seen >= rows:
                os.kill(victim, signal.SIGKILL)
                killed.extend([victim, seen])
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield killed
    thread.join()


def test_prepare_and_score_survive_the_death_of_a_worker(
    trapped_raw: Path, trapped_data: Path, run: Path, tmp_path: Path, cluster: str
) -> None:
    data = tmp_path / "data"
    with a_worker_killed(cluster, data / ".rows.jsonl", 45) as killed:
        facts = mv.prepare("vindr", trapped_raw, out=data, cluster=cluster, settings=mv.PrepareSettings(size=64))
    assert killed and killed[1] < facts["counts"]["ok"] - 10, "the worker was not killed half-way"
    for name in DATA:
        assert (data / name).read_bytes() == (trapped_data / name).read_bytes(), name

    here = tmp_path / "here.csv"
    mv.score(run, trapped_raw, out=here, workers=2, flag=0.2)
    there = tmp_path / "there.csv"
    with a_worker_killed(cluster, tmp_path / ".there.csv.rows.jsonl", 45) as killed:
        table = mv.score(run, trapped_raw, out=there, cluster=cluster, flag=0.2)["table"]
    assert killed and killed[1] < len(table) - 10, "the worker was not killed half-way"
    assert there.read_bytes() == here.read_bytes()


def test_a_data_folder_is_scored_on_a_cluster_that_is_started_for_it(
    trapped_data: Path, run: Path, tmp_path: Path
) -> None:
    here = mv.score(run, trapped_data, out=tmp_path / "here.csv")["table"]
    there = mv.score(run, trapped_data, out=tmp_path / "there.csv", cluster="local", workers=1)["table"]
    assert list(here["image_id"]) == list(there["image_id"])
    assert here["finding"].to_numpy() == pytest.approx(there["finding"].to_numpy(), rel=1e-5, nan_ok=True)


def test_workers_started_in_another_folder_find_relative_paths(
    trapped_raw: Path, run: Path, tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trapped_raw.parent)  # after the cluster was started
    raw, here = Path(trapped_raw.name), Path(os.path.relpath(run))
    facts = mv.prepare(
        "dicom", raw, out=tmp_path / "data", cluster=cluster, settings=mv.PrepareSettings(size=32, limit=4)
    )
    assert facts["counts"]["ok"] == 4
    image = sorted(raw.rglob("*.dicom"))[0]
    table = mv.score(
        here, image, out=tmp_path / "s.csv", maps=Path(os.path.relpath(tmp_path / "maps")), cluster=cluster
    )["table"]
    assert list(table["source"]) == [str(image)] and table["finding"].notna().all()
    assert (tmp_path / "maps" / f"{image.stem}.png").is_file()
