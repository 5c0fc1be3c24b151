"""Draw README's first picture: python tools/product_image.py FOLDER.

Phantoms are made, prepared and learnt from in FOLDER (minutes on two cores; again, seconds) by the preset detect,
smaller and shorter. Shown are the first healthy test image and the first with a mass, oblique views both, none picked.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import mammovae as mv
from mammovae.config import LesionSegmenterSettings
from mammovae.detection.calibration import CALIBRATION, FusedScore
from mammovae.detection.detector import Detector
from mammovae.evaluation.lesion_masks import lesion_masks
from mammovae.report.images import BOX, MapScale, grey
from mammovae.report.style import FINDING, HEALTHY, INK, LINE, MAP, SOFT, save, styled

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "product.png"
SIZE, PATIENTS = 256, 100
TRAINING = mv.TrainSettings(
    members=("lesion_segmenter", "patch_segmenter"),
    lesion_segmenter=LesionSegmenterSettings(size=128, presentations=8_000),
    patch_segmenter=LesionSegmenterSettings(
        size=SIZE, patch_size=128, kinds=("calcification", "distortion"), presentations=3_000
    ),
)


def trained(folder: Path) -> tuple[mv.Run, mv.Data]:
    """Return a run of the preset detect and the phantoms that it learnt from."""
    raw, data, run = (folder / name for name in ("raw", "data", "run"))
    mv.phantom(out=raw, patients=PATIENTS, size=384)
    mv.prepare("vindr", raw, out=data, settings=mv.PrepareSettings(size=SIZE))
    mv.train(data, preset="detect", out=run, settings=TRAINING)
    return mv.Run.open(run), mv.Data.open(data)


def chosen(data: mv.Data) -> np.ndarray:
    """Return the positions of the two images that are shown."""
    tested = data.select("test", view="MLO")
    rows = data.index.iloc[tested]
    affected = data.index.loc[data.index["healthy"].eq(False), "patient_id"]
    is_healthy = rows["healthy"].eq(True) & ~rows["patient_id"].isin(affected)
    has_mass = rows["findings"].map(lambda cell: any(finding["category"] == "Mass" for finding in cell))
    return tested[[int(np.argmax(is_healthy.to_numpy(bool))), int(np.argmax(has_mass.to_numpy(bool)))]]


@styled
def picture(run: mv.Run, data: mv.Data) -> Figure:
    """Draw the two images, each with its map, and the place of its score among healthy images."""
    positions = chosen(data)
    calibration = FusedScore(run).one_sided
    detector = Detector(run)
    scores, maps = detector.table(data, positions), detector.fused_maps(data, positions)
    columns = calibration.columns("finding", scores)
    healthy = calibration.fuse(
        {name: column.to_numpy() for name, column in pd.read_parquet(run.path / CALIBRATION).items()}
    )
    scale = MapScale.of_healthy(run.manifest["map_scale"])
    lesions = lesion_masks(data, positions, data.size)
    figure = Figure(figsize=(10.4, 4.35), dpi=180)
    heads = ("A healthy breast", "A breast with an inserted mass")
    low, high = min(healthy.min(), *columns["finding"]) - 0.3, max(healthy.max(), *columns["finding"]) + 0.5
    for number, (position, head) in enumerate(zip(positions, heads, strict=True)):
        left = 0.008 + 0.468 * number
        pixels = grey(data.images[position])
        for panel in range(2):
            axes = figure.add_axes((left + 0.226 * panel, 0.3, 0.222, 0.222 * 10.4 / 4.35))
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="lanczos")
            axes.set_axis_off()
            if panel:
                colours = MAP(Normalize(*scale[:2], clip=True)(maps[number]))
                extent = (-0.5, data.size - 0.5, data.size - 0.5, -0.5)
                axes.imshow(colours, interpolation="bilinear", extent=extent)
            elif lesions[number].any():
                _frame(axes, lesions[number])
        figure.text(left, 0.865, head, fontsize=10.5, fontweight="bold", color=INK)
        strip = figure.add_axes((left + 0.004, 0.115, 0.44, 0.12))
        percentile = columns["finding_percentile"][number]
        most = 100 * calibration.n_patients / (calibration.n_patients + 1)
        words = f"above {np.floor(most):.0f} %" if percentile >= most - 1e-9 else f"percentile {percentile:.0f}"
        _strip(strip, healthy, columns["finding"][number], words, (low, high), FINDING if number else HEALTHY)
    bar = figure.colorbar(ScalarMappable(Normalize(*scale[:2]), MAP), cax=figure.add_axes((0.945, 0.36, 0.012, 0.4)))
    bar.outline.set_visible(False)  # pyrefly: ignore
    bar.ax.set_facecolor("0.45")
    bar.set_ticks(list(scale[:2]), labels=["clear", "far from\nhealthy"])
    return figure


def _frame(axes: Axes, lesion: np.ndarray) -> None:
    rows, columns = (np.flatnonzero(lesion.any(axis=axis)) for axis in (1, 0))
    corner, across, down = (columns[0] - 4, rows[0] - 4), np.ptp(columns) + 8, np.ptp(rows) + 8
    axes.add_patch(Rectangle(corner, across, down, fill=False, edgecolor=BOX, linewidth=1.2))


def _strip(axes: Axes, healthy: np.ndarray, score: float, words: str, span: tuple[float, float], colour: str) -> None:
    """Draw where a score lies among those of healthy calibration images."""
    rises = np.random.default_rng(0).uniform(0.12, 0.6, len(healthy))
    axes.scatter(healthy, rises, s=9, color=SOFT, alpha=0.45, linewidths=0)
    axes.axhline(0, color=LINE, linewidth=1)
    axes.plot([score, score], [0, 0.8], color=colour, linewidth=2)
    axes.scatter([score], [0.8], s=46, color=colour, zorder=3)
    side = "right" if score > sum(span) / 2 else "left"
    nudge = (span[1] - span[0]) * (0.015 if side == "left" else -0.015)
    axes.text(score + nudge, 0.84, words, fontsize=10.5, fontweight="bold", color=colour, ha=side, va="center")
    axes.set(xlim=span, ylim=(0, 1.05), yticks=[], xticks=[])
    axes.set_xlabel("finding score  →  further from healthy;  dots: healthy images of other patients", color=SOFT)
    axes.spines[["left", "bottom"]].set_visible(False)


if __name__ == "__main__":
    save(picture(*trained(Path(sys.argv[1]))), PICTURE)
