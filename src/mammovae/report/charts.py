"""Charts of detection: loss curves, every score as a point, ROC curves with their band, AUROCs in one column."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from mammovae.report.style import FINDING, HEALTHY, INK, LINE, SOFT, TRIVIAL, WIDTH, add_grid, single, styled
from mammovae.statistics import Floats
from mammovae.statistics.bootstrap import Estimate, RocCurve

if TYPE_CHECKING:
    from pandas import DataFrame

_HEADINGS = {
    "score": "Scores",
    "baseline": "Baselines",
    "category": "By category of finding",
    "severity": "By severity",
    "size": "By size of the lesion",
    "density": "By breast density",
    "vendor": "By vendor",
}
_POINTS = 4000
_STRIP = 0.5


@styled
def loss_curves(histories: Mapping[str, "DataFrame"], titles: Mapping[str, Mapping[str, str]]) -> Figure:
    """Draw what members' losses say by epoch, a row of panels a member, training as a line and validation dashed.

    histories: by member, a row an epoch; titles: by member, the title of each column that is shown. Beside a column
    stands its validation_COLUMN. NaN is left out, a missing column no line.
    """
    widest = max(len(columns) for columns in titles.values())
    figure = Figure(figsize=(WIDTH, 0.4 + 1.9 * len(histories)), layout="constrained")
    grid = figure.subplots(len(histories), max(3, widest), squeeze=False)
    for row, (name, history) in zip(grid, histories.items(), strict=True):
        for axes, (column, title) in zip(row, titles[name].items(), strict=False):
            _loss_panel(axes, history, column)
            axes.set(title=title)
        if len(histories) > 1:
            row[0].set_ylabel(name.replace("_", " "))
        for axes in row[len(titles[name]) :]:
            axes.set_axis_off()
    return figure


def _loss_panel(axes: Axes, history: "DataFrame", column: str) -> None:
    epochs = history["epoch"].to_numpy(float)
    symbol = "o" if len(epochs) < 3 else ""
    arms = ((column, "training", INK, "-"), (f"validation_{column}", "validation", FINDING, (0, (4, 1.6))))
    for name, label, colour, dashes in arms:
        values = history[name].to_numpy(float) if name in history else np.full(len(epochs), np.nan)
        known = np.isfinite(values)  # not every epoch is validated
        if known.any():
            axes.plot(
                epochs[known], values[known], color=colour, linestyle=dashes, marker=symbol, markersize=3, label=label
            )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.6g}")
    add_grid(axes, "y")
    if axes.lines:
        _frame(axes)
        axes.legend(loc="best" if column == "kl" else "upper right")


def _frame(axes: Axes) -> None:
    """Frame what follows the first tenth of the epochs where the fall before it would flatten the rest, and say so."""
    lines = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    late = np.concatenate([line[len(line) // 10 :] for line in lines])
    low, high = float(np.nanmin(late)), float(np.nanmax(late))
    first, margin = lines[0][0], 0.08 * (high - low)
    if first > high + 2 * (high - low) > high:
        axes.set_ylim(low - margin, high + 4 * margin)
        text = f"epoch 1: {first:,.0f}" if first >= 1000 else f"epoch 1: {first:.4g}"
        axes.text(0.97, 0.7, text, transform=axes.transAxes, color=SOFT, ha="right", va="top", fontsize=7)


@styled
def score_points(groups: Mapping[str, ArrayLike], label: str = "score") -> Figure:
    """Draw every image's score as a point, a strip for each group, with the group's median as a bar.

    groups: name -> scores; the group "healthy" is drawn in its own colour. Groups may share images (findings, then
    their categories); an empty group is a strip that says so.
    """
    figure, axes = single(0.55 + _STRIP * len(groups))
    values = {name: np.asarray(group, float) for name, group in groups.items()}
    everything = np.concatenate([*values.values(), [np.nan]])
    finite = everything[np.isfinite(everything)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    margin = 0.03 * (high - low) or 0.5
    for row, (name, group) in enumerate(values.items()):
        colour, symbol = (HEALTHY, "o") if name.startswith("healthy") else (FINDING, "D")
        heights = _swarm((group - low) / (high - low or 1))
        look = {"s": 7 if symbol == "o" else 5, "marker": symbol, "color": colour, "linewidths": 0}
        alpha = 0.75 if group.size < 400 else 0.5
        axes.scatter(group, row + heights, alpha=alpha, rasterized=everything.size > _POINTS, **look)
        if group.size:
            axes.vlines(np.median(group), row - 0.4, row + 0.4, color=INK, linewidth=1.8, zorder=0.8)
        else:
            axes.text(low, row, "no image", color=SOFT, va="center")
    axes.set_yticks(range(len(values)), [f"{name}  (n = {group.size:,})" for name, group in values.items()])
    axes.set(xlim=(low - margin, high + margin), ylim=(len(values) - 0.45, -0.55))
    axes.set_xlabel(f"{label}  (higher = further from healthy; bar = median)")
    add_grid(axes, "x")
    return figure


def _swarm(positions: Floats) -> Floats:
    """Return heights within +-0.4 that spread points at 0..1 which would hide each other."""
    column = np.floor(np.nan_to_num(positions) * 110).astype(int)
    order = np.lexsort((positions, column))
    _, starts, counts = np.unique(column[order], return_index=True, return_counts=True)
    # Alternately above and below the strip's line, so that a column is symmetric: 0, +1, -1, +2, ...
    turn = np.arange(order.size) - np.repeat(starts, counts)
    heights = np.zeros(positions.size)
    heights[order] = min(0.11, 0.8 / counts.max(initial=1)) * ((turn + 1) // 2) * np.where(turn % 2, 1, -1)
    return heights


@styled
def roc(curve: RocCurve, baselines: Sequence[RocCurve] = ()) -> Figure:
    """Draw a ROC curve with its pointwise 95 % band, and baselines as thin grey lines; n and AUROCs in the legend."""
    figure, axes = single(3.3)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=0.8)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.grid, curve.low, curve.high, color=FINDING, alpha=0.14, linewidth=0)
    estimate = curve.estimate
    axes.plot(curve.false, curve.true, color=FINDING, linewidth=1.8, label=_legend(estimate))
    styles = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)))
    for baseline, style in zip(baselines, itertools.cycle(styles), strict=False):
        look = {"color": TRIVIAL, "linewidth": 0.9, "linestyle": style, "zorder": 1}
        axes.plot(baseline.false, baseline.true, label=_legend(baseline.estimate), **look)
    axes.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    axes.set_xlabel("healthy images above the threshold (1 − specificity)")
    axes.set_ylabel("images with a finding above it (sensitivity)")
    add_grid(axes)
    title = f"{estimate.n_healthy:,} healthy, {estimate.n_finding:,} with a finding\nAUROC (95 % interval)"
    axes.legend(loc="center left", bbox_to_anchor=(1.04, 0.5), title=title, alignment="left", title_fontsize=7)
    return figure


def _legend(estimate: Estimate) -> str:
    return f"{estimate.label or 'score'}  {estimate.text}"


@styled
def fault_chart(table: "DataFrame") -> Figure:
    """Draw for each inserted fault the share detected when 5 % of healthy images go to review, and its AUROC.

    table: columns fault, n, refused (share), auroc, recall_5; the most easily missed stand above.
    """
    rows = table.sort_values(["recall_5", "auroc"]).reset_index(drop=True)
    figure, axes = single(0.9 + 0.19 * len(rows))
    y = np.arange(len(rows))
    axes.barh(y, rows["recall_5"], color=FINDING, height=0.62, alpha=0.85, label="by the quality score")
    axes.barh(y, rows["refused"], color=HEALTHY, height=0.62, label="of these, refused by prepare")
    axes.axvline(0.05, color=SOFT, linewidth=0.7, linestyle=(0, (3, 2)))
    columns = ((1.02, "recall", "recall_5", ".2f"), (1.12, "AUROC", "auroc", ".2f"), (1.22, "n", "n", ","))
    for x, head, name, form in columns:
        axes.text(x, -1.0, head, va="center", color=SOFT)
        for place, number in enumerate(rows[name]):
            axes.text(x, place, format(number, form), va="center")
    axes.set_yticks(y, [str(name).replace("_", " ") for name in rows["fault"]])
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -1.6))
    axes.set_xlabel("share detected when 5 % of healthy images go to review (dashed: by chance)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncol=2)
    add_grid(axes, "x")
    return figure


@styled
def detectability_chart(detected: "DataFrame", pointed: "DataFrame") -> Figure:
    """Draw the share of inserted lesions detected by the score, and pointed at by the map, by size and contrast.

    detected, pointed: shares 0 to 1, rows by diameter in mm, columns by contrast; NaN where nothing was inserted.
    """
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    titles = ("score above 95 % of untouched images", "maximum of the anomaly map in the lesion")
    for axes, table, title in zip(figure.subplots(1, 2), (detected, pointed), titles, strict=True):
        values = table.to_numpy(float)
        axes.imshow(values, cmap="YlOrBr", vmin=0, vmax=1, aspect="auto", origin="lower")
        for (row, column), share in np.ndenumerate(values):
            text = "–" if np.isnan(share) else f"{share:.2f}"
            axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.65 else INK)
        axes.set_xticks(range(values.shape[1]), [f"{contrast:g}" for contrast in table.columns])
        axes.set_yticks(range(values.shape[0]), [f"{size:g}" for size in table.index])
        axes.set(title=title, xlabel="contrast (share of the breast's grey range)", ylabel="size (mm)")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


@styled
def froc_curve(rates: Sequence[float], rows: Sequence[Estimate], annotated: int) -> Figure:
    """Draw sensitivity, the mean share of an image's lesions marked, at false marks a healthy image, with intervals."""
    figure, axes = single(2.5, 0.6 * WIDTH)
    value, low, high = np.array([(row.value, row.low, row.high) for row in rows], float).T
    axes.plot(rates, value, color=FINDING, marker="s", markersize=4)
    axes.vlines(rates, low, high, color=FINDING, linewidth=1.0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.set(ylim=(0, 1), xlabel="false marks a healthy image", ylabel=f"share of lesions marked ({annotated} images)")
    add_grid(axes)
    return figure


@styled
def auroc_forest(rows: Sequence[Estimate]) -> Figure:
    """Draw AUROCs one under another with their 95 % intervals, n on the right and a line at 0.5, which is guessing.

    Rows of one kind stand together under a heading, in the order given.
    """
    groups = itertools.groupby(rows, key=lambda row: row.kind)
    lines = [line for kind, group in groups for line in (_HEADINGS.get(kind, kind), *group)]
    inch = 0.19
    height = inch * (len(lines) + 1) + 0.45
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.27, 0.42 / height, 0.36, inch * (len(lines) + 1) / height))
    ends = [end for row in rows if row.value is not None for end in (row.value, row.low, row.high) if end is not None]
    left, right = np.floor(min([0.45, *ends]) * 20) / 20 - 0.02, np.ceil(max([0.75, *ends]) * 20) / 20
    axes.set(xlim=(max(0.0, left), min(1.0, right) + 0.02), ylim=(len(lines) - 0.4, -1.4))
    axes.axvline(0.5, color=SOFT, linewidth=0.7)

    def write(x: float, y: float, text: str, **look: Any) -> None:
        axes.text(x, y, text, transform=axes.get_yaxis_transform(), va="center", **look)

    columns = ((1.06, "AUROC (95 % interval)", "left"), (1.74, "healthy", "right"), (2.02, "with finding", "right"))
    for x, text, side in columns:
        write(x, -0.85, text, ha=side, color=SOFT)
    for y, line in enumerate(lines):
        if isinstance(line, str):
            write(-0.74, y, line, fontweight="bold")
            continue
        write(-0.71, y, line.label or line.name)
        for (x, _, side), text in zip(columns, (line.text, f"{line.n_healthy:,}", f"{line.n_finding:,}"), strict=True):
            write(x, y, text, ha=side)
        look = (SOFT, "o", "white") if line.kind == "baseline" else (FINDING, "s", FINDING)
        draw_estimate(axes, y, line, *look)
    axes.set_yticks([])
    axes.set_xlabel("AUROC (0.5 = guessing)")
    add_grid(axes, "x")
    return figure


def draw_estimate(axes: Axes, y: float, estimate: Estimate, colour: str, symbol: str, face: str) -> None:
    """Draw a value as a symbol, and its interval, where there is one, as a line across."""
    if estimate.low is not None and estimate.high is not None:
        axes.hlines(y, estimate.low, estimate.high, color=colour, linewidth=1.2)
    if estimate.value is not None:
        axes.plot(estimate.value, y, marker=symbol, markersize=4.2, color=colour, markerfacecolor=face)
