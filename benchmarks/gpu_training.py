"""The parts of gpu.py about training: images a second, operations a step, precisions, recorded and compiled steps."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plain
import torch
from gpu_study import Row, Study, wait
from torch import Tensor, nn

from mammovae.config import TrainSettings
from mammovae.data.dataset import Batch, Data
from mammovae.models.augmentation import augment
from mammovae.models.noise import StepContext, step_keys
from mammovae.models.precision import float32_products
from mammovae.models.run import build_members, device
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loop import fit

PRECISIONS = ("32", "tf32", "bf16-mixed", "16-mixed")
HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
LAUNCHES = {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch"}
WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"}


class Case(NamedTuple):
    """A member of a preset."""

    preset: str
    member: str

    def __str__(self) -> str:
        """Return its name in the table."""
        return f"{self.preset}, {self.member}"


CASES = (
    Case("original", "vae"),
    Case("detect", "residual_vae"),
    Case("detect", "denoiser"),
    Case("detect", "lesion_segmenter"),
    Case("detect", "patch_segmenter"),
    Case("generate", "pyramid_vae"),
)


def cases(study: Study) -> tuple[Case, ...]:
    """Return what is measured: of the least work, a member with and one without inserted lesions."""
    return (CASES[0], CASES[3]) if study.scale.is_least else CASES


class Fitted(NamedTuple):
    """What a fit gave; rate: images a second in the last epoch; steps: of each epoch."""

    rate: float
    steps: int
    history: pd.DataFrame
    weights: dict[str, Tensor]


def fit_ours(study: Study, case: Case, epochs: int = 2, **values: Any) -> Fitted:
    """Fit a member by the loop of mammovae train, without validation."""
    settings, data = study.settings(case.preset, epochs=epochs, **values), Data.open(study.data())
    rows, member = study.training_rows(data, settings), build_members(settings)[case.member]
    nothing = np.zeros(0, np.int64)
    with tempfile.TemporaryDirectory() as folder:
        parts = {"train": rows, "validation": nothing, "calibration": nothing}
        history = fit(member, data, parts, Path(folder) / case.member, settings, ProcessGroup())
    weights = {name: values.cpu() for name, values in member.state_dict().items()}
    rate = len(rows) / float(history["seconds"].iloc[-1])
    return Fitted(rate, len(rows) // settings.batch_size, history, weights)


class PlainLoop:
    """The same network in an eager loop as one writes it at first, its images on the device as float32.

    The original network is plain.py's; of the others the network itself is used, with its augmentation, its noise and
    its lesions.
    """

    def __init__(self, study: Study, case: Case, settings: TrainSettings) -> None:
        data, self.settings = Data.open(study.data()), settings
        self.rows = study.training_rows(data, settings)
        is_plain = case.preset == "original" and not study.scale.settings
        torch.manual_seed(0)
        self.network: nn.Module = plain.Plain() if is_plain else build_members(settings)[case.member]
        self.network.to(device()).train()
        self.is_plain, self.forward = is_plain, self.network.__call__ if is_plain else self._losses
        self.batch = data.batch(self.rows, getattr(settings, case.member).size).to(device())
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        half = HALVES.get(settings.precision)
        self.half = half if device().type == "cuda" else None
        self.scaler = torch.amp.GradScaler(device().type, enabled=self.half == torch.float16)

    def _losses(self, batch: Batch, keys: Tensor) -> Tensor:
        context = StepContext.of(keys)
        member: Any = self.network
        if member.augmented:
            batch = augment(batch, context.noise, member.mirrored)
        return member.losses(batch, context)["loss"].mean()

    def epoch(self) -> float:
        """Make an epoch and return its images a second."""
        size, count = self.settings.batch_size, len(self.rows)
        keys = step_keys(0, 0, np.arange(size), 0).to(device())
        begin = time.perf_counter()
        with float32_products("tf32" if self.settings.precision == "tf32" else "ieee"):
            for part in torch.randperm(count, device=device()).split(size):
                batch = Batch(*(None if values is None else values[part] for values in self.batch))
                self.optimizer.zero_grad()
                with torch.autocast(device().type, self.half, enabled=self.half is not None):
                    loss = self.forward(batch.image) if self.is_plain else self.forward(batch, keys)
                self.scaler.scale(loss).backward()
                self.scaler.step(self.optimizer)
                self.scaler.update()
            wait()
        return count / (time.perf_counter() - begin)


def race(study: Study, case: Case, **values: Any) -> tuple[float, float]:
    """Return the best images a second of the plain loop and of ours, in turns."""
    loop = PlainLoop(study, case, study.settings(case.preset, **values))
    loop.epoch()
    usual, ours = [], []
    for _ in range(study.scale.rounds):
        ours.append(fit_ours(study, case, **values).rate)
        usual.append(loop.epoch())
    return max(usual), max(ours)


def against_plain_loops(study: Study) -> Iterator[Row]:
    """Every member of the presets against a plain eager loop, in float32 and TF32."""
    for case in cases(study):
        for precision in ("32", "tf32") if study.on_gpu else ("32",):
            usual, ours = race(study, case, precision=precision)
            yield Row("train", f"{case}, {precision}; usual: plain eager loop", "images/s", usual, ours)


def operations(study: Study) -> Iterator[Row]:
    """Kernels and waits a step of ours: what the second of two epochs adds, divided by its steps."""
    for case in cases(study):
        counts = []
        for epochs in (1, 2):
            kinds = [torch.profiler.ProfilerActivity.CPU]
            kinds += [torch.profiler.ProfilerActivity.CUDA] if study.on_gpu else []
            with torch.profiler.profile(activities=kinds) as profiled:
                fitted = fit_ours(study, case, epochs=epochs, limit=8 * study.settings(case.preset).batch_size)
            events = {event.key: event.count for event in profiled.key_averages()}
            counts.append([sum(count for key, count in events.items() if chosen(key)) for chosen in _KINDS.values()])
        for kind, first, both in zip(_KINDS, *counts, strict=True):
            if study.on_gpu or kind == "operations":
                yield Row("operations", f"{case}: {kind}", "a step", ours=(both - first) / fitted.steps)


_KINDS = {
    "operations": lambda key: key.startswith("aten::"),
    "kernels launched": LAUNCHES.__contains__,
    "waits for the GPU": WAITS.__contains__,
}


def precisions(study: Study) -> Iterator[Row]:
    """Images a second of ours and the loss after two epochs in each precision; usual: in float32."""
    for case in cases(study):
        usual = None
        for precision in PRECISIONS if study.on_gpu else PRECISIONS[:2]:
            fitted = fit_ours(study, case, precision=precision)
            usual = usual or fitted.rate
            losses = ", ".join(f"{loss:,.1f}" for loss in fitted.history["loss"])
            note = f"loss by epoch {losses}"
            yield Row("precision", f"{case}, {precision}; usual: 32", "images/s", usual, fitted.rate, note)


def recorded(study: Study) -> Iterator[Row]:
    """Ours with and without cuda_graphs, in turns, and how far the weights then differ."""
    for case in cases(study):
        rates: dict[bool, list[float]] = {False: [], True: []}
        weights = {}
        for _ in range(study.scale.rounds):
            for is_recorded in rates:
                fitted = fit_ours(study, case, cuda_graphs=is_recorded)
                rates[is_recorded].append(fitted.rate)
                weights[is_recorded] = fitted.weights
        differences = [
            float((weights[True][name] - values).abs().max() / values.abs().max().clamp(min=1e-12))
            for name, values in weights[False].items()
        ]
        note = f"weights differ by at most {max(differences):.1e} of the largest of their tensor"
        usual, ours = (max(rates[is_recorded]) for is_recorded in (False, True))
        yield Row("graphs", f"{case}, cuda_graphs; usual: without", "images/s", usual, ours, note)


def compiled(study: Study) -> Iterator[Row]:
    """Compare the plain loop of the original network with itself by torch.compile, and with channels last."""
    for precision in ("32", "bf16-mixed") if study.on_gpu else ("32",):
        for change in ("channels last", "torch.compile") if study.on_gpu else ("channels last",):
            settings = study.settings("original", precision=precision)
            loop, changed = (PlainLoop(study, CASES[0], settings) for _ in range(2))
            if change == "torch.compile":
                changed.forward = torch.compile(changed.forward)
            else:
                changed.network.to(memory_format=torch.channels_last)
            rates = [[one.epoch() for _ in range(1 + study.scale.rounds)][1:] for one in (loop, changed)]
            ours = fit_ours(study, CASES[0], precision=precision).rate
            work = f"original, plain loop, {precision}, {change}; usual: without"
            yield Row("compile", work, "images/s", max(rates[0]), max(rates[1]), f"ours {ours:,.0f}")
