"""The report: whole in one file, true to its numbers, silent about nothing that is missing."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.report import fake_study
from tests.report.fake_study import breasts, cases, table

from mammovae.report.page import render, write_page
from mammovae.statistics.detection_metrics import detection_metrics

SECTIONS = ("data", "training", "reconstructions", "generated", "detection", "cases", "limits", "provenance")
Parts = dict[str, dict[str, Any]]
VOID = {"meta", "img", "br", "link", "hr"}


class ParsedPage(HTMLParser):
    """Collects what the tests ask about, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.heads: list[dict[str, str | None]] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"]] if values.get("id") else []  # pyrefly: ignore
        self.links += [str(values[name]) for name in ("src", "href") if name in values]
        if tag == "img":
            self.images.append(values)
        if tag == "th":
            self.heads.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += re.sub(r"\s+", " ", data)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return fake_study.study()


@pytest.fixture(scope="module")
def plain(parts: Parts) -> Parts:
    """The study without its images, for tests of words alone."""
    return {
        name: part for name, part in parts.items() if name not in ("training", "reconstructions", "generated", "cases")
    }


@pytest.fixture(scope="module")
def html(parts: Parts) -> str:
    return render(fake_study.page(parts))


@pytest.fixture(scope="module")
def page(html: str) -> ParsedPage:
    return ParsedPage(html)


def words(parts: Parts, **changes: Any) -> str:
    """Return the words of a page: see fake_study.page."""
    return ParsedPage(render(fake_study.page(parts, **changes))).words


def test_the_file_needs_nothing_but_itself(page: ParsedPage, html: str) -> None:
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not any(word in html for word in ("@import", "url(", "<script"))


