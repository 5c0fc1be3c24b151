"""Audit a set of generated images: realistic, varied, nobody's copy, and of what use."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mammovae import config
from mammovae.config import InputError, PresetName
from mammovae.data.dataset import Data
from mammovae.folders import Stage, file_hash, read_json, write_json
from mammovae.generation.privacy import copied_by_chance, nearest
from mammovae.generation.sample import DERIVED
from mammovae.generation.spectrum import frequencies
from mammovae.model.member import Generator
from mammovae.model.run import Run
from mammovae.page.audit import AuditReport, Kind, Latent, Spectra, write_audit
from mammovae.statistics import Estimate, PatientBootstrap, flat_keys
from mammovae.study.evaluate import positions_to_judge, scores_table
from mammovae.study.fidelity import BLURRED, FLOOR, Audited, Films, audit_sets
from mammovae.study.latent import latent_view
from mammovae.study.leaks import unseen
from mammovae.study.train import train_on

PLANNED = ("kernel_distance", "spectrum_error")
"""The figures by which sets of generated images are compared in pairs."""
KEYS = {FLOOR: "floor", BLURRED: "blurred"}
TOLD_APART, SHARE, POOR_SHARE, CHANCE = 0.9, 0.8, 0.4, 0.01
"""Told apart nearly always; enough of the floor's recall and coverage; hardly any; more copies than chance allows."""
_PAIRS = 12


def audit(
    generated: Path | str,
    run: Path | str,
    data: Path | str,
    *,
    out: Path | str,
    seed: int = 0,
    use: PresetName | None = None,
) -> dict[str, Any]:
    """Judge generated images against the real ones of a DATA folder, and return what metrics.json says.

    generated: a DATA folder that generate wrote (or prepare, from another generator's files); run: what made it; data:
    the DATA folder that the run was trained on, whose healthy test images, of patients that the run has not seen, stand
    for "real". use names a preset: it is trained on the generated and on as many real images, and both are judged on
    the real test images, which reads their labels. The folder out gets metrics.json (flat keys, intervals as KEY_low
    and KEY_high) and report.html.
    """
    opened, real, made = Run.open(run), Data.open(data), Data.open(generated)
    inputs = {
        "run": str(opened.path.resolve()),
        "weights": json.dumps(opened.manifest["weights"]),
        "data": str(real.path.resolve()),
        "index": file_hash(real.path / "index.parquet"),
        "generated": str(made.path.resolve()),
        "images": file_hash(made.path / "images.npy"),
    }
    with Stage(Path(out), "audit", {"seed": seed, "use": use}, inputs) as stage:
        if not stage.done:
            held, train = real_films(opened, real, made.size)
            arm = arm_name(opened, made)
            arms = {arm: generated_films(opened, made), BLURRED: held.blurred({0: encoder(opened)})}
            figures = audit_sets(held, train, arms, seed)
            derived = [arm] if made.manifest.get("sampling", {}).get("mode") in DERIVED else []
            used = None if use is None else judge_use(stage.out, real, made, use, seed)
            metrics = report_audit(
                stage.out,
                held,
                train,
                arms,
                figures,
                real,
                title=f"Audit of {len(arms[arm]):,} generated images",
                latent=None if opened.generator is None else latent_view(opened, train, held, {arm: arms[arm]}, seed),
                derived=derived,
                use=used,
                provenance={"seed": seed}
                | {name: opened.manifest[name] for name in ("versions", "git_commit", "weights")},
            )
            write_json(stage.out / "metrics.json", metrics)
            stage.finish()
        return read_json(stage.out / "metrics.json")


def arm_name(run: Run, made: Data) -> str:
    """Return what a generated set is called in tables: "generate, density", or "generated" where that is not known."""
    mode = made.manifest.get("sampling", {}).get("mode")
    return "generated" if mode is None else f"{run.manifest['preset']}, {mode}"


def encoder(run: Run) -> Generator | None:
    """Return the member that encodes images for the encoder's distances."""
    return None if run.generator is None else run.generator[1]


def real_films(run: Run, data: Data, size: int, fold: int = 0) -> tuple[Films, Films]:
    """Return the held-out healthy images, of patients that the run never saw, and its training images, at size."""
    chosen = run.settings
    test = data.select("test", side=chosen.side, view=chosen.view)
    held = unseen(run, data, test[data.healthy(test)])
    if not len(held):
        raise InputError(f"{data.path} has no healthy test image that {run.path} has not seen: nothing to audit by")
    train = data.for_training(chosen)["train"]
    held_films, train_films = (_films(data, positions, size, encoder(run), fold) for positions in (held, train))
    return held_films, train_films


