"""The page of an audit: whole in one file, true to its numbers, and tidy where a part is missing."""

import base64
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from tests.report.fake_study import breasts
from tests.report.test_evaluation_page import ParsedPage

from mammovae.report.audit_charts import arm_forest, distance_chart, latent_map, number_texts, spectrum_chart
from mammovae.report.audit_page import (
    LIMITS,
    AuditRow,
    Conclusion,
    LatentView,
    images_section,
    introduction,
    latent_section,
    measures_section,
    nearest_section,
    spectrum_section,
    utility_section,
)
from mammovae.report.page import Conclusions, Facts, Page, limits_section, provenance_section, render, write_page
from mammovae.report.style import to_svg
from mammovae.statistics.bootstrap import Estimate

Parts = dict[str, dict[str, Any]]
ARMS = ("real-vs-real reference", "original, vary", "original, prior", "generate, latent")
CONCLUSIONS: tuple[Conclusion, ...] = (
    ("Realism", "Farther from real images than real ones are.", "bad"),
    ("Diversity", "A part of the range is missing.", "caution"),
    ("Privacy", "No generated image is a copy.", "good"),
)
SECTIONS = ("measures", "images", "spectrum", "nearest", "latent", "utility", "limits", "provenance")


def estimate(value: float, generated: int = 500, real: int = 104) -> Estimate:
    return Estimate(value, value - 0.1 * abs(value), value + 0.12 * abs(value), real, generated)


def row(name: str, better: str, values: tuple[float | None, ...], primary: bool = False) -> AuditRow:
    cells = {
        arm: None if value is None else estimate(value, *(() if place else (52, 52)))
        for place, (arm, value) in enumerate(zip(ARMS, values, strict=True))
    }
    return AuditRow(name, name.capitalize(), better, cells, f"what {name} is", primary)  # pyrefly: ignore


