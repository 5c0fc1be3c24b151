"""The sections of a study's report, each built from what the stage it tells of has made."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mammovae.report import charts, summary_text
from mammovae.report import page as pages
from mammovae.report.formatting import UNAFFECTED, value
from mammovae.report.images import UNIT, MapScale, case_panel, grey, map_legend
from mammovae.report.page import Block, Cell, Facts, Figure, Images, Section, Table, Text
from mammovae.statistics.bootstrap import FEWEST_PATIENTS, signed
from mammovae.statistics.detection_metrics import DetectionMetrics

if TYPE_CHECKING:
    from pandas import DataFrame

ImageArray = NDArray[np.generic]
"""Images (N, S, S) of any integer type, or floats in 0..1: all shown on that one scale."""
_TABLES = {
    "category": "By category of finding: the images with that category against {healthy}.",
    "severity": "By severity of the finding: the images with findings of that severity against {healthy}.",
    "size": "By size of the largest finding, where its extent is known: the images with such a finding against "
    "{healthy}.",
    "density": f"By breast density: images with a finding against healthy images {UNAFFECTED}, both of that density.",
    "vendor": f"By vendor: images with a finding against healthy images {UNAFFECTED}, both of that vendor.",
}
_NO_TABLE = {
    "category": "No table by category: the data names no category of finding.",
    "density": "No table by density: the data gives no breast density.",
}
_AFFECTED = "Affected-patient controls: the findings against the {:,} healthy images whose patient has one elsewhere."
_CONTROLS = "Controls: healthy images whose patient has a finding elsewhere."
_SHOWN_PAIRS, _SHOWN_GENERATED, _COLUMNS, _COLUMNS_BESIDE = 16, 24, 8, 6


@dataclass(frozen=True)
class ExampleImage:
    """An image to look at with its anomaly map; those of one group ("Findings scored highest") stand together."""

    image_id: str
    image: ImageArray
    group: str
    anomaly_map: ImageArray | None = None
    reconstruction: ImageArray | None = None
    boxes: Sequence[Sequence[float]] = ()
    """(xmin, ymin, xmax, ymax) in pixels of image."""
    caption: str = ""


def introduction(unlabelled: bool = False, by_patient: bool = True) -> Section:
    """Return what the report is: unlabelled says that the network learned from images of unknown health."""
    learned = (
        "A network learned what a mammogram looks like from images whose health is not stated: findings may be among "
        "them. It makes new images, and says how far a given image is from those it learned from, and where."
        if unlabelled
        else "A network learned from healthy breasts alone what a mammogram looks like. It makes new images, and says "
        "how far a given image is from healthy, and where. It was never shown a disease, and does not name one."
    )
    unit = "whole patients" if by_patient else "images, as patients are unknown (not by patient)"
    figures = Markup(
        "A figure of detection stands with the number of images behind it and, where there are enough patients, a 95 % "
        'interval from resamples of {}. What the figures leave open is listed under <a href="#limits">What it cannot '
        "say</a>."
    ).format(unit)
    first = Text(Markup("<strong>Research software, no diagnosis.</strong> ") + learned)
    return Section("what", "What this is, and what it cannot say", [first, Text(figures)])


def data_section(
    facts: Mapping[str, Any] | None = None, counts: "DataFrame | None" = None, by_patient: bool = True
) -> Section:
    """Return facts on the data and its images; counts: a row a split, columns healthy, finding, unknown, failed."""
    blocks: list[Block] = [Facts(facts)] if facts else []
    if counts is None:
        blocks.append(Text("No counts were handed to this report.", "absent"))
    else:
        unknown = "Patients are unknown: images of one patient may be in two splits (not by patient)."
        caption = f"Images by split and health. {'No patient is in two splits.' if by_patient else unknown}"
        rows = list(counts.astype(int).itertuples(name=None))
        headers = ("Split", *(str(name).capitalize() for name in counts))
        blocks.append(Table(headers, rows, caption, ("all", *map(int, counts.sum()))))
    return Section("data", "Data", blocks)


def training_section(
    facts: Mapping[str, Any] | None = None,
    histories: "Mapping[str, DataFrame] | None" = None,
    titles: Mapping[str, Mapping[str, str]] | None = None,
    settings: Mapping[str, Any] | None = None,
    by_patient: bool = True,
) -> Section:
    """Return facts on the training, its losses by epoch (see loss_curves) and its settings, nested as in config."""
    blocks: list[Block] = [Facts(facts)] if facts else []
    if not histories or titles is None:
        blocks.append(Text("No loss curve: there is no history of the training.", "absent"))
    else:
        panels = (f"{name.replace('_', ' ')}: {', '.join(titles[name].values())}" for name in histories)
        alt = f"Curves by epoch, for training and validation. {'; '.join(panels)}."
        caption = "Loss by epoch and its parts, for an image: training (line) and validation (dashed)."
        caption += pages.not_by_patient(by_patient)
        blocks.append(Figure.chart(charts.loss_curves(histories, titles), alt, caption))
    blocks += [pages.pairs_table(settings, "Settings of the training.")] if settings else []
    return Section("training", "Training", blocks)


def reconstructions_section(originals: ImageArray | None = None, reconstructions: ImageArray | None = None) -> Section:
    """Return rows of up to eight originals, each row above its reconstructions."""
    absent = "No reconstructions: no network of the run makes any, or no image was set aside to show."
    if originals is None or reconstructions is None:
        return Section("reconstructions", "Reconstructions", [], absent)
    figures = []
    for start in range(0, min(len(originals), _SHOWN_PAIRS), _COLUMNS):
        columns = min(_COLUMNS, len(originals))
        rows = [grey(part[start : start + columns]) for part in (originals, reconstructions)]
        # White fills the last row, so that its images are as large as those above.
        blank = np.ones((columns - len(rows[0]), *rows[0].shape[1:]))
        alt = "A row of real mammograms above the row of their reconstructions."
        grid = np.concatenate([rows[0], blank, rows[1], blank])
        figures.append(Figure.grid(grid, columns, alt, row_labels=["real", "reconstruction"]))
    caption = "Real images above what the network makes of them. All on one grey scale, none stretched."
    return Section("reconstructions", "Reconstructions", [Images(figures, "stack", caption)], absent)


def generated_section(
    generated: ImageArray | None = None, mode: str = "vary", real: ImageArray | None = None
) -> Section:
    """Return generated images, and real ones beside them; mode: the sampling mode."""
    if generated is None:
        return Section("generated", "Generated images", [], "No generated images: none were made for this report.")
    blocks: list[Block] = []
    if mode == "vary":
        words = Markup(
            "<strong>Each generated image is derived from one patient’s image</strong> (mode “vary”: encoded, noise "
            "added, decoded). It stays that patient’s and must be handled like the image it came from."
        )
        blocks.append(Text(words))
    shown = [(generated, "A grid of generated mammograms.", f"Generated, mode “{mode}”.")]
    if real is not None:
        shown.append((real, "A grid of real mammograms.", "Real, of the same data and on the same grey scale."))
    columns = _COLUMNS if real is None else _COLUMNS_BESIDE
    grids = [Figure.grid(images[:_SHOWN_GENERATED], columns, alt, caption) for images, alt, caption in shown]
    blocks.append(grids[0] if real is None else Images(grids))
    return Section("generated", "Generated images", blocks)


def detection_section(
    metrics: DetectionMetrics | None = None, score_label: str = "score", by_patient: bool = True
) -> Section:
    """Return the headline in words and charts, the baselines, and the tables by category, density and so on."""
    if metrics is None or not metrics.headline.n_finding or not metrics.headline.n_healthy:
        reason = "no image was scored"
        if metrics is not None:
            unaffected = "healthy image of a patient without any finding, to compare with"
            lacking = unaffected if metrics.headline.n_finding else "image with a finding"
            reason = f"the data has no {lacking}"
        return Section("detection", "Detection", [], f"No detection figures: {reason}.")
    row = metrics.headline
    label = summary_text.lowered(row.label or row.name)
    words = Markup(
        "<b>{}</b> AUROC of the {} with its 95 % interval, {:,} healthy images {} and {:,} with a finding{}"
    ).format(row.text, label, row.n_healthy, UNAFFECTED, row.n_finding, "" if by_patient else ", not by patient")
    healthy = f"the same {row.n_healthy:,} healthy images {UNAFFECTED}"
    blocks: list[Block] = [
        Text(words, "headline"),
        *map(Text, summary_text.summarise_detection(metrics, by_patient)),
        *_detection_charts(metrics, score_label, by_patient),
        _scores_table(metrics),
    ]
    controls = tuple(metrics.affected.values())
    if controls:
        caption = _AFFECTED.format(controls[0].n_healthy)
        blocks.append(pages.estimates_table([(row.label or row.name, row) for row in controls], caption, "Score"))
    blocks += [_group_table(metrics, name, _TABLES[name].format(healthy=healthy)) for name in metrics.tables]
    blocks += [Text(reason, "absent") for name, reason in _NO_TABLE.items() if name not in metrics.tables]
    return Section("detection", "Detection", blocks)


def _group_table(metrics: DetectionMetrics, name: str, caption: str) -> Table:
    """Return the headline's AUROC by group, and that against affected-patient controls where it has one."""
    rows = [(row.label or row.name, row) for row in metrics.tables[name]]
    if not metrics.affected_tables.get(name):
        return pages.estimates_table(rows, caption, name.capitalize())
    affected = {row.name: pages.estimate_cells(row) for row in metrics.affected_tables[name]}
    cells = [(label, *pages.estimate_cells(row), affected[row.name][0], affected[row.name][2]) for label, row in rows]
    headers = (name.capitalize(), *pages.ESTIMATE_HEADERS, "Controls", "AUROC against them")
    return Table(headers, cells, f"{caption} {_CONTROLS}")


