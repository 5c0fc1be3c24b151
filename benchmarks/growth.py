"""Ten and a hundred times the work: an image costs the same, and memory stays flat."""

import tempfile
from pathlib import Path

import materials
from measure import Line, Scope
from memory import watched


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure growth: prepare, train and score as commands on folders of links to the same phantoms.

    Short commands run several times: the least seconds count, and the highest peak.
    """
    first, size, times = scope.pick((100, 384, (1, 10, 100)), (40, 128, (1, 2, 3)))
    counts = [first * many for many in times]
    sizes_by_stage: dict[str, list[tuple[float, float]]] = {stage: [] for stage in ("prepare", "train", "score")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantoms = materials.phantoms(folder / "phantoms", first, size)
        for count, rounds in zip(counts, scope.pick((3, 2, 1), (1, 1, 1)), strict=True):
            materials.links(phantoms, folder / f"{count}", count)
            measured = [stages(folder / f"{count}", folder / f"{count}-{number}") for number in range(rounds)]
            for stage, sizes in sizes_by_stage.items():
                seconds, memory = zip(*(one[stage] for one in measured), strict=True)
                sizes.append((min(seconds), max(memory)))
    return [line for stage, sizes in sizes_by_stage.items() for line in growth_lines(stage, counts, sizes)]


def stages(raw: Path, out: Path) -> dict[str, tuple[float, float]]:
    """Return the seconds and the peak of each command on a folder of images."""
    data, run = out / "data", out / "run"
    prepared = watched(materials.command("prepare", "folder", raw, "--out", data))
    materials.assign_splits(data)
    trained = watched(materials.command("train", data, "--preset", "tiny", "--epochs", 1, "--out", run))
    scored = watched(materials.command("score", run, data, "--out", out / "scores.csv"))
    return {"prepare": prepared, "train": trained, "score": scored}


def growth_lines(stage: str, counts: list[int], sizes: list[tuple[float, float]]) -> list[Line]:
    """Return how a stage's time and memory grow."""
    seconds, memory = zip(*sizes, strict=True)
    what = {"prepare": "prepare PNG phantoms", "train": "train tiny for an epoch", "score": "score a DATA folder"}[
        stage
    ]
    all_counts = " / ".join(f"{count:,}" for count in counts)
    # Of two sizes the difference, so that start-up hides nothing.
    each = [1000 * (seconds[i] - seconds[i - 1]) / (counts[i] - counts[i - 1]) for i in (1, 2)]
    times = f"{all_counts} images: {' / '.join(f'{value:.1f}' for value in seconds)} s, start-up included"
    peaks = f"{all_counts} images: {' / '.join(f'{value:.0f}' for value in memory)} MB anonymous, process tree"
    return [
        Line(
            f"growth-{stage}-time",
            f"{what}: a further image, up to {counts[1]:,} (usual) and {counts[2]:,} (ours); ratio: growth",
            "ms/image",
            each[0],
            each[1],
            each[1] / each[0],
            (times,),
        ),
        Line(
            f"growth-{stage}-memory",
            f"{what}: peak with {counts[0]:,} (usual) and {counts[2]:,} images (ours); ratio: growth",
            "MB",
            memory[0],
            memory[2],
            memory[2] / memory[0],
            (peaks,),
        ),
    ]
