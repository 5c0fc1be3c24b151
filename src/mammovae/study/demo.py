"""The whole way on phantoms, from nothing to a report."""

from pathlib import Path

from mammovae.data.prepare import prepare
from mammovae.detect.apply import score
from mammovae.folders import replacing
from mammovae.generation.sample import generate
from mammovae.phantoms.write import write_phantoms
from mammovae.study.evaluate import evaluate
from mammovae.study.train import train

PATIENTS = 60


def demo(*, out: Path | str, seed: int = 0) -> Path:
    """Run the whole way on phantoms inside the folder out; return the report's path."""
    out = Path(out)
    write_phantoms(out / "raw", layout="vindr", patients=PATIENTS, size=512, seed=seed)
    prepare("vindr", out / "raw", out=out / "data", size=128)
    train(out / "data", out=out / "run", preset="tiny", seed=seed)
    generate(out / "run", out=out / "generated", mode="vary", count=16, source=out / "data", seed=seed)
    score(out / "run", out / "data", out=out / "scores.csv")
    evaluate(out / "run", out / "data", out=out / "evaluation", seed=seed)
    with replacing(out / "report.html") as partial:
        partial.write_bytes((out / "evaluation" / "report.html").read_bytes())
    return out / "report.html"
