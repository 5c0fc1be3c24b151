"""Draw README's first picture: python tools/product_image.py FOLDER.

Phantoms are made, prepared and learnt from in FOLDER (minutes on two cores; again, seconds) by the preset detect,
smaller and shorter. Shown is the first healthy oblique test image, not picked, before and after a mass is inserted.
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
from mammovae.perturbations.lesions import LesionSpec, insert_lesion
from mammovae.report.images import BOX, MapScale, grey
from mammovae.report.style import FINDING, HEALTHY, INK, LINE, MAP, SOFT, save, styled

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "product.png"
SIZE, PATIENTS = 256, 100
HEIGHT, PANEL = 4.7, 3.15  # of the picture and of an image in it, in inches
MASS = LesionSpec("mass", "test", diameter_mm=16.0, contrast=1.2, seed=3)
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


def before_and_after(data: mv.Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image (2, S, S) without and with a mass, its breast masks, and the mass's region (S, S)."""
    tested = data.select("test", view="MLO")
    position = tested[data.index["healthy"].iloc[tested].eq(True).to_numpy(bool)][:1]
    image, breast = data.images[position[0]], data.masks[position[0]]
    inserted = insert_lesion(image, breast > 0, float(data.mm_per_pixel(position)[0]), MASS)
    return np.stack([image, inserted.image]), np.stack([breast, breast]), inserted.lesion


@styled
def picture(run: mv.Run, data: mv.Data) -> Figure:
    """Draw the image without and with the mass, each with its map, and the place of its score among healthy images."""
    images, masks, lesion = before_and_after(data)
    calibration, scale = FusedScore(run).one_sided, MapScale.of_healthy(run.manifest["map_scale"])
    detection = Detector(run).detect(images, masks)
    columns = calibration.columns("finding", detection.scores)
    healthy = calibration.fuse(
        {name: column.to_numpy() for name, column in pd.read_parquet(run.path / CALIBRATION).items()}
    )
    span = (min(healthy.min(), *columns["finding"]) - 0.2, max(healthy.max(), *columns["finding"]) + 0.4)
    most = 100 * calibration.n_patients / (calibration.n_patients + 1)
    width = min(data.size, int(np.flatnonzero(masks[0].any(axis=0)).max() * 1.12))
    inches = PANEL * width / data.size
    total = 4 * inches + 1.5
    across, tall, gap = inches / total, PANEL / HEIGHT, 0.05 / total
    figure = Figure(figsize=(total, HEIGHT), dpi=170)
    for number, head in enumerate(("A healthy breast (phantom)", "The same breast, with a mass inserted")):
        left = 0.1 / total + (2 * across + 0.4 / total) * number
        for panel in range(2):
            axes = figure.add_axes((left + (across + gap) * panel, 0.26, across, tall))
            axes.imshow(grey(images[number])[:, :width], cmap="gray", vmin=0, vmax=1, interpolation="lanczos")
            axes.set_axis_off()
            if panel:
                colours = MAP(Normalize(*scale[:2], clip=True)(detection.fused_map[number]))
                axes.imshow(colours, interpolation="bilinear", extent=(-0.5, data.size - 0.5, data.size - 0.5, -0.5))
                axes.set_xlim(-0.5, width - 0.5)
            elif number:
                _frame(axes, lesion)
        figure.text(left, 0.955, head, fontsize=11, fontweight="bold", color=INK)
        percentile, score = columns["finding_percentile"][number], columns["finding"][number]
        words = f"above {np.floor(most):.0f} %" if percentile >= most - 1e-9 else f"percentile {percentile:.0f}"
        strip = figure.add_axes((left, 0.085, 2 * across + gap, 0.15))
        _strip(strip, healthy, score, words, span, FINDING if number else HEALTHY)
    bar = figure.colorbar(
        ScalarMappable(Normalize(*scale[:2]), MAP), cax=figure.add_axes((1 - 0.78 / total, 0.36, 0.14 / total, 0.46))
    )
    bar.outline.set_visible(False)  # pyrefly: ignore
    bar.ax.set_facecolor("0.45")
    bar.set_ticks(list(scale[:2]), labels=["healthy", "far\nfrom it"])
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
    nudge = (span[1] - span[0]) * (0.025 if side == "left" else -0.025)
    axes.text(score + nudge, 0.84, words, fontsize=10.5, fontweight="bold", color=colour, ha=side, va="center")
    axes.set(xlim=span, ylim=(0, 1.05), yticks=[], xticks=[])
    axes.set_xlabel("finding score, and those of healthy images of other patients", color=SOFT)
    axes.spines[["left", "bottom"]].set_visible(False)


if __name__ == "__main__":
    save(picture(*trained(Path(sys.argv[1]))), PICTURE)
