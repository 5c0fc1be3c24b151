"""Prepare a blind reading of real and generated images, and count what a reader told.

blind_reading.py DATA GENERATED FOLDER: write 100 healthy images of DATA's held-out patients and the first 100 of
GENERATED in random order to FOLDER/pages, 20 a page, and what they are to FOLDER/key.csv, which no reader may see.

blind_reading.py FOLDER: count FOLDER/answers.csv, a table of number and answer (real or generated).
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from mammovae.data.dataset import Data
from mammovae.report.images import image_grid
from mammovae.report.style import save

COUNT, PAGE, COLUMNS = 100, 20, 5


def held_out(data: Data, rng: np.random.Generator) -> np.ndarray:
    """Return real images: of healthy breasts, of patients whom no network has learnt from, in random order."""
    positions = np.concatenate([data.select(split) for split in ("test", "calibration", "validation")])
    positions = positions[data.healthy(positions)]
    return data.batch(rng.permutation(positions)[:COUNT], 128).image[:, 0].numpy()


def prepare(real: str, generated: str, folder: Path) -> None:
    """Write the pages and the key."""
    rng, made = np.random.default_rng(0), Data.open(generated)
    usable = np.flatnonzero((made.index["status"] == "ok").to_numpy(bool))[:COUNT]
    sets = {"real": held_out(Data.open(real), rng), "generated": made.batch(usable, 128).image[:, 0].numpy()}
    images = np.concatenate(list(sets.values()))
    order = rng.permutation(len(images))
    (folder / "pages").mkdir(parents=True, exist_ok=True)
    for start in range(0, len(order), PAGE):
        rows = order[start : start + PAGE]
        captions = [str(start + place + 1) for place in range(len(rows))]
        save(image_grid(images[rows], COLUMNS, captions), folder / "pages" / f"page-{start // PAGE + 1:02d}.png")
    kinds = np.repeat(list(sets), [len(part) for part in sets.values()])[order]
    key = pd.DataFrame({"number": np.arange(1, len(order) + 1), "kind": kinds})
    key.to_csv(folder / "key.csv", index=False)


def count(folder: Path) -> None:
    """Print how many images a reader told, with a 95 % interval, and which."""
    told = pd.read_csv(folder / "key.csv").merge(pd.read_csv(folder / "answers.csv"), on="number", validate="1:1")
    is_right = told["kind"] == told["answer"]
    interval = binomtest(int(is_right.sum()), len(told)).proportion_ci(method="wilson")
    print(f"{is_right.sum()} of {len(told)} told, {is_right.mean():.2f} ({interval.low:.2f} to {interval.high:.2f})")
    print(pd.crosstab(told["kind"], told["answer"]).to_string())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        count(Path(sys.argv[1]))
    else:
        prepare(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
