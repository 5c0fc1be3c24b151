"""What a notebook shows of results: facts, first rows and images as HTML, escaped, small, without outside parts."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from mammovae.report.charts import auroc_forest
from mammovae.report.formatting import value
from mammovae.report.style import data_uri, to_png, to_svg
from mammovae.statistics.bootstrap import Estimate

if TYPE_CHECKING:
    from pandas import DataFrame

_WIDEST, _HIGHEST = 900, 620  # pixels: what is shown of a contact sheet of thousands of images
_LINE = Markup("<div style='margin: 0.3em 0; white-space: pre-line'>{}</div>")
_CELL = Markup("<span style='opacity: 0.65'>{}</span> {}")


def card(title: str, *parts: Markup) -> str:
    """Return parts, one under another, under a title."""
    style = "max-width: 56em; border-left: 3px solid #b23a12; padding: 0.1em 0 0.1em 0.9em"
    return str(Markup("<div style='{}'><strong>{}</strong>{}</div>").format(style, title, Markup("").join(parts)))


def text(words: str) -> Markup:
    """Return text as it stands, line by line."""
    return _LINE.format(words)


def facts(values: Mapping[str, Any]) -> Markup:
    """Return facts in one line, each after its name."""
    return _LINE.format(Markup(" · ").join(_CELL.format(name, value(item)) for name, item in values.items()))


def rows(frame: "DataFrame", count: int = 8) -> Markup:
    """Return the first rows of a table, and of how many they are."""
    table = Markup(frame.head(count).to_html(index=False, border=0, na_rep="–", float_format="{:.3g}".format))
    left = f"{min(count, len(frame)):,} of {len(frame):,} rows"
    return table + _LINE.format(left)


def image(source: Path | Image.Image | Figure, alt: str) -> Markup:
    """Return an image of at most 900 x 620 pixels: a larger one is reduced to that width and cut off below."""
    if isinstance(source, Figure):
        source = Image.open(io.BytesIO(to_png(source)))
    with Image.open(source) if isinstance(source, Path) else source as opened:
        shown = opened.convert("RGB")
    if shown.width > _WIDEST:
        shown = shown.resize((_WIDEST, round(shown.height * _WIDEST / shown.width)), Image.Resampling.BOX)
    shown = shown.crop((0, 0, shown.width, min(shown.height, _HIGHEST)))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    uri = data_uri(buffer.getvalue())
    return Markup("<img style='display: block; max-width: 100%; margin: 0.5em 0' src='{}' alt='{}'>").format(uri, alt)


def aurocs(metrics: Mapping[str, Any]) -> Markup:
    """Return the AUROCs of an evaluation's flat keys as a chart: finding score, single scores, baselines."""
    names = [key.removesuffix("_auroc") for key in metrics if key.endswith("_auroc") and not key.startswith("gain_")]
    estimates = [_estimate(metrics, "auroc", "finding score", "score")]
    for name in names:
        kind, _, label = name.partition("_")
        if kind in ("score", "baseline") and not label.endswith("_bilateral"):
            estimates.append(_estimate(metrics, f"{name}_auroc", label.replace("_", " "), kind))
    chart = data_uri(to_svg(auroc_forest(sorted(estimates, key=lambda row: row.kind != "score"))))
    look = "display: block; width: 100%; max-width: 46em; background: white"
    return Markup("<img style='{}' src='{}' alt='AUROCs with their intervals'>").format(look, chart)


def _estimate(metrics: Mapping[str, Any], key: str, label: str, kind: str) -> Estimate:
    low, high = metrics[f"{key}_low"], metrics[f"{key}_high"]
    return Estimate(metrics[key], low, high, metrics["n_healthy"], metrics["n_finding"], key, label.capitalize(), kind)
