"""The whole way on phantoms, from nothing to a report."""

from pathlib import Path

from mammovae.auditing.audit import audit
from mammovae.data.prepare import prepare
from mammovae.detection.score import score
from mammovae.evaluation.evaluate import evaluate
from mammovae.generation.generate import generate
from mammovae.phantoms.write import write_phantoms
from mammovae.storage import atomic_write
from mammovae.training.train import train

PATIENTS = 120
FINDING_SHARE = 0.5
"""Enough that the test split has the ten patients of each kind without which there is no interval."""


def demo(*, out: Path | str, seed: int = 0) -> Path:
    """Run the whole way on phantoms inside the folder out; return the report's path."""
    out = Path(out)
    write_phantoms(out / "raw", layout="vindr", patients=PATIENTS, size=384, seed=seed, finding_share=FINDING_SHARE)
    prepare("vindr", out / "raw", out=out / "data", size=128)
    train(out / "data", out=out / "run", preset="tiny", seed=seed)
    generate(out / "run", out=out / "generated", count=100, seed=seed)
    audit(out / "generated", out / "run", out / "data", out=out / "audit", seed=seed)
    score(out / "run", out / "data", out=out / "scores.csv")
    evaluate(out / "run", out / "data", out=out / "evaluation", seed=seed)
    with atomic_write(out / "report.html") as partial:
        partial.write_bytes((out / "evaluation" / "report.html").read_bytes())
    return out / "report.html"
