"""What an audit says: its measures as metrics.json, the three conclusions on each generated set, and its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mammovae.auditing.audit_result import BLURRED, REAL_REFERENCE, AuditResult
from mammovae.auditing.image_set import FoldImages, ImageSet, one_each
from mammovae.auditing.privacy import Copies, copied_by_chance, nearest_neighbours
from mammovae.auditing.spectrum import frequencies
from mammovae.report import audit_page as sections
from mammovae.report.audit_page import Conclusion, LatentView
from mammovae.report.page import Conclusions, Facts, Page, limits_section, provenance_section, write_page
from mammovae.statistics.bootstrap import Estimate, flatten_estimates

PLANNED = ("kernel_distance", "spectrum_error")
"""The figures by which sets of generated images are compared in pairs."""
KEYS = {REAL_REFERENCE: "reference", BLURRED: "blurred"}
DISTINGUISHED, SHARE, POOR_SHARE, CHANCE = 0.9, 0.8, 0.4, 0.01
"""Nearly always distinguished; enough of the reference's recall and coverage; hardly any; copies beyond chance."""
_SHOWN, _PAIRS = 12, 12


@dataclass(frozen=True)
class AuditedSets:
    """The sets of images that an audit compares, by fold."""

    folds: Sequence[FoldImages]
    derived: Sequence[str]
    """Arms whose images are each derived from patients' images."""
    n_failed: int
    """Generated images that are not usable."""

    @property
    def generated(self) -> list[str]:
        """Names of the generated sets, the one that the others are compared with last."""
        return list(self.folds[0].generated)

    def made(self, arm: str) -> list[ImageSet]:
        """Return a generated set, by fold."""
        return [fold.generated[arm] for fold in self.folds]

    def key(self, arm: str) -> str:
        """Return the prefix of an arm's keys in metrics.json; a single generated set has none."""
        if arm in KEYS:
            return f"{KEYS[arm]}_"
        return "" if len(self.generated) == 1 else f"{arm.replace(', ', '_')}_"


@dataclass(frozen=True)
class AuditContext:
    """What an audit's page says beside its figures: title, provenance, and what the data are."""

    title: str
    by_patient: bool
    phantoms: bool
    provenance: Mapping[str, Any]
    """Settings of the run, versions, commit, seeds."""


def write_audit_report(
    out: Path,
    sets: AuditedSets,
    result: AuditResult,
    context: AuditContext,
    latent: LatentView | None = None,
    utility: Mapping[str, Estimate] | None = None,
) -> dict[str, Any]:
    """Write report.html and return the flat metrics: KEY for each measure of a single arm, ARM_KEY for several."""
    several = len(sets.generated) > 1
    conclusions = [line for arm in sets.generated for line in _conclusions(arm, result, several, arm in sets.derived)]
    differences, used = _differences(sets, result), utility or {}
    estimates = {key: estimate for key, (_, estimate) in differences.items()}
    metrics = _metrics(sets, result) | flatten_estimates(estimates)
    metrics |= flatten_estimates({f"utility_{key}": estimate for key, estimate in used.items()})
    metrics["conclusions"] = [f"{heading}: {sentence}" for heading, sentence, _ in conclusions]
    planned, best = list(differences.values()), sets.generated[-1]
    arms, held = [REAL_REFERENCE, *sets.generated, BLURRED], [fold.held for fold in sets.folds]
    images = {"real images": _spaced(held)} | {arm: _spaced(sets.made(arm)) for arm in sets.generated}
    measured = {"real images": [one.measures for one in held]}
    measured |= {arm: [fold.generated[arm].measures for fold in sets.folds] for arm in sets.generated}
    measured[BLURRED] = [fold.blurred for fold in sets.folds]
    bands = {name: _band(np.concatenate([one.spectra for one in parts])) for name, parts in measured.items()}
    note = "Drawn from the first fold's run." if len(sets.folds) > 1 else ""
    label = f"distance of an image of {best} to the nearest image"
    rows = [(name.replace("_", " "), row) for name, row in used.items()]
    page = Page(
        "mammovae audit of generated images",
        context.title,
        "Compared with real images of patients whom the network never saw."
        + (" Phantoms, no patients." if context.phantoms else ""),
        [Conclusions(conclusions), Facts(_facts(sets, result))],
        sections.introduction(context.by_patient, bool(sets.derived), not context.phantoms),
        [
            sections.measures_section(arms, result.rows(), planned, sets.derived, context.by_patient),
            sections.images_section(images, sets.derived),
            sections.spectrum_section(frequencies(held[0].size), bands),
            sections.nearest_section(
                _closest(sets, result.near[best], best), _distances(sets, best), label, bool(sets.derived)
            ),
            replace(sections.latent_section(latent), note=note),
            sections.utility_section(rows, context.by_patient),
            limits_section(sections.LIMITS),
            provenance_section(context.provenance, "Settings, versions and seeds."),
        ],
    )
    write_page(out / "report.html", page)
    return metrics


