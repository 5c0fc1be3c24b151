"""Every public function refuses every wrong argument in one sentence that names it, before anything is written."""

import ast
import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from pydantic import BaseModel

import mammovae as mv
from mammovae.__main__ import main
from mammovae.arguments import AnyPath, checked
from mammovae.config import Settings
from mammovae.data.dataset import Data
from mammovae.generation.samplers import LatentSampler
from mammovae.models.run import Run

ROOT = Path(__file__).resolve().parents[1]
NO_ARGUMENTS = {"InputError", "UsageError", "Result", "__version__"}
HELPERS = ("mammovae.report", "mammovae.storage", "mammovae.training.distributed")  # what verbs uses beside the work


def behind_the_verbs() -> dict[str, Any]:
    """Find what the verbs call to do the work: what else a Python user may call."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "src" / "mammovae" / "verbs.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.col_offset and not str(node.module).startswith(HELPERS):
            for alias in node.names:
                function = getattr(importlib.import_module(str(node.module)), alias.name)
                if inspect.signature(function).parameters:
                    found[f"{function.__module__}.{alias.name}"] = function
    return found


def documented() -> dict[str, Any]:
    """Find the functions that the documentation names by where they are imported from."""
    texts = [path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]]
    names = {name for text in texts for name in re.findall(r"`(mammovae(?:\.\w+)+\.\w+)`", text)}
    return {name: getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names}


PUBLIC = {name: getattr(mv, name) for name in mv.__all__ if name not in NO_ARGUMENTS}
PUBLIC |= behind_the_verbs() | documented()
PUBLIC |= {name: one.open for name, one in PUBLIC.items() if one in (Data, Run)}
INSTANCES: dict[type, object] = {kind: object.__new__(kind) for kind in (Data, Run, LatentSampler)}
NUMBERS = [True, np.True_, "x", "", math.nan, math.inf, -math.inf, [], "nan"]


def wrong_values(annotation: Any) -> list[Any]:
    """Return values that no parameter of a type may take, whatever its range; None where it is not one of its own."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return wrong_values(parts[0])
    if origin in (Union, UnionType):
        kinds = [Path if get_origin(part) is PathLike else part for part in parts if part is not NoneType]
        kind = Path if Path in kinds else kinds[0]
        assert len(kinds) == 1 or set(kinds) == {Path, str}, f"give wrong values for {annotation} here"
        return [value for value in wrong_values(kind) if value is not None or NoneType not in parts]
    return [None, *_wrong_values_of_one_type(annotation, origin, parts)]


def _wrong_values_of_one_type(kind: Any, origin: Any, parts: tuple[Any, ...]) -> list[Any]:
    if origin is Literal:
        word = next(part for part in parts if re.search("[a-zA-Z]", part))
        return ["nonsense", word.swapcase(), f" {word}", "", 3, True, []]
    if origin in (tuple, list, Sequence):
        inner = [[value] for value in wrong_values(parts[0])]
        return [3, "x", *inner, *([[parts_of[0]] * 2] if (parts_of := _literals(parts[0])) else [])]
    if origin is Mapping:
        return [3, "x", [], {"nonsense": "L"}, {"side": "l"}, {"side": "CC"}, {"view": 3}]
    table = {
        bool: ["maybe", 2, math.nan, []],
        int: [*NUMBERS, 1.5, "1.5", 10**30, -(10**30)],
        float: [*NUMBERS, 1e300, -1e300],
        str: [3, True, b"x", []],
        Path: ["", " ", "a\0b", 3, True, b"x", []],
    }
    if kind in table:
        return table[kind]
    assert isinstance(kind, type), f"give wrong values for {kind} here"
    if issubclass(kind, BaseModel):
        nested = [{name: value} for name, field in kind.model_fields.items() for value in wrong_of_field(field)]
        return [3, "x", [], {"nonsense": 1}, *nested]
    assert kind in INSTANCES or kind is Executor, f"give wrong values for {kind} here"
    return [3, "x", object()]


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def wrong_of_field(field: Any) -> list[Any]:
    """Return wrong values of a field of settings: those of its type, and none of what must not be empty."""
    values = wrong_values(field.annotation)
    is_list_of_names = isinstance(field.default, tuple) and all(isinstance(item, str) for item in field.default)
    values += [[]] if isinstance(field.default, tuple) and field.default else []
    return values + ([["a", "a"], [""]] if is_list_of_names else [])


def right_value(name: str, annotation: Any) -> Any:
    """Return a value that a required parameter takes."""
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(kind) in (Union, UnionType):
        kind = Path if Path in get_args(kind) or PathLike[str] in get_args(kind) else None
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if get_origin(kind) in (list, Sequence):
        return [name]
    table: dict[Any, Any] = {Path: name, int: 5, float: 0.5, bool: False, str: name, None: None, **INSTANCES}
    return table[kind] if kind in table else kind()


