"""What the subsamples of an audit say of privacy: distances to training images beside those to held-out ones."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mammovae.auditing.audit_result import REAL_REFERENCE
from mammovae.auditing.image_set import FoldImages
from mammovae.auditing.privacy import Neighbours, membership_auroc, nearest_neighbours, perceptual_copies
from mammovae.statistics import Floats, Integers


class Draw(NamedTuple):
    """Which images take part in a subsample: rows of the held-out images, and of the sample of the training images.

    real stand for "real", reference for generated; members: the training images of half of their patients; *_singles:
    one image of each patient of the same half.
    """

    real: Integers
    real_singles: Integers
    reference: Integers
    reference_singles: Integers
    members: Integers
    member_singles: Integers


class Nearness:
    """The distances among one fold's images: each pair's, so that subsamples need not compute them again.

    near: of each image of a generated set, the nearest training and held-out one.
    """

    def __init__(self, images: FoldImages, drawn: Mapping[str, NDArray[np.float32]]) -> None:
        held, train = images.held.measures.coarse, images.train
        sample = train.coarse[train.sample]
        self._pairs = {arm: (Neighbours(x, sample), Neighbours(x, held)) for arm, x in drawn.items()}
        self._pairs[REAL_REFERENCE] = (Neighbours(held, sample), Neighbours(held, held))
        self._train_to_held = Neighbours(sample, held)
        released = {arm: one.coarse for arm, one in images.generated.items()}
        self._to_released = {
            arm: (nearest_neighbours(sample, x)[0], nearest_neighbours(held, x)[0]) for arm, x in released.items()
        }
        real = (train.coarse, held, train.groups, images.held.measures.groups)
        self.near = {arm: perceptual_copies(x, *real) for arm, x in released.items()}

    def measured(self, arm: str, rows: Integers, draw: Draw, rng: np.random.Generator) -> dict[str, float]:
        """Return membership inference, nearness, and the shares that are near to a training or a held-out image.

        rows: of the drawn images of the arm, or of held-out images for the reference.
        """
        train, held = self._pairs[arm]
        n = min(len(draw.member_singles), len(draw.real_singles))
        to_train, to_held = (
            pairs.distances(rows, rng.permutation(singles)[:n])
            for pairs, singles in ((train, draw.member_singles), (held, draw.real_singles))
        )
        values = {"nearness": float((to_train / np.maximum(to_held, 1e-9)).mean())}
        membership = membership_auroc(*self._to_arm(arm, rows, draw))
        if membership is not None:
            values["membership_auroc"] = membership
        if arm != REAL_REFERENCE:
            near = self.near[arm]
            chosen = rng.permutation(len(near.train_row))[: len(near.train_row) // 2]
            values["near_train"] = float((near.train_distance[chosen] < near.threshold).mean())
            values["near_held_out"] = float((near.held_distance[chosen] < near.threshold).mean())
        return values

    def _to_arm(self, arm: str, rows: Integers, draw: Draw) -> tuple[Floats, Floats]:
        """Return the distances of the members, and of the real images, to the nearest of an arm."""
        if arm == REAL_REFERENCE:
            held = self._pairs[arm][1]
            return self._train_to_held.distances(draw.members, rows), held.distances(draw.real, rows)
        to_train, to_held = self._to_released[arm]  # an attacker has all the images that were released
        return to_train[draw.members], to_held[draw.real]
