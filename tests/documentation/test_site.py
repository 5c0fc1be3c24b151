"""The documentation site builds without a warning, no link in it is broken, and every page opens in a browser."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlparse

import pytest
from tests.documentation.browser import CHROMIUM, browser
from tests.documentation.pages import DOCS, ROOT

ORIGIN = "http://site.invalid/"
WIDTHS = (1280, 390)  # of a desk's window and of a telephone, in pixels


class Targets(HTMLParser):
    """What a page links to or shows, and the anchors it has."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {""}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.links += [link for name in ("href", "src") if (link := named.get(name)) is not None]
        self.anchors |= {name for key in ("id", "name") if (name := named.get(key))}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from a copy: the generator keeps a cache beside its configuration."""
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "warning" not in (answer.stdout + answer.stderr).lower(), answer.stdout + answer.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Targets]:
    """Every page of the site by its address."""
    files = [path for path in site.rglob("*.html") if path.name != "404.html"]
    address = {path: ORIGIN + path.relative_to(site).as_posix().removesuffix("index.html") for path in files}
    return {address[path]: Targets(path.read_text()) for path in files}


def test_every_page_stands_in_the_navigation_once() -> None:
    def listed(entries: list[Any]) -> list[str]:
        return [page for entry in entries for value in entry.values() for page in flat(value)]

    def flat(value: Any) -> list[str]:
        return [value] if isinstance(value, str) else listed(value)

    nav = listed(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_no_link_anchor_or_picture_of_the_built_pages_is_broken(site: Path, pages: dict[str, Targets]) -> None:
    assert len(pages) == len(list(DOCS.rglob("*.md")))
    broken = []
    for address, page in pages.items():
        for link in page.links:
            target = urlparse(urljoin(address, link))
            if target.scheme not in ("http", "https") or target.netloc != urlparse(ORIGIN).netloc:
                continue
            place = target._replace(fragment="", query="").geturl()
            is_there = place in pages or (site / unquote(target.path).lstrip("/")).is_file()
            has_anchor = place not in pages or unquote(target.fragment) in pages[place].anchors
            broken += [] if is_there and has_anchor else [f"{address}: {link}"]
    assert not broken


def test_every_code_block_became_one(site: Path) -> None:
    assert not [str(path) for path in site.rglob("*.html") if "```" in path.read_text()]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing of it."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def origin(site: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_every_page_opens_in_a_browser_without_an_error_or_a_request_to_another_host(
    origin: str, pages: dict[str, Targets], tmp_path: Path
) -> None:
    errors, elsewhere = [], []
    with browser(tmp_path) as tab:
        for address in pages:
            events = tab.open(address.replace(ORIGIN, origin))
            assert tab.evaluate("document.querySelector('h1') !== null"), address
            for width in WIDTHS:
                tab.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
                )
                needed = tab.evaluate("document.documentElement.scrollWidth")
                errors += [f"{address} needs {needed} pixels of {width}"] * (needed > width)
            for event in events:
                kind, facts = event.get("method"), event.get("params", {})
                is_error = kind == "Runtime.exceptionThrown" or facts.get("type") == "error"
                is_error |= facts.get("entry", {}).get("level") == "error"
                errors += [f"{address}: {facts}"] if is_error else []
                if kind == "Network.requestWillBeSent":
                    url = facts["request"]["url"]
                    elsewhere += [] if url.startswith((origin, "data:", "blob:")) else [f"{address}: {url}"]
    assert not errors and not elsewhere
