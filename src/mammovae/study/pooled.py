"""What the folds of a cross-validation say together: both arms, localisation, planted lesions and faults."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detect.calibrate import flagged, realised_rate_range
from mammovae.folders import replacing
from mammovae.model.run import Run
from mammovae.page.charts import froc_curve
from mammovae.page.crossval import CrossvalReport, write_crossval
from mammovae.page.judgement import Arms, Judgement, judge
from mammovae.page.style import save
from mammovae.statistics import Estimate, PatientBootstrap, flat_keys
from mammovae.study.account import FINDING, readable
from mammovae.study.evaluate import BASELINES
from mammovae.study.faults import fault_metrics, fault_table
from mammovae.study.localisation import Localisation, localise
from mammovae.study.stress import found_share, lesion_metrics, write_stress

REFERENCE_LOSS = "seed_reconstruction_loss"
RATES = (0.05, 0.1, 0.2)
"""Stated false-positive rates at which the realised one is read."""
PREVALENCE = 0.006
"""Cancers found a screened woman: about 6 in 1,000 (Lehman et al., Radiology 283:49, 2017: 5.1)."""
_HIDDEN = ("position", "blob_hit")


def report_pooled(out: Path, data: Data, runs: list[Run]) -> dict[str, Any]:
    """Pool the folds' scores; write scores.csv, results.csv, charts and report.html; return the flat metrics."""
    parts = [pd.read_parquet(out / f"fold-{fold}" / "scores.parquet") for fold in range(len(runs))]
    table = pd.concat(parts, ignore_index=True)
    with replacing(out / "scores.csv") as partial:
        listed = table.assign(
            categories=[" ".join(names) for names in table["categories"]],
            severity=[" ".join(names) for names in table["severity"]],
        )
        listed.drop(columns=list(_HIDDEN)).to_csv(partial, index=False, float_format="%.6g")
    fused = runs[0].settings.fused
    scores = {FINDING: "Finding score"} | {name: readable(name) for name in fused if len(fused) > 1}
    baselines = BASELINES | {REFERENCE_LOSS: "Seed preset's loss"}
    judgement = judge(table, scores, baselines, strata="fold")
    known = table[table["healthy"].notna()].reset_index(drop=True)
    finding = ~known["healthy"].astype(bool).to_numpy()
    bootstrap = PatientBootstrap(known["patient_id"].astype(str), finding, known["fold"].tolist())
    arms = Arms.of(finding, known["patient_id"].astype(str).to_numpy(str))
    extra = _more(bootstrap, known, arms)
    metrics = judgement.metrics() | flat_keys(extra)
    places = _localised(out, table, runs, bootstrap, arms)
    if places is not None:
        metrics |= places.metrics()
        froc = froc_curve(list(places.froc), list(places.froc.values()), places.pointing.n_finding)
        save(froc, out / "froc.png")
    lesions = pd.concat([pd.read_parquet(out / f"fold-{fold}" / "lesions.parquet") for fold in range(len(runs))])
    metrics |= lesion_metrics(lesions)
    faults = [out / f"fold-{fold}" / "faults.parquet" for fold in range(len(runs))]
    planted = pd.concat([pd.read_parquet(path) for path in faults]) if all(p.exists() for p in faults) else None
    if planted is not None:
        metrics |= fault_metrics(planted)
        write_stress(out, data, planted, lesions)
    calibration = _realised(table, runs)
    metrics |= {f"rate_{row['stated']:g}_{key}".replace(".", "_"): row[key] for row in calibration for key in row}
    rows = results(judgement, extra)
    with replacing(out / "results.csv") as partial:
        rows.to_csv(partial, index=False)
    report = CrossvalReport(
        title=f"mammovae: {data.manifest['inputs']['kind']}, preset {runs[0].manifest['preset']}, {len(runs)} folds",
        judgement=judgement,
        results=rows,
        localisation=None if places is None else places.metrics(),
        froc=None if places is None else out / "froc.png",
        found=found_share(lesions),
        pointed=found_share(lesions, "hit"),
        faults=None if planted is None else fault_table(planted),
        calibration=calibration,
        precision=_predictive(known, arms),
        prevalence=PREVALENCE,
        settings=runs[0].settings.model_dump(exclude_none=True),
        provenance={key: runs[0].manifest[key] for key in ("versions", "git_commit", "machine")},
    )
    write_crossval(out / "report.html", report)
    return metrics


