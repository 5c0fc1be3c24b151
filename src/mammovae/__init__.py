"""Learns what healthy breasts look like: generates new mammograms, and says how far a given one is from healthy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mammovae.version import __version__

if TYPE_CHECKING:
    from mammovae.config import InputError, PrepareSettings, TrainSettings, UsageError
    from mammovae.data.dataset import Data
    from mammovae.models.run import Run
    from mammovae.verbs import Result as Result
    from mammovae.verbs import (
        audit,
        crossval,
        demo,
        evaluate,
        generate,
        info,
        pack,
        phantom,
        prepare,
        score,
        stress,
        train,
    )

__all__ = ["Data", "InputError", "PrepareSettings", "Result", "Run", "TrainSettings", "UsageError", "__version__"]
__all__ += ["audit", "crossval", "demo", "evaluate", "generate", "info", "pack"]
__all__ += ["phantom", "prepare", "score", "stress", "train"]

_MODULES = {"Data": "data.dataset", "Run": "models.run"}
_MODULES |= dict.fromkeys(("InputError", "PrepareSettings", "TrainSettings", "UsageError"), "config")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and pandas take seconds that --help should not."""
    if name not in __all__:
        raise AttributeError(f"module 'mammovae' has no attribute {name!r}")
    value = getattr(import_module(f"mammovae.{_MODULES.get(name, 'verbs')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names before they are imported, for those who press Tab."""
    return list(__all__)
