"""A demo of few small images: it makes the page with all that it links to, resumes, and says what it ran."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.documentation.pages import ROOT, blocks, run_in_shell
from tests.documentation.pages import here as here
from tests.test_formats import compare, documented, items

from mammovae.__main__ import app
from mammovae.demonstration import demo_steps
from mammovae.demonstration.demo_settings import DemoSettings
from mammovae.report.summary_text import OWN_IMAGES

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16)}
SMALL = DemoSettings().merged(
    {
        "patients": 24,
        "rows": 64,
        "prepared": {"size": 32},
        "original": {"epochs": 2, "vae": {"size": 32, "filters": (8, 16), "latent": 8}},
        "detect": {"epochs": 2, "residual_vae": TINY, "lesion_segmenter": TINY | {"presentations": 100}},
        "generated": 12,
        "stressed": 2,
    }
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo that was interrupted in its last step and completed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_steps, "stress", interrupt)
        with pytest.raises(KeyboardInterrupt):
            demo_steps.run_demo(out, 0, SMALL)
        assert not (out / "report.html").exists()
        seconds = json.loads((out / "seconds.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_phantoms", "prepare", "train_on", "generate_from", "evaluate", "score"):
            patch.setattr(demo_steps, name, interrupt)
        demo_steps.run_demo(out, 0, SMALL)
    done = json.loads((out / "seconds.json").read_text())
    assert len(done) == len(seconds) + 1 and done | seconds == done
    return out


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_the_page_has_every_section_and_its_links_lead_somewhere(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    anchors = re.findall(r'<section id="(\w+)">', page)
    wanted = ["data", "training", "reconstructions", "generated", "detection", "localisation", "faults", "review"]
    assert anchors == [*wanted, "costs", "next", "limits", "provenance"]
    links = set(re.findall(r'href="([^#"]+)"', page))
    assert {"review.html", "evaluation-detect-full/report.html", "data/contact_sheet.png"} <= links
    assert all((demo / link).is_file() for link in links)
    assert not re.search("(?:src|href)=.http", page)
    assert page.count("data:image/") > 10 and 'class="absent"' not in page


def test_its_metrics_are_what_the_document_says(demo: Path) -> None:
    compare(documented("metrics.json of demo"), items(json.loads((demo / "metrics.json").read_text())))


def test_its_commands_are_those_of_the_command_line(demo: Path) -> None:
    commands = [*json.loads((demo / "seconds.json").read_text()), *OWN_IMAGES]
    assert len(commands) == 14
    for command in commands:
        name, *tokens = shlex.split(command)
        assert name == "mammovae"
        app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_a_demo_that_is_done_is_not_done_again(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (demo / "report.html").read_bytes()
    metrics = demo_steps.run_demo(demo, 0, SMALL)
    assert metrics["seconds"] > 0 and (demo / "report.html").read_bytes() == before
    assert "is done already" in capsys.readouterr().err


def test_readme_goes_on_from_it_to_a_review_sheet_of_real_films(demo: Path, here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "demo").symlink_to(demo)
    (block,) = blocks(ROOT / "README.md", "demo")
    run_in_shell(block._replace(text=block.text.replace(". .venv/bin/activate\n", "")), here)
    assert (here / "review.html").stat().st_size > 0
    assert pd.read_csv(here / "scores.csv")["finding"].notna().sum() == 8