def _metrics(sets: AuditedSets, result: AuditResult) -> dict[str, Any]:
    """Return every measure of every arm, and what is counted over all images, as flat keys."""
    measures = {
        f"{sets.key(arm)}{row.name}": estimate
        for rows in result.rows().values()
        for row in rows
        for arm, estimate in row.estimates.items()
        if estimate is not None
    }
    metrics: dict[str, Any] = dict(flatten_estimates(measures))
    for arm in sets.generated:
        counts = (result.exact[arm], *result.reached[arm])
        keys = ("exact_copies", "training_patients_reached", "held_out_patients_reached")
        metrics |= {f"{sets.key(arm)}{key}": number for key, number in zip(keys, counts, strict=True)}
    metrics |= {"n_real": sum(len(fold.held) for fold in sets.folds)}
    metrics |= {"n_train": sum(len(fold.train) for fold in sets.folds)}
    return metrics | {"n_generated": sum(map(len, sets.made(sets.generated[-1]))), "n_failed": sets.n_failed}


def _differences(sets: AuditedSets, result: AuditResult) -> dict[str, tuple[str, Estimate]]:
    """Return the planned figures of each generated set less those of the last, with a label, by key."""
    *others, best = sets.generated
    return {
        f"{sets.key(arm)}less_{sets.key(best)}{name}".strip("_"): (
            f"{name.replace('_', ' ')}: {arm} less {best}",
            result.difference(arm, best, name),
        )
        for arm in others
        for name in PLANNED
    }


def _facts(sets: AuditedSets, result: AuditResult) -> dict[str, str]:
    real, train = ([getattr(fold, name) for fold in sets.folds] for name in ("held", "train"))
    patients = [len(np.unique(np.concatenate([one.groups for one in parts]))) for parts in (real, train)]
    repeated = ", some in several folds" if len(sets.folds) > 1 else ""
    usable = ", ".join(f"{sum(map(len, sets.made(arm))):,}" for arm in sets.generated)
    return {
        "real": f"{sum(map(len, real)):,} held-out images of {patients[0]:,} patients" + repeated,
        "trained on": f"{patients[1]:,} patients",
        "generated": f"{usable} usable, {sets.n_failed:,} failed",
        "a subsample": f"{result.n:,} against as many; one image a patient: {result.few:,} against as many",
    }


