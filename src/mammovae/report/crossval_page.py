"""The report of a cross-validation: one HTML file, in the look of every report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammovae.report import charts, formatting, summary_text
from mammovae.report.evaluation_page import correlations, flat, page_environment
from mammovae.report.style import FONTS, data_uri, to_png, to_svg
from mammovae.statistics.bootstrap import Estimate
from mammovae.statistics.detection_metrics import DetectionMetrics
from mammovae.storage import write_text

if TYPE_CHECKING:
    from pandas import DataFrame

_MEASURES = {
    "pointing": "maximum of the map in a lesion (pointing game)",
    "pointing_blobs": "the same for the blob filter",
    "pixel_average_precision": "average precision of pixels",
}

_PREDICTIVE = {"rate": "g", "sensitivity": ".2f", "specificity": ".2f", "predictive_value": ".3f"}
_CALIBRATION = {"stated": "g", "realised": ".3f", "range_low": ".3f", "range_high": ".3f", "n_calibration": "g"}


@dataclass(frozen=True)
class CrossvalReport:
    """What the report of a cross-validation shows; None makes a section say that it is not there."""

    title: str
    judgement: DetectionMetrics
    results: "DataFrame"
    """Columns name, n_healthy, n_finding, auroc, n_healthy_affected, auroc_affected."""
    localisation: Mapping[str, Any] | None
    """Flat keys as in metrics.json."""
    froc: Path | None
    found: "DataFrame"
    pointed: "DataFrame"
    faults: "DataFrame | None"
    """Columns as the fault chart's, and auroc_text, recall_5_text ..."""
    mean_faults: Mapping[str, str] | None
    """The means over faults, with intervals, by the same names."""
    calibration: Sequence[Mapping[str, float]]
    precision: Sequence[Mapping[str, float]]
    prevalence: float
    primary: Sequence[str]
    """The planned comparison, finding score less the seed preset's loss: main arm, second arm, raw losses pooled."""
    by_patient: bool
    phantoms: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_crossval(path: Path, report: CrossvalReport) -> None:
    """Write the report to path in one step."""
    judged = report.judgement
    figures = {"detectability": data_uri(to_svg(charts.detectability_chart(report.found, report.pointed)))}
    if judged.curve is not None:
        rows = [*judged.scores, *judged.baselines, *chain(*judged.tables.values())]
        figures["points"] = data_uri(to_svg(charts.score_points(judged.groups, "finding score")))
        figures["roc"] = data_uri(to_svg(charts.roc(judged.curve, judged.baseline_curves)))
        figures["forest"] = data_uri(to_svg(charts.auroc_forest(rows)))
    if report.faults is not None:
        figures["faults"] = data_uri(to_png(charts.fault_chart(report.faults), 150))
    if report.froc is not None:
        figures["froc"] = data_uri(report.froc.read_bytes())
    labels = {row.name: row.label for row in judged.baselines} | {"density": "Density"}
    places = report.localisation
    shown = report.results.astype(object).where(report.results.notna(), "–")
    names = ["name", "n_healthy", "n_finding", "auroc", "n_healthy_affected", "auroc_affected"]
    text = (
        page_environment()
        .get_template("crossval.html.j2")
        .render(
            report=report,
            fonts=FONTS,
            judged=judged,
            sentences=summary_text.summarise_detection(judged, report.by_patient),
            correlations=[(labels[name], rho) for name, rho in correlations(judged).items()],
            figures=figures,
            results=[
                [int(cell) if isinstance(cell, float) else cell for cell in row] for row in shown[names].to_numpy()
            ],
            predictive=[_texts(row, _PREDICTIVE) for row in report.precision],
            prevalence=f"{1000 * report.prevalence:g}",
            calibration=[_texts(row, _CALIBRATION) for row in report.calibration],
            localisation=None if places is None else _places(places),
            annotated=None if places is None else places["n_annotated"],
            faults=None if report.faults is None else _fault_rows(report.faults),
            measures=[name for name in report.mean_faults or {} if name != "auroc"],
            largest_rate=max((row["rate"] for row in report.precision), default=0.2),
            limits=summary_text.LIMITS,
            provenance=[
                (name, formatting.value(item)) for name, item in flat({**report.settings, **report.provenance}).items()
            ],
        )
    )
    write_text(path, text)


def _fault_rows(table: "DataFrame") -> list[list[object]]:
    """Return the cells of the table of faults, the most easily missed first."""
    rows = table.sort_values(["recall_5", "auroc"])
    texts = [str(name) for name in rows if str(name).endswith("_text")]
    return [
        [str(row["fault"]).replace("_", " "), row["n"], f"{row['refused']:.2f}", *(row[name] for name in texts)]
        for _, row in rows.iterrows()
    ]


def _texts(row: Mapping[str, float], forms: Mapping[str, str]) -> list[str]:
    return [format(row[name], form) for name, form in forms.items()]


def _places(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, label in _MEASURES.items():
        row = Estimate(metrics[key], metrics[f"{key}_low"], metrics[f"{key}_high"], 0, metrics["n_annotated"])
        rows.append((label, row.text))
    return [*rows, ("chance: the lesions’ share of the breast", f"{metrics['pointing_chance']:.2f}")]
