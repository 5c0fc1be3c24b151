"""Prints the Markdown tables of docs/detection.md from a folder that crossval wrote: python docs/tables.py CROSSVAL"""

import json
import sys
from pathlib import Path

import pandas as pd

FOLDER = Path(sys.argv[1])
METRICS = json.loads((FOLDER / "metrics.json").read_text())


def table(heads: list[str], rows: list[list[object]]) -> None:
    """Print a Markdown table and an empty line."""
    for row in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def interval(key: str) -> str:
    """Return a figure of metrics.json with its interval."""
    low, high = METRICS[f"{key}_low"], METRICS[f"{key}_high"]
    return f"{METRICS[key]:.2f} ({low:.2f} to {high:.2f})"


results = pd.read_csv(FOLDER / "results.csv").astype(object)
results = results.where(results.notna(), "–")
heads = ["", "healthy", "findings", "AUROC", "healthy, second arm", "AUROC, second arm"]
table(
    heads,
    [
        [row["name"], row.n_healthy, row.n_finding, row.auroc, row.n_healthy_affected, row.auroc_affected]
        for _, row in results.iterrows()
    ],
)
keys = ("auroc_minus_seed_reconstruction_loss", "auroc_affected_minus_seed_reconstruction_loss")
table(["finding score less the seed preset's loss", "second arm"], [[interval(key) for key in keys]])
places = ("pointing", "pointing_blobs", "pixel_average_precision", "froc_at_1_0", "froc_at_1")
table(["localisation", ""], [[key, interval(key)] for key in places if key in METRICS])
print(f"n_annotated {METRICS['n_annotated']}, chance {METRICS['pointing_chance']:.3f}\n")
names = [key.removeprefix("quality_auroc_") for key in METRICS if key.startswith("quality_auroc_")]
shown = [word for word in ("auroc", "recall_1", "recall_5", "recall_10") if f"quality_{word}_mean" in METRICS]
table(
    ["fault", *shown],
    [[name.replace("_", " "), *(f"{METRICS[f'quality_{word}_{name}']:.2f}" for word in shown)] for name in names],
)
rates = [key.removesuffix("_realised") for key in METRICS if key.startswith("rate_") and key.endswith("_realised")]
table(
    ["stated rate", "realised", "99 % range"],
    [
        [
            METRICS[f"{rate}_stated"],
            f"{METRICS[f'{rate}_realised']:.3f}",
            f"{METRICS[f'{rate}_range_low']:.3f} to {METRICS[f'{rate}_range_high']:.3f}",
        ]
        for rate in rates
    ],
)
chosen = json.loads((FOLDER / "selection.json").read_text())
kinds = list(next(iter(chosen["scores"].values())))
table(
    ["planted (SELECT)", *kinds],
    [
        [name, *(f"{row[kind]:.2f}" if row[kind] is not None else "–" for kind in kinds)]
        for name, row in chosen["scores"].items()
    ],
)
table(["map", "points"], [[name, f"{row['all']:.2f}"] for name, row in chosen["pointing"].items()])
