"""The sections of an audit's page: are generated images realistic and varied, and do they copy no patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike

from mammovae.report import audit_charts as charts
from mammovae.report import page as pages
from mammovae.report.evaluation_page import ImageArray
from mammovae.report.images import grey
from mammovae.report.page import Block, Cell, Facts, Figure, Images, Section, Table, Text
from mammovae.statistics.bootstrap import Estimate

Grade = Literal["good", "caution", "bad"]
Conclusion = tuple[str, str, Grade]
"""Heading, sentence, and whether that is good."""
LIMITS = (
    "It is research software. No generated image may be used for a diagnosis, and no figure here says that one could.",
    "The figures see what their features see. A fault that the features miss is not counted.",
    "The real-vs-real reference is no surer than its patients are many. With few, two halves of them differ by chance, "
    "and a generated set that departs by less looks as good as real.",
    "Privacy is tested against the attacks listed, on these images. Another attack may succeed: no figure here proves "
    "that the images are anonymous.",
    "The figures hold for this network, sampler, seed and image size. Figures of other data, sizes or features cannot "
    "be set beside them.",
    "Several measures are listed without correction for their number: one that stands out may do so by chance.",
)
_QUESTIONS = {
    "Realism": "Could the generated images be from the same source as the real ones?",
    "Diversity": "Are they as different from each other as real images are?",
    "Privacy": "Do they show more of the training patients than of any others?",
}
_SHOWN_IMAGES, _COLUMNS, _SHOWN_PAIRS = 12, 6, 12


@dataclass(frozen=True)
class AuditRow:
    """One measure of all arms: a row of the table.

    name: its key in metrics.json; better: half where 0.5 is best, zero where 0 is; estimates: by arm, n_healthy real
    and n_finding generated images, None or no entry where it was not measured; note: what it measures, in half a line;
    primary: its section rests on it, so that it is named so and drawn.
    """

    name: str
    label: str
    better: Literal["lower", "higher", "half", "zero"]
    estimates: Mapping[str, Estimate | None]
    note: str = ""
    primary: bool = False


@dataclass(frozen=True)
class LatentView:
    """A look into the latent space; whatever is None is not shown. Images are integers or floats in 0..1.

    traversals (R, C, S, S): a row for each dimension that is moved, as "dimension 3, 2.1 nats", a column a step,
    as "−2"; strip (K, S, S): the way from one image to another; points (N, 2): images on the first two axes of a linear
    projection, with the N sets that they belong to and the share of the whole variance, 0 to 1, along each axis.
    """

    traversals: ImageArray | None = None
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()
    strip: ImageArray | None = None
    points: ArrayLike | None = None
    point_labels: Sequence[str] = ()
    variance: tuple[float, float] = (0.0, 0.0)


def introduction(by_patient: bool = True, derived: bool = False, shows_patients: bool = False) -> Section:
    """Return how to read a page; derived: some images start from a patient’s; shows_patients: it shows real images."""
    unit = "patients" if by_patient else "images"
    one_each = (
        "Two images of one woman are alike. Figures that depend on the number of images are taken of one image a "
        "patient; the kernel distance and the spread leave out pairs of one patient."
    )
    words = Markup(
        "<strong>Research software, no diagnosis.</strong> A network learned from real mammograms and made new ones. "
        "This page asks whether they look like real ones, whether they vary as much, and whether they give away the "
        "images that it learned from."
    )
    if shows_patients:
        words += Markup(" <strong>It shows patients’ images: keep it where those are kept.</strong>")
    unknown = "" if by_patient else " (patients are unknown: not by patient)"
    terms = {
        "Real vs real": f"Two halves of the real {unit} against each other: the reference of every figure. No "
        "generated set can be asked for more. The kernel distance of two such halves is 0 on average.",
        **({"One image a patient": one_each} if by_patient else {}),
        "Intervals": f"From 2.5 to 97.5 % of subsamples of half of the {unit}, drawn without replacement{unknown}.",
        "Kernel distance": "The primary figure of realism. It is not an FID, which falls with the number of images "
        "alone, and cannot be set beside one.",
        "Membership inference": "The AUROC of an attacker who distinguishes training images from held-out ones. 0.5 is "
        "guessing: the reference.",
    }
    text = "An image of mode “vary” is derived from one patient’s image by construction, and must be handled like it."
    return Section(
        "what", "How to read this page", [Text(words), Facts(terms | ({"Derived": text} if derived else {}), "terms")]
    )


def measures_section(
    arms: Sequence[str] = (),
    rows: Mapping[str, Sequence[AuditRow]] | None = None,
    differences: Sequence[tuple[str, Estimate | None]] = (),
    derived: Sequence[str] = (),
    by_patient: bool = True,
) -> Section:
    """Return every measure of every arm; the first arm is the real-vs-real reference, the others are generated sets.

    rows: by question (Realism, Diversity, Privacy); differences: of two arms in the same subsamples; derived: the arms
    whose images are each derived from one patient's image.
    """
    blocks: list[Block] = []
    if rows and arms:
        if primary := [(row.label, row.better, row.estimates) for part in rows.values() for row in part if row.primary]:
            alt = (
                "The primary measures, a row for each arm with its interval, and the real-vs-real reference as a band."
            )
            caption = "The primary measures with their intervals. Shaded band: real vs real."
            blocks.append(Figure.chart(charts.arm_forest(arms, primary), alt, caption))
        shared = {arm: _shared_counts(arm, arm == arms[0], rows) for arm in arms}
        heads = [Cell(arm, ("derived" if arm in derived else "", *shared[arm])) for arm in arms]
        caption = f"Every measure, with its interval underneath.{pages.not_by_patient(by_patient)} –: not measured."
        groups = {
            Cell(name, (_QUESTIONS.get(name, ""),)): [_row(arms, shared, row) for row in part]
            for name, part in rows.items()
        }
        blocks.append(Table(("Measure", *heads), groups, caption, layout="numbers measures"))
    if differences:
        caption = (
            "Differences of arms in the same subsamples. Where the interval includes 0, these images do not show which "
            "is better."
        )
        cells = [(label, *_difference(estimate)) for label, estimate in differences]
        blocks.append(Table(("Difference", "Value", "Interval", "Includes 0"), cells, caption))
    return Section("measures", "Measures", blocks, "No measures: none were handed to this page.")


def images_section(images: Mapping[str, ImageArray] | None = None, derived: Sequence[str] = ()) -> Section:
    """Return the first 12 images (n, S, S) of each set."""
    blocks: list[Block] = []
    for name, one_set in (images or {}).items():
        shown = np.array([grey(image) for image in one_set[:_SHOWN_IMAGES]])
        # White fills the row, so that images of all sets are of one size.
        blank = np.ones((max(0, _COLUMNS - len(shown)), *shown.shape[1:]), shown.dtype)
        origin = ": each derived from one patient’s image" if name in derived else ""
        caption = Markup("<strong>{}</strong>{}").format(name, origin)
        alt = f"A grid of {len(shown)} images: {name}."
        blocks.append(Figure.grid(np.concatenate([shown, blank]), _COLUMNS, alt, caption))
    if blocks:
        blocks.insert(0, Text("All on one grey scale, none stretched."))
    return Section("images", "Images", blocks, "No images: none were picked to show.")


def spectrum_section(frequencies: ArrayLike = (), curves: Mapping[str, charts.Band] | None = None) -> Section:
    """Return power by spatial frequency; see spectrum_chart."""
    alt = "Two curves by spatial frequency: power, and its difference from the real mean, for each set."
    caption = (
        "Left: power by spatial frequency. Right: the same less the real mean. Band: 2.5 to 97.5 % of the real images. "
        "At high frequencies, a set below the band is blurred, and one above it has noise that real images do not have."
    )
    blocks = [Figure.chart(charts.spectrum_chart(frequencies, curves), alt, caption)] if curves else []
    return Section("spectrum", "Spectrum", blocks, "No spectrum: none was measured.")


def nearest_section(
    pairs: Sequence[tuple[ImageArray, ImageArray, str]] = (),
    distances: Mapping[str, ArrayLike] | None = None,
    distance_label: str = "distance to the nearest image",
    derived: bool = False,
) -> Section:
    """Return distances to the nearest training and held-out images, and the closest pairs.

    pairs: a generated image (S, S), its nearest training image (S, S) and a caption, the closest first.
    """
    blocks: list[Block] = []
    if distances:
        alt = "Share of generated images by the distance to their nearest image, a step line for each set."
        caption = (
            "The distance from each generated image to its nearest one. Copies would put the training line left of the "
            "held-out line and start it near 0. Only sets of equally many images compare: of more images, one is "
            "nearer by chance."
        )
        blocks.append(Figure.chart(charts.distance_chart(distances, distance_label), alt, caption))
    if pairs:
        words = "Left: a generated image. Right: the training image nearest to it."
        if derived:
            words += " An image of mode “vary” is expected to be near the one that it was derived from."
        alt = "A generated image beside its nearest training image."
        figures = [
            Figure.grid(np.array([grey(generated), grey(training)]), 2, alt, caption)
            for generated, training, caption in pairs[:_SHOWN_PAIRS]
        ]
        blocks += [Text("Closest pairs", "heading"), Text(words), Images(figures)]
    absent = "No nearest images: no distances to training images were measured."
    return Section("nearest", "Nearest training images", blocks, absent)


def latent_section(view: LatentView | None = None) -> Section:
    """Return what the latent dimensions do, the way between two images, and where images lie."""
    blocks: list[Block] = []
    view = view or LatentView()
    if view.traversals is not None:
        blocks.append(Text("One dimension moved, the others held", "heading"))
        labels = [(f"Images along {label}.", label.replace(", ", ",\n")) for label in view.row_labels]
        strips = [Figure.grid(row, len(row), *label) for row, label in zip(view.traversals, labels, strict=True)]
        blocks.append(Images(strips, "strips", columns=view.column_labels))
    if view.strip is not None:
        caption = "Equal steps through the latent space. Breasts should turn into one another, not fade."
        strip = Figure.grid(view.strip, len(view.strip), "Images on the way from one image to another.", caption)
        blocks += [Text("From one image to another", "heading"), strip]
    if view.points is not None:
        alt = "Images as points on the first two axes of the latent space, real and generated."
        caption = (
            "The two axes along which images differ most. Generated images should cover the real ones: bare regions "
            "are kinds of breast that are not made."
        )
        chart = charts.latent_map(view.points, view.point_labels, view.variance)
        blocks += [Text("Where the images lie", "heading"), Figure.chart(chart, alt, caption)]
    absent = "No view of the latent space: this audit did not look into the network."
    return Section("latent", "Latent space", blocks, absent)


def utility_section(estimates: Sequence[tuple[str, Estimate | None]] = (), by_patient: bool = True) -> Section:
    """Return the AUROC of a detector trained on real images, generated ones or both, on the same real images."""
    caption = (
        "The same detector, trained on real images, on as many generated ones and on both together, and evaluated on "
        "the same real test images: those with a finding against all healthy ones, of affected patients too."
    )
    table = pages.estimates_table(estimates, caption + pages.not_by_patient(by_patient), "Trained on")
    absent = "Not tested: no detector was trained on these images."
    return Section("utility", "Utility", [table] if estimates else [], absent)


def _shared_counts(arm: str, reference: bool, measures: Mapping[str, Sequence[AuditRow]]) -> tuple[str, ...]:
    """Return the numbers of images of an arm where all measures share them."""
    estimates = [row.estimates.get(arm) for part in measures.values() for row in part]
    counts = {_counts(estimate, reference) for estimate in estimates if estimate is not None}
    return counts.pop() if len(counts) == 1 else ()


def _counts(estimate: Estimate, reference: bool) -> tuple[str, ...]:
    """Return the numbers of images behind a figure, a line each."""
    if reference:
        return (f"{estimate.n_healthy:,} and {estimate.n_finding:,} real",)
    return f"{estimate.n_finding:,} generated", f"{estimate.n_healthy:,} real"


def _row(arms: Sequence[str], shared: Mapping[str, tuple[str, ...]], row: AuditRow) -> list[Cell]:
    """Return a measure with its texts by arm; an arm's numbers of images where its head does not give them."""
    label = row.label + (" (primary)" if row.primary else "")
    cells = [Cell(label, (charts.BETTER[row.better], row.note), row.primary)]
    for arm in arms:
        if (estimate := row.estimates.get(arm)) is None:
            cells.append(Cell("–"))
            continue
        figure, interval = charts.number_texts(estimate)
        cells.append(Cell(figure, (interval, *(() if shared[arm] else _counts(estimate, arm == arms[0])))))
    return cells


def _difference(estimate: Estimate | None) -> tuple[str, str, str]:
    """Return a difference, its interval, and whether that includes 0."""
    if estimate is None:
        return "–", "–", "–"
    figure, interval = charts.number_texts(estimate)
    if estimate.low is None or estimate.high is None:
        return figure, interval or "–", "–"
    return figure, interval, "yes" if estimate.low <= 0 <= estimate.high else "no"
