"""The page of an audit: is a set of generated images realistic, varied, and nobody's copy?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mammovae.report import audit_charts as charts
from mammovae.report.evaluation_page import flat, page_environment
from mammovae.report.images import grey, image_grid
from mammovae.report.style import FONTS, data_uri, to_png, to_svg
from mammovae.statistics.bootstrap import Estimate
from mammovae.storage import write_text

Images = NDArray[np.generic]
Kind = Literal["good", "caution", "bad"]
LIMITS = (
    "It is research software. No generated image may be used for a diagnosis, and no figure here says that one could.",
    "The figures see what their features see. A fault that the features miss is not counted.",
    "The floor is no surer than its patients are many. With few, two halves of them differ by chance, and a generated "
    "set that departs by less looks as good as real.",
    "Privacy is tested against the attacks listed, on these images. Another attack may succeed: no figure here proves "
    "that the images are anonymous.",
    "The figures hold for this network, sampler, seed and image size. Figures of other data, sizes or features cannot "
    "be set beside them.",
    "Several measures are listed without correction for their number: one that stands out may do so by chance.",
)
_MARKS = {"good": "✓", "caution": "!", "bad": "✗"}
_QUESTIONS = {
    "Realism": "Could the generated images be from the same source as the real ones?",
    "Diversity": "Are they as different from each other as real images are?",
    "Privacy": "Do they show more of the training patients than of any others?",
}
_SHOWN_IMAGES = 12
_COLUMNS = 6
_SHOWN_PAIRS = 12


@dataclass(frozen=True)
class AuditRow:
    """One measure of all arms: a row of the table."""

    name: str
    """Its key in metrics.json."""
    label: str
    better: Literal["lower", "higher", "half"]
    """half: 0.5 is best."""
    estimates: Mapping[str, Estimate | None]
    """By arm; n_healthy real and n_finding generated images. None or no entry: not measured."""
    note: str = ""
    """What it measures, in half a line."""
    primary: bool = False
    """True for the one that its section rests on: named so, and drawn beside the other primary ones."""


@dataclass(frozen=True)
class Spectra:
    """Power by spatial frequency."""

    frequencies: ArrayLike
    """(B,) in cycles a square, above 0."""
    curves: Mapping[str, charts.Band]
    """Label -> mean, low and high, each (B,) in dB; the first is the real set."""


@dataclass(frozen=True)
class Latent:
    """A look into the latent space; whatever is None is left out. Images are integers or floats in 0..1."""

    traversals: Images | None = None
    """(R, C, S, S): a row for each dimension that is moved while the others stay."""
    row_labels: Sequence[str] = ()
    """R, as "dimension 3, 2.1 nats"."""
    column_labels: Sequence[str] = ()
    """C, as "−2", or none."""
    strip: Images | None = None
    """(K, S, S): the way from one image to another."""
    points: ArrayLike | None = None
    """(N, 2): images on the first two axes of a linear map."""
    point_labels: Sequence[str] = ()
    """N: the set that each point belongs to, "real" or an arm."""
    variance: tuple[float, float] = (0.0, 0.0)
    """Share of the whole variance along each axis, 0 to 1."""


@dataclass(frozen=True)
class AuditReport:
    """What the page of an audit shows; whatever is None or empty makes its section say why it is not there.

    Images are of any integer type or floats in 0..1, all shown on that one scale.
    """

    title: str
    subtitle: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The few facts at the top: run, preset, sampler, images, real images, patients ..."""
    verdicts: Sequence[tuple[str, str, Kind]] = ()
    """Heading, sentence and kind: the page's opening."""
    arms: Sequence[str] = ()
    """The first is the floor, "real against real"; the others are generated sets."""
    derived: Sequence[str] = ()
    """Those arms whose images are each derived from one patient's image (mode vary)."""
    sections: Mapping[str, Sequence[AuditRow]] = field(default_factory=dict)
    """Measures by question: Realism, Diversity, Privacy."""
    differences: Sequence[tuple[str, Estimate | None]] = ()
    """Paired differences of arms, in the same subsamples."""
    images: Mapping[str, Images] = field(default_factory=dict)
    """Arm or "real films" -> (n, S, S); the first 12 are shown."""
    spectra: Spectra | None = None
    pairs: Sequence[tuple[Images, Images, str]] = ()
    """Generated (S, S), its nearest training image (S, S) and a caption, the closest first."""
    distances: Mapping[str, ArrayLike] = field(default_factory=dict)
    """Label -> distance of each generated image to its nearest image of one set, training or held out."""
    distance_label: str = "distance to the nearest image"
    latent: Latent | None = None
    utility: Sequence[tuple[str, Estimate | None]] | None = None
    """AUROC of a detector trained on real or generated images, on the same films (healthy, with a finding)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the audit, nested as in config.toml."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Versions, commit, seeds, command lines, hashes; nested mappings are flattened."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """By section (measures, images, spectrum, nearest, latent, utility): a remark, or why it is empty."""
    by_patient: bool = True
    """False where patients are unknown; the page then says so."""
    phantoms: bool = False


def write_audit(path: Path, report: AuditReport) -> None:
    """Write the page to path in one step; the same report gives the same bytes."""
    write_text(path, render(report))


def render(report: AuditReport) -> str:
    """Return the page as HTML; every text in it is escaped."""
    return (
        page_environment()
        .get_template("audit.html.j2")
        .render(
            report=report,
            fonts=FONTS,
            missing=_missing(report),
            marks=_MARKS,
            questions=_QUESTIONS,
            better=charts.BETTER,
            heads=[_head(report, arm) for arm in report.arms],
            groups={name: [_row(report.arms, row) for row in rows] for name, rows in report.sections.items() if rows},
            differences=[(label, *_difference(estimate)) for label, estimate in report.differences],
            figures=_figures(report),
            grids=_grids(report),
            pairs=[
                (caption, _picture(np.array([grey(made), grey(film)]), 2))
                for made, film, caption in report.pairs[:_SHOWN_PAIRS]
            ],
            traversals=_traversals(report.latent),
            strip=_strip(report.latent),
            utility=[(label, estimate) for label, estimate in report.utility or ()],
            limits=LIMITS,
            provenance=flat({**report.settings, **report.provenance}),
        )
    )


def _missing(report: AuditReport) -> dict[str, str]:
    """Return why a section is empty, for each that is."""
    reasons = {}
    if not any(report.sections.values()):
        reasons["measures"] = "No measures: none were handed to this page."
    if not any(len(images) for images in report.images.values()):
        reasons["images"] = "No images: none were picked to show."
    if report.spectra is None or not report.spectra.curves:
        reasons["spectrum"] = "No spectrum: none was measured."
    if not report.pairs and not report.distances:
        reasons["nearest"] = "No nearest images: no distances to training images were measured."
    if report.latent is None:
        reasons["latent"] = "No view of the latent space: this audit did not look into the network."
    if not report.utility:
        reasons["utility"] = "Not tested: no detector was trained on these images."
    return {name: report.notes.get(name, reason) for name, reason in reasons.items()}


def _head(report: AuditReport, arm: str) -> dict[str, Any]:
    """Return the head of an arm's column: its name, and the numbers of images where all measures share them."""
    rows = [row.estimates.get(arm) for rows in report.sections.values() for row in rows]
    numbers = {_images(row, arm == report.arms[0]) for row in rows if row is not None}
    return {"name": arm, "images": numbers.pop() if len(numbers) == 1 else ()}


