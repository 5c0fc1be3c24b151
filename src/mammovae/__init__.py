"""Learns what healthy breasts look like: makes new mammograms, and says how far a given one is from healthy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mammovae.version import __version__

if TYPE_CHECKING:
    from mammovae.auditing.audit import audit
    from mammovae.config import InputError, UsageError
    from mammovae.cross_validation.crossval import crossval
    from mammovae.data.dataset import Data
    from mammovae.data.prepare import prepare
    from mammovae.demo_study import demo
    from mammovae.describe import describe as info
    from mammovae.detection.score import score
    from mammovae.evaluation.evaluate import evaluate
    from mammovae.evaluation.stress import stress
    from mammovae.generation.generate import generate
    from mammovae.models.run import Run
    from mammovae.phantoms.write import write_phantoms as phantom
    from mammovae.training.train import train

__all__ = [
    "Data",
    "InputError",
    "Run",
    "UsageError",
    "__version__",
    "audit",
    "crossval",
    "demo",
    "evaluate",
    "generate",
    "info",
    "phantom",
    "prepare",
    "score",
    "stress",
    "train",
]

_WHERE = {
    "Data": "data.dataset:Data",
    "InputError": "config:InputError",
    "Run": "models.run:Run",
    "UsageError": "config:UsageError",
    "audit": "auditing.audit:audit",
    "crossval": "cross_validation.crossval:crossval",
    "demo": "demo_study:demo",
    "evaluate": "evaluation.evaluate:evaluate",
    "generate": "generation.generate:generate",
    "info": "describe:describe",
    "phantom": "phantoms.write:write_phantoms",
    "prepare": "data.prepare:prepare",
    "score": "detection.score:score",
    "stress": "evaluation.stress:stress",
    "train": "training.train:train",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and pandas take seconds that --help should not."""
    if name not in _WHERE:
        raise AttributeError(f"module 'mammovae' has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    value = getattr(import_module(f"mammovae.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names before they are imported, for those who press Tab."""
    return list(__all__)
