"""Prints the seconds from imported libraries to the first training step of mammovae train; run by start-train."""

import os
import sys
import time

import torch

BEGIN = time.perf_counter()


def stop_at_first_step(module: torch.nn.Module, _: object) -> None:
    """Print the time at the first call of a layer in training, and exit."""
    if module.training and torch.is_grad_enabled() and isinstance(module, torch.nn.Conv2d):
        print(time.perf_counter() - BEGIN, flush=True)
        os._exit(0)


def main() -> None:
    """Train, until the first step stops the process."""
    import mammovae

    torch.nn.modules.module.register_module_forward_pre_hook(stop_at_first_step)
    mammovae.train(sys.argv[1], out=sys.argv[2], preset="tiny", settings=mammovae.TrainSettings(epochs=1))


if __name__ == "__main__":
    main()
    sys.exit("no training step was made")