def _detection_charts(metrics: DetectionMetrics, score_label: str, by_patient: bool) -> list[Figure]:
    """Return every score as a point, the ROC curve, and all AUROCs in one column; none without both kinds of image."""
    if metrics.curve is None:
        return []
    note = pages.not_by_patient(by_patient)
    points = Figure.chart(
        charts.score_points(metrics.groups, score_label),
        "The score of each image of known health as a point, in strips by group, with the median of each group.",
        "Each image of known health as a point. One with findings of several categories is in the strip of each."
        + note,
    )
    curves = Figure.chart(
        charts.roc(metrics.curve, metrics.baseline_curves),
        "ROC curve of the headline score with its band, and those of the trivial baselines.",
        f"ROC curve against the healthy images {UNAFFECTED}, with its pointwise 95 % band; thin lines are "
        f"baselines, most of which see no more than brightness, size or a linear model.{note}",
    )
    forest = Figure.chart(
        charts.auroc_forest([*metrics.scores, *metrics.baselines, *itertools.chain(*metrics.tables.values())]),
        "AUROCs with their intervals, one under another, for scores, baselines, categories and densities.",
        f"AUROCs against healthy images {UNAFFECTED}, in one column. Bars are 95 % intervals; no bar: fewer than "
        f"{FEWEST_PATIENTS} patients in a group.{note}",
    )
    return [points, curves, forest]


