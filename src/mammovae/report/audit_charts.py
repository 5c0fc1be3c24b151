"""Charts of an audit: spectrum, nearest images, latent space, and generated sets beside the real-vs-real reference."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from mammovae.report.charts import draw_estimate
from mammovae.report.style import (
    FINDING,
    HEALTHY,
    INK,
    LINE,
    SOFT,
    TRIVIAL,
    WIDTH,
    add_grid,
    legend_beside,
    single,
    styled,
)
from mammovae.statistics.bootstrap import Estimate, signed

Band = tuple[ArrayLike, ArrayLike, ArrayLike]
"""Mean, low and high, each (B,)."""
BETTER = {"lower": "↓ lower is better", "higher": "↑ higher is better", "half": "0.5 is best", "zero": "0 is best"}
_BEST = {"half": 0.5, "zero": 0.0}
_MOST_DECIMALS = 8
_POINTS, _PANELS, _STEPS = 4000, 3, [1, 2, 5, 10]


class _Look(NamedTuple):
    colour: str
    dashes: str | tuple[int, tuple[float, ...]]
    symbol: str


_REAL = _Look(HEALTHY, "-", "o")
# Arms differ in hue, in lightness, in dashes and in symbol: for any eye, and for grey print.
_ARMS = (
    _Look(FINDING, "-", "s"),
    _Look(INK, (0, (4, 1.6)), "D"),
    _Look(TRIVIAL, (0, (1, 1)), "^"),
    _Look("#c08a1e", (0, (5, 1.5, 1, 1.5)), "v"),
)


def _looks(labels: Sequence[str]) -> dict[str, _Look]:
    """Return how each label is drawn: what is real in the healthy colour, all else in the order given."""
    arms = [label for label in labels if not label.startswith("real")]
    return {label: _ARMS[arms.index(label) % len(_ARMS)] if label in arms else _REAL for label in labels}


def number_texts(estimate: Estimate) -> tuple[str, str]:
    """Return the figure and its interval, "0.0123" and "0.0101–0.0150", to three significant digits of the figure.

    The interval has the decimals of the figure; one that is near 0 beside its interval takes those of the interval's
    half width. Whole numbers stay whole. No interval is "too few", no figure "not defined" and "".
    """
    if estimate.value is None:
        return "not defined", ""
    ends = () if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)
    numbers = (estimate.value, *ends)
    decimals = _decimals(max(abs(estimate.value), (ends[1] - ends[0]) / 2 if ends else 0))
    if all(float(number).is_integer() for number in numbers):
        decimals = 0
    value, *interval = (signed(number, decimals) for number in numbers)
    dash = " to " if any(text.startswith("−") for text in interval) else "–"
    return value, dash.join(interval) or "too few"


def _decimals(size: float) -> int:
    return min(max(2 - math.floor(math.log10(size)), 0), _MOST_DECIMALS) if size > 0 else 2


def _rounded(value: float | np.floating) -> str:
    return signed(float(value), _decimals(abs(float(value))))


@styled
def spectrum_chart(frequencies: ArrayLike, curves: Mapping[str, Band]) -> Figure:
    """Draw power by spatial frequency, and beside it how far each set departs from the real one.

    frequencies: (B,) in cycles an image; what is not above 0 is not drawn. curves: label -> mean, low and high in dB.
    The first is the real set, drawn with its band; of the others the mean is drawn.
    """
    x, looks = np.asarray(frequencies, float), _looks(list(curves))
    bands = {label: np.array(band, float)[:, x > 0] for label, band in curves.items()}
    x = x[x > 0]
    reference = next(iter(bands.values()))[0]
    figure = Figure(figsize=(WIDTH, 2.75), layout="constrained")
    titles = ("power (dB)", "difference from the real mean (dB)")
    for axes, base, title in zip(figure.subplots(1, 2), (np.zeros_like(x), reference), titles, strict=True):
        for place, (label, (mean, low, high)) in enumerate(bands.items()):
            look = looks[label] if place else _REAL
            if not place:
                axes.fill_between(x, low - base, high - base, color=HEALTHY, alpha=0.3, linewidth=0)
            axes.plot(x, mean - base, color=look.colour, linestyle=look.dashes, label=label, zorder=2.5)
        axes.set_xscale("log", base=2)
        octaves = range(math.ceil(math.log2(x.min())), math.floor(math.log2(x.max())) + 1)
        axes.set_xticks([2.0**octave for octave in octaves], [f"{2.0**octave:g}" for octave in octaves])
        axes.set_xticks([], minor=True)
        axes.set(xlim=(x.min(), x.max()), title=title, xlabel="cycles an image (coarse to fine)")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
        add_grid(axes)
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower left", ncol=min(len(labels), 4), handlelength=2.6)
    return figure


@styled
def distance_chart(distances: Mapping[str, ArrayLike], label: str = "distance to the nearest image") -> Figure:
    """Draw the share of generated images whose nearest image is within a distance, a step line for each set of images.

    distances: label -> one distance a generated image; the smallest of each set is marked, as copies would be there.
    """
    figure, axes = single(2.5)
    values = {name: np.sort(np.asarray(sample, float)) for name, sample in distances.items()}
    filled = [sample for sample in values.values() if sample.size]
    low, high = (min(map(np.min, filled)), max(map(np.max, filled))) if filled else (0.0, 1.0)
    margin = 0.03 * (high - low) or 0.5
    # A copy is at 0, so that 0 is shown wherever it would not squeeze the rest.
    start = 0.0 if 0 <= low <= high / 2 else low - margin
    for (name, sample), look in zip(values.items(), _looks(list(values)).values(), strict=True):
        label_text = f"{name}\n   n = {sample.size:,}"
        if sample.size:
            label_text += f", smallest {_rounded(sample[0])}, median {_rounded(np.median(sample))}"
            axes.plot(sample[0], 0, look.symbol, markersize=5.5, color=look.colour, mfc="white", clip_on=False)
        steps = ([start, *sample, high + margin], [0, *(np.arange(1, sample.size + 1) / sample.size), 1])
        x, y = steps if sample.size else ([], [])
        axes.step(x, y, where="post", color=look.colour, linestyle=look.dashes, label=label_text)
    axes.set(xlim=(start, high + margin), ylim=(0, 1.01), ylabel="share of generated images")
    axes.set_xlabel(f"{label}  (marks: the smallest)")
    add_grid(axes)
    legend_beside(axes, handlelength=2.6, labelspacing=1.2)
    return figure


@styled
def latent_map(points: ArrayLike, labels: Sequence[str], variance: tuple[float, float]) -> Figure:
    """Draw images as points on two axes of the latent space, each set with its own colour and symbol.

    points: (N, 2); labels: N, the set that each belongs to, sets drawn in the order of their first point; variance:
    the share of the whole variance, 0 to 1, along each axis.
    """
    places, names = np.asarray(points, float).reshape(-1, 2), np.asarray(labels, str)
    figure, axes = single(3.3)
    for place, (name, look) in enumerate(_looks(list(dict.fromkeys(labels))).items()):
        chosen = places[names == name]
        face, edge = (look.colour, "none") if look is _REAL else ("none", look.colour)
        style: dict[str, Any] = {"marker": look.symbol, "facecolors": face, "edgecolors": edge, "linewidths": 0.8}
        style |= {"alpha": 0.75 if len(chosen) < 400 else 0.5, "rasterized": len(places) > _POINTS}
        axes.scatter(*chosen.T, s=13, label=f"{name}  (n = {len(chosen):,})", zorder=2 + place / 10, **style)
    axes.axhline(0, color=LINE, linewidth=0.6, zorder=1)
    axes.axvline(0, color=LINE, linewidth=0.6, zorder=1)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(f"first axis ({100 * variance[0]:.3g} % of the variance)")
    axes.set_ylabel(f"second axis ({100 * variance[1]:.3g} %)")
    legend_beside(axes, labelspacing=0.8, markerscale=1.4)
    return figure


@styled
def arm_forest(arms: Sequence[str], panels: Sequence[tuple[str, str, Mapping[str, Estimate | None]]]) -> Figure:
    """Draw measures side by side, an arm a row with its interval; the first arm is the reference, a band in its panel.

    panels: label of a measure, what is better (a key of BETTER), and its estimates by arm; up to three stand in a line.
    """
    columns = 2 if len(panels) == 4 else min(_PANELS, max(1, len(panels)))
    lines = math.ceil(len(panels) / columns)
    names = [textwrap.fill(arm, 24) for arm in arms]
    row = 0.2 * max(1.0, *(0.65 * (name.count("\n") + 1) for name in names))
    figure = Figure(figsize=(WIDTH, lines * (row * len(arms) + 0.85) + 0.1), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.ravel()[len(panels) :]:
        axes.remove()
    looks = _looks(arms)
    for axes, (label, better, estimates) in zip(grid.ravel(), panels, strict=False):
        reference = estimates.get(arms[0])
        if better in _BEST:
            axes.axvline(_BEST[better], color=SOFT, linewidth=0.7)
        if reference is not None and reference.low is not None and reference.high is not None:
            axes.axvspan(reference.low, reference.high, color=HEALTHY, alpha=0.22, linewidth=0)
        for place, arm in enumerate(arms):
            estimate, look = estimates.get(arm), looks[arm] if place else _REAL
            if estimate is not None and estimate.value is not None:
                draw_estimate(axes, place, estimate, look.colour, look.symbol, look.colour)
                continue
            text, across = "–" if estimate is None else "not defined", axes.get_yaxis_transform()
            axes.text(0.5, place, text, transform=across, color=SOFT, ha="center", va="center")
        axes.set_yticks(range(len(arms)), names)
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
        axes.set_title(textwrap.fill(label, 27), fontweight="bold")
        axes.set_xlabel(BETTER[better])
        add_grid(axes, "x")
    return figure