def audit(size: int = 32) -> Parts:
    """Return what every section of a page is made of: see page_of."""
    rng = np.random.default_rng(0)
    images, frequencies = breasts(8, size), np.arange(1, size // 2 + 1)
    power = 60 - 9 * np.log2(frequencies)
    curves = {name: (power - k, power - k - 2, power - k + 2) for k, name in enumerate(("real images", *ARMS[1:]))}
    latent = LatentView(
        traversals=np.stack([images[:5], images[3:]]),
        row_labels=("dimension 3, 2.1 nats", "dimension 11, 0.9 nats"),
        column_labels=("−2", "−1", "0", "1", "2"),
        strip=images[:6],
        points=rng.normal(size=(60, 2)),
        point_labels=["real"] * 30 + ["generate, latent"] * 30,
        variance=(0.31, 0.094),
    )
    return {
        "measures": {
            "arms": ARMS,
            "derived": ("original, vary",),
            "rows": {
                "Realism": (
                    row("kernel", "lower", (0.00021, 0.0484, 0.0913, 0.0123), True),
                    row("precision", "higher", (0.962, 0.312, 0.104, 0.781)),
                ),
                "Diversity": (row("recall", "higher", (0.958, 0.221, 0.052, 0.655), True),),
                "Privacy": (row("membership", "half", (None, 0.721, 0.541, 0.522), True),),
            },
            "differences": (("Kernel, latent less prior", estimate(-0.079)), ("Recall, not paired", None)),
        },
        "images": {
            "images": {"real images": images, "original, vary": images / 70000, "generate, latent": images[:3]},
            "derived": ("original, vary",),
        },
        "spectrum": {"frequencies": frequencies, "curves": curves},
        "nearest": {
            "pairs": [(images[k], images[k + 1], f"distance {k}.25") for k in range(3)],
            "distances": {
                "nearest training image": rng.gamma(20, size=500),
                "nearest held-out image": rng.gamma(22, size=500),
            },
            "distance_label": "distance between features",
            "derived": True,
        },
        "latent": {"view": latent},
        "utility": {"estimates": (("real images", Estimate(0.713, 0.62, 0.801, 60, 44)), ("generated images", None))},
        "limits": {"limits": LIMITS},
        "provenance": {"values": {"audit": {"subsamples": 500}, "version": "0.2.0", "seeds": {"audit": 0}}},
    }


def page_of(
    parts: Parts,
    title: str = "Generated right MLO images",
    conclusions: Sequence[Conclusion] = CONCLUSIONS,
    introduced: Mapping[str, bool] = MappingProxyType({"derived": True, "shows_patients": True}),
    notes: Mapping[str, str] = MappingProxyType({}),
) -> Page:
    """Return the page of those parts; a section of which there is none is built from nothing."""
    builders = {
        "measures": measures_section,
        "images": images_section,
        "spectrum": spectrum_section,
        "nearest": nearest_section,
        "latent": latent_section,
        "utility": utility_section,
        "limits": limits_section,
        "provenance": provenance_section,
    }
    nothing = {"limits": {"limits": LIMITS}, "provenance": {"values": {}}}
    return Page(
        "mammovae audit of generated images",
        title,
        "Three samplers of two runs.",
        [Conclusions(conclusions), Facts({"Runs": ["original", "generate"], "Images": 1500})],
        introduction(**introduced),
        [
            replace(builder(**(parts.get(name) or nothing.get(name, {}))), note=notes.get(name, ""))  # pyrefly: ignore
            for name, builder in builders.items()
        ],
    )


def words_of(parts: Parts, **about: Any) -> str:
    """Return the words of a page: see page_of."""
    return ParsedPage(render(page_of(parts, **about))).words


def changed(parts: Parts, **changes: Mapping[str, Any]) -> Parts:
    """Return the parts with arguments of sections put in place of theirs."""
    assert set(changes) <= set(parts)
    return {name: {**part, **changes.get(name, {})} for name, part in parts.items()}


@pytest.fixture(scope="module")
def parts() -> Parts:
    return audit()


@pytest.fixture(scope="module")
def html(parts: Parts) -> str:
    return render(page_of(parts))


@pytest.fixture(scope="module")
def page(html: str) -> ParsedPage:
    return ParsedPage(html)


def test_the_file_needs_nothing_but_itself(page: ParsedPage, html: str) -> None:
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not any(word in html for word in ("@import", "url(", "<script"))


def test_every_section_is_there_filled_and_every_anchor_leads_somewhere(page: ParsedPage, html: str) -> None:
    assert set(SECTIONS) <= set(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert 'class="absent"' not in html


def test_every_image_has_a_text_for_those_who_do_not_see_it(page: ParsedPage) -> None:
    # Forest, three grids, spectrum, distances, three pairs, two traversals, the strip and the map.
    assert len(page.images) == 13
    assert all(image.get("alt") for image in page.images)


def test_the_opening_says_its_conclusions_in_words_and_marks(page: ParsedPage) -> None:
    start = page.words.index("How to read this page")
    for heading, sentence, kind in CONCLUSIONS:
        assert 0 < page.words.index(heading) < page.words.index(sentence) < start
        assert f"{ {'good': '✓', 'caution': '!', 'bad': '✗'}[kind] } {kind}" in page.words[:start]


def test_the_terms_are_explained(page: ParsedPage) -> None:
    for text in (
        "Two halves of the real patients against each other: the reference of every figure",
        "From 2.5 to 97.5 % of subsamples of half of the patients, drawn without replacement",
        "It is not an FID",
        "0.5 is guessing",
        "derived from one patient’s image by construction",
        "no diagnosis",
    ):
        assert text in page.words


def test_every_figure_stands_with_its_interval_and_images(page: ParsedPage, parts: Parts) -> None:
    for rows in parts["measures"]["rows"].values():
        for cell in itertools.chain(*(measure.estimates.values() for measure in rows)):
            if cell is not None:
                assert all(text in page.words for text in number_texts(cell))
    assert "52 and 52 real" in page.words and "500 generated" in page.words and "104 real" in page.words
    assert "0.71 (0.62–0.80)" in page.words


def test_a_measure_rows_arms_are_in_the_order_of_the_head(html: str) -> None:
    head, body = html[html.index('class="numbers measures"') :].split("</thead>", 1)
    assert [head.index(arm) for arm in ARMS] == sorted(head.index(arm) for arm in ARMS)
    recall = body[body.index("Recall (primary)") :]
    assert re.findall(r"<td>([^<]+)", recall)[:4] == ["0.958", "0.221", "0.0520", "0.655"]
    membership = body[body.index("Membership (primary)") :]
    assert re.findall(r"<td>([^<]+)", membership)[:4] == ["–", "0.721", "0.541", "0.522"]


def test_numbers_of_images_stand_by_the_figures_where_they_differ(parts: Parts) -> None:
    odd = replace(row("odd", "lower", (0.1, 0.2, 0.3, 0.4)), estimates={"original, prior": estimate(0.3, 77, 104)})
    rows = {**parts["measures"]["rows"], "Realism": [odd]}
    words = words_of(changed(parts, measures={"rows": rows}))
    assert words.count("77 generated") == 1 and words.count("500 generated") > 3


def test_a_difference_says_whether_its_interval_includes_zero(page: ParsedPage) -> None:
    assert "−0.0790 −0.0869 to −0.0695 no".replace(" ", "") in page.words.replace(" ", "")


def test_an_empty_page_says_why_each_section_is_empty() -> None:
    words = words_of({}, conclusions=(), introduced={})
    for reason in (
        "No measures",
        "No images",
        "No spectrum",
        "No nearest images",
        "No view of the latent",
        "Not tested",
    ):
        assert reason in words
    assert "No provenance" in words and "derived" not in words and "patients’ images" not in words


def test_the_caller_can_give_the_reason_or_a_note(parts: Parts) -> None:
    notes = {"latent": "The set came without its run.", "utility": "Second row: <b>synthetic</b> alone."}
    text = render(page_of(changed(parts, latent={"view": None}), notes=notes))
    assert "The set came without its run." in text and "No view of the latent" not in text
    assert "Second row: &lt;b&gt;synthetic" in text and "Not tested" not in text


def test_a_single_set_without_latent_use_or_differences_gives_a_clean_page(parts: Parts) -> None:
    measures = {"arms": ("real-vs-real reference", "generate, latent"), "derived": (), "differences": ()}
    words = words_of(changed(parts, measures=measures, latent={"view": None}, utility={"estimates": ()}))
    assert "original, prior less" not in words and "Includes 0" not in words
    assert "0.0123" in words and "0.0913" not in words
    assert "this audit did not look into the network" in words and "no detector was trained" in words


def test_missing_parts_of_the_latent_view_are_not_shown(parts: Parts) -> None:
    words = words_of(changed(parts, latent={"view": LatentView(strip=breasts(3, 32))}))
    assert "From one image to another" in words
    assert "One dimension moved" not in words and "Where the images lie" not in words


def test_unknown_patients_and_phantoms_are_said(parts: Parts) -> None:
    unknown = {"by_patient": False}
    words = words_of(changed(parts, measures=unknown, utility=unknown), introduced=unknown)
    assert words.lower().count("not by patient") >= 3
    assert "half of the patients" not in words
    assert "It shows patients’ images" not in words


def test_text_from_outside_is_escaped(parts: Parts) -> None:
    evil = '"><script>alert(1)</script> $\\frac$'
    images = breasts(2, 32)
    measure = AuditRow(evil, evil, "lower", {evil: estimate(0.1)}, evil, True)
    shown = {
        "measures": {
            "arms": [evil],
            "derived": [evil],
            "rows": {evil: [measure]},
            "differences": [(evil, estimate(0.1))],
        },
        "images": {"images": {evil: images}, "derived": [evil]},
        "spectrum": {"frequencies": [1, 2, 4], "curves": {evil: ([3, 2, 1], [2, 1, 0], [4, 3, 2])}},
        "nearest": {
            "pairs": [(images[0], images[1], evil)],
            "distances": {evil: [1.0, 2.0]},
            "distance_label": evil,
        },
        "latent": {"view": LatentView(images[None], [evil], [evil] * 2, images, np.eye(2), [evil] * 2)},
        "utility": {"estimates": [(evil, None)]},
        "limits": {"limits": [evil]},
        "provenance": {"values": {evil: evil}},
    }
    notes = dict.fromkeys(SECTIONS, evil)
    text = render(page_of(shown, title=evil, conclusions=[(evil, evil, "good")], notes=notes))
    ParsedPage(text)
    assert "<script" not in text and "&lt;script" in text


def test_the_file_is_written_whole_and_the_same_each_time(parts: Parts, html: str, tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "report.html", page_of(parts))
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == html
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("numbers", "texts"),
    [
        ((0.0123, 0.0101, 0.0150), ("0.0123", "0.0101–0.0150")),
        ((0.634, 0.55, 0.71), ("0.634", "0.550–0.710")),
        ((0.00002, -0.0012, 0.0015), ("0.00002", "−0.00120 to 0.00150")),
        ((14.2, 12.8, 15.84), ("14.2", "12.8–15.8")),
        ((1234.5, 1200.2, 1300.9), ("1234", "1200–1301")),
        ((0, 0, 0), ("0", "0–0")),
        ((1, 0.985, 1), ("1.00", "0.98–1.00")),
        ((0.5, None, None), ("0.500", "too few")),
        ((None, None, None), ("not defined", "")),
    ],
)
def test_figures_have_three_digits_and_intervals_their_decimals(numbers: tuple, texts: tuple[str, str]) -> None:
    value, low, high = numbers
    assert number_texts(Estimate(value, low, high, 10, 10)) == texts


def unseen(figure: Figure) -> list[Text]:
    """Return the labels of ticks beyond the limits of their axis, which exist and are not drawn."""
    axis = [(one, place) for axes in figure.axes for place, one in enumerate((axes.xaxis, axes.yaxis))]
    ends = {one: sorted(one.get_view_interval()) for one, _ in axis}
    return [
        label
        for one, place in axis
        for label in one.get_ticklabels()
        if not ends[one][0] <= label.get_position()[place] <= ends[one][1]
    ]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Return the texts of a figure that lie over each other, or over its edge."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = unseen(figure)
    shown = [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in hidden
    ]  # pyrefly: ignore
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in shown]  # pyrefly: ignore
    outside = [(name, "edge") for name, box in boxes if box.x0 < -1 or box.x1 > figure.bbox.x1 + 1]
    return outside + [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.padded(-1).overlaps(two)]


