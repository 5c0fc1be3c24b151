"""Reads mutated files in worker processes as prepare does, and says which were not answered as they should be.

make fuzz                                                           3,000 files
python -m tests.fuzz.run_fuzz --seed 7 --count 500 --keep FOLDER    others; the files that went wrong stay in FOLDER
python -m tests.fuzz.run_fuzz --only 42 --keep FOLDER               file 42 alone

Wrong is: an exception that is no InputError, a file that takes longer than its limit, memory above a limit, and a
reason or remark of no allowed form (`tests.fuzz.sentences`). A file that crashes its worker is contained, and counted.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from tests.fuzz.driver import memory_faults, run
from tests.fuzz.mutate import make_case
from tests.fuzz.samples import DICOM_SAMPLES, RASTER_SAMPLES


def main() -> int:
    """Run the fuzz that the command line asks for; the exit status is 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--only", type=int, nargs="*", metavar="NUMBER")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where files that went wrong are left")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    numbers = range(arguments.count) if arguments.only is None else arguments.only
    begin, outcomes, wrong, peak = time.monotonic(), Counter[str](), 0, (0, "")
    for make in (*DICOM_SAMPLES.values(), *RASTER_SAMPLES.values()):
        make()  # whose pictures are kept, and count for no file
    before = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cases = map(partial(make_case, arguments.seed), numbers)
    with tempfile.TemporaryDirectory() as folder:
        for verdict in run(cases, Path(folder), workers=arguments.workers, keep=arguments.keep):
            outcomes[verdict.outcome] += 1
            peak = max(peak, (verdict.peak, verdict.case.name))
            wrong += bool(verdict.faults)
            for fault in verdict.faults:
                print(f"WRONG {verdict.case.number} ({verdict.case.name}): {fault}", flush=True)
            if verdict.outcome == "crashed" or arguments.only is not None:
                print(f"{verdict.outcome} {verdict.case.number} ({verdict.case.name}): {verdict.words}", flush=True)
    faults = memory_faults(before)
    for fault in faults:
        print(f"WRONG: {fault}")
    counts = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
    print(f"{sum(outcomes.values())} files, seed {arguments.seed}, in {time.monotonic() - begin:.0f} s: {counts}")
    print(f"most memory for a file: {peak[0] / 1e6:.0f} MB ({peak[1]}); {wrong + len(faults)} wrong")
    return int(bool(wrong or faults))


if __name__ == "__main__":
    sys.exit(main())
