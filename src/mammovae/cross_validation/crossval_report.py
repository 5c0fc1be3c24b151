"""The files and the page of a cross-validation, made of what the folds say together."""

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mammovae.cross_validation import pooled_metrics
from mammovae.data.dataset import Data
from mammovae.evaluation.evaluation_metrics import EvaluationMetrics
from mammovae.evaluation.evaluation_sections import froc_chart, metrics_sections
from mammovae.evaluation.inserted_faults import FaultMetrics
from mammovae.evaluation.reference import REFERENCE_LOSS
from mammovae.evaluation.scored_images import listed
from mammovae.evaluation.stress import detected_share, write_stress
from mammovae.models.run import Run
from mammovae.report import page as pages
from mammovae.report.charts import detectability_chart, fault_chart
from mammovae.report.page import Figure, Section, Table, Text
from mammovae.report.style import save
from mammovae.report.summary_text import LIMITS
from mammovae.storage import write_csv

_INTRODUCTION = Markup(
    "<strong>Research software, no diagnosis.</strong> The networks learned from healthy breasts alone; settings "
    "were chosen by healthy validation images and inserted lesions. The one comparison that was planned is the "
    "finding score against the original preset’s reconstruction loss; everything else is exploratory, and a "
    "table’s best row flatters itself. The recipes behind the networks come from the literature and from trials "
    "made with labels of such images in hand, and labels that are used for evaluation more than once flatter later "
    "attempts: say beside a published figure which look at its labels it is."
)
_SCORE_NAME = "finding score (healthy standard deviations)"


def write_pooled_report(out: Path, data: Data, runs: list[Run]) -> dict[str, Any]:
    """Pool the folds' scores; write scores.csv, results.csv, charts and report.html; return the flat metrics."""
    pooled = pooled_metrics.pool_folds(out, data, runs)
    write_csv(listed(pooled.table), out / "scores.csv", float_format="%.6g")
    write_csv(pooled_metrics.result_rows(pooled.scored), out / "results.csv")
    if pooled.scored.localisation is not None:
        save(froc_chart(pooled.scored.localisation), out / "froc.png")
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
            *metrics_sections(pooled.scored, _SCORE_NAME, by_patient, [_pooling(pooled.scored)]),
            _lesions_section(pooled.lesions),
            _faults_section(pooled.fault_metrics),
            pages.limits_section(LIMITS),
            pages.provenance_section(provenance, "Settings and versions."),
        ],
    )
    pages.write_page(out / "report.html", page)
    return pooled.flat()


def _pooling(scored: EvaluationMetrics) -> str:
    """Say how the folds were pooled, and what the planned comparison would be otherwise."""
    return (
        "Scores learned anew in each fold are pooled in deviations of the fold’s healthy calibration images, and "
        "patients are resampled within their fold; with the original preset’s losses pooled raw, in nats, that "
        f"difference is {scored.comparisons[f'auroc_minus_{REFERENCE_LOSS}_raw'].text}."
    )


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
