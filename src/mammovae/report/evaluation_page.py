"""The report of a study: one HTML file without any outside part, for the screen and for A4 paper."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from mammovae.report import charts, formatting, summary_text
from mammovae.report.images import UNIT, MapScale, case_panel, grey, image_grid, map_legend
from mammovae.report.style import FONTS, data_uri, to_png, to_svg
from mammovae.statistics.bootstrap import signed
from mammovae.statistics.detection_metrics import DetectionMetrics
from mammovae.storage import write_text

if TYPE_CHECKING:
    from pandas import DataFrame

Images = NDArray[np.generic]
_TABLES = {
    "category": "By category of finding: all healthy images against the images with that category.",
    "severity": "By severity of the finding: all healthy images against the images with findings of that severity.",
    "size": "By size of the largest finding, where its extent is known: all healthy images against those images.",
    "density": "By breast density: healthy images and images with a finding of that density.",
    "vendor": "By vendor: healthy images and images with a finding of that vendor.",
}
_SHOWN_PAIRS = 16
_SHOWN_GENERATED = 24
_COLUMNS = 8
_BESIDE = 6


@dataclass(frozen=True)
class ExampleImage:
    """An image to look at with its map; cases of one group ("Findings scored highest") stand together."""

    image_id: str
    image: Images
    group: str
    map: Images | None = None
    reconstruction: Images | None = None
    boxes: Sequence[Sequence[float]] = ()
    """(xmin, ymin, xmax, ymax) in pixels of image."""
    caption: str = ""


@dataclass(frozen=True)
class EvaluationReport:
    """What a report shows; whatever is None or empty makes its section say why it is not there.

    Images are (N, S, S) of any integer type or floats in 0..1, all shown on that one scale.
    """

    title: str
    subtitle: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The few facts at the top: data set, images, preset, ..."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Facts on the data: source, healthy rule, size, ..."""
    counts: "DataFrame | None" = None
    """Images: a row a split (the index), a column each for healthy, finding, unknown, failed."""
    by_patient: bool = True
    """False where patients are unknown; every figure then says so."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the training, nested as in config.toml."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Facts on the training: parameters, time, images."""
    history: "DataFrame | None" = None
    """A row an epoch: see charts.loss_curve."""
    originals: Images | None = None
    reconstructions: Images | None = None
    generated: Images | None = None
    generated_mode: str = "vary"
    real: Images | None = None
    """Real images to stand beside the generated ones."""
    judgement: DetectionMetrics | None = None
    score_label: str = "score"
    cases: Sequence[ExampleImage] = ()
    map_scale: MapScale = UNIT
    limits: Sequence[str] = ()
    """What this study cannot say, beside what no such study can."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Versions, commit, seeds, command lines, hashes; nested mappings are flattened."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """By section (data, training, reconstructions, generated, detection, cases): a remark, or why it is empty."""


def write_report(path: Path, report: EvaluationReport) -> None:
    """Write the report to path in one step; the same report gives the same bytes."""
    write_text(path, render(report))


def page_environment() -> Environment:
    """Return what fills the templates; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["value"] = formatting.value
    return environment


def render(report: EvaluationReport) -> str:
    """Return the report as HTML; every text in it is escaped."""
    judged, missing = report.judgement, _missing(report)
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            fonts=FONTS,
            missing=missing,
            counts=_counts(report.counts),
            settings=flat(report.settings),
            provenance=flat(report.provenance),
            figures=_figures(report, missing),
            reconstructions=[] if "reconstructions" in missing else _pairs(report),
            cases=_cases(report),
            sentences=summary_text.summarise_detection(judged, report.by_patient) if judged else [],
            judged=judged,
            tables=_TABLES,
            correlations=correlations(judged),
            limits=[*report.limits, *summary_text.LIMITS],
        )
    )


