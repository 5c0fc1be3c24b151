"""Audit a generating preset on small data: patient-wise folds, beside the original preset, measured together."""

from pathlib import Path
from typing import Any

import numpy as np

from mammovae.auditing.audit import fold_images, generated_images, healthy_of
from mammovae.auditing.audit_report import AuditContext, AuditedSets, write_audit_report
from mammovae.auditing.image_set import FoldImages, MeasuredSet
from mammovae.auditing.latent_space import latent_view
from mammovae.auditing.subsampling import audit_sets
from mammovae.config import PresetName, SamplingMode, TrainSettings
from mammovae.data.dataset import Data
from mammovae.evaluation import reference
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
"""Which run's images are audited, and how they were drawn; the last is the one that the others are compared with."""


def only_generates(chosen: TrainSettings) -> bool:
    """Say whether a training's networks make images and none of them detects."""
    return not any(MEMBERS[name].detects for name in chosen.members)


def audit_generators(
    out: Path, data: Data, folds: list[Data], preset: PresetName, chosen: TrainSettings, cache: Path
) -> dict[str, Any]:
    """Train and generate in each fold, audit the pooled sets, write report.html; return the flat metrics.

    folds: data with each fold's splits. Real are the healthy test and calibration images of a fold: its networks were
    trained on neither. The same network, the preset's, encodes real and generated images of a fold; the original preset
    is built for as many pixels. Folders that are there already are kept.
    """
    usual = reference.reference_settings(chosen)
    size = next(getattr(chosen, name).size for name in chosen.members if issubclass(MEMBERS[name], Generator))
    if usual.vae.size != size:
        usual = usual.merged({"vae": {"size": size}})
    audited: list[FoldImages] = []
    runs, failed = [], 0
    for number, fold in enumerate(folds):
        folder = out / f"fold-{number}"
        train_on(fold, folder / "preset", preset, chosen, cache)
        train_on(fold, folder / "reference", reference.REFERENCE_PRESET, usual, cache)
        run = Run.open(folder / "preset")
        assert run.generator is not None
        runs.append(run)
        held = np.concatenate([healthy_of(run, fold, split) for split in ("test", "calibration")])
        generated: dict[str, MeasuredSet] = {}
        for which, mode in ARMS:
            name = f"{preset if which == 'preset' else reference.REFERENCE_PRESET}, {mode}"
            source = fold if mode in DERIVED else None
            sampler = LatentSampler(Run.open(folder / which), mode, chosen.seed + number, source)
            generate_from(sampler, folder / name.replace(", ", "-"), len(fold.for_training(chosen)["train"]))
            opened = Data.open(folder / name.replace(", ", "-"))
            failed += int((opened.index["status"] != "ok").sum())
            generated[name] = generated_images(run, opened, chosen.seed + number)
        audited.append(fold_images(run, fold, held, generated, chosen.seed + number))
    sets = AuditedSets(audited, [f"{reference.REFERENCE_PRESET}, vary"], failed)
    # The latent space shown is that of the first fold's run.
    first, best = audited[0], sets.generated[-1]
    latent = latent_view(runs[0], first.train, first.held, {best: first.generated[best]}, chosen.seed)
    settings = chosen.model_dump(exclude_none=True)
    settings |= {name: runs[0].manifest[name] for name in ("versions", "git_commit", "machine")}
    title = f"Generated images, {data.manifest['inputs']['kind']}, {len(folds)} folds"
    context = AuditContext(title, data.manifest["by_patient"], data.manifest["phantoms"], settings)
    return write_audit_report(out, sets, audit_sets(audited, chosen.seed), context, latent)
