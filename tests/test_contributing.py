"""The contributor kit agrees with itself: versions, commands, forms and links are those that exist."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import mammovae as mv

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def targets() -> set[str]:
    """What make can be asked for."""
    return set(re.findall(r"^([\w-]+):", read("Makefile"), flags=re.M))


def test_the_citation_is_of_this_version_and_licence() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert citation["version"] == mv.__version__ and citation["license"] == project["license"]
    assert citation["authors"] == project["authors"] and citation["keywords"] == project["keywords"]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_that_is_linked_is_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", read(page)):
        assert (ROOT / target).is_file(), target


@pytest.mark.parametrize("page", [*PAGES, ".pre-commit-config.yaml", ".github/pull_request_template.md", ".ci/run"])
def test_every_make_target_that_is_named_exists(page: str) -> None:
    assert set(re.findall(r"(?:^|`|entry: |&& )make ([a-z-]+)", read(page), flags=re.M)) <= targets()


def test_a_commit_is_checked_as_ci_checks_it() -> None:
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert hooks[0]["entry"] == "make check" and "\nmake check\n" in read(".ci/run")
    refused = re.compile(hooks[1]["files"])
    assert refused.search("tests/a.dcm") and refused.search("RUN/model.safetensors") and not refused.search("a.png.py")


def test_ci_runs_on_the_oldest_python_allowed_and_on_the_newest_that_is_tried() -> None:
    job = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["ci"]
    oldest = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    newest = re.search(r"^latest=(\S+)", read(".ci/check_wheel"), flags=re.M)
    assert newest and job["strategy"]["matrix"]["python"] == [oldest, newest[1]]
    assert job["steps"][-1] == {"run": ".ci/run"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_questions_that_can_be_answered(path: Path) -> None:
    form: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    questions = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in questions}) == len(questions) >= 3
    assert all(part["attributes"]["label"] for part in questions)
    assert any(part.get("validations", {}).get("required") for part in questions)


def test_reports_of_faults_ask_for_the_system_and_for_no_patient() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in FORMS}
    assert set(texts) == {"bug", "unreadable_file", "data_set"}
    for name in ("bug", "unreadable_file"):
        assert "mammovae info --system" in texts[name] and "patient" in texts[name]


def test_the_container_is_that_of_the_dockerfile_and_its_user_is_not_root() -> None:
    container, file = json.loads(read(".devcontainer/devcontainer.json")), read("Dockerfile")
    assert f"FROM debian:bookworm-slim AS {container['build']['target']}\n" in file
    assert f"\nUSER {container['remoteUser']}\n" in file
    assert set(re.findall(r"make ([a-z-]+)", container["postCreateCommand"])) <= targets()
