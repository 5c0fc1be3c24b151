"""Print what an audit measures of real images alone, without any network: real_reference.py DATA [FOLDS [SEED]].

As Markdown, in the folds of mammovae crossval: the real-vs-real reference, the training images in place of generated
ones (other patients, as real as can be), and the held-out images blurred.
"""

import sys
from dataclasses import replace

import numpy as np

from mammovae.auditing.audit_result import MEASURES
from mammovae.auditing.image_set import BLUR, FoldImages, ImageSet, MeasuredSet
from mammovae.auditing.subsampling import audit_sets
from mammovae.data.copies import set_aside
from mammovae.data.dataset import Data
from mammovae.data.split import assign_folds, split_fold
from mammovae.report.audit_charts import number_texts


def healthy(data: Data, *splits: str) -> np.ndarray:
    """Return the positions of the healthy images of splits."""
    positions = np.concatenate([data.select(split) for split in splits])
    return positions[data.healthy(positions)]


def fold_images(data: Data, size: int, seed: int) -> FoldImages:
    """Return one fold's images."""
    held = ImageSet.of(data, healthy(data, "test", "calibration"), size, seed)
    train = MeasuredSet.measured(ImageSet.of(data, healthy(data, "train"), size, seed), None)
    return FoldImages(MeasuredSet.measured(held, None), train, {"training images": train}, held.measure(None, BLUR))


whole, folds, seed = Data.open(sys.argv[1]), *map(int, [*sys.argv[2:], *(5, 0)[len(sys.argv) - 2 :]])
fold_of = assign_folds(whole.index, folds, seed, set_aside(whole.index, whole.manifest))
parts = [replace(whole, index=split_fold(whole.index, fold_of, fold, seed)) for fold in range(folds)]
size = 128 if whole.size % 128 == 0 else whole.size
result = audit_sets([fold_images(part, size, seed + number) for number, part in enumerate(parts)], seed)
print("| | " + " | ".join(result.draws) + " |")
print("|---" * (len(result.draws) + 1) + "|")
for one in MEASURES:
    estimates = [result.estimate(arm, one.name) for arm in result.draws]
    if any(estimates) and one.section != "Privacy":
        cells = ["–" if estimate is None else "{} ({})".format(*number_texts(estimate)) for estimate in estimates]
        print(f"| {one.label} | " + " | ".join(cells) + " |")
print(f"\n{result.n} images against as many; one image a patient: {result.few} against as many")
spread = {arm: draws["kernel_distance"] for arm, draws in result.draws.items()}
print("kernel distance, mean and its standard error over subsamples:")
print({arm: f"{draws.mean():.3f} +- {draws.std() / np.sqrt(len(draws)):.3f}" for arm, draws in spread.items()})
