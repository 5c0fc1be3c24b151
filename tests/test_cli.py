"""The command line: light to start, an example for each command, and one sentence for each mistake."""

import errno
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mammovae as mv
from mammovae import __main__, verbs
from mammovae.__main__ import app, main

COMMANDS = [
    "demo",
    "phantom",
    "prepare",
    "train",
    "generate",
    "score",
    "evaluate",
    "crossval",
    "stress",
    "audit",
    "pack",
    "info",
]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command that must end early; return its exit status and what it said, with boxes and wraps removed."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said and "pydantic" not in said
    return int(end.value.code or 0), " ".join(said.replace("│", " ").split())


@pytest.mark.parametrize("tokens", [["--help"], ["prepare", "--help"], ["train", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(tokens: list[str]) -> None:
    script = (
        "import sys\nfrom mammovae.__main__ import main\n"
        f"try:\n    main({tokens})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'scipy', 'matplotlib', 'pydicom'}\n"
        f"heavy |= {{'pydantic'}} if {tokens} == ['--help'] else set()\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY []" in answer.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    assert f"Example: mammovae {command}" in " ".join(capsys.readouterr().out.split())


def test_the_list_of_commands_tested_is_whole() -> None:
    assert sorted(COMMANDS) == sorted(name for name in app if not name.startswith("-"))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_says_of_each_what_its_own_help_begins_with(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = (getattr(verbs, command).__doc__ or "").splitlines()[0]
    main(["--help"])
    lines = capsys.readouterr().out.replace("│", " ")
    assert f"{command} {summary}" in " ".join(lines.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_the_function_of_that_name(command: str) -> None:
    assert command in mv.__all__ and getattr(mv, command) is getattr(verbs, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_parameter_is_described(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    function = inspect.signature(getattr(verbs, command))
    main([command, "--help"])
    page = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, parameter in function.parameters.items():
        if name not in ("settings", "executor"):
            flag = name.upper() if parameter.kind is not parameter.KEYWORD_ONLY else f"--{name.replace('_', '-')}"
            assert re.search(rf"(^|\s){flag} ([A-Z]+ )?[A-Z].* ", page), flag


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mv.generate("RUN", out="OUT", count=0), "setting 'count' cannot be 0: input should be greater than"),
        (lambda: mv.prepare("miass", "RAW", out="OUT"), "setting 'kind' cannot be 'miass': did you mean 'mias'?"),  # pyrefly: ignore
        (lambda: mv.train("DATA", preset="tiny", out="OUT", settings={"epochs": 0}), "setting 'settings.epochs' cannot"),  # pyrefly: ignore
        (lambda: mv.TrainSettings(epoch=3), "there is no setting 'epoch': did you mean 'epochs'?"),  # pyrefly: ignore
    ],
)  # fmt: skip
def test_python_has_the_checks_of_the_command_line(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(mv.UsageError) as error:
        call()
    assert str(error.value).startswith(sentence)


def test_what_a_command_returns_is_its_facts_and_what_the_command_line_prints(
    trapped_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = mv.info(trapped_data)
    main(["info", str(trapped_data)])
    assert capsys.readouterr().out == f"{result}\n"
    assert dict(result) == {str(trapped_data): str(result)} and result.path == trapped_data and result.status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (
            ["prepare", "mias", "nowhere", "--out", "OUT"],
            1,
            "there is no folder (or zip archive) nowhere: name the one that holds",
        ),
        (["prepare", "miass", "nowhere", "--out", "OUT"], 2, "did you mean 'mias'?"),
        (
            ["train", "nowhere", "--preset", "original", "--out", "OUT"],
            1,
            "there is no folder nowhere: name a DATA folder",
        ),
        (["train", "nowhere", "--preset", "orignal", "--out", "OUT"], 2, "did you mean 'original'?"),
        (["train", "nowhere", "--preset", "original", "--out", "OUT", "--epoch", "3"], 2, "Did you mean --epochs?"),
        (
            ["train", "nowhere", "--preset", "original", "--out", "OUT", "--epochs", "0"],
            2,
            "greater than or equal to 1",
        ),
        (["score", "nowhere", "film.png", "--out", "s.csv"], 1, "there is no folder nowhere: name a RUN folder"),
        (["evaluate", "nowhere", "DATA", "--out", "OUT"], 1, "there is no folder nowhere: name a RUN folder"),
        (["info", "nowhere"], 1, "there is no file or folder nowhere: check the path"),
        (["trian"], 2, "train"),
        (["train", "--config", "gone.toml"], 2, "there is no configuration file 'gone.toml'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], status: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    got, said = refused(arguments, capsys)
    assert sentence in said
    assert got == status


def test_a_study_file_sets_what_no_flag_says_and_a_wrong_key_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trapped_data: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text('[train]\nepochs = 1\nlimit = 8\n[train.vae]\nsize = 32\nfilters = [4]\n[prepare]\nside = "R"\n')
    main(["train", str(trapped_data), "--preset", "tiny", "--out", str(tmp_path / "run"), "--config", str(study)])
    config = (tmp_path / "run" / "config.toml").read_text()
    assert "epochs = 1" in config and "limit = 8" in config and "size = 32" in config
    study.write_text("[train]\nepoch = 1\n")
    arguments = ["train", str(trapped_data), "--preset", "tiny", "--out", str(tmp_path / "r"), "--config", str(study)]
    status, said = refused(arguments, capsys)
    assert status == 2 and "Did you mean" in said and "epochs" in said


def test_a_table_that_no_command_is_named_like_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.toml"
    study.write_text("[trian]\nepochs = 1\n")
    status, said = refused(["train", "DATA", "--preset", "tiny", "--out", "R", "--config", str(study)], capsys)
    assert status == 2 and "'trian', which is no command: did you mean 'train'" in said


def test_a_wrong_column_in_a_table_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.png").write_bytes(b"")
    (tmp_path / "raw" / "index.csv").write_text("image_id,healthyy\na,true\n")
    status, said = refused(["prepare", "folder", str(tmp_path / "raw"), "--out", str(tmp_path / "data")], capsys)
    assert status == 1 and "healthyy" in said and "index.csv" in said


@pytest.mark.slow
def test_strict_turns_a_failed_image_into_exit_status_1(
    run: Path, trapped_raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"nonsense")
    good = next(path for path in sorted(trapped_raw.rglob("*.dicom")) if path.stat().st_size > 2000)
    main(["score", str(run), str(broken), str(good), "--out", str(tmp_path / "a.csv")])
    status, said = refused(
        ["score", str(run), str(broken), str(good), "--out", str(tmp_path / "b.csv"), "--strict"], capsys
    )
    assert status == 1 and "1 failed" in said


@pytest.mark.slow
def test_nothing_usable_is_exit_status_1(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"nonsense")
    status, said = refused(["score", str(run), str(broken), "--out", str(tmp_path / "a.csv")], capsys)
    assert status == 1 and "0 images scored, 1 failed" in said


def test_windows_is_refused_with_what_to_use_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="1"):
        main(["--help"])
    assert capsys.readouterr() == ("", "mammovae: Windows is not supported: use WSL there, or Linux or macOS\n")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "data/index.parquet"),
            "cannot write data/index.parquet: its disk, or your share of it, is full: free some, and the same command again "
            "resumes",
        ),
        (OSError(errno.EROFS, "Read-only file system", "data"), "Read-only file system: data"),
    ],
)
def test_a_disk_that_fails_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, sentence: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(__main__, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        main([])
    assert capsys.readouterr() == ("", f"mammovae: {sentence}\n")


def test_the_demo_writes_over_no_other_report(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("another program's")
    with pytest.raises(mv.UsageError, match="holds other files: name a new folder or an empty one"):
        mv.demo(out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
