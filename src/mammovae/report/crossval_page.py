"""The sections of a cross-validation's report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mammovae.report import charts, summary_text
from mammovae.report.evaluation_page import correlation_texts, detection_charts
from mammovae.report.page import Block, Figure, Section, Table, Text
from mammovae.statistics.bootstrap import Estimate
from mammovae.statistics.detection_metrics import DetectionMetrics

if TYPE_CHECKING:
    from pandas import DataFrame

_MEASURES = {
    "pointing": "maximum of the anomaly map in a lesion (pointing game)",
    "pointing_blobs": "the same for the blob filter",
    "pixel_average_precision": "average precision of pixels",
}
_RESULTS = ("name", "n_healthy", "n_finding", "auroc", "n_healthy_affected", "auroc_affected")
_PREDICTIVE = {"rate": "g", "sensitivity": ".2f", "specificity": ".2f", "predictive_value": ".3f"}
_CALIBRATION = {"stated": "g", "realised": ".3f", "range_low": ".3f", "range_high": ".3f", "n_calibration": "g"}


def introduction() -> Section:
    """Return what the report is and what it cannot say."""
    words = Markup(
        "<strong>Research software, no diagnosis.</strong> The networks learned from healthy breasts alone; settings "
        "were chosen by healthy validation images and inserted lesions. The one comparison that was planned is the "
        "finding score against the original preset’s reconstruction loss; everything else is exploratory, and a "
        "table’s best row flatters itself. The recipes behind the networks come from the literature and from trials "
        "made with labels of such images in hand, and labels that are used for evaluation more than once flatter later "
        "attempts: say beside a published figure which look at its labels it is."
    )
    return Section("what", "What this is, and what it cannot say", [Text(words)])


def detection_section(
    metrics: DetectionMetrics,
    results: "DataFrame",
    planned: Sequence[str],
    predictive: Sequence[Mapping[str, float]],
    prevalence: float,
    by_patient: bool,
) -> Section:
    """Return the headline, the planned comparison, charts, and all scores in one table.

    Parameters
    ----------
    results
        Columns name, n_healthy, n_finding, auroc, n_healthy_affected, auroc_affected.
    planned
        The finding score less the original preset's loss: main figure, affected-patient controls, losses pooled raw.
    predictive
        rate, sensitivity, specificity and predictive_value at stated false-positive rates.
    prevalence
        Share of screened images that show a cancer, by which the predictive value was reckoned.
    """
    planned_text = Markup(
        "<strong>The planned comparison.</strong> AUROC of the finding score less that of the original preset’s "
        "reconstruction loss, in the same resamples: {}; against affected-patient controls {}. Scores learned anew in "
        "each fold are pooled in deviations of the fold’s healthy calibration images; with the losses pooled raw, in "
        "nats, the difference is {}."
    ).format(*planned)
    shown = results.astype(object).where(results.notna(), "–")[list(_RESULTS)]
    blocks: list[Block] = [
        _headline(metrics, by_patient),
        Text(planned_text),
        *map(Text, summary_text.summarise_detection(metrics, by_patient)),
        *detection_charts(metrics, "finding score", by_patient),
        Table(
            ("Score", "Healthy", "With finding", "AUROC", "Affected-patient controls", "AUROC against them"),
            [[int(cell) if isinstance(cell, float) else cell for cell in row] for row in shown.to_numpy()],
            "All scores and groups, against healthy images of patients without any finding, and against "
            "affected-patient controls: healthy images whose patient has a finding elsewhere. A score that compares "
            "the two breasts may claim a gain in the first alone.",
        ),
    ]
    labels = {row.name: row.label for row in metrics.baselines} | {"density": "Density"}
    if correlations := [(labels[name], text) for name, text in correlation_texts(metrics).items()]:
        caption = "A score that mostly follows brightness, size or density says little of lesions."
        headers = ("Among healthy images, the finding score against", "Spearman correlation")
        blocks.append(Table(headers, correlations, caption))
    if predictive:
        caption = (
            "Flags at a stated false-positive rate, counted by image, and at that rate the share of flagged images "
            f"that would show a cancer where {1000 * prevalence:g} in 1,000 do, if cancers were flagged as often as "
            "these findings (benign ones are among them): few, at any rate."
        )
        headers = ("Stated false-positive rate", "Sensitivity", "Specificity", "Predictive value")
        blocks.append(Table(headers, [_texts(row, _PREDICTIVE) for row in predictive], caption))
    return Section("detection", "Detection", blocks)


def _headline(metrics: DetectionMetrics, by_patient: bool) -> Text:
    headline = metrics.headline
    unit = "whole patients" if by_patient else "images (patients are unknown)"
    words = Markup(
        "<b>{}</b> AUROC of the finding score, {} healthy images of patients without any finding and {} with a "
        "finding; 95 % interval over {:,} resamples of {}, stratified by fold"
    ).format(headline.text, headline.n_healthy, headline.n_finding, metrics.resamples, unit)
    return Text(words, "headline")


def calibration_section(rows: Sequence[Mapping[str, float]], largest_rate: float) -> Section:
    """Return stated false-positive rates beside the realised ones; largest_rate is that of the fewest images."""
    headers = ("Stated rate", "Realised", "99 % range from", "to", "Calibration images a fold")
    caption = "Healthy test images flagged, beside the beta-binomial range for one calibration of that size."
    table = Table(headers, [_texts(row, _CALIBRATION) for row in rows], caption)
    absent = f"There are too few calibration images a fold to promise a rate of {largest_rate:g}."
    return Section("calibration", "Calibration", [table] if rows else [], absent)


def localisation_section(metrics: Mapping[str, Any] | None, froc: Mapping[float, Estimate]) -> Section:
    """Return maps against annotated regions: flat keys as in metrics.json, and sensitivity by rate of false marks."""
    if metrics is None:
        return Section("localisation", "Localisation", [], "No image has an annotated position.")
    count = metrics["n_annotated"]
    estimates = [(label, *(metrics[key + end] for end in ("", "_low", "_high"))) for key, label in _MEASURES.items()]
    rows = [(label, Estimate(value, low, high, 0, count).text) for label, value, low, high in estimates]
    rows.append(("chance: the lesions’ share of the breast", f"{metrics['pointing_chance']:.2f}"))
    caption = f"Anomaly maps against annotated regions, {count} images with a position."
    share = "Share of annotated lesions marked, at false marks a healthy image."
    chart = charts.froc_curve(list(froc), list(froc.values()), count)
    blocks = [
        Table(("Measure", "Value (95 % interval)"), rows, caption),
        Figure.chart(chart, "FROC curve.", share, "medium"),
    ]
    return Section("localisation", "Localisation", blocks)


def lesions_section(detected: "DataFrame", pointed: "DataFrame") -> Section:
    """Return how many inserted lesions are detected, and pointed at, by size and contrast; see detectability_chart."""
    caption = (
        "Lesions of 2 to 40 mm inserted into healthy test images (a family that nothing was trained on or chosen by), "
        "all kinds together. By chance 0.05 of scores, and hardly any maximum."
    )
    chart = Figure.chart(charts.detectability_chart(detected, pointed), "Share detected by size and contrast.", caption)
    return Section("lesions", "Inserted lesions", [chart])


def faults_section(table: "DataFrame | None", means: Mapping[str, str] | None) -> Section:
    """Return the technical faults that were detected: columns as fault_chart's, with texts, and the means of them."""
    title = "Technical faults"
    if table is None or means is None:
        absent = "No quality score: there were too few training images to fit one."
        return Section("quality", title, [], absent)
    words = (
        f"Faults inserted into the raw files of healthy test images. Mean AUROC of the quality score {means['auroc']}, "
        f"mean recall at 5 % review {means['recall_5']}."
    )
    texts = [str(name) for name in table if str(name).endswith("_text")]
    rows = [
        [str(row["fault"]).replace("_", " "), row["n"], f"{row['refused']:.2f}", *(row[name] for name in texts)]
        for _, row in table.sort_values(["recall_5", "auroc"]).iterrows()
    ]
    recalls = [f"Recall at {name.removeprefix('recall_')} %" for name in means if name != "auroc"]
    caption = (
        "Every fault, the most easily missed first; 95 % intervals over resamples of whole patients. Refused: the "
        "share that prepare refuses, which counts as detected."
    )
    chart = Figure.chart(charts.fault_chart(table), "Recall by fault.")
    faults = Table(("Fault", "n", "Refused", "AUROC", *recalls), rows, caption)
    return Section("quality", title, [Text(words), chart, faults])


def _texts(row: Mapping[str, float], forms: Mapping[str, str]) -> list[str]:
    return [format(row[name], form) for name, form in forms.items()]
