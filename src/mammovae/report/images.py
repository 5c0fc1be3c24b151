"""Grids of images, cases with their anomaly map on one fixed scale, contact sheets; grey is never stretched."""

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mammovae.report.style import MAP, SOFT, WIDTH, styled, to_png

BOX = "#4fd1ff"
_OVERLAY, _LARGEST, _OUTLINE = "anomaly map over image", 256, (255, 176, 0)


class MapScale(NamedTuple):
    """The one scale of a run's anomaly maps: the values at which colour begins and is full, and what they are."""

    low: float
    high: float
    label: str = "anomaly map"

    @classmethod
    def of_healthy(cls, level: float) -> Self:
        """Return the scale for a run whose healthy pixels exceed level once in 1,000: clear to half of it, full at two.

        A healthy breast therefore stays grey but for a speck, whatever its brightest value is.
        """
        return cls(level / 2, 2 * level, f"anomaly map (1 in 1,000 healthy pixels exceeds {level:.3g})")


UNIT = MapScale(0.0, 1.0)


def grey(image: ArrayLike) -> NDArray[np.float32]:
    """Return an image on the fixed scale 0..1: integers by their type's range, floats as they are, clipped."""
    pixels = np.asarray(image)
    top = np.float32(np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1)
    return np.clip(pixels / top, 0, 1).astype(np.float32)


