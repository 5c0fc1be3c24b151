"""The demo's steps: each is a command of its own, timed, and skipped once it is done."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from mammovae.arguments import AnyPath, checked
from mammovae.config import PRESETS, PrepareSettings, PresetName, Protocol, Seed, TrainSettings
from mammovae.data.dataset import Data
from mammovae.data.prepare import prepare
from mammovae.demonstration.demo_page import write_demo_page
from mammovae.demonstration.demo_settings import SHOWN, DemoSettings, evaluation_folder, run_folder
from mammovae.detection.score import score
from mammovae.evaluation.evaluate import evaluate
from mammovae.evaluation.stress import stress
from mammovae.generation.generate import generate_from
from mammovae.generation.samplers import LatentSampler
from mammovae.models.run import Run
from mammovae.phantoms.write import write_phantoms
from mammovae.storage import StageFolder, read_json, write_json
from mammovae.training.train import train_on

SECONDS = "seconds.json"
_FINDING_SHARE = 0.5  # so that few patients make a test split with enough of both kinds


@dataclass(frozen=True)
class Step:
    """A step as a command: what stands before its flags, these, where it writes, and the call that does the same."""

    words: tuple[Any, ...]
    out: Path
    flags: Mapping[str, Any]
    call: Callable[..., Any]

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return shlex.join(["mammovae", *map(str, self.words), "--out", str(self.out), *_as_flags(self.flags)])


def _as_flags(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield settings as the command line takes them: nested ones under dotted names, lists one by one."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _as_flags(value, f"{prefix}{name}.")
            continue
        for item in value if isinstance(value, (list, tuple)) else [value]:
            yield from (f"--{prefix}{name}".replace("_", "-"), str(item))


@checked
def run_demo(out: AnyPath, seed: Seed, settings: DemoSettings) -> dict[str, Any]:
    """Do mammovae demo, and return what metrics.json says.

    The folder out gets a folder for each step, seconds.json (what each took: of an interrupted one, the call that
    completed it), metrics.json and report.html.
    """
    with StageFolder(out, "demo", {"seed": seed} | settings.model_dump(), {}) as stage:
        if not stage.done:
            place = out / SECONDS
            seconds = read_json(place) if place.is_file() else {}
            steps = list(_steps(out, seed, settings))
            for step in steps:
                if step.command not in seconds or not step.out.exists():
                    begin = time.monotonic()
                    step.call()
                    seconds[step.command] = round(time.monotonic() - begin, 1)
                    write_json(place, seconds)
            own = {step.command: seconds[step.command] for step in steps}  # the folder may have had another name
            write_json(out / "metrics.json", write_demo_page(out, settings, own))
            stage.finish()
        return read_json(out / "metrics.json")


def _steps(out: Path, seed: int, settings: DemoSettings) -> Iterator[Step]:
    """Yield the steps in order; what a step reads is there once those before it are done."""
    raw, data, generated, runs = out / "raw", out / "data", out / "generated", {p: run_folder(out, p) for p in SHOWN}
    seeded = {"seed": seed} if seed else {}
    painted = {"patients": settings.patients, "size": settings.rows, "finding_share": _FINDING_SHARE, **seeded}
    painted |= {name: getattr(settings, name) for name in ("lesions", "contrast")}
    yield Step(("phantom",), raw, painted, partial(write_phantoms, raw, **painted))
    preparing = partial(prepare, "vindr", raw, data, settings.prepared)
    flags = _differences(PrepareSettings().model_dump(), settings.prepared.model_dump())
    yield Step(("prepare", "vindr", raw), data, flags, preparing)
    for preset, run in runs.items():
        chosen = getattr(settings, preset).merged({"seed": seed})
        flags = {"preset": preset} | _differences(PRESETS[preset].model_dump(), chosen.model_dump())
        yield Step(("train", data), run, flags, partial(_train, data, run, preset, chosen))
    generating = partial(_generate, runs["original"], generated, settings.generated, seed)
    yield Step(("generate", runs["original"]), generated, {"count": settings.generated, **seeded}, generating)
    for preset, run in runs.items():
        for protocol in get_args(Protocol):
            place = evaluation_folder(out, preset, protocol)
            evaluating = partial(evaluate, run, data, place, protocol, seed)
            yield Step(("evaluate", run, data), place, {"protocol": protocol, **seeded}, evaluating)
    shown = {"review": out / "review.html"}
    scoring = partial(score, runs["detect"], [data], out / "scores.csv", **shown)
    yield Step(("score", runs["detect"], data), out / "scores.csv", shown, scoring)
    stressing = partial(stress, runs["detect"], data, out / "stress", seed, limit=settings.stressed)
    yield Step(("stress", runs["detect"], data), out / "stress", {"limit": settings.stressed, **seeded}, stressing)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of nested settings that are not the old ones."""
    changed = {name: (old[name], value) for name, value in new.items() if value != old[name]}
    return {name: _differences(*pair) if isinstance(pair[1], Mapping) else pair[1] for name, pair in changed.items()}


def _train(data: Path, out: Path, preset: PresetName, chosen: TrainSettings) -> None:
    train_on(Data.open(data), out, preset, chosen)


def _generate(run: Path, out: Path, count: int, seed: int) -> None:
    generate_from(LatentSampler(Run.open(run), "latent", seed), out, count)