def charts(parts: Parts) -> list[Figure]:
    measures, spectrum, nearest, view = parts["measures"], parts["spectrum"], parts["nearest"], parts["latent"]["view"]
    rows = [measure for rows in measures["rows"].values() for measure in rows]
    panels = [(f"{measure.label}, a label of some length", measure.better, measure.estimates) for measure in rows]
    return [
        spectrum_chart(spectrum["frequencies"], spectrum["curves"]),
        distance_chart(nearest["distances"], nearest["distance_label"]),
        latent_map(view.points, view.point_labels, view.variance),
        arm_forest(ARMS, panels),
        arm_forest(ARMS[:2], panels[:1]),
        arm_forest(ARMS, [*panels, *panels[:1]]),
        arm_forest(["real-vs-real reference", "a run with a name as long as somebody may give it, latent"], panels[:3]),
    ]


def test_no_text_of_a_chart_lies_over_another_or_over_the_edge(parts: Parts) -> None:
    for figure in charts(parts):
        assert overlaps(figure) == []


@pytest.mark.slow
def test_charts_are_the_same_bytes_each_time(parts: Parts) -> None:
    assert [to_svg(figure) for figure in charts(parts)] == [to_svg(figure) for figure in charts(parts)]


def test_lines_of_a_chart_differ_in_colour_and_in_dashes(parts: Parts) -> None:
    lines = spectrum_chart(**parts["spectrum"]).axes[0].lines
    assert len({(line.get_color(), str(line.get_linestyle()), line.is_dashed()) for line in lines}) == len(lines)
    assert len({str(line._dash_pattern) for line in lines[1:]}) == len(lines) - 1  # pyrefly: ignore


