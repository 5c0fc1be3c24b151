"""The arguments of public functions: their types, each with its range, and the check that functions make of them."""

import inspect
import os
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, create_model

from mammovae.config import Settings

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def _to_path(value: object) -> Path:
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError("name a file or a folder")
    return Path(text)


def _check_address(cluster: str) -> str:
    if cluster != "local" and ":" not in cluster:
        raise ValueError("give the scheduler's address, such as tcp://host:8786, or 'local'")
    return cluster


TO_PATH = PlainValidator(_to_path)
ANY_NUMBER = "any number"
"""Marks a *parameter of which there may be none; of every other one at least is needed."""
AnyPath = Annotated[Path, TO_PATH]
"""Where something is or goes: a Path or its text, which is not empty."""
Cluster = Annotated[str, AfterValidator(_check_address)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Patients = Annotated[int, Field(ge=1, le=1_000_000)]
Rows = Annotated[int, Field(ge=32, le=4096)]
Workers = Annotated[int, Field(ge=1, le=4096)]
Devices = Annotated[int, Field(ge=1, le=1024)]
Folds = Annotated[int, Field(ge=2, le=1000)]
Rate = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, lt=1e6, allow_inf_nan=False)]


class _Arguments(Settings):
    """A function's arguments, by the names of its parameters."""

    # A parameter that is not given is not read here, so the field has no default of its own.
    model_config = ConfigDict(arbitrary_types_allowed=True, use_attribute_docstrings=False, validate_default=False)


def checked(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Have a function check its arguments by their annotations; the first wrong one is a UsageError of one sentence.

    The function gets what the annotations say: of text its Path, of NumPy's numbers Python's. Of *parameters at least
    one is needed, but for ANY_NUMBER. What Python itself refuses, such as an unknown name, stays a TypeError.
    """
    signature = inspect.signature(function)
    several = [name for name, one in signature.parameters.items() if one.kind is one.VAR_POSITIONAL]

    @cache  # when first called: to build it takes time that --help should not
    def arguments() -> type[_Arguments]:
        annotations = get_type_hints(function, include_extras=True)
        for name in several:
            least = 0 if ANY_NUMBER in getattr(annotations[name], "__metadata__", ()) else 1
            annotations[name] = Annotated[tuple[annotations[name], ...], Field(min_length=least)]
        fields: dict[str, Any] = {
            name: (annotations[name], None) for name in signature.parameters if name in annotations
        }
        return create_model("Arguments", __base__=_Arguments, **fields)

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        bound = signature.bind(*args, **kwargs)
        values = dict.fromkeys(several, ()) | bound.arguments
        given = {name: value for name, value in values.items() if name in arguments().model_fields}
        right = arguments()(**given)
        bound.arguments.update({name: getattr(right, name) for name in given})
        return function(*bound.args, **bound.kwargs)

    return call


def checked_class(cls: type[Returned]) -> type[Returned]:
    """Have the constructor of a class check its arguments, as checked does."""
    cls.__init__ = checked(cls.__init__)
    return cls