def test_every_section_is_there_and_every_anchor_leads_somewhere(page: ParsedPage) -> None:
    assert set(SECTIONS) <= set(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_image_has_a_text_for_those_who_do_not_see_it(page: ParsedPage) -> None:
    assert len(page.images) >= 14
    assert all(image.get("alt") for image in page.images)


def test_every_head_of_a_table_says_what_it_is_the_head_of(page: ParsedPage) -> None:
    assert len(page.heads) > 50
    assert {head.get("scope") for head in page.heads} == {"col", "row"}


def test_numbers_in_the_text_are_those_given(page: ParsedPage, parts: Parts) -> None:
    metrics = parts["detection"]["metrics"]
    for row in (*metrics.scores, *metrics.baselines, *metrics.differences, *sum(metrics.tables.values(), ())):
        assert row.text in page.words
    assert "51,125,505" in page.words and "too few" in page.words


def test_captions_say_how_many_and_which_healthy_images_were_compared(page: ParsedPage) -> None:
    rows = table()
    rows = rows[rows["healthy"].notna()]
    affected = rows["patient_id"].isin(rows.loc[~rows["healthy"].astype(bool), "patient_id"])
    healthy, finding = rows["healthy"].astype(bool), int((~rows["healthy"].astype(bool)).sum())
    unaffected, controls = int((healthy & ~affected).sum()), int((healthy & affected).sum())
    assert 0 < unaffected < healthy.sum()
    which = f"{unaffected} healthy images of patients without any finding"
    assert f"{which} and {finding} with a finding" in page.words
    assert f"the images with that category against the same {which}" in page.words
    assert f"Spearman: rank correlation with the headline among the {which}" in page.words
    assert f"the findings against the {controls} healthy images whose patient has one elsewhere" in page.words
    assert "all healthy images" not in page.words


def test_the_patients_counted_are_those_behind_the_headline(plain: Parts) -> None:
    rows = table(60).assign(patient_affected=lambda frame: frame["patient_id"].isin(frame["patient_id"][:20]))
    metrics = detection_metrics(rows, {"loss": "Loss"}, resamples=20)
    known = rows[rows["healthy"].notna()]
    is_finding = ~known["healthy"].astype(bool)
    affected = known["patient_affected"] | known["patient_id"].isin(known.loc[is_finding, "patient_id"])
    behind = known.loc[is_finding | ~affected, "patient_id"].nunique()
    assert behind == metrics.n_patients < known["patient_id"].nunique()
    assert f"of {behind} patients together" in words(plain, detection={"metrics": metrics})


def test_no_patient_is_named(html: str) -> None:
    assert "SECRET" not in html


def test_varied_images_are_called_derived_from_one_patient(page: ParsedPage) -> None:
    assert "derived from one patient’s image" in page.words
    for real in (None, breasts(2)):
        section = {"generated": breasts(2), "mode": "vary", "real": real}
        assert "derived from one patient" in words({}, generated=section)
        assert "derived from one patient" not in words({}, generated=section | {"mode": "latent"})


def test_an_empty_report_says_why_each_section_is_empty() -> None:
    empty = words({})
    for reason in ("No counts", "No loss curve", "No reconstructions", "No generated images", "No detection figures"):
        assert reason in empty
    assert "No cases" in empty and "No provenance" in empty
    assert "no diagnosis" in empty


def test_data_without_findings_gets_no_detection_figures(plain: Parts) -> None:
    metrics = detection_metrics(table(30, findings=False), {"loss": "Loss"}, resamples=20)
    absent = "No detection figures: the data has no image with a finding."
    assert absent in words(plain, detection={"metrics": metrics})


def test_data_whose_healthy_images_are_all_of_affected_patients_gets_no_detection_figures(plain: Parts) -> None:
    rows = table(30).assign(patient_affected=True)
    metrics = detection_metrics(rows, {"loss": "Loss"}, resamples=20)
    absent = "No detection figures: the data has no healthy image of a patient without any finding"
    assert absent in words(plain, detection={"metrics": metrics})


def test_the_caller_can_give_the_reason() -> None:
    assert "Run generate first." in words({}, notes={"generated": "Run generate first."})


def test_small_data_prints_too_few_instead_of_an_interval(plain: Parts) -> None:
    metrics = detection_metrics(table(12), {"loss": "Loss"}, resamples=20)
    text = words(plain, detection={"metrics": metrics})
    assert "(too few)" in text and "says nothing about other images" in text


def test_unknown_patients_are_said_with_every_figure_of_detection(plain: Parts) -> None:
    text = words(plain, data={"by_patient": False}, detection={"by_patient": False})
    assert text.lower().count("not by patient") >= 5
    assert "whole patients" not in text


def test_text_from_outside_is_escaped(parts: Parts) -> None:
    evil = '"><script>alert(1)</script>'
    rows = table(40)
    rows["categories"] = pd.Series([[evil]] * len(rows))
    metrics = detection_metrics(rows, {"loss": evil}, {"grey": evil}, resamples=20)
    text = render(
        fake_study.page(
            parts,
            title=evil,
            facts={evil: evil},
            limits={"limits": [evil]},
            provenance={"values": {evil: evil}},
            cases={"cases": [replace(cases()[0], image_id=evil, caption=evil, group=evil)]},
            generated={"mode": evil},
            notes=dict.fromkeys(SECTIONS, evil),
            detection={"metrics": metrics},
        )
    )
    ParsedPage(text)
    assert "<script" not in text and "&lt;script" in text


def test_one_image_and_cases_without_maps_are_enough() -> None:
    one = np.zeros((1, 64, 64), np.uint16)
    bare = [replace(case, anomaly_map=None, reconstruction=None) for case in cases()[:1]]
    few = {
        "reconstructions": {"originals": one, "reconstructions": one},
        "generated": {"generated": one},
        "cases": {"cases": bare},
    }
    assert "No maps were made." in words(few)


@pytest.mark.slow
def test_the_file_is_written_whole_and_the_same_each_time(parts: Parts, html: str, tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "report.html", fake_study.page(parts))
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == html
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_a_score_that_is_a_baseline_in_disguise_is_called_so(plain: Parts) -> None:
    rows = table(40).assign(loss=lambda frame: 2 * frame["area"])
    metrics = detection_metrics(rows, {"loss": "Loss"}, {"area": "Breast area"}, resamples=20)
    assert "goes with breast area (Spearman 1.00)" in words(plain, detection={"metrics": metrics})


def test_the_headline_says_when_guessing_is_not_beaten(plain: Parts) -> None:
    rows = table(40)
    rows["loss"] = np.random.default_rng(1).normal(size=len(rows))
    metrics = detection_metrics(rows, {"loss": "Loss"}, resamples=100)
    assert "The interval includes 0.5" in words(plain, detection={"metrics": metrics})
