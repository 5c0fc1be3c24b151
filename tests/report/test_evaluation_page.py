"""The report: whole in one file, true to its numbers, silent about nothing that is missing."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tests.report.fake_study import breasts, cases, study, table

from mammovae.report.evaluation_page import EvaluationReport, render, write_report
from mammovae.statistics.detection_metrics import detection_metrics

SECTIONS = ("data", "training", "reconstructions", "generated", "detection", "cases", "limits", "provenance")
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"]] if values.get("id") else []  # pyrefly: ignore
        self.links += [str(values[name]) for name in ("src", "href") if name in values]
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += re.sub(r"\s+", " ", data)


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    return study()


@pytest.fixture(scope="module")
def plain(report: EvaluationReport) -> EvaluationReport:
    """The study without its pictures, for tests of words alone."""
    return replace(report, history=None, originals=None, generated=None, cases=())


@pytest.fixture(scope="module")
def html(report: EvaluationReport) -> str:
    return render(report)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_file_needs_nothing_but_itself(page: Page, html: str) -> None:
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not any(word in html for word in ("@import", "url(", "<script"))


def test_every_section_is_there_and_every_anchor_leads_somewhere(page: Page) -> None:
    assert set(SECTIONS) <= set(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_picture_has_a_text_for_those_who_do_not_see_it(page: Page) -> None:
    assert len(page.images) >= 14
    assert all(image.get("alt") for image in page.images)


def test_numbers_in_the_text_are_those_given(page: Page, report: EvaluationReport) -> None:
    judged = report.judgement
    assert judged is not None
    for row in (*judged.scores, *judged.baselines, *judged.differences, *sum(judged.tables.values(), ())):
        assert row.text in page.words
    assert f"{judged.headline.n_healthy} healthy images and {judged.headline.n_finding} with a finding" in page.words
    assert "51,125,505" in page.words and "too few" in page.words


def test_no_patient_is_named(html: str) -> None:
    assert "SECRET" not in html


def test_varied_images_are_called_derived_from_one_patient(page: Page) -> None:
    assert "derived from one patient’s image" in page.words
    other = EvaluationReport(title="x", generated=breasts(2), generated_mode="latent")
    assert "derived from one patient" not in Page(render(other)).words


def test_an_empty_report_says_why_each_section_is_empty() -> None:
    words = Page(render(EvaluationReport(title="Nothing"))).words
    for reason in ("No counts", "No loss curve", "No reconstructions", "No generated images", "No detection figures"):
        assert reason in words
    assert "No cases" in words and "No provenance" in words
    assert "no diagnosis" in words


def test_data_without_findings_gets_no_detection_figures(plain: EvaluationReport) -> None:
    judged = detection_metrics(table(30, findings=False), {"loss": "Loss"}, resamples=20)
    words = Page(render(replace(plain, judgement=judged))).words
    assert "No detection figures: the data has no image with a finding." in words


def test_the_caller_can_give_the_reason() -> None:
    assert "Run generate first." in render(EvaluationReport(title="x", notes={"generated": "Run generate first."}))


def test_small_data_prints_too_few_instead_of_an_interval(plain: EvaluationReport) -> None:
    judged = detection_metrics(table(12), {"loss": "Loss"}, resamples=20)
    words = Page(render(replace(plain, judgement=judged))).words
    assert "(too few)" in words and "says nothing about other images" in words


def test_unknown_patients_are_said_with_every_figure_of_detection(plain: EvaluationReport) -> None:
    words = Page(render(replace(plain, by_patient=False))).words
    assert words.lower().count("not by patient") >= 5
    assert "whole patients" not in words


def test_text_from_outside_is_escaped(report: EvaluationReport) -> None:
    evil = '"><script>alert(1)</script>'
    shown = replace(
        report,
        title=evil,
        facts={evil: evil},
        limits=[evil],
        provenance={evil: evil},
        cases=[replace(cases()[0], image_id=evil, caption=evil, group=evil)],
        judgement=detection_metrics(
            table(40).assign(categories=[[evil]] * 80), {"loss": evil}, {"grey": evil}, resamples=20
        ),
    )
    text = render(shown)
    Page(text)
    assert "<script" not in text and "&lt;script" in text


def test_one_image_and_cases_without_maps_are_enough() -> None:
    one = np.zeros((1, 64, 64), np.uint16)
    bare = [replace(case, map=None, reconstruction=None) for case in cases()[:1]]
    few = EvaluationReport(title="x", originals=one, reconstructions=one, generated=one, cases=bare)
    assert "No maps were made." in Page(render(few)).words


def test_the_file_is_written_whole_and_the_same_each_time(report: EvaluationReport, html: str, tmp_path: Path) -> None:
    write_report(tmp_path / "new" / "report.html", report)
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == html
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_a_score_that_is_a_baseline_in_disguise_is_called_so(plain: EvaluationReport) -> None:
    rows = table(40).assign(loss=lambda frame: 2 * frame["area"])
    words = Page(
        render(
            replace(plain, judgement=detection_metrics(rows, {"loss": "Loss"}, {"area": "Breast area"}, resamples=20))
        )
    ).words
    assert "goes with breast area (Spearman 1.00)" in words


def test_the_headline_says_when_guessing_is_not_beaten(plain: EvaluationReport) -> None:
    rows = table(40).assign(loss=np.random.default_rng(1).normal(size=80))
    words = Page(render(replace(plain, judgement=detection_metrics(rows, {"loss": "Loss"}, resamples=100)))).words
    assert "The interval includes 0.5" in words
