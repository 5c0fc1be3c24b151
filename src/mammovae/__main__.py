"""The way into the command line, and out of it: --config files, mistakes as one sentence, exit statuses."""

import sys
import tomllib
from pathlib import Path

import cyclopts
from cyclopts import CycloptsError
from pydantic import ValidationError

from mammovae.cli import app
from mammovae.config import InputError, UsageError, nearest, sentence


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one sentence and exit status 1, wrong use 2."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(_with_config(tokens), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        cause = error.__cause__
        words = sentence(cause) if isinstance(cause, ValidationError) else " ".join(str(error).split())
        print(f"mammovae: {words}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(
            f"mammovae: {error.strerror or error}: {error.filename or 'check the path and the disk'}", file=sys.stderr
        )
        raise SystemExit(1) from None
    except InputError as error:
        print(f"mammovae: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None
    except KeyboardInterrupt:
        print("mammovae: interrupted; the same command again goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _with_config(tokens: list[str]) -> list[str]:
    """Take --config FILE out of the tokens: its table named like the command gives what no flag says."""
    app.config = ()
    for place, token in enumerate(tokens):
        if token == "--config" or token.startswith("--config="):
            value = token.partition("=")[2] or (tokens[place + 1] if place + 1 < len(tokens) else "")
            path = Path(value)
            if not path.is_file():
                raise UsageError(f"there is no configuration file {value!r}: check the path after --config")
            _check_tables(path)
            app.config = cyclopts.config.Toml(path, search_parents=False)
            return tokens[:place] + tokens[place + (1 if "=" in token else 2) :]
    return tokens


def _check_tables(path: Path) -> None:
    """Refuse a configuration file that is no TOML or has a table that no command is named like."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    commands = [name for name in app if not name.startswith("-")]
    for name in tables:
        if name not in commands:
            raise UsageError(
                f"{path} has a table {name!r}, which is no command: did you mean {nearest(name, commands)}?"
            )


if __name__ == "__main__":
    main()
