"""Kill a training in the midst of an epoch."""

import subprocess
import time
from pathlib import Path

import psutil
import torch


def kill_within_epoch(process: subprocess.Popen, checkpoint: Path) -> tuple[int, int]:
    """Kill a process and its children without warning once the checkpoint lies within an epoch that is not the first.

    Return the epochs and the steps of the next one that the checkpoint holds. All are stopped for each look, so that
    they do not go on to the end of the epoch meanwhile.
    """
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.005)
        if not checkpoint.exists():
            continue
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        for each in family:
            each.suspend()
        if checkpoint.exists():
            saved = torch.load(checkpoint)
            epochs, steps = len(saved["history"]), saved["epoch_sums"]["steps"]
            if epochs and steps:
                for each in family:
                    each.kill()
                process.wait()
                psutil.wait_procs(family, timeout=10)
                return epochs, steps
        for each in family:
            each.resume()
    raise AssertionError(f"no checkpoint within an epoch was met; the process ended with {process.poll()}")
