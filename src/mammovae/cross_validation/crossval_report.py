"""The files and the page of a cross-validation, made of what the folds say together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mammovae.cross_validation import pooled_metrics
from mammovae.cross_validation.pooled_metrics import PREVALENCE, RATES, REFERENCE_LOSS, PooledMetrics
from mammovae.data.dataset import Data
from mammovae.evaluation.inserted_faults import FaultMetrics
from mammovae.evaluation.localisation import Localisation
from mammovae.evaluation.stress import detected_share, write_stress
from mammovae.models.run import Run
from mammovae.report import page as pages
from mammovae.report.charts import detectability_chart, fault_chart, froc_curve
from mammovae.report.evaluation_page import correlation_texts, detection_charts
from mammovae.report.formatting import UNAFFECTED
from mammovae.report.page import Block, Figure, Section, Table, Text
from mammovae.report.style import save
from mammovae.report.summary_text import LIMITS, summarise_detection
from mammovae.storage import write_csv

_INTRODUCTION = Markup(
    "<strong>Research software, no diagnosis.</strong> The networks learned from healthy breasts alone; settings "
    "were chosen by healthy validation images and inserted lesions. The one comparison that was planned is the "
    "finding score against the original preset’s reconstruction loss; everything else is exploratory, and a "
    "table’s best row flatters itself. The recipes behind the networks come from the literature and from trials "
    "made with labels of such images in hand, and labels that are used for evaluation more than once flatter later "
    "attempts: say beside a published figure which look at its labels it is."
)
_RESULTS = ["name", "n_healthy", "n_finding", "auroc", "n_healthy_affected", "auroc_affected"]
_PREDICTIVE = {"rate": "g", "sensitivity": ".2f", "specificity": ".2f", "predictive_value": ".3f"}
_CALIBRATION = {"stated": "g", "realised": ".3f", "range_low": ".3f", "range_high": ".3f", "n_calibration": "g"}


def write_pooled_report(out: Path, data: Data, runs: list[Run]) -> dict[str, Any]:
    """Pool the folds' scores; write scores.csv, results.csv, charts and report.html; return the flat metrics."""
    pooled = pooled_metrics.pool_folds(out, data, runs)
    lists = {name: [" ".join(cell) for cell in pooled.table[name]] for name in ("categories", "severity")}
    results = pooled_metrics.result_rows(pooled.detection, pooled.extra)
    listed = pooled.table.assign(**lists).drop(columns=["position", "blob_hit"])
    write_csv(listed, out / "scores.csv", float_format="%.6g")
    write_csv(results, out / "results.csv")
    if pooled.faults is not None and pooled.fault_metrics is not None:
        write_stress(out, pooled.faults, pooled.lesions, pooled.fault_metrics)
    manifest, run = data.manifest, runs[0].manifest
    by_patient, phantoms = manifest["by_patient"], manifest["phantoms"]
    seen = "its patient" if by_patient else "it (patients are unknown: not by patient)"
    provenance = runs[0].settings.model_dump(exclude_none=True)
    provenance |= {key: run[key] for key in ("versions", "git_commit", "machine")}
    page = pages.Page(
        "mammovae cross-validation",
        f"mammovae: {manifest['inputs']['kind']}, preset {run['preset']}, {len(runs)} folds",
        f"Each image counted here is scored by networks that never saw {seen}."
        + (" Phantoms, no patients." if phantoms else ""),
        [],
        Section("what", "What this is, and what it cannot say", [Text(_INTRODUCTION)]),
        [
            Section("detection", "Detection", _detection(pooled, results, by_patient)),
            _calibration_section(pooled.calibration, int(pooled.table["healthy"].fillna(False).sum())),
            _localisation_section(out, pooled.localisation),
            _lesions_section(pooled.lesions),
            _faults_section(pooled.fault_metrics),
            pages.limits_section(LIMITS),
            pages.provenance_section(provenance, "Settings and versions."),
        ],
    )
    pages.write_page(out / "report.html", page)
    return pooled.flat()