@styled
def image_grid(images: ArrayLike, columns: int, captions: Sequence[str] = (), row_labels: Sequence[str] = ()) -> Figure:
    """Draw images (N, S, S) row by row, all on the one grey scale 0..1, each pixel a whole number of dots.

    captions: N, under the images; row_labels: one a row, on the left. Images above 256 pixels are shown reduced.
    """
    shown = [grey(image) for image in np.asarray(images)]
    if shown and (shrink := _LARGEST / max(shown[0].shape)) < 1:
        size = (round(shown[0].shape[1] * shrink), round(shown[0].shape[0] * shrink))
        shown = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in shown]
    columns = max(1, min(columns, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    height, width = shown[0].shape if shown else (1, 1)
    gap = max(1, round(width / 48))
    left = 0.22 if row_labels else 0.0
    # Pixels of an image to the inch: the page's width is shared, but one image alone does not fill it.
    density = max((columns * (width + gap) - gap) / (WIDTH - left), width / 1.6)
    start, foot = math.ceil(left * density), math.ceil(0.17 * density) if captions else 0
    across, down = width + gap, height + gap + foot
    mosaic = np.ones((rows * down - gap, start + columns * across - gap), np.float32)
    corners = [(number // columns * down, start + number % columns * across) for number in range(len(shown))]
    for (y, x), image in zip(corners, shown, strict=True):
        mosaic[y : y + height, x : x + width] = image
    size = (mosaic.shape[1] / density, mosaic.shape[0] / density)
    figure = Figure(figsize=size, dpi=math.ceil(200 / density) * density)
    axes = figure.add_axes((0, 0, 1, 1))
    _show(axes, mosaic)
    for (y, x), caption in zip(corners, captions, strict=False):
        axes.text(x + width / 2, y + height + foot / 2, caption, fontsize=6.5, ha="center", va="center")
    for row, label in enumerate(row_labels[:rows]):
        axes.text(start / 2, row * down + height / 2, label, rotation=90, ha="center", va="center")
    return figure


@styled
def case_panel(
    image: ArrayLike,
    reconstruction: ArrayLike | None = None,
    anomaly_map: ArrayLike | None = None,
    boxes: Sequence[Sequence[float]] = (),
    scale: MapScale = UNIT,
    decorated: bool = True,
) -> Figure:
    """Draw a case in panels: the image with its boxes, its reconstruction, the image with its anomaly map.

    Images are (S, S), the map may be coarser; boxes: (xmin, ymin, xmax, ymax) in pixels of image; scale: the same for
    every case, never made from the map at hand; decorated: with a word above each panel and a colour bar (map_legend
    draws one bar for many cases).
    """
    pixels = grey(image)
    panels = [("image", pixels)]
    panels += [] if reconstruction is None else [("reconstruction", grey(reconstruction))]
    panels += [] if anomaly_map is None else [(_OVERLAY, pixels)]
    rows, columns = pixels.shape
    side, gap, across = 1.5, 0.03, 1.5 * columns / rows
    has_bar = decorated and anomaly_map is not None
    head, foot = 0.18 * decorated, 0.06 * has_bar
    width, height = len(panels) * (across + gap) + 1.05 * has_bar, side + head + foot
    figure = Figure(figsize=(width, height), dpi=max(1, math.ceil(200 * side / rows)) * rows / side)
    for place, (title, panel) in enumerate(panels):
        axes = figure.add_axes((place * (across + gap) / width, foot / height, across / width, side / height))
        _show(axes, panel)
        if decorated:
            axes.set_title(title, fontsize=7, fontweight="normal", color=SOFT, loc="center", pad=3)
        if title == _OVERLAY:
            colours = MAP(Normalize(*scale[:2], clip=True)(np.asarray(anomaly_map, float)))
            axes.imshow(colours, interpolation="nearest", extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
        for x0, y0, x1, y1 in boxes if title != "reconstruction" else ():
            axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=BOX, linewidth=0.9))
    if has_bar:
        place = ((width - 0.98) / width, foot / height, 0.09 / width, side / height)
        _bar(figure, figure.add_axes(place), scale, "vertical")
    return figure


@styled
def map_legend(scale: MapScale) -> Figure:
    """Draw the colour bar that all case panels share."""
    figure = Figure(figsize=(3.4, 0.5))
    _bar(figure, figure.add_axes((0.03, 0.76, 0.94, 0.2)), scale, "horizontal")
    return figure


def save_overlay(image: ArrayLike, anomaly_map: ArrayLike, level: float, path: Path) -> None:
    """Write an image beside its anomaly map as PNG, coloured by MapScale.of_healthy(level), with the colour bar."""
    path.write_bytes(to_png(case_panel(image, anomaly_map=anomaly_map, scale=MapScale.of_healthy(level))))


def contact_sheet(
    images: NDArray[np.generic],
    masks: NDArray[np.generic] | None = None,
    captions: Sequence[str] = (),
    columns: int = 16,
    size: int = 96,
) -> Image.Image:
    """Return many prepared images (N, S, S) as thumbnails of size pixels, the mask's edge in orange.

    masks: (N, S, S), above 0 is breast; captions: N, cut to the thumbnail's width. Made without matplotlib, so that
    hundreds take about a second; images may be a memory map, read one at a time.
    """
    columns = max(1, min(columns, len(images)))
    across, down = size + 2, size + 2 + (13 if captions else 0)
    sheet = Image.new("RGB", (columns * across, max(1, math.ceil(len(images) / columns)) * down), (38, 43, 48))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=9)
    for number in range(len(images)):
        x, y = number % columns * across + 1, number // columns * down + 1
        pixels = (grey(images[number]) * 255).round().astype(np.uint8)
        sheet.paste(thumbnail(pixels, size), (x, y))
        if masks is not None:
            breast = Image.fromarray((np.asarray(masks[number]) > 0).astype(np.uint8) * 255)
            inside = np.asarray(breast.resize((size, size), Image.Resampling.BILINEAR)) > 127
            # The mask's own outermost pixels; at the border of the image the breast does not end.
            edge = inside & ~ndimage.binary_erosion(inside, border_value=1)
            sheet.paste(_OUTLINE, (x, y), Image.fromarray(edge.astype(np.uint8) * 200))
        if captions:
            text = captions[number]
            while text and draw.textlength(text, font) > size:
                text = text[:-2] + "…" if len(text) > 2 else ""
            draw.text((x + 1, y + size), text, (210, 216, 222), font)
    return sheet


def thumbnail(pixels: NDArray[np.uint8], size: int) -> Image.Image:
    """Return an image (S, S) as a square of size pixels."""
    image = Image.fromarray(pixels)
    return image.resize((size, size), Image.Resampling.BOX if image.width > size else Image.Resampling.BILINEAR)


def overlay(pixels: Image.Image, anomaly_map: NDArray[np.floating], scale: MapScale) -> Image.Image:
    """Return a thumbnail under its anomaly map, (s, s) of any size, on a scale that is the same for all images."""
    colours = MAP(np.clip((anomaly_map - scale.low) / (scale.high - scale.low), 0, 1))
    layer = Image.fromarray((255 * colours).astype(np.uint8), "RGBA").resize(pixels.size, Image.Resampling.BILINEAR)
    return Image.alpha_composite(pixels.convert("RGBA"), layer).convert("RGB")


def side_by_side(panels: Sequence[Image.Image], gap: int = 0) -> bytes:
    """Return panels of one size beside each other as PNG bytes, with gap white pixels between them."""
    width, height = panels[0].size
    row = Image.new("RGB", (len(panels) * (width + gap) - gap, height), "white")
    for place, panel in enumerate(panels):
        row.paste(panel, (place * (width + gap), 0))
    buffer = io.BytesIO()
    row.save(buffer, "PNG")
    return buffer.getvalue()


def _bar(figure: Figure, axes: Axes, scale: MapScale, orientation: Literal["horizontal", "vertical"]) -> None:
    mappable = ScalarMappable(Normalize(*scale[:2]), MAP)
    label = scale.label if orientation == "horizontal" else textwrap.fill(scale.label, 24)
    bar = figure.colorbar(mappable, cax=axes, orientation=orientation, label=label)
    bar.outline.set_visible(False)  # pyrefly: ignore
    # On mid-grey, as on a breast, so that the clear end of the scale shows what clear means.
    axes.set_facecolor("0.45")


def _show(axes: Axes, pixels: NDArray[np.float32]) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
