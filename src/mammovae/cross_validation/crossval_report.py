"""The files and the page of a cross-validation, made of what the folds say together."""

from pathlib import Path
from typing import Any

from mammovae.cross_validation.pooled_metrics import (
    PREVALENCE,
    RATES,
    REFERENCE_LOSS,
    PooledMetrics,
    pool_folds,
    result_rows,
)
from mammovae.data.dataset import Data
from mammovae.evaluation.stress import detected_share, write_stress
from mammovae.models.run import Run
from mammovae.report import crossval_page as sections
from mammovae.report.charts import froc_curve
from mammovae.report.page import Page, Section, limits_section, provenance_section, write_page
from mammovae.report.style import save
from mammovae.report.summary_text import LIMITS
from mammovae.storage import atomic_write

_HIDDEN = ("position", "blob_hit")


def write_pooled_report(out: Path, data: Data, runs: list[Run]) -> dict[str, Any]:
    """Pool the folds' scores; write scores.csv, results.csv, charts and report.html; return the flat metrics."""
    pooled = pool_folds(out, data, runs)
    lists = {name: [" ".join(cell) for cell in pooled.table[name]] for name in ("categories", "severity")}
    results = result_rows(pooled.detection, pooled.extra)
    with atomic_write(out / "scores.csv") as partial:
        listed = pooled.table.assign(**lists).drop(columns=list(_HIDDEN))
        listed.to_csv(partial, index=False, float_format="%.6g")
    with atomic_write(out / "results.csv") as partial:
        results.to_csv(partial, index=False)
    if pooled.faults is not None and pooled.fault_metrics is not None:
        write_stress(out, pooled.faults, pooled.lesions, pooled.fault_metrics)
    manifest, run = data.manifest, runs[0].manifest
    by_patient, phantoms = manifest["by_patient"], manifest["phantoms"]
    seen = "its patient" if by_patient else "it (patients are unknown: not by patient)"
    detection, extra = pooled.detection, pooled.extra
    planned = [
        next(row for row in detection.differences if row.name == REFERENCE_LOSS),
        extra[f"auroc_affected_minus_{REFERENCE_LOSS}"],
        extra[f"auroc_minus_{REFERENCE_LOSS}_raw"],
    ]
    texts = [row.text for row in planned]
    provenance = {key: run[key] for key in ("versions", "git_commit", "machine")}
    page = Page(
        "mammovae cross-validation",
        f"mammovae: {manifest['inputs']['kind']}, preset {run['preset']}, {len(runs)} folds",
        f"Every image is scored by networks that never saw {seen}." + (" Phantoms, no patients." if phantoms else ""),
        [],
        sections.introduction(),
        [
            sections.detection_section(detection, results, texts, pooled.predictive, PREVALENCE, by_patient),
            sections.calibration_section(pooled.calibration, max(RATES)),
            _localisation_section(out, pooled),
            sections.lesions_section(detected_share(pooled.lesions), detected_share(pooled.lesions, "hit")),
            _faults_section(pooled),
            limits_section(LIMITS),
            provenance_section(runs[0].settings.model_dump(exclude_none=True) | provenance, "Settings and versions."),
        ],
    )
    write_page(out / "report.html", page)
    return pooled.flat()


def _localisation_section(out: Path, pooled: PooledMetrics) -> Section:
    """Return the section on localisation; also write its chart into the folder."""
    if (places := pooled.localisation) is None:
        return sections.localisation_section(None, {})
    save(froc_curve(list(places.froc), list(places.froc.values()), places.pointing.n_finding), out / "froc.png")
    return sections.localisation_section(places.metrics(), places.froc)


def _faults_section(pooled: PooledMetrics) -> Section:
    if (figures := pooled.fault_metrics) is None:
        return sections.faults_section(None, None)
    return sections.faults_section(figures.table(), {name: row.text for name, row in figures.mean.items()})