def _missing(report: EvaluationReport) -> dict[str, str]:
    """Return why a section is empty, for each that is."""
    judged = report.judgement
    reasons = {}
    if report.counts is None:
        reasons["data"] = "No counts were handed to this report."
    if report.history is None or not len(report.history):
        reasons["training"] = "No loss curve: there is no history of the training."
    if report.originals is None or report.reconstructions is None or not len(report.originals):
        reasons["reconstructions"] = "No reconstructions: no image was set aside to show."
    if report.generated is None or not len(report.generated):
        reasons["generated"] = "No generated images: none were made for this report."
    if judged is None:
        reasons["detection"] = "No detection figures: no image was scored."
    elif not judged.headline.n_finding:
        reasons["detection"] = "No detection figures: the data has no image with a finding."
    elif not judged.headline.n_healthy:
        reasons["detection"] = "No detection figures: the data has no healthy image to compare with."
    if not report.cases:
        reasons["cases"] = "No cases: no image was picked to show."
    return {name: report.notes.get(name, reason) for name, reason in reasons.items()}


def _figures(report: EvaluationReport, missing: Mapping[str, str]) -> dict[str, str]:
    """Return data URIs by the name of the figure, for what the report has."""
    figures = {}
    if report.history is not None and "training" not in missing:
        figures["loss"] = data_uri(to_svg(charts.loss_curve(report.history)))
    if report.generated is not None and "generated" not in missing:
        beside = report.real is not None and len(report.real) > 0
        for name, images in (("generated", report.generated), ("real", report.real if beside else None)):
            if images is not None:
                grid = image_grid(images[:_SHOWN_GENERATED], _BESIDE if beside else _COLUMNS)
                figures[name] = data_uri(to_png(grid))
    judged = report.judgement
    if judged is not None and judged.curve is not None:
        rows = [*judged.scores, *judged.baselines, *itertools.chain(*judged.tables.values())]
        figures["points"] = data_uri(to_svg(charts.score_points(judged.groups, report.score_label)))
        figures["roc"] = data_uri(to_svg(charts.roc(judged.curve, judged.baseline_curves)))
        figures["forest"] = data_uri(to_svg(charts.auroc_forest(rows)))
    if any(case.map is not None for case in report.cases):
        figures["legend"] = data_uri(to_svg(map_legend(report.map_scale)))
    return figures


def _pairs(report: EvaluationReport) -> list[str]:
    """Return pictures of up to eight originals each above their reconstructions."""
    originals, made = report.originals, report.reconstructions
    assert originals is not None and made is not None
    total = min(len(originals), len(made), _SHOWN_PAIRS)
    columns, uris = min(_COLUMNS, total), []
    for start in range(0, total, columns):
        rows = [[grey(image) for image in images[start : start + columns]] for images in (originals, made)]
        # White fills the last row, so that its images are as large as those above.
        blank = [np.ones_like(rows[0][0])] * (columns - len(rows[0]))
        grid = np.array([*rows[0], *blank, *rows[1], *blank])
        uris.append(data_uri(to_png(image_grid(grid, columns, row_labels=["real", "reconstruction"]))))
    return uris


def _cases(report: EvaluationReport) -> dict[str, list[dict[str, str]]]:
    groups: dict[str, list[dict[str, str]]] = {}
    for case in report.cases:
        panel = case_panel(
            case.image, case.reconstruction, case.map, case.boxes, scale=report.map_scale, legend=False, titles=False
        )
        shown = {"image_id": case.image_id, "caption": case.caption, "uri": data_uri(to_png(panel))}
        groups.setdefault(case.group, []).append(shown)
    return groups


def _counts(counts: "DataFrame | None") -> dict[str, Any]:
    if counts is None:
        return {}
    table = counts.astype("Int64")
    rows = [
        (str(name), [None if v is None else f"{v:,}" for v in row])
        for name, row in zip(table.index, table.to_numpy(object), strict=True)
    ]
    return {"columns": [str(name) for name in table], "rows": rows, "total": [f"{int(v):,}" for v in table.sum()]}


def correlations(judged: DetectionMetrics | None) -> dict[str, str]:
    """Return the rank correlations of the headline with baselines and density, as texts by name."""
    if judged is None:
        return {}
    return {name: "–" if rho is None else signed(rho) for name, rho in judged.correlations.items()}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names, in their order."""
    found: dict[str, Any] = {}
    for name, item in values.items():
        found |= flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {f"{prefix}{name}": item}
    return found