def _band(spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = np.percentile(spectra, [2.5, 97.5], axis=0)
    return spectra.mean(axis=0), low, high


def _spaced(parts: Sequence[ImageSet]) -> np.ndarray:
    """Return evenly spaced images of a set, so that all folds are shown."""
    places = [(part, row) for part in parts for row in range(len(part))]
    shown = np.linspace(0, len(places) - 1, min(_SHOWN, len(places))).round().astype(int)
    return np.concatenate([part.images(np.array([row])) for part, row in (places[place] for place in shown)])


def _closest(sets: AuditedSets, near: Sequence[Copies], arm: str) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Return the generated images nearest to a training image of their own fold, the closest first."""
    places = [(distance, fold, row) for fold, one in enumerate(near) for row, distance in enumerate(one.train_distance)]
    pairs = []
    for distance, fold, row in sorted(places)[:_PAIRS]:
        images, nearest = sets.folds[fold], near[fold].train_row[row]
        generated = images.generated[arm].images(np.array([row]))[0]
        pairs.append((generated, images.train.images(np.array([nearest]))[0], f"distance {distance:.2f}"))
    return pairs


def _distances(sets: AuditedSets, arm: str) -> dict[str, np.ndarray]:
    """Return the distance of each generated image to the nearest of equally many training and held-out patients."""
    distances: dict[str, list[np.ndarray]] = {"training images": [], "held-out images": []}
    for number, fold in enumerate(sets.folds):
        rng = np.random.default_rng(number)
        # One image a patient: others of the same add less than those of another.
        sides = [(side, one_each(side.groups, side.sample, rng)) for side in (fold.train, fold.held)]
        n = min(len(rows) for _, rows in sides)
        for found, (side, rows) in zip(distances.values(), sides, strict=True):
            found.append(nearest_neighbours(fold.generated[arm].coarse, side.coarse[rows[:n]])[0])
    return {name: np.concatenate(parts) for name, parts in distances.items()}


def _conclusions(arm: str, result: AuditResult, several: bool, derived: bool) -> list[Conclusion]:
    """Return in words what the figures of a generated set mean: realism, diversity, privacy."""
    parts = {"Realism": _realism(arm, result), "Diversity": _diversity(arm, result)}
    parts["Privacy"] = _privacy(arm, result, derived)
    return [(heading + (f" of {arm}" if several else ""), *part) for heading, part in parts.items()]


def _text(result: AuditResult, arm: str, name: str) -> str:
    estimate = result.estimate(arm, name)
    return "–" if estimate is None else estimate.text


def _realism(arm: str, result: AuditResult) -> tuple[str, sections.Grade]:
    name = "two_sample_auroc"
    figures = (
        f"A classifier distinguishes the images from real ones with an AUROC of {_text(result, arm, name)} (real from "
        f"real: {_text(result, REAL_REFERENCE, name)})"
    )
    above = result.difference(arm, REAL_REFERENCE, name)
    if result.draws[arm][name].mean() >= DISTINGUISHED:
        return f"Unrealistic to these features. {figures}.", "bad"
    if above.low is not None and above.low > 0:
        return f"Near to real, and still distinguished. {figures}.", "caution"
    return f"Not distinguished from real images at this number. {figures}.", "good"


def _diversity(arm: str, result: AuditResult) -> tuple[str, sections.Grade]:
    names = ("recall_share", "coverage_share")
    recall, coverage = (_text(result, arm, name) for name in names)
    figures = f"Recall is {recall} and coverage {coverage} of what two halves of the real images reach"
    least = min(result.draws[arm][name].mean() for name in names)
    if least < POOR_SHARE:
        return f"No diversity to speak of. {figures}.", "bad"
    if least < SHARE:
        return f"Less varied than real images. {figures}.", "caution"
    return f"About as varied as real images. {figures}.", "good"


def _privacy(arm: str, result: AuditResult, derived: bool) -> tuple[str, sections.Grade]:
    name = "membership_auroc"
    exact, reached, pool = result.exact[arm], result.reached[arm], result.pool
    figures = f"Membership inference from the images alone: AUROC {_text(result, arm, name)}, 0.5 is chance"
    if exact:
        return f"Copied: {exact:,} images have the very pixels of training images. {figures}.", "bad"
    if copied_by_chance(*reached, *pool) < CHANCE:
        nearer = f"images lie nearer to images of {reached[0]:,} of {pool[0]:,} training patients than two patients' do"
        return f"Copied: {nearer}, and to images of {reached[1]:,} of {pool[1]:,} held-out ones. {figures}.", "bad"
    if derived:
        return f"Each image is derived from patients' images and must be handled like them. {figures}.", "bad"
    if np.percentile(result.draws[arm][name], 2.5) > 0.5:
        return f"No copies were found, but the images show whom the network learned from. {figures}.", "caution"
    return f"No copies were found, and the images do not show whom the network learned from. {figures}.", "good"
