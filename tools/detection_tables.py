"""Print Markdown tables of the metrics in a folder that crossval wrote: detection_tables.py CROSSVAL."""

import json
import re
import sys
from pathlib import Path

import pandas as pd

from mammovae.statistics.bootstrap import Estimate

FOLDER = Path(sys.argv[1])
METRICS = json.loads((FOLDER / "metrics.json").read_text())


def table(heads: list[str], rows: list[list[object]]) -> None:
    """Print a Markdown table and an empty line."""
    for row in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def interval(key: str) -> str:
    """Return a metric of metrics.json with its interval."""
    low, high = METRICS[f"{key}_low"], METRICS[f"{key}_high"]
    return f"{METRICS[key]:.2f} ({low:.2f} to {high:.2f})"


def cell(entry: dict[str, float | None], what: str) -> str:
    """Return a figure of selection.json with its interval: "0.68 (0.61–0.74)"."""
    return Estimate(entry[what], entry["low"], entry["high"], 0, 0).text


results = pd.read_csv(FOLDER / "results.csv").astype(object)
results = results.map(lambda cell: "–" if pd.isna(cell) else int(cell) if isinstance(cell, float) else cell)
heads = ["", "healthy", "findings", "AUROC", "affected-patient controls", "AUROC against them"]
table(
    heads,
    [
        [row["name"], row.n_healthy, row.n_finding, row.auroc, row.n_healthy_affected, row.auroc_affected]
        for _, row in results.iterrows()
    ],
)
rest = "minus_original_reconstruction_loss"
keys = {
    "healthy images of unaffected patients (the planned comparison)": f"auroc_{rest}",
    "affected-patient controls": f"auroc_affected_{rest}",
    "all healthy images": f"auroc_all_healthy_{rest}",
    "as planned, raw losses pooled": f"auroc_{rest}_raw",
}
table(["finding score less the original preset's loss", ""], [[label, interval(key)] for label, key in keys.items()])
places = {
    "maximum of the map in a lesion": "pointing",
    "the same for the blob filter": "pointing_blobs",
    "average precision of pixels": "pixel_average_precision",
    "share of lesions marked at one false mark a healthy image": "froc_at_1",
}
table(
    [f"localisation, {METRICS['n_annotated']} images with a position", ""],
    [[label, interval(key)] for label, key in places.items()]
    + [["chance: the lesions' share of the breast", f"{METRICS['pointing_chance']:.2f}"]],
)
lows = [key for key in METRICS if key.startswith("quality_auroc_") and key.endswith("_low")]
names = [key.removeprefix("quality_auroc_").removesuffix("_low") for key in lows]
shown = [word for word in ("auroc", "recall_1", "recall_5", "recall_10") if f"quality_{word}_mean" in METRICS]
reviews = [f"{word.removeprefix('recall_')} % review" for word in shown[1:]]
table(
    [f"fault, in each of {METRICS['quality_n_healthy']} healthy images", "AUROC", *reviews],
    [[name.replace("_", " "), *(interval(f"quality_{word}_{name}") for word in shown)] for name in names],
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
contrasts = ("0.1", "0.2", "0.4", "0.8")
parts = ["", *(f"_10mm_{contrast.replace('.', '_')}" for contrast in contrasts)]
kinds = [key.removeprefix("lesion_auroc_") for key in METRICS if re.fullmatch("lesion_auroc_[a-z]+", key)]
table(
    ["lesions of family test", "all", *(f"10 mm, contrast {contrast}" for contrast in contrasts)],
    [[kind, *(interval(f"lesion_auroc_{kind}{part}") for part in parts)] for kind in kinds],
)
chosen = json.loads((FOLDER / "selection.json").read_text())
kinds = list(next(iter(chosen["scores"].values())))
table(
    ["inserted validation lesions", *kinds],
    [[name, *(cell(row[kind], "auroc") for kind in kinds)] for name, row in chosen["scores"].items()],
)
table(["map", "points"], [[name, cell(row["all"], "share")] for name, row in chosen["pointing"].items()])