def _more(bootstrap: PatientBootstrap, known: pd.DataFrame, arms: Arms) -> dict[str, Estimate]:
    """Return bilateral scores in both arms where the other breast is there, the patient level, and both arms as one."""
    found = {}
    for name in (str(name) for name in known if str(name).endswith("_bilateral")):
        there = known[name].notna().to_numpy()
        for arm, keep in (("", arms.main), ("_affected", arms.second)):
            values = known[name].fillna(0).to_numpy()
            found[f"score_{name}_auroc{arm}"] = bootstrap.auroc(values, keep & there).named(name, readable(name))
    finding = known[FINDING].to_numpy()
    found["auroc_both_arms"] = bootstrap.auroc(finding).named(FINDING, "Finding score, both arms")
    found["auroc_both_arms_minus_seed_reconstruction_loss"] = bootstrap.difference(finding, known[REFERENCE_LOSS])
    found["auroc_affected_minus_seed_reconstruction_loss"] = bootstrap.difference(
        finding, known[REFERENCE_LOSS], arms.second
    )
    grouped = known.groupby("patient_id", sort=True)
    worst, healthy = grouped[FINDING].max(), grouped["healthy"].min().astype(bool)
    whole = PatientBootstrap(worst.index.astype(str), ~healthy.to_numpy(), grouped["fold"].first().tolist())
    found["auroc_patients"] = whole.auroc(worst).named(FINDING, "Finding score, by patient")
    return found


def _localised(
    out: Path, table: pd.DataFrame, runs: list[Run], bootstrap: PatientBootstrap, arms: Arms
) -> Localisation | None:
    """Judge the folds' maps against annotated regions; None where no image has any."""
    kept = [np.load(out / f"fold-{fold}" / "maps.npz") for fold in range(len(runs))]
    maps, lesions, breasts = (np.concatenate([part[key] for part in kept]) for key in ("maps", "lesions", "breasts"))
    known = table["healthy"].notna().to_numpy()
    if not lesions[known].any():
        return None
    hits = table.loc[known, "blob_hit"].to_numpy(float)
    return localise(maps[known].astype(np.float32), lesions[known], breasts[known], arms.unaffected, hits, bootstrap)


def _realised(table: pd.DataFrame, runs: list[Run]) -> list[dict[str, float]]:
    """Return for stated false-positive rates the realised one on healthy test images, and its 99 % range.

    The range is that of one calibration of the folds' mean size and all healthy test images: exact for one fold, and
    too wide for several, whose calibrations partly cancel.
    """
    healthy = (table["healthy"] == True).fillna(False).to_numpy(bool)  # noqa: E712 - nullable column
    n = round(np.mean([run.manifest["images"]["calibration"] for run in runs]))
    rows = []
    for rate in RATES:
        low, high = realised_rate_range(n, int(healthy.sum()), rate)
        realised = float(flagged(table.loc[healthy, "finding_p"].to_numpy(), rate).mean())
        rows.append({"stated": rate, "realised": realised, "range_low": low, "range_high": high, "n_calibration": n})
    return rows


def _predictive(known: pd.DataFrame, arms: Arms) -> list[dict[str, float]]:
    """Return sensitivity, and the predictive value at screening prevalence, at stated false-positive rates."""
    rows = []
    for rate in RATES:
        called = flagged(known["finding_p"].to_numpy(), rate)
        sensitivity, false = float(called[arms.finding].mean()), float(called[arms.unaffected].mean())
        share = sensitivity * PREVALENCE + false * (1 - PREVALENCE)
        value = sensitivity * PREVALENCE / share if share else float("nan")
        rows.append({"rate": rate, "sensitivity": sensitivity, "specificity": 1 - false, "predictive_value": value})
    return rows


def results(judgement: Judgement, extra: dict[str, Estimate]) -> pd.DataFrame:
    """Return the one table: a row a score, baseline or group, with n, AUROC and interval in both arms."""
    single = (*judgement.scores, *judgement.baselines)
    rows = [_row(row, judgement.affected.get(row.name), row.kind) for row in single]
    rows += [
        _row(row, extra[f"{key}_affected"], "bilateral")
        for key, row in extra.items()
        if key.startswith("score_") and not key.endswith("_affected")
    ]
    rows.append(_row(extra["auroc_patients"], None, "patient"))
    for heading, table in judgement.tables.items():
        rows += [_row(row, None, heading) for row in table]
    return pd.DataFrame(rows)


def _row(main: Estimate, second: Estimate | None, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": main.label or main.name,
        "n_healthy": main.n_healthy,
        "n_finding": main.n_finding,
        "auroc": main.text,
        "n_healthy_affected": second.n_healthy if second else None,
        "auroc_affected": second.text if second else None,
    }