def generated_films(run: Run, made: Data, fold: int = 0) -> Films:
    """Return the usable images of a generated DATA folder."""
    usable = np.flatnonzero((made.index["status"] == "ok").to_numpy(bool))
    if not len(usable):
        raise InputError(f"{made.path} has no usable image: nothing to audit")
    return _films(made, usable, made.size, encoder(run), fold)


def _films(data: Data, positions: np.ndarray, size: int, encode: Generator | None, fold: int) -> Films:
    batch = data.batch(positions, size)
    images = np.rint(batch.image[:, 0].numpy() * 65535).astype(np.uint16)
    masks = batch.mask[:, 0].numpy().astype(np.uint8)
    groups = data.index["patient_id"].iloc[positions].astype(str).tolist()
    # Real and generated films alike are encoded without their side, view and density, so that none is favoured.
    return Films.of(images, masks, groups, encode, fold)


def report_audit(
    out: Path,
    held: Films,
    train: Films,
    arms: Mapping[str, Films],
    figures: Audited,
    data: Data,
    *,
    title: str,
    latent: Latent | None,
    derived: Sequence[str],
    use: Mapping[str, Estimate] | None,
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
                    metrics |= flat_keys({f"{_key(arm, judged)}{row.name}": estimate})
    differences = {
        f"{_key(arm, judged)}less_{_key(best, judged)}{name}".strip("_"): (
            f"{name.replace('_', ' ')}: {arm} less {best}",
            figures.difference(arm, best, name),
        )
        for arm in judged[:-1]
        for name in PLANNED
    }
    metrics |= flat_keys({key: estimate for key, (_, estimate) in differences.items()})
    metrics |= flat_keys({f"use_{key}": estimate for key, estimate in (use or {}).items()})
    verdicts = [
        line for arm in judged for line in _verdicts(arm, figures, len(judged) > 1, arm in derived, held, train)
    ]
    metrics |= {"n_real": len(held), "n_train": len(train), "n_generated": len(arms[best])}
    metrics["verdicts"] = [f"{heading}: {sentence}" for heading, sentence, _ in verdicts]
    report = AuditReport(
        title=title,
        facts={
            "real": f"{len(held):,} held-out films of {len(np.unique(held.groups)):,} patients",
            "trained on": f"{len(np.unique(train.groups)):,} patients",
            "generated": ", ".join(f"{len(arms[arm]):,}" for arm in judged),
            "a subsample": f"{figures.counts[best][0]:,} against as many",
        },
        verdicts=verdicts,
        arms=[FLOOR, *arms],
        derived=derived,
        sections=sections,
        differences=list(differences.values()),
        images={"real films": held.images, **{arm: _spaced(arms[arm].images) for arm in judged}},
        spectra=Spectra(
            frequencies(held.images.shape[-1]),
            {"real films": _band(held.spectra)} | {arm: _band(films.spectra) for arm, films in arms.items()},
        ),
        pairs=_closest(arms[best], train),
        distances=_distances(held, train, arms[best]),
        distance_label=f"distance to the nearest image of {best}",
        latent=latent,
        use=None if use is None else [(name.replace("_", " "), estimate) for name, estimate in use.items()],
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


def _closest(films: Films, train: Films) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Return the generated images nearest to a training film of their own fold, the closest first."""
    found = []
    for fold in np.unique(films.fold):
        made, inside = films[films.fold == fold], train[train.fold == fold]
        distance, index = nearest(made.coarse, inside.coarse)
        found += [
            (float(d), made.images[row], inside.images[i])
            for row, (d, i) in enumerate(zip(distance, index, strict=True))
        ]
    found.sort(key=lambda pair: pair[0])
    return [(made, film, f"distance {distance:.2f}") for distance, made, film in found[:_PAIRS]]


def _distances(held: Films, train: Films, films: Films) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {"training films": [], "held-out films": []}
    for fold in np.unique(films.fold):
        made = films[films.fold == fold]
        for name, real in (("training films", train), ("held-out films", held)):
            found[name].append(nearest(real[real.fold == fold].coarse, made.coarse)[0])
    return {name: np.concatenate(parts) for name, parts in found.items()}


class Interval(NamedTuple):
    """A figure that is there, with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Audited, arm: str, name: str) -> "Interval":
        draws = figures.draws[arm][name]
        return cls(float(draws.mean()), *map(float, np.percentile(draws, [2.5, 97.5])))

    @property
    def text(self) -> str:
        return Estimate(*self, 0, 0).text


def _verdicts(
    arm: str, figures: Audited, several: bool, derived: bool, held: Films, train: Films
) -> list[tuple[str, str, Kind]]:
    """Say in words what the figures mean; the bounds were set before any set was judged by them."""

    def figure(name: str, of: str = arm) -> Interval:
        return Interval.of(figures, of, name)

    head = f" of {arm}" if several else ""
    told, floor = figure("two_sample_auroc"), figure("two_sample_auroc", FLOOR)
    apart = f"A classifier tells the images from real ones with an AUROC of {told.text} (real from real: {floor.text})"
    if told.value >= TOLD_APART:
        real: tuple[str, Kind] = (f"Unrealistic to these features. {apart}.", "bad")
    elif told.low > floor.high:
        real = (f"Near to real, and still told apart. {apart}.", "caution")
    else:
        real = (f"Not told from real films at this number. {apart}.", "good")
    recall, coverage = figure("recall_share"), figure("coverage_share")
    shares = f"Recall is {recall.text} and coverage {coverage.text} of what two halves of the real films reach"
    least = min(recall.value, coverage.value)
    if least < POOR_SHARE:
        varied: tuple[str, Kind] = (f"No diversity to speak of. {shares}.", "bad")
    elif least < SHARE:
        varied = (f"Less varied than real films. {shares}.", "caution")
    else:
        varied = (f"About as varied as real films. {shares}.", "good")
    private = _privacy_verdict(figure, figures.near[arm], derived, held, train)
    return [
        (f"Realism{head}", real[0], real[1]),
        (f"Diversity{head}", varied[0], varied[1]),
        (f"Privacy{head}", private[0], private[1]),
    ]


def _privacy_verdict(
    figure: Callable[[str], Interval], near: tuple[int, int], derived: bool, held: Films, train: Films
) -> tuple[str, Kind]:
    exact, member = figure("exact_copies"), figure("membership_auroc")
    said = f"Membership inference from the images alone: AUROC {member.text}, 0.5 is chance"
    if exact.value > 0:
        return f"Copied: a share of {exact.value:.3f} has the very pixels of training films. {said}.", "bad"
    if copied_by_chance(*near, len(train), len(held)) < CHANCE:
        nearer = f"{near[0]:,} images are nearer to a training film than two patients' films are"
        return f"Copied: {nearer}, and only {near[1]:,} to a held-out one. {said}.", "bad"
    if derived:
        return f"Each image is derived from a patient's and must be handled like it. {said}.", "bad"
    if member.low > 0.5:
        return f"No copies were found, but the images show whom the network learnt from. {said}.", "caution"
    return f"No copies were found, and the images do not show whom the network learnt from. {said}.", "good"


def judge_use(out: Path, real: Data, made: Data, preset: PresetName, seed: int) -> dict[str, Estimate]:
    """Train a preset on generated and on as many real images, and judge both on the same real test images."""
    numbers = [len(data.for_training(config.preset(preset))["train"]) for data in (real, made)]
    chosen = config.preset(preset, {"limit": min(numbers), "seed": seed})
    tables = {}
    for name, data in (("real", real), ("generated", made)):
        train_on(data, out / f"use-{name}", preset, chosen)
        run = Run.open(out / f"use-{name}")
        positions, _ = positions_to_judge(Run.open(out / "use-real"), real, "full", seed)
        tables[name] = scores_table(run, real, positions)
    known = tables["real"][tables["real"]["healthy"].notna()].index
    finding = (~tables["real"].loc[known, "healthy"].astype(bool)).to_numpy()
    bootstrap = PatientBootstrap(tables["real"].loc[known, "patient_id"].astype(str), finding)
    scores = {name: table.loc[known, "finding"].to_numpy(np.float64) for name, table in tables.items()}
    return {
        f"{preset}_trained_on_real": bootstrap.auroc(scores["real"]),
        f"{preset}_trained_on_generated": bootstrap.auroc(scores["generated"]),
        "generated_less_real": bootstrap.difference(scores["generated"], scores["real"]),
    }
