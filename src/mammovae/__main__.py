"""The way into the command line, and out of it: --config files, mistakes as one sentence, exit statuses."""

import sys
from pathlib import Path
from typing import NoReturn

from cyclopts import App, CycloptsError, Parameter

from mammovae.version import __version__

# The verbs and the settings behind them are imported when a verb is called: help comes at once.
VERBS = {
    "demo": "Run the whole way on phantoms: make them, prepare, train, generate, audit, score, evaluate, report.",
    "phantom": "Write synthetic mammograms with known truth as a raw tree for prepare.",
    "prepare": "Turn a raw data set into a DATA folder: squares, masks, index, splits by patient, contact sheet.",
    "train": "Train a preset on the healthy training images of a DATA folder.",
    "generate": "Make new images from a run; the folder is itself a DATA folder.",
    "score": "Say how far images are from healthy: files, folders, DICOM, or DATA folders.",
    "evaluate": "Judge a run on the test images of a DATA folder, and write metrics.json and report.html.",
    "crossval": "Judge a preset on small data by patient-wise folds, beside the seed preset and trivial baselines.",
    "stress": "Plant technical faults and lesions into healthy test images, and say how many a run finds.",
    "audit": "Judge generated images: realistic, varied, and nobody's copy? Writes metrics.json and report.html.",
    "info": "Say in words what a DATA folder, a RUN folder or an image is.",
}

app = App(
    name="mammovae",
    help="Learns what healthy breasts look like from mammograms: makes new ones, and finds anomalies. "
    "Research software: it never claims to diagnose. Every command takes --config FILE: a TOML file whose table "
    "named like the command gives what no flag says.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=()),
)
for verb, summary in VERBS.items():
    app.command(f"mammovae.cli:{verb}", help=summary)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one sentence and exit status 1, wrong use 2."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        tokens = _with_config(tokens)
        if tokens and tokens[0] in VERBS:
            app[tokens[0]].help = None  # of itself a verb says all that its docstring does
        app(tokens, exit_on_error=False, print_error=False)
    except (CycloptsError, OSError, ValueError) as error:
        _tell(error)
    except KeyboardInterrupt:
        print("mammovae: interrupted; the same command again goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _tell(error: Exception) -> NoReturn:
    """Say a mistake in one sentence and end with its status; what is no user's mistake goes on as it is."""
    from pydantic import ValidationError

    from mammovae.config import InputError, UsageError, format_validation_error

    if isinstance(error, CycloptsError):
        cause = error.__cause__
        words, status = (
            format_validation_error(cause) if isinstance(cause, ValidationError) else " ".join(str(error).split()),
            2,
        )
    elif isinstance(error, OSError):
        words, status = f"{error.strerror or error}: {error.filename or 'check the path and the disk'}", 1
    elif isinstance(error, InputError):
        words, status = str(error), 2 if isinstance(error, UsageError) else 1
    else:
        raise error
    print(f"mammovae: {words}", file=sys.stderr)
    raise SystemExit(status) from None


def _with_config(tokens: list[str]) -> list[str]:
    """Take --config FILE out of the tokens: its table named like the command gives what no flag says."""
    app.config = ()
    place = next((n for n, token in enumerate(tokens) if token == "--config" or token.startswith("--config=")), None)
    if place is None:
        return tokens
    import cyclopts

    from mammovae.config import UsageError

    token = tokens[place]
    value = token.partition("=")[2] or (tokens[place + 1] if place + 1 < len(tokens) else "")
    path = Path(value)
    if not path.is_file():
        raise UsageError(f"there is no configuration file {value!r}: check the path after --config")
    _check_tables(path)
    app.config = cyclopts.config.Toml(path, search_parents=False)
    return tokens[:place] + tokens[place + (1 if "=" in token else 2) :]


def _check_tables(path: Path) -> None:
    """Refuse a configuration file that is no TOML or has a table that no command is named like."""
    import tomllib

    from mammovae.config import UsageError, suggest

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    commands = [name for name in app if not name.startswith("-")]
    for name in tables:
        if name not in commands:
            raise UsageError(
                f"{path} has a table {name!r}, which is no command: did you mean {suggest(name, commands)}?"
            )


if __name__ == "__main__":
    main()
