"""What an audit says: its measures as metrics.json, the three conclusions on each generated set, and its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mammovae.auditing.image_set import ImageSet
from mammovae.auditing.privacy import copied_by_chance, nearest_neighbours
from mammovae.auditing.spectrum import frequencies
from mammovae.auditing.subsampling import BLURRED, REAL_REFERENCE, AuditResult
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
    """The sets of images that an audit compares: held-out and training images, and the generated sets by name."""

    held: ImageSet
    train: ImageSet
    arms: Mapping[str, ImageSet]
    """Generated sets, the one that the others are compared with last, and BLURRED."""
    derived: Sequence[str]
    """Arms whose images are each derived from patients' images."""
    n_failed: int
    """Generated images that are not usable."""

    @property
    def generated(self) -> list[str]:
        """Names of the generated sets."""
        return [arm for arm in self.arms if arm != BLURRED]

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
    planned, folds = list(differences.values()), len(np.unique(sets.held.fold)) > 1
    best = sets.arms[sets.generated[-1]]
    real, arms = {"real images": sets.held}, [REAL_REFERENCE, *sets.arms]
    images = {name: _spaced(one.images) for name, one in (real | dict(sets.arms)).items() if name != BLURRED}
    bands = {name: _band(one.spectra) for name, one in (real | dict(sets.arms)).items()}
    distances = _distances(sets.held, sets.train, best)
    label = f"distance of an image of {sets.generated[-1]} to the nearest image"
    rows = [(name.replace("_", " "), row) for name, row in used.items()]
    page = Page(
        "mammovae audit of generated images",
        context.title,
        "Compared with real images of patients whom the network never saw."
        + (" Phantoms, no patients." if context.phantoms else ""),
        [Conclusions(conclusions), Facts(_facts(sets, result, folds))],
        sections.introduction(context.by_patient, bool(sets.derived), not context.phantoms),
        [
            sections.measures_section(arms, result.rows(), planned, sets.derived, context.by_patient),
            sections.images_section(images, sets.derived),
            sections.spectrum_section(frequencies(sets.held.images.shape[-1]), bands),
            sections.nearest_section(_closest(best, sets.train), distances, label, bool(sets.derived)),
            replace(sections.latent_section(latent), note="Drawn from the first fold's run." if folds else ""),
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
    metrics |= {"n_real": len(sets.held), "n_train": len(sets.train)}
    return metrics | {"n_generated": len(sets.arms[sets.generated[-1]]), "n_failed": sets.n_failed}


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


def _facts(sets: AuditedSets, result: AuditResult, folds: bool) -> dict[str, str]:
    patients = [len(np.unique(one.groups)) for one in (sets.held, sets.train)]
    repeated = ", some in several folds" if folds else ""
    usable = ", ".join(f"{len(sets.arms[arm]):,}" for arm in sets.generated)
    return {
        "real": f"{len(sets.held):,} held-out images of {patients[0]:,} patients" + repeated,
        "trained on": f"{patients[1]:,} patients",
        "generated": f"{usable} usable, {sets.n_failed:,} failed",
        "a subsample": f"{result.n:,} against as many",
    }


def _band(spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = np.percentile(spectra, [2.5, 97.5], axis=0)
    return spectra.mean(axis=0), low, high


def _spaced(images: np.ndarray) -> np.ndarray:
    """Return evenly spaced images, so that all folds are shown."""
    return images[np.linspace(0, len(images) - 1, min(_SHOWN, len(images))).round().astype(int)]


def _closest(generated: ImageSet, train: ImageSet) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Return the generated images nearest to a training image of their own fold, the closest first."""
    pairs = []
    for fold in np.unique(generated.fold):
        images, training = generated[generated.fold == fold], train[train.fold == fold]
        distances, indices = nearest_neighbours(images.coarse, training.coarse)
        pairs += list(zip(distances, images.images, training.images[indices], strict=True))
    pairs.sort(key=lambda pair: pair[0])
    return [(image, training, f"distance {distance:.2f}") for distance, image, training in pairs[:_PAIRS]]


def _distances(held: ImageSet, train: ImageSet, generated: ImageSet) -> dict[str, np.ndarray]:
    """Return the distance of each generated image to the nearest of equally many training and held-out images."""
    distances: dict[str, list[np.ndarray]] = {"training images": [], "held-out images": []}
    for fold in np.unique(generated.fold):
        images, sides = generated[generated.fold == fold], [real[real.fold == fold] for real in (train, held)]
        n = min(len(side) for side in sides)
        for name, side in zip(distances, sides, strict=True):
            chosen = np.random.default_rng(int(fold)).permutation(len(side))[:n]
            distances[name].append(nearest_neighbours(images.coarse, side.coarse[chosen])[0])
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
