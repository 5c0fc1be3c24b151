"""The look that all figures share, and the way from a figure to the same bytes every time."""

import base64
import io
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from mammovae.storage import atomic_write

INK = "#1c2733"
SOFT = "#66727f"
LINE = "#d5dbe1"
HEALTHY = "#5f97c4"
FINDING = "#b23a12"
TRIVIAL = "#8a949e"
WIDTH = 6.9
"""Inches of a full-width figure: the text width of an A4 page."""

# Healthy and finding differ in hue (safe for the colour-blind), in lightness (safe in grey print) and in symbol.
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,  # labels name folders and runs: a dollar sign in them is no formula
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "mammovae",
    **dict.fromkeys(("font.size", "axes.labelsize"), 7.5),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.grid", "legend.frameon"), False),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), "white"),
    "grid.color": LINE,
    "grid.linewidth": 0.5,
}
FONTS = "'Helvetica Neue', Arial, 'Liberation Sans', 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

MAP = LinearSegmentedColormap.from_list(
    "mammovae-map", [(1, 0.87, 0.35, 0.0), (1, 0.75, 0.2, 0.35), (0.95, 0.42, 0.1, 0.7), (0.72, 0.05, 0.12, 0.9)]
)
"""Anomaly maps over an image: transparent at the low end, so that a healthy breast stays grey, dark red at the high."""

styled = rc_context(STYLE)
"""Decorator: the function draws in the shared style."""


def single(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def legend_beside(axes: Axes, **look: Any) -> None:
    """Draw the legend on the right of the axes."""
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), **look)


def add_grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Draw a grid behind the data; across rows (axis x) there is neither a left spine nor ticks."""
    axes.grid(axis=axis)
    axes.set_axisbelow(True)
    if axis == "x":
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)


def to_svg(figure: Figure) -> str:
    """Return the figure as SVG: text stays text, and neither time nor version makes two of them differ."""
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # Laid out in DejaVu, the widest of these fonts, the text fits in whichever one the reader's system has.
    return buffer.getvalue().replace("'DejaVu Sans', sans-serif", FONTS).replace("'DejaVu Sans'", FONTS)


def to_png(figure: Figure, dpi: float | None = None) -> bytes:
    """Return the figure as PNG at dpi, or at the resolution the figure was made for."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi or figure.dpi, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(content: str | bytes) -> str:
    """Return SVG text, or PNG or JPEG bytes, as a data URI for an HTML page."""
    kind, raw = ("svg+xml", content.encode()) if isinstance(content, str) else ("png", content)
    if raw.startswith(b"\xff\xd8"):
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def save(figure: Figure, path: Path) -> None:
    """Write the figure to path as PNG, or as SVG where the name ends in .svg."""
    with atomic_write(path) as partial:
        partial.write_bytes(to_svg(figure).encode() if path.suffix == ".svg" else to_png(figure))
