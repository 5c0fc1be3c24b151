"""The sections on detection, calibration and localisation, in the same words on the pages of evaluate and crossval."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup
from matplotlib.figure import Figure as MplFigure

from mammovae.evaluation.evaluation_metrics import PREVALENCE, RATES, EvaluationMetrics
from mammovae.evaluation.localisation import Localisation
from mammovae.evaluation.reference import REFERENCE_LOSS
from mammovae.report import page as pages
from mammovae.report.charts import froc_curve
from mammovae.report.evaluation_page import detection_section
from mammovae.report.formatting import UNAFFECTED
from mammovae.report.page import Block, Figure, Section, Table, Text
from mammovae.statistics.bootstrap import Estimate

_PREDICTIVE = {"rate": "g", "sensitivity": ".2f", "specificity": ".2f", "predictive_value": ".3f"}
_CALIBRATION = {"stated": "g", "realised": ".3f", "range_low": ".3f", "range_high": ".3f", "n_calibration": "g"}


def metrics_sections(
    metrics: EvaluationMetrics, score_name: str, by_patient: bool, remarks: Sequence[str] = ()
) -> list[Section]:
    """Return the sections of figures.

    score_name: the finding score in words; remarks: sentences to put after the comparison with the original preset.
    """
    section = detection_section(metrics.detection, score_name, by_patient)
    if section.blocks:
        headline, *rest = section.blocks
        compared = [*_planned_comparison(metrics), *map(Text, remarks)]
        rest += [_comparisons_table(metrics.comparisons), *_predictive_table(metrics.predictive)]
        section = replace(section, blocks=[headline, *compared, *rest])
    return [section, _calibration_section(metrics), _localisation_section(metrics.localisation)]


def froc_chart(places: Localisation) -> MplFigure:
    """Return the share of lesions that are marked, by false marks a healthy image."""
    return froc_curve(list(places.froc), list(places.froc.values()), places.pointing.n_finding)


def _planned_comparison(metrics: EvaluationMetrics) -> list[Block]:
    difference = next((row for row in metrics.detection.differences if row.name == REFERENCE_LOSS), None)
    if difference is None:
        return []
    words = Markup(
        "<strong>The planned comparison.</strong> AUROC of the finding score less that of the original preset’s "
        "reconstruction loss, in the same resamples: {}; against affected-patient controls {}, against all healthy "
        "images {}."
    )
    others = (metrics.comparisons[f"auroc_{arm}_minus_{REFERENCE_LOSS}"].text for arm in ("affected", "all_healthy"))
    return [Text(words.format(difference.text, *others))]


def _comparisons_table(comparisons: Mapping[str, Estimate]) -> Table:
    """Return the finding score by patient and against all healthy images, and scores that need the other breast."""
    names = {"auroc_patients": "By patient", "auroc_all_healthy": "All healthy images"}
    rows = [(label, comparisons[key]) for key, label in names.items()]
    for key in (key for key in comparisons if key.startswith("score_") and not key.endswith("_affected")):
        label = comparisons[key].label
        rows += [(label, comparisons[key]), (f"{label}, affected-patient controls", comparisons[f"{key}_affected"])]
    caption = (
        "The finding score by patient (a patient’s highest, and the row counts patients), and against all healthy "
        "images, of affected patients too."
    )
    if len(rows) > len(names):
        caption += (
            " Scores that compare the two breasts, on the images that have the other one: they may claim a gain "
            f"against healthy images {UNAFFECTED} alone, as they lower the affected-patient controls."
        )
    return pages.estimates_table(rows, caption, "Comparison")


def _predictive_table(rows: Sequence[Mapping[str, float]]) -> list[Block]:
    caption = (
        "Flags at a stated false-positive rate, counted by image (the specificity among healthy images "
        f"{UNAFFECTED}), and at that rate the share of flagged images that would show a cancer where "
        f"{1000 * PREVALENCE:g} in 1,000 do, if cancers were flagged as often as these findings (benign ones are among "
        "them): few, at any rate."
    )
    headers = ("Stated false-positive rate", "Sensitivity", "Specificity", "Predictive value")
    return [Table(headers, _texts(rows, _PREDICTIVE), caption)] if rows else []


def _calibration_section(metrics: EvaluationMetrics) -> Section:
    """Return stated false-positive rates beside the realised ones."""
    headers = ("Stated rate", "Realised", "99 % range from", "to", "Calibration patients")
    caption = (
        f"The share flagged of all {metrics.n_healthy:,} healthy test images, those of affected patients too, as the "
        "mean over patients of the share of theirs, beside the beta-binomial range for one calibration of as many "
        "patients (of folds, their mean)."
    )
    table = Table(headers, _texts(metrics.calibration, _CALIBRATION), caption)
    absent = f"There are too few calibration patients to promise a rate of {max(RATES):g}."
    if not metrics.n_healthy:
        absent = "No healthy image was scored, on which a rate could be realised."
    return Section("calibration", "Calibration", [table] if metrics.calibration else [], absent)


def _localisation_section(places: Localisation | None) -> Section:
    """Return maps against annotated regions."""
    title = "Localisation"
    if places is None:
        return Section("localisation", title, [], "No image has an annotated position.")
    rows = [
        ("maximum of the anomaly map in a lesion (pointing game)", places.pointing.text),
        ("the same for the blob filter", places.blob_pointing.text),
        ("average precision of pixels", places.pixel_precision.text),
        ("chance: the lesions’ share of the breast", f"{places.chance.value:.2f}"),
    ]
    caption = f"Anomaly maps against annotated regions, {places.pointing.n_finding} images with a position."
    blocks: list[Block] = [Table(("Measure", "Value (95 % interval)"), rows, caption)]
    if places.froc:
        share = f"Share of annotated lesions marked, at false marks an image: counted on healthy images {UNAFFECTED}."
        blocks.append(Figure.chart(froc_chart(places), "FROC curve.", share, "medium"))
    return Section("localisation", title, blocks)


def _texts(rows: Sequence[Mapping[str, float]], forms: Mapping[str, str]) -> list[list[str]]:
    return [[format(row[name], form) for name, form in forms.items()] for row in rows]