def calls(function: Callable[..., Any]) -> list[tuple[str, Any, Callable[[], object]]]:
    """Return calls that are right but for one argument: its name, its value, the call."""
    if isinstance(function, type) and issubclass(function, Settings):
        wrong = {name: wrong_of_field(field) for name, field in function.model_fields.items()}
        return [(n, w, lambda n=n, w=w: function(**{n: w})) for n, values in wrong.items() for w in values]
    annotations = get_type_hints(function.__init__ if isinstance(function, type) else function, include_extras=True)
    parameters = inspect.signature(function).parameters
    right = {name: right_value(name, annotations[name]) for name, one in parameters.items() if one.default is one.empty}
    several = {name for name, one in parameters.items() if one.kind is one.VAR_POSITIONAL}
    right |= {name: [right[name]] for name in several}
    wrong = {name: wrong_values(annotations[name]) for name in parameters}
    wrong |= {name: [[], *([value] for value in wrong[name])] for name in several}
    return [(n, w, lambda n=n, w=w: call(function, {**right, n: w})) for n, values in wrong.items() for w in values]


def call(function: Callable[..., Any], values: dict[str, Any]) -> object:
    positional, keywords = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in values and parameter.kind is parameter.VAR_POSITIONAL:
            positional += values[name]
        elif name in values and parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(values[name])
        elif name in values:
            keywords[name] = values[name]
    return function(*positional, **keywords)


def faults(function: Callable[..., Any], folder: Path) -> list[str]:
    """Return what is wrong with how a function refuses: the calls that it takes, and those that it refuses badly."""
    found = []
    for name, wrong, refused in calls(function):
        what = f"{name}={wrong!r:.60}"
        try:
            refused()
        except mv.UsageError as error:
            words = str(error)
            if name not in words or "\n" in words or len(words) > 500 or "pydantic" in words:
                found.append(f"{what} is refused with: {words}")
        except Exception as error:
            found.append(f"{what} raises {type(error).__name__}: {error}")
        else:
            found.append(f"{what} is taken")
        if any(folder.iterdir()):
            return [*found, f"{what} is refused after {[path.name for path in folder.iterdir()]} was written"]
    return found


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_function_refuses_every_wrong_argument_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert calls(PUBLIC[name])
    assert faults(PUBLIC[name], tmp_path) == []


def test_the_functions_behind_the_verbs_and_in_the_documentation_are_among_those_tested() -> None:
    assert {"mammovae.evaluation.evaluate.evaluate", "mammovae.generation.samplers.LatentSampler"} <= set(PUBLIC)
    assert "mammovae.detection.map_files.map_name" in documented()
    assert len(behind_the_verbs()) >= len(mv.__all__) - len(NO_ARGUMENTS) - 1  # demo calls the other verbs


def test_a_parameter_without_a_check_is_noticed(tmp_path: Path) -> None:
    @checked
    def unbounded(count: int) -> None: ...

    def unchecked(protocol: Literal["full", "original"]) -> None: ...

    assert any("is taken" in fault for fault in faults(unbounded, tmp_path))
    assert any("is taken" in fault for fault in faults(unchecked, tmp_path))


def test_numpy_numbers_and_paths_of_any_kind_are_taken_as_pythons() -> None:
    @checked
    def show(count: int, share: float, flag: bool, *places: AnyPath) -> tuple[Any, ...]:
        return count, share, flag, places

    given: list[Any] = [np.int64(3), np.float32(0.5), np.True_, "a", Path("b")]
    got = show(*given)
    assert got == (3, 0.5, True, (Path("a"), Path("b"))) and [type(one) for one in got[:3]] == [int, float, bool]


GENERATE, SCORE, TRAIN = "generate R --out O", "score R a --out", "train D --preset tiny --out O"


@pytest.mark.parametrize(
    ("name", "positional", "keywords", "command"),
    [
        ("generate", "R", {"out": "O", "count": 0}, f"{GENERATE} --count 0"),
        ("generate", "R", {"out": "O", "count": "3.5"}, f"{GENERATE} --count 3.5"),
        ("generate", "R", {"out": "O", "mode": "Prior"}, f"{GENERATE} --mode Prior"),
        ("generate", "R", {"out": "O", "side": "l"}, f"{GENERATE} --side l"),
        ("generate", "R", {"out": "O", "seed": -1}, f"{GENERATE} --seed -1"),
        ("generate", "R", {"out": "O", "temperature": math.nan}, f"{GENERATE} --temperature nan"),
        ("score", "Ra", {"out": "O", "flag": 2}, f"{SCORE} O --flag 2"),
        ("score", "Ra", {"out": ""}, f"{SCORE}="),
        ("evaluate", "RD", {"out": "O", "protocol": "Full"}, "evaluate R D --out O --protocol Full"),
        ("train", "D", {"preset": "tiny", "out": "O", "devices": 0}, f"{TRAIN} --devices 0"),
        ("train", "D", {"preset": "Tiny", "out": "O"}, "train D --preset Tiny --out O"),
        ("TrainSettings", "", {"epochs": 0}, f"{TRAIN} --epochs 0"),
        ("TrainSettings", "", {"vae": {"filters": [0]}}, f"{TRAIN} --vae.filters 0"),
        ("TrainSettings", "", {"members": ["vaee"]}, f"{TRAIN} --members vaee"),
        ("prepare", ["miass", "R"], {"out": "O"}, "prepare miass R --out O"),
        ("prepare", ["mias", "R"], {"out": "O", "cluster": "Local"}, "prepare mias R --out O --cluster Local"),
    ],
)
def test_the_command_line_refuses_in_the_words_of_python(
    name: str, positional: Sequence[str], keywords: dict[str, Any], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(mv.UsageError) as error:
        getattr(mv, name)(*positional, **keywords)
    with pytest.raises(SystemExit, match="2"):
        main(command.split())
    assert capsys.readouterr().err == f"mammovae: {error.value}\n"
