"""What handing a file to a worker costs apart from the work: a worker process here, and a Dask cluster."""

import math
import time

from measure import Line, Scope

from mammovae.parallel import pool


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure overhead: tasks that do nothing, by two worker processes and by a local Dask cluster of two workers."""
    count = scope.pick(4000, 40)
    processes, dask = (each(count, cluster) for cluster in (None, "local"))
    work = f"a task that does nothing, of {count}; usual: by 2 worker processes, ours: by a Dask cluster of 2 here"
    notes = (f"without starting; {1 / dask:.0f} tasks a second through a scheduler that shares these cores",)
    return [Line(row, work, "ms", 1000 * processes, 1000 * dask, processes / dask, notes)]


def each(count: int, cluster: str | None) -> float:
    """Return the seconds of a task, from the first answer to the last."""
    begin = 0.0
    for number, _ in enumerate(pool.map_unordered(math.isqrt, range(count), workers=2, cluster=cluster), 1):
        if number == count // 10:
            begin = time.perf_counter()
    return (time.perf_counter() - begin) / (count - count // 10)
