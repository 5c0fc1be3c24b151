"""Learns what healthy breasts look like: makes new mammograms, and says how far a given one is from healthy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mammovae.config import InputError, UsageError
    from mammovae.data.dataset import Data
    from mammovae.data.prepare import prepare
    from mammovae.detect.apply import score
    from mammovae.generation.folder import generate
    from mammovae.model.run import Run
    from mammovae.phantoms.write import write_phantoms as phantom
    from mammovae.study.audit import audit
    from mammovae.study.crossval import crossval
    from mammovae.study.demo import demo
    from mammovae.study.describe import describe as info
    from mammovae.study.evaluate import evaluate
    from mammovae.study.stress import stress
    from mammovae.study.train import train

__version__ = "0.1.0"

__all__ = [
    "Data",
    "InputError",
    "Run",
    "UsageError",
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
    "Run": "model.run:Run",
    "UsageError": "config:UsageError",
    "audit": "study.audit:audit",
    "crossval": "study.crossval:crossval",
    "demo": "study.demo:demo",
    "evaluate": "study.evaluate:evaluate",
    "generate": "generation.folder:generate",
    "info": "study.describe:describe",
    "phantom": "phantoms.write:write_phantoms",
    "prepare": "data.prepare:prepare",
    "score": "detect.apply:score",
    "stress": "study.stress:stress",
    "train": "study.train:train",
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
    return [*__all__, "__version__"]
