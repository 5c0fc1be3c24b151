"""What mammovae does on a GPU, against plain loops of the same networks, in one call of less than 8 minutes.

python benchmarks/gpu.py [PART ...] [--json FILE] [--folder DIR]     PART: see --help; by default all

On a machine without a GPU the same is done on the CPU with little work, so that the script can be trusted before a GPU
is at hand: its figures then say nothing. Each line is printed, and written to FILE, as soon as it is measured; a part
that fails or takes too long is a line that says so, and the others go on.
"""

import argparse
import contextlib
import json
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import gpu_scoring
import gpu_training
import torch
from gpu_study import Row, Scale, Study

PARTS: dict[str, tuple[Callable[[Study], Iterator[Row]], int]] = {
    "train": (gpu_training.against_plain_loops, 150),
    "operations": (gpu_training.operations, 60),
    "after": (gpu_scoring.after_training, 120),
    "score": (gpu_scoring.against_the_forward_pass, 60),
    "files": (gpu_scoring.files, 60),
    "agreement": (gpu_scoring.agreement, 60),
    "precision": (gpu_training.precisions, 60),
    "graphs": (gpu_training.recorded, 90),
    "compile": (gpu_training.compiled, 90),
}
"""Each part with the seconds that it may take; what may leave a GPU unusable comes last."""
SECONDS = 450


def main() -> int:
    """Measure the parts asked for; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; by default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the lines to this file too")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep DATA and RUN folders there for a next call")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="time for all parts; by default %(default)s")
    parser.add_argument("--tiny", action="store_true", help="the least work that shows that a part runs")
    arguments = parser.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}: choose from {', '.join(PARTS)}")
    where = machine()
    print(where, flush=True)
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        study, begin = Study(folder, Scale.here(arguments.tiny)), time.monotonic()
        for part in arguments.parts or PARTS:
            left = arguments.seconds - (time.monotonic() - begin)
            for row in measured(study, part, left):
                rows.append(row)
                print(row.line(), flush=True)
                if arguments.json is not None:
                    lines = {"machine": where, "rows": [entry._asdict() for entry in rows]}
                    arguments.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    return int(any(row.failed for row in rows))


def measured(study: Study, part: str, left: float) -> Iterator[Row]:
    """Yield the rows of a part, and one more with what went wrong and one with its time."""
    measure, most = PARTS[part]
    begin = time.monotonic()
    if left < 1:
        yield Row(part, "left out: the time is up", failed="time")
        return
    try:
        with limited(min(most, int(left))):
            yield from measure(study)
    except Exception as error:  # the other parts go on
        words = str(error).strip().splitlines() or [""]
        yield Row(part, f"{type(error).__name__}: {words[0][:200]}", failed=type(error).__name__)
    peak = f", at most {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of the GPU" if study.on_gpu else ""
    yield Row(part, f"took {time.monotonic() - begin:.1f} s{peak}")
    if study.on_gpu:
        torch.cuda.reset_peak_memory_stats()


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so many seconds, at the next line of Python."""

    def stop(_: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"stopped after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def machine() -> dict[str, str]:
    """Describe the machine."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: the CPU, and little work"
    return {"gpu": device, "torch": torch.__version__, "python": platform.python_version(), "cpu": platform.machine()}


if __name__ == "__main__":
    sys.exit(main())
