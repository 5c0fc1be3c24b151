"""How near training is to the images a second that this machine's matrix multiplication would allow."""

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import materials
import numpy as np
import plain
import torch
from measure import Line, Scope, race
from torch import nn
from train_speed import epoch_ours, in_memory

from mammovae.config import preset
from mammovae.data.dataset import Batch
from mammovae.models.noise import StepContext, step_keys
from mammovae.models.run import build_members
from mammovae.parallel.allocator import retain_freed_memory

BATCH = 32
KINDS = {
    "convolutions forward": ("aten::mkldnn_convolution", "aten::_convolution"),
    "convolutions backward": ("aten::convolution_backward",),
    "linear layers": ("aten::mm", "aten::addmm"),
    "Adam": ("aten::_fused_adam_",),
}
"""The operations of a training step by kind."""


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure train-peak; its ratio is the share of the peak that ours reaches."""
    count, rounds, large = scope.pick((320, 3, 2048), (32, 1, 256))
    layers = operations()
    forward = sum(of for _, of in layers)
    # A backward pass multiplies as much for the weights' gradient and again for the input's, which the image needs not.
    step = 3 * forward - layers[0][1]
    rates: dict[tuple[int, int, int], float] = {}

    def peak() -> None:
        for shape in ((large,) * 3, *(shape for shape, _ in layers)):
            rates[shape] = max(rates.get(shape, 0.0), multiply(*shape))

    with tempfile.TemporaryDirectory() as name:
        data, _ = in_memory(materials.data(Path(name), count, min(count, 80)), count)
        _, ours = race((peak, lambda: epoch_ours(data, count)), rounds)
    best = max(rates, key=lambda shape: rates[shape])
    bound, reached = rates[best] / step, count / min(ours)
    notes = (
        f"{forward / 1e6:.1f} MFLOP an image forward, {step / 1e6:.1f} in training (convolutions and linear layers, "
        "no multiplication by a padded zero, no gradient for the image)",
        f"peak {rates[best] / 1e9:.0f} GFLOP/s in float32 at {' x '.join(map(str, best))} "
        f"({rates[(large,) * 3] / 1e9:.0f} at {large}^3), {torch.get_num_threads()} threads; "
        f"ours {reached * step / 1e9:.0f} GFLOP/s",
        *step_notes(),
    )
    work = f"{count // BATCH} training steps; usual: what the matrix-multiply peak allows; ratio: share reached"
    return [Line(row, work, "images/s", bound, reached, reached / bound, notes)]


def step_notes() -> tuple[str, ...]:
    """Return in words where a step of ours spends time, and its cost without memory retained between steps."""
    network = build_members(preset("original"))["vae"].to(memory_format=torch.channels_last)  # pyrefly: ignore
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    image = torch.rand(BATCH, 1, 128, 128)

    def step() -> None:
        optimizer.zero_grad()
        context = StepContext.of(step_keys(0, 0, np.arange(BATCH), 0))
        network.losses(Batch(image, torch.ones_like(image)), context)["loss"].mean().backward()
        optimizer.step()

    given_back, again = timed(step)
    with retain_freed_memory():
        stayed, few = timed(step)
    warm = torch.profiler.schedule(wait=1, warmup=4, active=1)
    with (
        retain_freed_memory(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], schedule=warm) as profile,
    ):
        for _ in range(6):
            step()
            profile.step()
    milliseconds: dict[str, float] = dict.fromkeys([*KINDS, "pooling, ReLU, loss and the rest"], 0.0)
    for event in profile.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key in names), "pooling, ReLU, loss and the rest")
        milliseconds[kind] += event.self_cpu_time_total / 1000
    return (
        f"one step of ours, profiled: {', '.join(f'{kind} {milliseconds[kind]:.0f} ms' for kind in milliseconds)}",
        f"a step takes {1000 * stayed:.0f} ms and {few:.0f} page faults with memory kept between steps, "
        f"{1000 * given_back:.0f} ms and {again:.0f} without",
    )


def timed(step: Callable[[], None], steps: int = 6) -> tuple[float, float]:
    """Return the seconds and the page faults of a step, the best of some after two."""
    best, faults = float("inf"), 0
    for number in range(steps + 2):
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        step()
        if number >= 2 and time.perf_counter() - begin < best:
            best = time.perf_counter() - begin
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return best, faults


def multiply(rows: int, inner: int, columns: int, seconds: float = 0.2) -> float:
    """Return the floating-point operations a second of the best of repeated float32 products."""
    a, b = torch.rand(rows, inner), torch.rand(inner, columns)
    out, best, end = torch.empty(rows, columns), float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        begin = time.perf_counter()
        torch.matmul(a, b, out=out)
        best = min(best, time.perf_counter() - begin)
    return 2 * rows * inner * columns / best


def operations() -> list[tuple[tuple[int, int, int], int]]:
    """Return, for each layer that multiplies, its shape as a matrix product of a batch and its operations an image."""
    operations_by_layer: list[tuple[tuple[int, int, int], int]] = []

    def count_operations(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if isinstance(layer, nn.Linear):
            shape, count = (BATCH, layer.in_features, layer.out_features), layer.in_features * layer.out_features
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            # Transposed, the roles of the two sides are exchanged.
            ends = (output, inputs[0]) if isinstance(layer, nn.ConvTranspose2d) else (inputs[0], output)
            large, small = (end.shape[-1] for end in ends)
            kernel, channels = layer.kernel_size[0], layer.in_channels * layer.out_channels
            inner = kernel**2 * layer.in_channels
            shape = (BATCH * small**2, inner, layer.out_channels)
            if isinstance(layer, nn.ConvTranspose2d):
                shape = (BATCH * small**2, layer.in_channels, kernel**2 * layer.out_channels)
            count = channels * taps(large, small, kernel, layer.stride[0], layer.padding[0]) ** 2
        else:
            return
        operations_by_layer.append((shape, 2 * count))

    network = plain.Plain()
    assert sum(values.numel() for values in network.parameters()) == plain.PARAMETERS
    for layer in network.modules():
        layer.register_forward_hook(count_operations)
    with torch.no_grad():
        network(torch.rand(1, 1, 128, 128))
    return operations_by_layer


def taps(large: int, small: int, kernel: int, stride: int, padding: int) -> int:
    """Count, along one axis, the kernel's places that fall on a true pixel and not on padding."""
    return sum(0 <= place * stride - padding + tap < large for place in range(small) for tap in range(kernel))
