"""What an evaluation says of a table of scores: headline, baselines, categories, densities, and metrics.json's keys."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mammovae.statistics import RESAMPLES, Estimate, Floats, PatientBootstrap, RocCurve, numbers, spearman

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Judgement:
    """All that an evaluation says of one table of scores; the first score is the headline."""

    scores: tuple[Estimate, ...]
    baselines: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]
    """Headline minus each baseline, in the same resamples."""
    average_precision: Estimate
    unaffected: Estimate | None
    """The headline against healthy images of patients without any finding; None where that is no other group."""
    by_category: tuple[Estimate, ...]
    by_density: tuple[Estimate, ...]
    curve: RocCurve | None
    baseline_curves: tuple[RocCurve, ...]
    correlations: Mapping[str, float | None]
    """Spearman correlation of the headline with each baseline (by name), among healthy images."""
    groups: Mapping[str, Floats]
    """The headline's values by group: healthy, finding, then each category."""
    n_unknown: int
    n_patients: int
    resamples: int

    @property
    def headline(self) -> Estimate:
        """The first score's AUROC."""
        return self.scores[0]

    def metrics(self) -> dict[str, float | int | None]:
        """Return the flat keys of metrics.json: auroc, auroc_low, auroc_high, auroc_mass, baseline_area_auroc, ..."""
        rows = {"auroc": self.headline, "average_precision": self.average_precision}
        rows |= {f"score_{row.name}_auroc": row for row in self.scores[1:]}
        rows |= {f"auroc_{row.name}": row for row in self.by_category}
        rows |= {f"auroc_density_{row.name}": row for row in self.by_density}
        rows |= {f"baseline_{row.name}_auroc": row for row in self.baselines}
        rows |= {f"auroc_minus_{row.name}": row for row in self.differences}
        if self.unaffected:
            rows["auroc_unaffected"] = self.unaffected
        flat: dict[str, float | int | None] = {
            "n_healthy": self.headline.n_healthy,
            "n_finding": self.headline.n_finding,
            "n_unknown": self.n_unknown,
            "n_patients": self.n_patients,
        }
        for key, row in rows.items():
            flat |= {key: row.value, f"{key}_low": row.low, f"{key}_high": row.high}
        return flat


def judge(
    table: "DataFrame",
    scores: Mapping[str, str],
    baselines: Mapping[str, str] | None = None,
    strata: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Judgement:
    """Judge scores (column: label; the first is the headline) and trivial baselines against the table's health.

    table: a row an image with patient_id, healthy (true, false, null: in neither arm, but counted), a column for each
    score (higher = further from healthy), and where known categories (a list of names) and density. strata names a
    column, such as the fold. A NaN in a score is refused with its column: leave out failed images first.
    """
    known = table["healthy"].notna().to_numpy()
    rows = table[known]
    finding = np.array([not healthy for healthy in rows["healthy"]], bool)
    baselines = baselines or {}
    columns = {name: numbers(rows[name], name) for name in [*scores, *baselines]}
    patients = np.array([str(patient) for patient in rows["patient_id"]])
    bootstrap = PatientBootstrap(patients, finding, rows[strata].tolist() if strata else None, resamples, seed)
    first = next(iter(scores))
    main = columns[first]
    categories: list[Collection[str]] = [_names(value) for value in rows["categories"]] if "categories" in rows else []
    density = rows["density"].fillna("").astype(str).tolist() if "density" in rows else []
    held = {name: np.array([name in names for names in categories]) for name in sorted(set().union(*categories))}
    arms = {name: mask & finding for name, mask in held.items() if (mask & finding).any()}
    both = finding.any() and not finding.all()
    unaffected = finding | ~np.isin(patients, patients[finding])
    return Judgement(
        scores=_rows(bootstrap, columns, scores, "score"),
        baselines=_rows(bootstrap, columns, baselines, "baseline"),
        differences=tuple(
            bootstrap.difference(main, columns[name]).named(name, label, "difference")
            for name, label in baselines.items()
        ),
        average_precision=bootstrap.average_precision(main),
        unaffected=None if unaffected.all() or not both else bootstrap.auroc(main, unaffected),
        by_category=tuple(
            bootstrap.auroc(main, mask | ~finding).named(key(name), name, "category") for name, mask in arms.items()
        ),
        by_density=tuple(
            bootstrap.auroc(main, np.array(density) == name).named(key(name), name, "density")
            for name in sorted(set(density) - {""})
        ),
        curve=_curve(bootstrap, main, first, scores[first], "score") if both else None,
        baseline_curves=tuple(
            _curve(bootstrap, columns[name], name, label, "baseline")
            for name, label in (baselines if both else {}).items()
        ),
        correlations={name: spearman(main[~finding], columns[name][~finding]) for name in baselines},
        groups={"healthy": main[~finding], "finding": main[finding]} | {name: main[arms[name]] for name in arms},
        n_unknown=int((~known).sum()),
        n_patients=len(set(patients)),
        resamples=resamples,
    )


def key(name: str) -> str:
    """Return a name as a key of metrics.json: "Suspicious Calcification" -> "suspicious_calcification"."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _rows(
    bootstrap: PatientBootstrap, columns: Mapping[str, Floats], labels: Mapping[str, str], kind: str
) -> tuple[Estimate, ...]:
    return tuple(bootstrap.auroc(columns[name]).named(name, label, kind) for name, label in labels.items())


def _curve(bootstrap: PatientBootstrap, values: Floats, name: str, label: str, kind: str) -> RocCurve:
    curve = bootstrap.roc(values)
    return replace(curve, estimate=curve.estimate.named(name, label, kind))


def _names(value: Any) -> Collection[str]:
    """Return the categories of one image; a missing cell is none, and an array (as parquet gives) is a list."""
    return [] if value is None or isinstance(value, float) else [str(name) for name in value]