def _correlation_texts(metrics: DetectionMetrics) -> dict[str, str]:
    """Return the rank correlations of the headline with baselines and density, by name."""
    return {name: "–" if rho is None else signed(rho) for name, rho in metrics.correlations.items()}


def cases_section(cases: Sequence[ExampleImage] = (), scale: MapScale = UNIT) -> Section:
    """Return example images with their boxes, reconstruction and anomaly map, by group; all maps on one scale."""
    has_maps = any(case.anomaly_map is not None for case in cases)
    panels = ["the image", "its reconstruction", "the anomaly map over the image"]
    present = (True, any(case.reconstruction is not None for case in cases), has_maps)
    order = ", ".join(itertools.compress(panels, present))
    maps = "The colours mean the same in every image: no map is scaled to itself." if has_maps else "No maps were made."
    blocks: list[Block] = [Text(f"From left to right: {order}. Blue frames are annotated findings. {maps}")]
    if has_maps:
        alt = f"Colour bar of the anomaly maps, from {value(scale.low)} to {value(scale.high)}."
        blocks.append(Figure.chart(map_legend(scale), alt, width="small"))
    for group, members in itertools.groupby(cases, key=lambda case: case.group):
        blocks += [Text(group, "heading"), Images([_case(case, scale) for case in members])]
    return Section("cases", "Cases", blocks if cases else [], "No cases: no image was picked to show.")


def _case(case: ExampleImage, scale: MapScale) -> Figure:
    panel = case_panel(case.image, case.reconstruction, case.anomaly_map, case.boxes, scale, decorated=False)
    caption = Markup("<code>{}</code> {}").format(case.image_id, case.caption)
    return Figure.chart(panel, f"Case {case.image_id}: image with its anomaly map.", caption, dpi=panel.dpi)


def _scores_table(metrics: DetectionMetrics) -> Table:
    caption = (
        f"The score, and baselines that a useful score must beat, against healthy images {UNAFFECTED}. "
        "Difference: the headline minus the baseline, in the same resamples. Spearman: rank correlation with the "
        "headline among the "
        f"{metrics.headline.n_healthy:,} healthy images {UNAFFECTED}; near ±1, they measure the same."
    )
    correlations = _correlation_texts(metrics)
    rows = [(Cell(row.label or row.name, bold=True), *pages.estimate_cells(row), "", "") for row in metrics.scores]
    rows += [
        (row.label or row.name, *pages.estimate_cells(row), difference.text, correlations[row.name])
        for row, difference in zip(metrics.baselines, metrics.differences, strict=True)
    ]
    return Table(("Score", *pages.ESTIMATE_HEADERS, "Difference", "Spearman"), rows, caption)
