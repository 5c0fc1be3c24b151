"""What drawing lesions takes of a training step of the segmenters, at the sizes of the preset."""

import numpy as np
import torch
from gpu_study import wait
from measure import Line, Scope, race

from mammovae.config import LesionKind, preset
from mammovae.data.dataset import Batch
from mammovae.models.noise import ImageNoise, step_keys
from mammovae.models.run import build_members, device
from mammovae.models.training_lesions import insert_lesions
from mammovae.training.distributed import ProcessGroup
from mammovae.training.loader import StepRows
from mammovae.training.step import TrainingStep


def lines(row: str, scope: Scope) -> list[Line]:
    """Measure train-lesions; the ratio is the share of a whole step that lesions take."""
    settings = preset("detect", {"members": ("lesion_segmenter", "patch_segmenter")})
    count, rounds = scope.pick((8, 5), (1, 1))
    positions = np.arange(count)
    rows, keys = StepRows(positions, 0, 0, count, count), step_keys(0, 0, positions, 0).to(device())
    measured = []
    for name, member in build_members(settings).items():
        shape = (count, 1, member.size, member.size)
        batch = Batch(torch.rand(shape), torch.ones(shape), mm_per_pixel=torch.full((count,), 180 / member.size))
        batch, step = batch.to(device()), TrainingStep(member.train(), settings, ProcessGroup(), device())

        def train(batch: Batch = batch, step: TrainingStep = step) -> None:
            step(batch, keys, rows)
            wait()

        def insert(batch: Batch = batch, kinds: tuple[LesionKind, ...] = member.inserted_kinds) -> None:
            insert_lesions(batch, ImageNoise(keys[:-1]), kinds)
            wait()

        race((train, insert), 1)  # not counted: memory is reserved in it
        whole, alone = race((train, insert), rounds)
        usual, ours = 1000 * min(whole) / count, 1000 * min(alone) / count
        work = f"{name}, {member.size} px, batch {count}; usual: a whole training step, ours: inserting its lesions"
        measured.append(Line(f"{row}-{name.partition('_')[0]}", work, "ms/image", usual, ours, ours / usual))
    return measured