def test_the_spectrum_leaves_out_what_a_logarithm_cannot_show() -> None:
    curve = ([90.0, 3, 2, 1], [80.0, 2, 1, 0], [99.0, 4, 3, 2])
    figure = spectrum_chart([0, 1, 2, 4], {"real": curve, "original": curve})
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2, 4]  # pyrefly: ignore
    assert np.ptp(figure.axes[1].lines[1].get_ydata()) == 0


def test_distances_may_be_equal_or_none() -> None:
    svg = to_svg(distance_chart({"train": np.zeros(5), "held out": []}))
    assert "n = 5" in svg and "n = 0" in svg
    assert to_svg(distance_chart({"train": []}))


def test_copies_are_seen_at_zero() -> None:
    assert distance_chart({"train": [2.0, 9.0], "held out": [3.0, 9.0]}).axes[0].get_xlim()[0] == 0
    assert distance_chart({"train": [100.0, 101.0]}).axes[0].get_xlim()[0] > 99


def test_measures_without_a_figure_or_an_interval_keep_their_row() -> None:
    estimates = {"real": None, "a": Estimate(None, None, None, 5, 5), "b": Estimate(0.4, None, None, 5, 5)}
    svg = to_svg(arm_forest(["real", "a", "b"], [("Kernel", "half", estimates)]))
    assert "not defined" in svg and "–" in svg


def test_few_images_are_as_large_as_many() -> None:
    few, many = (
        Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        for count in (2, 12)
        for uri in re.findall(
            r'src="(data:image/png[^"]+)"', render(page_of({"images": {"images": {"a": breasts(count, 32)}}}))
        )
    )
    assert few.width == many.width
