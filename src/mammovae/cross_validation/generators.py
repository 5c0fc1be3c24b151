"""Judge a generating preset on small data: patient-wise folds, beside the seed preset, audited together."""

from pathlib import Path
from typing import Any

import numpy as np

from mammovae.auditing.audit import generated_images, healthy_of, real_images
from mammovae.auditing.audit_report import AuditContext, AuditedSets, write_audit_report
from mammovae.auditing.image_set import ImageSet, concatenate
from mammovae.auditing.latent_space import latent_view
from mammovae.auditing.subsampling import BLURRED, audit_sets
from mammovae.config import PresetName, SamplingMode, TrainSettings
from mammovae.cross_validation import reference
from mammovae.data.dataset import Data
from mammovae.generation.generate import generate_from
from mammovae.generation.samplers import DERIVED, LatentSampler
from mammovae.models.base import Generator
from mammovae.models.run import MEMBERS, Run
from mammovae.training.train import train_on

ARMS: tuple[tuple[str, SamplingMode], ...] = (
    ("reference", "vary"),
    ("reference", "prior"),
    ("preset", "prior"),
    ("preset", "latent"),
)
"""Which run's images are judged, and how they were drawn; the last is the one that the others are compared with."""


def only_generates(chosen: TrainSettings) -> bool:
    """Say whether a training's networks make images and none of them is there to detect."""
    return not any(MEMBERS[name].detects for name in chosen.members)


def audit_generators(
    out: Path, data: Data, folds: list[Data], preset: PresetName, chosen: TrainSettings, cache: Path
) -> dict[str, Any]:
    """Train and generate in each fold, audit the pooled sets, write report.html; return the flat metrics.

    folds: data with each fold's splits. Real are the healthy test and calibration films of a fold: its networks have
    learnt from neither. The same network, the preset's, encodes real and generated films of a fold; the seed preset is
    built for as many pixels. What is there already is left as it is.
    """
    reals: list[tuple[ImageSet, ImageSet]] = []
    sets: dict[str, list[ImageSet]] = {}
    failed = 0
    runs = []
    usual = reference.reference_settings(chosen)
    size = next(getattr(chosen, name).size for name in chosen.members if issubclass(MEMBERS[name], Generator))
    if usual.vae.size != size:
        usual = usual.merged({"vae": {"size": size}})
    for number, fold in enumerate(folds):
        folder = out / f"fold-{number}"
        train_on(fold, folder / "preset", preset, chosen, cache)
        train_on(fold, folder / "reference", reference.REFERENCE_PRESET, usual, cache)
        run = Run.open(folder / "preset")
        assert run.generator is not None
        runs.append(run)
        held = np.concatenate([healthy_of(run, fold, split) for split in ("test", "calibration")])
        reals.append(real_images(run, fold, held, size, number))
        count = len(fold.for_training(chosen)["train"])
        for which, mode in ARMS:
            name = f"{preset if which == 'preset' else reference.REFERENCE_PRESET}, {mode}"
            made = folder / name.replace(", ", "-")
            generate_from(
                LatentSampler(Run.open(folder / which), mode, chosen.seed + number, fold if mode in DERIVED else None),
                made,
                count,
            )
            opened = Data.open(made)
            failed += int((opened.index["status"] != "ok").sum())
            sets.setdefault(name, []).append(generated_images(run, opened, number))
    held, train = (concatenate([pair[part] for pair in reals]) for part in (0, 1))
    arms = {name: concatenate(parts) for name, parts in sets.items()}
    encoders = {number: run.generator[1] for number, run in enumerate(runs) if run.generator is not None}
    blurred = {BLURRED: held.blurred(encoders)}
    figures = audit_sets(held, train, arms | blurred, chosen.seed)
    first = {name: films[films.fold == 0] for name, films in arms.items()}
    latent = latent_view(
        runs[0], train[train.fold == 0], held[held.fold == 0], dict(list(first.items())[-1:]), chosen.seed
    )
    audited = AuditedSets(held, train, arms | blurred, [f"{reference.REFERENCE_PRESET}, vary"], failed)
    context = AuditContext(
        f"Generated images, {data.manifest['inputs']['kind']}, {len(folds)} folds",
        data.manifest["by_patient"],
        data.manifest["phantoms"],
        chosen.model_dump(exclude_none=True)
        | {name: runs[0].manifest[name] for name in ("versions", "git_commit", "machine")},
    )
    return write_audit_report(out, audited, figures, context, latent)
