"""Write the pages of docs/reference that the code says itself: python tools/reference_pages.py.

commands.md and python.md come from the public names with their docstrings and annotations, settings.md from the fields
of the settings. A test fails while a page differs from what this would write.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from cyclopts import Parameter
from docstring_parser import DocstringStyle, parse
from pydantic.fields import FieldInfo

import mammovae as mv
from mammovae import verbs
from mammovae.config import PRESETS, PrepareSettings, Settings, TrainSettings

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
VERBS = sorted(name for name in mv.__all__ if getattr(getattr(mv, name), "__module__", "") == verbs.__name__)
VERBS.remove("Result")
GENERATED = "*This page is written by `tools/reference_pages.py` from the code.*"
SETTINGS_OF = {"prepare": "prepare", "train": "train", "crossval": "train"}
_BOUNDS: dict[type, tuple[str, str]] = {Ge: ("ge", "from {}"), Gt: ("gt", "above {}")}
_BOUNDS |= {Le: ("le", "to {}"), Lt: ("lt", "below {}")}


class Argument(NamedTuple):
    """A parameter of a public function, in words."""

    name: str
    type: str
    default: str
    meaning: str
    is_positional: bool
    is_several: bool
    is_on_command_line: bool


def pages() -> dict[str, str]:
    """Return the text of each generated page by its file name."""
    return {"commands.md": commands_page(), "python.md": python_page(), "settings.md": settings_page()}


def commands_page() -> str:
    """Return the page of the command line: each command with its arguments."""
    parts = [
        "# Command line",
        GENERATED,
        "Every command takes `--config FILE`, a TOML file whose table named like the command gives what no flag says,"
        " and `--help`; `mammovae --version` says which version runs. The exit status is 0; 1 when nothing could be"
        " done, or with `--strict` when anything failed; 2 on wrong use; 130 when interrupted. A flag that is true or"
        " false is given alone, and a list by repeating its flag.",
    ]
    for name in VERBS:
        function = getattr(mv, name)
        rows = [one for one in arguments(function) if one.is_on_command_line]
        usage = [one.name.upper() + ("..." if one.is_several else "") for one in rows if one.is_positional]
        usage += [f"{flag(one.name)} {one.name.upper()}" for one in rows if not one.is_positional and not one.default]
        shown = [(one.name.upper() if one.is_positional else flag(one.name), one) for one in rows]
        parts += [f"## {name}", f"`mammovae {' '.join([name, *usage])}`", *_description(function)]
        parts.append(_arguments_table("argument", shown))
        if name in SETTINGS_OF:
            parts.append(f"And the [settings of {SETTINGS_OF[name]}](settings.md#{SETTINGS_OF[name]}), each a flag.")
        parts.append(f"How to use it: [{name}](../how-to/{name}.md).")
    return _joined(parts)


def python_page() -> str:
    """Return the page of the public names: each with its signature and its parameters."""
    parts = [
        "# Python API",
        GENERATED,
        "Everything public is in `mammovae` itself (`import mammovae as mv`). A command is a function of the same name"
        " with the same words and checks: a wrong argument is a `UsageError` of one sentence before anything is"
        " written. Paths are a `Path` or text. Every function returns a [Result](#result).",
        "## Functions",
    ]
    for name in VERBS:
        parts += [f"### {name}", *_callable(f"mv.{name}", getattr(mv, name))]
    parts.append("## Classes")
    for name in ("Result", "Data", "Run"):
        cls = getattr(mv, name)
        opens = hasattr(cls, "open")
        parts += [f"### {name}", *_description(cls)]
        parts += [
            *(_callable(f"mv.{name}.open", cls.open) if opens else []),
            "**Attributes**" if opens else "**Parameters**",
        ]
        comments, hints = _comments(cls), get_type_hints(cls)
        rows = [(f"`{field}`", f"`{_type_name(hints[field])}`", comments[field]) for field in cls.__dataclass_fields__]
        parts.append(_table(("name", "type", "meaning"), rows))
    for name, command in (("PrepareSettings", "prepare"), ("TrainSettings", "train")):
        parts += [f"### {name}", f"`mv.{name}(**settings)`", *_description(getattr(mv, name)), "**Parameters**"]
        parts.append(
            f"The keys of [{command}'s settings](settings.md#{command}) as keywords; nested ones may be a dict."
        )
    parts.append("## Errors and version")
    for name in ("InputError", "UsageError"):
        cls = getattr(mv, name)
        parts += [f"### {name}", *_description(cls), f"A kind of `{cls.__base__.__name__}`.", "**Parameters**"]
        parts.append(_table(("name", "type", "meaning"), [("`message`", "text", "the sentence")]))
    parts += ["### `__version__`", "The version as text: `mv.__version__`. It takes no parameters."]
    return _joined(parts)


def settings_page() -> str:
    """Return the page of configuration keys, as a TOML file, a flag and a keyword name them."""
    parts = [
        "# Settings",
        GENERATED,
        "What decides the content of a DATA or a RUN folder. In a TOML file for `--config` each is a key of its"
        " command's table (`latent` in `[train.vae]`); on the command line a flag (`--vae.latent`, with `-` for `_`);"
        " in Python a keyword of `PrepareSettings` or `TrainSettings`. A folder keeps them in manifest.json, a run in"
        " its config.toml as well. An unknown key is refused with the nearest known one.",
        "## prepare",
        _settings_table(PrepareSettings()),
        "## train",
        "The defaults are those of the preset `original`. `crossval` takes the same.",
        _settings_table(TrainSettings()),
    ]
    for name, value in TrainSettings():
        if isinstance(value, Settings):
            parts += [f"### {name}", *_description(type(value)), _settings_table(value, f"{name}.")]
    changed = {name: dict(_differences(TrainSettings(), settings)) for name, settings in PRESETS.items()}
    keys = dict.fromkeys(key for values in changed.values() for key in values)
    names = [name for name in PRESETS if changed[name]]
    rows = [
        (f"`{key}`", *(_code(changed[name][key]) if key in changed[name] else "" for name in names)) for key in keys
    ]
    parts += ["## Presets", "What each preset sets otherwise than the defaults above.", _table(("key", *names), rows)]
    return _joined(parts)


def arguments(function: Any) -> Iterator[Argument]:
    """Yield the parameters of a public function."""
    hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    described = {
        one.arg_name: one.description for one in parse(inspect.getdoc(function) or "", DocstringStyle.NUMPYDOC).params
    }
    for name, parameter in inspect.signature(function).parameters.items():
        stated = [one for one in _annotations(hints[name]) if isinstance(one, Parameter)]
        if is_settings := name == "settings":
            command = SETTINGS_OF[function.__name__]
            described[name] = f"The [settings of {command}](settings.md#{command})."
        yield Argument(
            name=name,
            type=type_in_words(hints[name]),
            default="" if parameter.default is parameter.empty else _code(parameter.default),
            meaning=next((one.help for one in stated if one.help), None) or described[name] or "",
            is_positional=parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL),
            is_several=parameter.kind is parameter.VAR_POSITIONAL,
            is_on_command_line=not is_settings and all(one.parse is not False for one in stated),
        )


def type_in_words(annotation: Any) -> str:
    """Return what values an annotation stands for."""
    kind, *said = _annotations(annotation)
    metadata = [one for part in said for one in (part.metadata if isinstance(part, FieldInfo) else [part])]
    bounds = [
        text.format(f"{getattr(one, name):,.12g}")
        for one in metadata
        for name, text in [_BOUNDS.get(type(one), ("", ""))]
        if name
    ]
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    known = [one for one in members if one is not NoneType]
    words = "path" if Path in known else _kind_in_words(known[0])
    return " ".join([words, *dict.fromkeys(bounds)]) + (" or none" if NoneType in members else "")


def _kind_in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{one}`" for one in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list, each {type_in_words(get_args(kind)[0])}"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    return words.get(kind) or f"`{kind.__name__}`"


def _annotations(annotation: Any) -> Iterator[Any]:
    """Yield the type that an annotation stands for, then what is said of it; of X | None also what is said of X."""
    said: list[Any] = []
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        said = [*more, *said]
    if get_origin(annotation) in (Union, UnionType):
        members = [list(_annotations(one)) for one in get_args(annotation)]
        annotation = Union[tuple(first for first, *_ in members)]  # noqa: UP007
        said = [one for _, *inner in members for one in inner] + said
    yield annotation
    yield from said


def _callable(name: str, function: Any) -> list[str]:
    """Return what a function is: how it is called, what it does, its parameters."""
    signature = inspect.signature(function)
    bare = [
        one.replace(annotation=one.empty, default=one.empty if one.default is one.empty else ...)
        for one in signature.parameters.values()
    ]
    called = f"`{name}{signature.replace(parameters=bare, return_annotation=signature.empty)}`".replace(
        "Ellipsis", "..."
    )
    rows = arguments(function)
    shown = [(one.name, one) for one in rows]
    return [called, *_description(function), "**Parameters**", _arguments_table("name", shown)]


def _arguments_table(heading: str, rows: Sequence[tuple[str, Argument]]) -> str:
    cells = [
        (f"`{name}`", ("one or more: " * one.is_several) + one.type, one.default, one.meaning) for name, one in rows
    ]
    return _table((heading, "takes", "default", "meaning"), cells)


def _settings_table(values: Settings, prefix: str = "") -> str:
    """Return the table of the keys of a group of settings; groups within it have tables of their own."""
    hints = get_type_hints(type(values), include_extras=True)
    rows = []
    for name, field in type(values).model_fields.items():
        if not isinstance(default := getattr(values, name), Settings):
            kind = type_in_words(Annotated[hints[name], field])
            rows.append((f"`{prefix}{name}`", kind, _code(default), field.description or ""))
    return _table(("key", "takes", "default", "meaning"), rows)


def _differences(base: Settings, other: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, old in base:
        new = getattr(other, name)
        if isinstance(old, Settings):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", new


def _comments(cls: type) -> dict[str, str]:
    """Return what stands beside or under the fields of a dataclass."""
    source = inspect.getsource(cls)
    beside = re.findall(r"^    (\w+): [^#\n]*?  # (.*)$", source, flags=re.M)
    under = re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""', source, flags=re.M | re.S)
    return dict([*beside, *under])


def _type_name(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


def _description(described: Any) -> list[str]:
    """Return the paragraphs of a docstring, without the sections that have a heading, the example as code."""
    text = re.split(r"\n\n\w+\n-+\n", inspect.getdoc(described) or "")[0]
    paragraphs = [" ".join(one.split()) for one in text.split("\n\n")]
    return [re.sub(r"^Example: (.*)$", r"Example: `\1`", one) for one in paragraphs]


def flag(name: str) -> str:
    """Return how the command line calls a parameter."""
    return "--" + name.replace("_", "-")


def _code(value: Any) -> str:
    if isinstance(value, Settings):
        return "its defaults"
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value) or "empty"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"`{value}`"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