def _detection(pooled: PooledMetrics, results: pd.DataFrame, by_patient: bool) -> list[Block]:
    """Return the headline, the planned comparison, charts, and all scores in one table."""
    metrics, headline = pooled.detection, pooled.detection.headline
    unit = "whole patients" if by_patient else "images (patients are unknown)"
    words = Markup(
        "<b>{}</b> AUROC of the finding score, {} healthy images {} and {} with a finding; 95 % interval over {:,} "
        "resamples of {}, stratified by fold"
    ).format(headline.text, headline.n_healthy, UNAFFECTED, headline.n_finding, metrics.resamples, unit)
    less_loss = next(row for row in metrics.differences if row.name == REFERENCE_LOSS)
    affected = pooled.extra[f"auroc_affected_minus_{REFERENCE_LOSS}"]
    raw = pooled.extra[f"auroc_minus_{REFERENCE_LOSS}_raw"]
    planned = Markup(
        "<strong>The planned comparison.</strong> AUROC of the finding score less that of the original preset’s "
        "reconstruction loss, in the same resamples: {}; against affected-patient controls {}. Scores learned anew in "
        "each fold are pooled in deviations of the fold’s healthy calibration images; with the losses pooled raw, in "
        "nats, the difference is {}."
    ).format(less_loss.text, affected.text, raw.text)
    shown = results.astype(object).where(results.notna(), "–")[_RESULTS]
    blocks: list[Block] = [
        Text(words, "headline"),
        Text(planned),
        *map(Text, summarise_detection(metrics, by_patient)),
        *detection_charts(metrics, "finding score", by_patient),
        Table(
            ("Score", "Healthy", "With finding", "AUROC", "Affected-patient controls", "AUROC against them"),
            [[int(cell) if isinstance(cell, float) else cell for cell in row] for row in shown.to_numpy()],
            f"Scores, baselines and groups against healthy images {UNAFFECTED}, and against affected-patient controls: "
            "healthy images whose patient has a finding elsewhere. A score that compares the two breasts may claim a "
            "gain in the first alone. By patient: a patient's highest finding score, and the row counts patients.",
        ),
    ]
    labels = {row.name: row.label for row in metrics.baselines} | {"density": "Density"}
    if correlations := [(labels[name], text) for name, text in correlation_texts(metrics).items()]:
        caption = "A score that mostly follows brightness, size or density says little of lesions."
        among = f"Among the {headline.n_healthy:,} healthy images {UNAFFECTED}, the finding score against"
        headers = (among, "Spearman correlation")
        blocks.append(Table(headers, correlations, caption))
    if pooled.predictive:
        caption = (
            "Flags at a stated false-positive rate, counted by image (the specificity among healthy images "
            f"{UNAFFECTED}), and at that rate the share of flagged images "
            f"that would show a cancer where {1000 * PREVALENCE:g} in 1,000 do, if cancers were flagged as often as "
            "these findings (benign ones are among them): few, at any rate."
        )
        headers = ("Stated false-positive rate", "Sensitivity", "Specificity", "Predictive value")
        blocks.append(Table(headers, _texts(pooled.predictive, _PREDICTIVE), caption))
    return blocks


def _calibration_section(rows: Sequence[Mapping[str, float]], n_healthy: int) -> Section:
    """Return stated false-positive rates beside the realised ones, on so many healthy test images."""
    headers = ("Stated rate", "Realised", "99 % range from", "to", "Calibration patients a fold")
    caption = (
        f"The share flagged of all {n_healthy:,} healthy test images, those of affected patients too, beside the "
        "beta-binomial range for one calibration of as many patients."
    )
    table = Table(headers, _texts(rows, _CALIBRATION), caption)
    absent = f"There are too few calibration patients a fold to promise a rate of {max(RATES):g}."
    return Section("calibration", "Calibration", [table] if rows else [], absent)


def _localisation_section(out: Path, places: Localisation | None) -> Section:
    """Return maps against annotated regions; also write the chart of it into the folder."""
    if places is None:
        return Section("localisation", "Localisation", [], "No image has an annotated position.")
    count = places.pointing.n_finding
    chart = froc_curve(list(places.froc), list(places.froc.values()), count)
    save(chart, out / "froc.png")
    rows = [
        ("maximum of the anomaly map in a lesion (pointing game)", places.pointing.text),
        ("the same for the blob filter", places.blob_pointing.text),
        ("average precision of pixels", places.pixel_precision.text),
        ("chance: the lesions’ share of the breast", f"{places.chance.value:.2f}"),
    ]
    caption = f"Anomaly maps against annotated regions, {count} images with a position."
    share = f"Share of annotated lesions marked, at false marks an image: counted on healthy images {UNAFFECTED}."
    table = Table(("Measure", "Value (95 % interval)"), rows, caption)
    return Section("localisation", "Localisation", [table, Figure.chart(chart, "FROC curve.", share, "medium")])


def _lesions_section(lesions: pd.DataFrame) -> Section:
    """Return how many inserted lesions are detected, and pointed at, by size and contrast."""
    caption = (
        f"Lesions of 2 to 40 mm inserted into the {int((lesions['kind'] == '').sum()):,} healthy test images (a family "
        "that nothing was trained on or chosen by), kinds in turn and all together; a breast without room for a size "
        "has none of it. By chance 0.05 of scores, and hardly any maximum."
    )
    chart = detectability_chart(detected_share(lesions), detected_share(lesions, "hit"))
    figure = Figure.chart(chart, "Share detected by size and contrast.", caption)
    return Section("lesions", "Inserted lesions", [figure])


def _faults_section(faults: FaultMetrics | None) -> Section:
    """Return the technical faults that were detected, one by one and in the mean."""
    title = "Technical faults"
    if faults is None:
        return Section("quality", title, [], "No quality score: there were too few training images to fit one.")
    table, means = faults.table(), faults.mean
    words = (
        f"Faults inserted into the raw files of the {faults.n_healthy:,} healthy test images. Mean AUROC of the "
        f"quality score {means['auroc'].text}, mean recall at 5 % review {means['recall_5'].text}."
    )
    rows = [
        [row["fault"].replace("_", " "), row["n"], f"{row['refused']:.2f}", *(row[f"{name}_text"] for name in means)]
        for _, row in table.sort_values(["recall_5", "auroc"]).iterrows()
    ]
    recalls = [f"Recall at {name.removeprefix('recall_')} %" for name in means if name != "auroc"]
    caption = (
        "Every fault, the most easily missed first; 95 % intervals over resamples of whole patients. Refused: the "
        "share that prepare refuses, which counts as detected."
    )
    chart = Figure.chart(fault_chart(table), "Recall by fault.")
    listed = Table(("Fault", "n", "Refused", "AUROC", *recalls), rows, caption)
    return Section("quality", title, [Text(words), chart, listed])


def _texts(rows: Sequence[Mapping[str, float]], forms: Mapping[str, str]) -> list[list[str]]:
    return [[format(row[name], form) for name, form in forms.items()] for row in rows]
