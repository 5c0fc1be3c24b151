"""Start-up: --help against a bare program with as many commands, and from imported libraries to the first step."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import materials
from measure import Line, Scope, race

from mammovae.__main__ import app

HERE = Path(__file__).parent
HEAD = '''"""A bare program."""

from pathlib import Path
from typing import Literal

from cyclopts import App

app = App(name="bare", help="Does nothing.", version="1.0")
'''
COMMAND = '''

@app.command
def {name}(path: Path, /, *, out: Path, count: int = 16, seed: int = 0, kind: Literal["one", "two"] = "one") -> None:
    """Do nothing with a path.

    Example: bare {name} PATH --out OUT

    Parameters
    ----------
    path
        What to do nothing with.
    count
        How often.
    kind
        One way or the other.
    """
'''


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure start-help or start-train."""
    return [help_page(row, scope) if row == "start-help" else first_step(row, scope)]


def help_page(row: str, scope: Scope) -> Line:
    """Compare the time that two help pages take, as a user waits for them."""
    count = sum(not name.startswith("-") for name in app)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = "".join(COMMAND.format(name=f"command_{number}") for number in range(count))
        (folder / "bare.py").write_text(HEAD + body, encoding="utf-8")
        (folder / "start.py").write_text("from bare import app\n\napp()\n", encoding="utf-8")
        commands = ([sys.executable, str(folder / "start.py"), "--help"], materials.command("--help"))

        def work(command: list[str]) -> None:
            output = subprocess.run(command, capture_output=True, check=True).stdout
            assert output.count(b"\n") > count

        usual_seconds, ours = race([lambda one=one: work(one) for one in commands], scope.pick(25, 2))
    medians = " and ".join(f"{statistics.median(seconds):.3f} s" for seconds in (usual_seconds, ours))
    notes = (f"{len(ours)} times in turns; medians {medians}",)
    work_words = f"--help; usual: a bare cyclopts program with {count} commands"
    return Line(row, work_words, "s", min(usual_seconds), min(ours), min(usual_seconds) / min(ours), notes)


def first_step(row: str, scope: Scope) -> Line:
    """Take the time from imported libraries to the first training step's start."""
    with tempfile.TemporaryDirectory() as name:
        data = materials.data(Path(name), 20, 20)

        def work() -> float:
            with tempfile.TemporaryDirectory(dir=name) as out:
                script = [sys.executable, HERE / "first_step.py", data, Path(out) / "run"]
                answer = subprocess.run([*map(str, script)], capture_output=True, text=True, check=False)
            if answer.returncode:
                raise RuntimeError(f"first_step.py failed: {answer.stderr.strip()[-2000:]}")
            return float(answer.stdout.splitlines()[-1])

        (seconds,) = race([work], scope.pick(5, 1))
    notes = (f"best of {len(seconds)}, median {statistics.median(seconds):.2f} s; nothing usual to compare with",)
    work_words = "from torch imported to the first step of tiny on 20 phantoms"
    return Line(row, work_words, "s", None, min(seconds), None, notes)
