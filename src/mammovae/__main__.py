"""The command line: verbs as commands, --config files, mistakes as one sentence, exit statuses."""

import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_origin

from cyclopts import App, CycloptsError, Parameter, Token

from mammovae.version import __version__


def _as_given(kind: object, tokens: Sequence[Token]) -> str | tuple[str, ...]:
    """Leave it to the function's own check, which Python has too, what a text, or each of several, means."""
    values = tuple(token.value for token in tokens)
    return values if get_origin(kind) is tuple else values[0]


app = App(
    name="mammovae",
    help="Learns what healthy breasts look like from mammograms: generates new ones, and finds anomalies. "
    "Research software: it never claims to diagnose. Every command takes --config FILE: a TOML file whose table "
    "named like the command gives what no flag says.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=(), converter=_as_given),
)
# The first line of each verb's docstring, from the source: to import pydantic takes time.
for node in ast.parse(Path(__file__).with_name("verbs.py").read_text(encoding="utf-8")).body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
        app.command(f"mammovae.verbs:{node.name}", help=(ast.get_docstring(node) or "").partition("\n")[0])


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one sentence and exit status 1, wrong use 2."""
    if sys.platform == "win32":
        print("mammovae: Windows is not supported: use WSL there, or Linux or macOS", file=sys.stderr)
        raise SystemExit(1)
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        tokens = _with_config(tokens)
        if tokens and not tokens[0].startswith("-") and tokens[0] in app:
            app[tokens[0]].help = None  # of itself a verb says all that its docstring does
        result = app(tokens, exit_on_error=False, print_error=False)
    except (CycloptsError, OSError, ValueError) as error:
        _exit_with_sentence(error)
    except KeyboardInterrupt:
        print("mammovae: interrupted; the same command again resumes", file=sys.stderr)
        raise SystemExit(130) from None
    if result is not None:  # of --help and --version
        if str(result):  # of every process but the first of a group
            print(result)
        if result.status:
            raise SystemExit(result.status)


def _exit_with_sentence(error: Exception) -> NoReturn:
    """Print a user's mistake as one sentence and exit with its status; raise what is none."""
    from mammovae.config import InputError, UsageError
    from mammovae.storage import DISK_FULL

    if isinstance(error, CycloptsError):
        sentence = _refusal(error) or " ".join(str(error).split())
    elif isinstance(error, OSError) and error.errno in DISK_FULL:
        full = f"cannot write {error.filename or 'the output'}: its disk, or your share of it, is full"
        sentence = f"{full}: free some, and the same command again resumes"
    elif isinstance(error, OSError):
        sentence = f"{error.strerror or error}: {error.filename or 'check the path and the disk'}"
    elif isinstance(error, InputError):
        sentence = str(error)
    else:
        raise error
    print(f"mammovae: {sentence}", file=sys.stderr)
    raise SystemExit(2 if isinstance(error, (CycloptsError, UsageError)) else 1) from None


def _refusal(error: CycloptsError) -> str | None:
    """Return what Python would say of a wrong value; None where no value is wrong, but the command."""
    from pydantic import ValidationError

    from mammovae.config import Settings, format_validation_error

    argument, cause = error.argument, error.__cause__
    if argument is None or not isinstance(cause, ValidationError):
        return None
    if isinstance(argument.hint, type) and issubclass(argument.hint, Settings):
        return format_validation_error(cause, argument.hint)
    return format_validation_error(cause, Settings, argument.field_info.name)


def _with_config(tokens: list[str]) -> list[str]:
    """Take --config FILE out of the tokens: its table named like the command gives what no flag says."""
    app.config = ()
    place = next((n for n, token in enumerate(tokens) if token.partition("=")[0] == "--config"), None)
    if place is None:
        return tokens
    import tomllib

    import cyclopts

    from mammovae.config import UsageError, suggest

    path = Path(tokens[place].partition("=")[2] or "".join(tokens[place + 1 : place + 2]))
    if not path.is_file():
        raise UsageError(f"there is no configuration file {str(path)!r}: check the path after --config")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    commands = [name for name in app if not name.startswith("-")]
    if unknown := [name for name in tables if name not in commands]:
        meant = suggest(unknown[0], commands)
        raise UsageError(f"{path} has a table {unknown[0]!r}, which is no command: did you mean {meant}?")
    app.config = cyclopts.config.Toml(path, search_parents=False)
    return tokens[:place] + tokens[place + (1 if "=" in tokens[place] else 2) :]


if __name__ == "__main__":
    main()
