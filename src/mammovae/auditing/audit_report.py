"""What an audit's page and metrics.json say: the measures of every set, their differences, and the conclusions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mammovae.auditing.image_set import ImageSet
from mammovae.auditing.privacy import copied_by_chance, nearest_neighbours
from mammovae.auditing.spectrum import frequencies
from mammovae.auditing.subsampling import BLURRED, REAL_REFERENCE, AuditResult
from mammovae.data.dataset import Data
from mammovae.report.audit_page import AuditReport, Kind, Latent, Spectra, write_audit
from mammovae.statistics.bootstrap import Estimate, flatten_estimates

PLANNED = ("kernel_distance", "spectrum_error")
"""The figures by which sets of generated images are compared in pairs."""
KEYS = {REAL_REFERENCE: "floor", BLURRED: "blurred"}
TOLD_APART, SHARE, POOR_SHARE, CHANCE = 0.9, 0.8, 0.4, 0.01
"""Told apart nearly always; enough of the floor's recall and coverage; hardly any; more copies than chance allows."""
_PAIRS = 12


def write_audit_report(
    out: Path,
    held: ImageSet,
    train: ImageSet,
    arms: Mapping[str, ImageSet],
    figures: AuditResult,
    data: Data,
    *,
    title: str,
    latent: Latent | None,
    derived: Sequence[str],
    failed: int,
    utility: Mapping[str, Estimate] | None,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write report.html and return the flat metrics: KEY for each measure of the first arm, ARM_KEY for the others."""
    judged = [arm for arm in arms if arm != BLURRED]
    best = judged[-1]
    sections = figures.rows()
    metrics: dict[str, Any] = {}
    for rows in sections.values():
        for row in rows:
            for arm, estimate in row.estimates.items():
                if estimate is not None:
                    metrics |= flatten_estimates({f"{_key(arm, judged)}{row.name}": estimate})
    differences = {
        f"{_key(arm, judged)}less_{_key(best, judged)}{name}".strip("_"): (
            f"{name.replace('_', ' ')}: {arm} less {best}",
            figures.difference(arm, best, name),
        )
        for arm in judged[:-1]
        for name in PLANNED
    }
    metrics |= flatten_estimates({key: estimate for key, (_, estimate) in differences.items()})
    metrics |= flatten_estimates({f"utility_{key}": estimate for key, estimate in (utility or {}).items()})
    verdicts = [line for arm in judged for line in _verdicts(arm, figures, len(judged) > 1, arm in derived)]
    for arm in judged:
        prefix, (train_reached, held_reached) = _key(arm, judged), figures.reached[arm]
        metrics |= {
            f"{prefix}exact_copies": figures.exact[arm],
            f"{prefix}training_patients_reached": train_reached,
            f"{prefix}held_out_patients_reached": held_reached,
        }
    metrics |= {"n_real": len(held), "n_train": len(train), "n_generated": len(arms[best]), "n_failed": failed}
    metrics["verdicts"] = [f"{heading}: {sentence}" for heading, sentence, _ in verdicts]
    again = ", some in several folds" if len(np.unique(held.fold)) > 1 else ""
    report = AuditReport(
        title=title,
        subtitle="Judged beside real films of patients whom the network never saw.",
        facts={
            "real": f"{len(held):,} held-out films of {len(np.unique(held.groups)):,} patients" + again,
            "trained on": f"{len(np.unique(train.groups)):,} patients",
            "generated": ", ".join(f"{len(arms[arm]):,}" for arm in judged) + f" usable, {failed:,} failed",
            "a subsample": f"{figures.counts[0]:,} against as many",
        },
        verdicts=verdicts,
        arms=[REAL_REFERENCE, *arms],
        derived=derived,
        sections=sections,
        differences=list(differences.values()),
        images={"real films": _spaced(held.images), **{arm: _spaced(arms[arm].images) for arm in judged}},
        spectra=Spectra(
            frequencies(held.images.shape[-1]),
            {"real films": _band(held.spectra)} | {arm: _band(films.spectra) for arm, films in arms.items()},
        ),
        pairs=_closest(arms[best], train),
        distances=_distances(held, train, arms[best]),
        distance_label=f"distance of an image of {best} to the nearest film",
        latent=latent,
        utility=None if utility is None else [(name.replace("_", " "), estimate) for name, estimate in utility.items()],
        settings=settings,
        provenance=provenance,
        notes={"latent": "Drawn from the first fold's run."} if len(np.unique(held.fold)) > 1 else {},
        by_patient=data.manifest["by_patient"],
        phantoms=data.manifest["phantoms"],
    )
    write_audit(out / "report.html", report)
    return metrics


def _key(arm: str, judged: Sequence[str]) -> str:
    """Return the prefix of an arm's keys in metrics.json; a single generated set has none."""
    if arm in KEYS:
        return f"{KEYS[arm]}_"
    return "" if len(judged) == 1 else f"{arm.replace(', ', '_')}_"


def _band(spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = np.percentile(spectra, [2.5, 97.5], axis=0)
    return spectra.mean(axis=0), low, high


def _spaced(images: np.ndarray) -> np.ndarray:
    """Return evenly spaced images, so that all folds are shown."""
    return images[np.linspace(0, len(images) - 1, min(12, len(images))).round().astype(int)]


def _closest(films: ImageSet, train: ImageSet) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Return the generated images nearest to a training film of their own fold, the closest first."""
    found = []
    for fold in np.unique(films.fold):
        made, inside = films[films.fold == fold], train[train.fold == fold]
        distance, index = nearest_neighbours(made.coarse, inside.coarse)
        found += [
            (float(d), made.images[row], inside.images[i])
            for row, (d, i) in enumerate(zip(distance, index, strict=True))
        ]
    found.sort(key=lambda pair: pair[0])
    return [(made, film, f"distance {distance:.2f}") for distance, made, film in found[:_PAIRS]]


def _distances(held: ImageSet, train: ImageSet, films: ImageSet) -> dict[str, np.ndarray]:
    """Return the distance of each generated image to the nearest of equally many training and held-out films."""
    found: dict[str, list[np.ndarray]] = {"training films": [], "held-out films": []}
    for fold in np.unique(films.fold):
        made, sides = films[films.fold == fold], [real[real.fold == fold] for real in (train, held)]
        n = min(len(side) for side in sides)
        for name, side in zip(found, sides, strict=True):
            chosen = np.random.default_rng(int(fold)).permutation(len(side))[:n]
            found[name].append(nearest_neighbours(made.coarse, side.coarse[chosen])[0])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _verdicts(arm: str, figures: AuditResult, several: bool, derived: bool) -> list[tuple[str, str, Kind]]:
    """Say in words what the figures mean."""

    def mean(name: str) -> float:
        return float(figures.draws[arm][name].mean())

    def text(name: str, of: str = arm) -> str:
        estimate = figures.estimate(of, name)
        return "–" if estimate is None else estimate.text

    head = f" of {arm}" if several else ""
    apart = (
        f"A classifier tells the images from real ones with an AUROC of {text('two_sample_auroc')} (real from real: "
        f"{text('two_sample_auroc', REAL_REFERENCE)})"
    )
    above = figures.difference(arm, REAL_REFERENCE, "two_sample_auroc")
    if mean("two_sample_auroc") >= TOLD_APART:
        real: tuple[str, Kind] = (f"Unrealistic to these features. {apart}.", "bad")
    elif above.low is not None and above.low > 0:
        real = (f"Near to real, and still told apart. {apart}.", "caution")
    else:
        real = (f"Not told from real films at this number. {apart}.", "good")
    shares = (
        f"Recall is {text('recall_share')} and coverage {text('coverage_share')} of what two halves of the real films "
        "reach"
    )
    least = min(mean("recall_share"), mean("coverage_share"))
    if least < POOR_SHARE:
        varied: tuple[str, Kind] = (f"No diversity to speak of. {shares}.", "bad")
    elif least < SHARE:
        varied = (f"Less varied than real films. {shares}.", "caution")
    else:
        varied = (f"About as varied as real films. {shares}.", "good")
    private = _privacy_verdict(arm, figures, derived, text("membership_auroc"))
    return [
        (f"Realism{head}", real[0], real[1]),
        (f"Diversity{head}", varied[0], varied[1]),
        (f"Privacy{head}", private[0], private[1]),
    ]


def _privacy_verdict(arm: str, figures: AuditResult, derived: bool, member: str) -> tuple[str, Kind]:
    exact, reached, pool = figures.exact[arm], figures.reached[arm], figures.pool
    said = f"Membership inference from the images alone: AUROC {member}, 0.5 is chance"
    if exact:
        return f"Copied: {exact:,} images have the very pixels of training films. {said}.", "bad"
    if copied_by_chance(*reached, *pool) < CHANCE:
        nearer = f"images lie nearer to films of {reached[0]:,} of {pool[0]:,} training patients than two patients' do"
        return f"Copied: {nearer}, and to films of {reached[1]:,} of {pool[1]:,} held-out ones. {said}.", "bad"
    if derived:
        return f"Each image is derived from patients' images and must be handled like them. {said}.", "bad"
    if np.percentile(figures.draws[arm]["membership_auroc"], 2.5) > 0.5:
        return f"No copies were found, but the images show whom the network learnt from. {said}.", "caution"
    return f"No copies were found, and the images do not show whom the network learnt from. {said}.", "good"