def _images(estimate: Estimate, floor: bool) -> tuple[str, ...]:
    """Return the numbers of images behind a figure, a line each."""
    if floor:
        return (f"{estimate.n_healthy:,} and {estimate.n_finding:,} real",)
    return f"{estimate.n_finding:,} generated", f"{estimate.n_healthy:,} real"


def _row(arms: Sequence[str], row: AuditRow) -> dict[str, Any]:
    """Return a measure with its texts by arm; None is an en dash."""
    cells = [(arm, row.estimates.get(arm)) for arm in arms]
    return {
        "row": row,
        "cells": [
            ("–", "", ()) if estimate is None else (*charts.number_texts(estimate), _images(estimate, arm == arms[0]))
            for arm, estimate in cells
        ],
    }


def _difference(estimate: Estimate | None) -> tuple[str, str, str]:
    """Return a difference, its interval, and whether that holds 0."""
    if estimate is None:
        return "–", "–", "–"
    value, interval = charts.number_texts(estimate)
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return value, interval or "–", "–"
    return value, interval, "yes" if estimate.low <= 0 <= estimate.high else "no"


def _figures(report: AuditReport) -> dict[str, str]:
    """Return data URIs by the name of the figure, for what the page has."""
    figures = {}
    chosen = [
        (row.label, row.better, row.estimates) for rows in report.sections.values() for row in rows if row.primary
    ]
    if chosen and report.arms:
        figures["forest"] = charts.arm_forest(report.arms, chosen)
    if report.spectra is not None and report.spectra.curves:
        figures["spectrum"] = charts.spectrum_chart(report.spectra.frequencies, report.spectra.curves)
    if report.distances:
        figures["distances"] = charts.distance_chart(report.distances, report.distance_label)
    if report.latent is not None and report.latent.points is not None:
        figures["map"] = charts.latent_map(report.latent.points, report.latent.point_labels, report.latent.variance)
    return {name: data_uri(to_svg(figure)) for name, figure in figures.items()}


def _grids(report: AuditReport) -> list[dict[str, Any]]:
    """Return the pictures of each set, filled up with white so that images of all sets are of one size."""
    grids = []
    for name, images in report.images.items():
        shown = np.array([grey(image) for image in images[:_SHOWN_IMAGES]])
        if not len(shown):
            continue
        blank = np.ones((max(0, _COLUMNS - len(shown)), *shown.shape[1:]), shown.dtype)
        grid = {"name": name, "count": len(shown), "derived": name in report.derived}
        grids.append({**grid, "uri": _picture(np.concatenate([shown, blank]), _COLUMNS)})
    return grids


def _traversals(latent: Latent | None) -> list[tuple[str, str]]:
    """Return label and picture of each dimension that is moved."""
    if latent is None or latent.traversals is None:
        return []
    return [(label, _picture(row, len(row))) for label, row in zip(latent.row_labels, latent.traversals, strict=True)]


def _strip(latent: Latent | None) -> str | None:
    return None if latent is None or latent.strip is None else _picture(latent.strip, len(latent.strip))


def _picture(images: Images, columns: int) -> str:
    return data_uri(to_png(image_grid(images, columns)))
