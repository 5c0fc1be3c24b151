"""The demo's page: the original network and the detecting ones side by side, on everything that was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image, ImageDraw

from mammovae.config import PresetName
from mammovae.data.dataset import Data
from mammovae.demonstration.demo_settings import SHOWN, DemoSettings
from mammovae.demonstration.demo_study import NAMES, DemoStudy
from mammovae.detection.detector import Detector
from mammovae.evaluation.evaluation_report import finding_boxes, split_counts
from mammovae.evaluation.inserted_faults import example_of_faults
from mammovae.evaluation.stress import healthy_test_images
from mammovae.models.base import HISTORY
from mammovae.report import charts
from mammovae.report import evaluation_page as sections
from mammovae.report.formatting import UNAFFECTED, duration, percentile_in_words, plural
from mammovae.report.images import BOX, MapScale, contact_sheet, grey, overlay, side_by_side, thumbnail
from mammovae.report.page import (
    Block,
    Bullets,
    Cell,
    Conclusions,
    Figure,
    Images,
    Page,
    Section,
    Table,
    Text,
    estimate_cells,
    limits_section,
    provenance_section,
    write_page,
)
from mammovae.report.style import data_uri
from mammovae.report.summary_text import LIMITS, OWN_IMAGES, lowered
from mammovae.storage import provenance, read_json

Grade = Literal["good", "caution", "bad"]
_CASES, _PANEL, _FAULTS_A_ROW, _THUMBNAIL, _PAIRS, _GENERATED = 6, 224, 7, 128, 8, 18
_LESIONS = {
    "mass": "mass",
    "spiculated": "spiculated mass",
    "calcification": "calcification cluster",
    "distortion": "architectural distortion",
    "asymmetry": "asymmetry",
}
_WHAT = Markup(
    "<strong>Research software, no diagnosis.</strong> Painted lesions in painted breasts are easier than real ones: "
    "this page shows that all parts work together, and says nothing of patients. On real films the same kinds of "
    "networks, trained far longer, reach much less."
)
_PAINTED = (
    "Phantoms are painted, not simulated physics, and their lesions were made visible on purpose: what was inserted "
    "is listed under “What was painted”."
)


def write_demo_page(out: Path, settings: DemoSettings, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Write report.html from what the demo's steps have left in out, and return the flat keys of metrics.json.

    seconds: what each step took, by its command.
    """
    study, made_by = DemoStudy.open(out, settings), provenance()
    counts = f"{plural(settings.patients, 'painted patient')}, {plural(len(study.data.index), 'image')}"
    page = Page(
        "mammovae demo",
        "Learn from healthy breasts, find what is not",
        f"{counts} of {study.data.size} x {study.data.size} pixels; the steps took "
        f"{duration(sum(seconds.values()))} ({made_by['machine']}). Nothing here is of a patient.",
        [Conclusions(_conclusions(study)), *_cases(study)],
        Section("what", "What this is, and what it cannot say", [Text(_WHAT)]),
        [
            Section("data", "What was painted", _painted(study)),
            Section("training", "Two kinds of networks", _trained(study)),
            Section("reconstructions", "Reconstructions", _reconstructed(study)),
            _generated(study),
            _detected(study),
            Section("localisation", "Where the maps point", _localised(study)),
            Section("faults", "Technical faults", _faulty(study)),
            Section("review", "The review page", _reviewed(study)),
            Section("costs", "What each step took", _costs(seconds)),
            Section("next", "What to open, and your own images", _next_steps()),
            limits_section([_PAINTED, *LIMITS]),
            provenance_section(made_by | {"settings": settings.model_dump(exclude_none=True)}),
        ],
    )
    write_page(out / "report.html", page)
    return study.metrics(seconds)


def _conclusions(study: DemoStudy) -> list[tuple[str, str, Grade]]:
    """Return what was reached in a sentence each."""
    detect, original = study.detection.headline, study.detection.baselines[0]
    n = f"{detect.n_healthy} healthy images {UNAFFECTED}, {detect.n_finding} with a lesion"
    pairs = zip(study.detection.baselines[1:], study.detection.differences[1:], strict=True)
    trivial, gap = max(pairs, key=lambda pair: pair[0].value or 0.0)
    found = f"AUROC {detect.text} for the detecting networks, {original.text} for the original network, {trivial.text} "
    found += f"for {lowered(trivial.label)}, the best trivial score"
    grade: Grade = "good" if study.is_ahead and (gap.low or 0.0) > 0 else "caution"
    pointing = study.estimate("detect", "full", "pointing")
    chance = study.evaluations["detect", "full"]["pointing_chance"]
    places = f"The map’s maximum lies in the lesion in {_share(pointing.text)} of the images that have one; by chance "
    is_there: Grade = "good" if (pointing.low or 0) > chance else "caution"
    recall, healthy = study.stress["quality_recall_5_mean"], study.stress["quality_n_healthy"]
    faults = f"{100 * recall:.0f} % of 21 kinds of inserted faults are found, in {healthy} images each, when 5 % of "
    return [
        ("Lesions", f"{found}. {n}.", grade),
        ("Places", f"{places}{chance:.2f}.", is_there),
        ("Faults", f"{faults}healthy images go to review.", "good" if recall > 0.8 else "caution"),
    ]


def _share(text: str) -> str:
    return text.removesuffix(" (too few)")


def _cases(study: DemoStudy) -> list[Block]:
    """Return test images with a lesion, each under both kinds of maps."""
    rows = study.cases(_CASES)
    if not len(rows):
        return []
    positions = rows["position"].to_numpy()
    maps = {preset: Detector(run).fused_maps(study.data, positions) for preset, run in study.runs.items()}
    scales = {preset: MapScale.of_healthy(run.manifest["map_scale"]) for preset, run in study.runs.items()}
    lesions = study.inserted().set_index("image_id")
    figures = []
    for number, (_, row) in enumerate(rows.iterrows()):
        pixels = thumbnail((255 * grey(study.data.images[row["position"]])).astype(np.uint8), _PANEL)
        framed = _framed(pixels, finding_boxes(study.data, row["position"], _PANEL))
        layers = [overlay(pixels, maps[preset][number], scales[preset]) for preset in SHOWN]
        lesion = lesions.loc[[row["image_id"]]].iloc[0]
        kind = _LESIONS[lesion["kind"]]
        what = f"{kind.capitalize()} of {lesion['diameter_mm']:.0f} mm, contrast {lesion['contrast']:.2f}"
        percentiles = "; ".join(f"{NAMES[preset].lower()}: {_percentile(study, preset, row)}" for preset in SHOWN)
        alt = f"An image with a {kind} in a frame, and under the maps of both kinds of networks."
        figures.append(
            Figure(data_uri(side_by_side([framed, *layers], gap=4)), alt, f"{what}. Percentile of the {percentiles}.")
        )
    words = (
        f"{len(figures)} of the {study.detection.headline.n_finding} test images with a lesion, at even steps from the "
        "most to the least suspicious, none picked by hand. From left to right: the image with the lesion framed, "
        "the original network’s map, the detecting networks’ map. Colours mean the same in every image."
    )
    return [Images(figures), Text(words)]


def _framed(pixels: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    framed = pixels.convert("RGB")
    for x0, y0, x1, y1 in boxes:
        ImageDraw.Draw(framed).rectangle((x0 - 3, y0 - 3, x1 + 3, y1 + 3), outline=BOX, width=2)
    return framed


def _percentile(study: DemoStudy, preset: PresetName, row: pd.Series) -> str:
    patients = study.runs[preset].manifest["calibration_patients"]
    return percentile_in_words(row[f"{preset}_percentile"], patients)


def _painted(study: DemoStudy) -> list[Block]:
    """Return the splits, the lesions and a sheet of prepared images."""
    data, lesions = study.data, study.inserted()
    rows = [
        (
            _LESIONS[str(kind)],
            len(part),
            f"{part['diameter_mm'].min():.0f}–{part['diameter_mm'].max():.0f}",
            f"{part['contrast'].min():.2f}–{part['contrast'].max():.2f}",
        )
        for kind, part in lesions.groupby("kind", sort=False)
    ]
    caption = (
        "Lesions in the test images. Contrast: the rise at the lesion’s thickest point over the range of grey of the "
        "breast (5th to 95th percentile), so that 0.5 is half of it. Networks never saw lesions of these shapes."
    )
    shown = np.flatnonzero((data.index["status"] == "ok").to_numpy())[:24]
    sheet = Figure(
        data_uri(side_by_side([contact_sheet(data.images[shown], data.masks[shown], columns=8, size=112)])),
        "Prepared images with the breast’s outline in orange.",
        "The first prepared images, with the breast that was found in them outlined.",
    )
    counts = sections.data_section(None, split_counts(data), data.manifest["by_patient"]).blocks
    headers = ("Lesion", "Images", "Size (mm)", "Contrast")
    return [sheet, *counts, Table(headers, rows, caption, layout="numbers even")]


def _trained(study: DemoStudy) -> list[Block]:
    """Return what was trained, and the losses of all networks."""
    original = study.runs["original"]
    words = Markup(
        "The <strong>original network</strong> is a convolutional VAE that reconstructs the whole image; what it "
        "reconstructs badly counts as suspicious. Here it has half the filters and a latent of {} dimensions, not "
        "1,024, for so few images. The <strong>detecting networks</strong> are two of the preset <em>detect</em>: a "
        "lesion segmenter, which learns to mark lesions that are drawn anew into healthy images and whose score is the "
        "finding score, and beside it a residual VAE. None of them saw an image with a painted lesion."
    ).format(original.settings.vae.latent)
    histories, titles, rows = {}, {}, []
    for preset, run in study.runs.items():
        for name in run.members:
            key = NAMES["original"].lower() if preset == "original" else name
            history = histories[key] = pd.read_csv(run.path / "members" / name / HISTORY)
            titles[key] = run.curves[name]
            weights, seconds = run.manifest["parameters"][name], history["seconds"].sum()
            rows.append((name.replace("_", " "), preset, weights, len(history), f"{seconds:.0f}"))
    images = original.manifest["images"]["train"]
    headers = ("Network", "Preset", "Parameters", "Epochs", "Seconds")
    caption = f"Trained on {images} healthy images; the members of a run are trained side by side."
    alt = "Curves by epoch of each network, for training and validation."
    curves = Figure.chart(
        charts.loss_curves(histories, titles), alt, "Loss by epoch: training (line) and validation (dashed)."
    )
    return [Text(words), Table(headers, rows, caption, layout="numbers even"), curves]


def _reconstructed(study: DemoStudy) -> list[Block]:
    """Return validation images above what both kinds of networks make of them."""
    unseen = study.data.parts(study.settings.detect)["validation"]
    shown = unseen[np.unique(np.linspace(0, len(unseen) - 1, _PAIRS).astype(int))]
    rows, labels = [grey(study.data.images[shown])], ["image"]
    for preset, run in study.runs.items():
        made = run.reconstruct(study.data, shown).reconstructions
        if made is not None:
            rows.append(made)
            labels.append({"original": "original VAE", "detect": "residual VAE"}[preset])
    caption = (
        "Healthy images that no network learned from, above what the original network’s VAE and the detecting run’s "
        "residual VAE make of them. All on one grey scale, none stretched."
    )
    alt = "A row of images above rows of their reconstructions."
    return [Figure.grid(np.concatenate(rows), len(shown), alt, caption, row_labels=labels)]


def _generated(study: DemoStudy) -> Section:
    """Return generated images beside real ones."""
    made, run = Data.open(study.out / "generated"), study.runs["original"]
    train = study.data.for_training(run.settings)["train"]
    real = study.data.images[train[np.linspace(0, len(train) - 1, _GENERATED).astype(int)]]
    section = sections.generated_section(made.images[:_GENERATED], "latent", real)
    words = Markup(
        "The original network’s VAE decodes latent vectors drawn from a distribution that was fitted to those of "
        "healthy images: as smooth as what it reconstructs. Its successor is the preset <em>generate</em>; "
        "<em>mammovae audit</em> says how realistic, varied and private generated images are."
    )
    return Section(section.anchor, section.title, [*section.blocks, Text(words)])


def _detected(study: DemoStudy) -> Section:
    """Return the evaluation of both, and the small study that this project grew from."""
    section = sections.detection_section(study.detection, "finding score (healthy standard deviations)", True)
    rows = [
        (f"{NAMES[preset]}, {words}", *estimate_cells(study.estimate(preset, protocol, key)))
        for protocol, key, words in (("full", "auroc", "all"), ("original", "auroc_all_healthy", "20 against 20"))
        for preset in SHOWN
    ]
    caption = (
        "All test images, and the study that this project grew from: 20 healthy images, of any patient, against 20 "
        "with a finding, drawn at random. So few images leave a wide interval, or none."
    )
    headers = ("Networks and images", "Healthy", "With finding", "AUROC (95 % interval)")
    links = Markup(", ").join(
        Markup('<a href="{0}">{0}</a>').format(f"evaluation-{preset}-full/report.html") for preset in SHOWN
    )
    both = Table(headers, rows, caption, layout="numbers even")
    head, *rest = section.blocks
    return Section(section.anchor, section.title, [head, both, *rest, Text(Markup("In full: ") + links)])


def _localised(study: DemoStudy) -> list[Block]:
    """Return how often maps point at lesions, of both kinds of networks."""
    rows = [
        ("maximum of the map in a lesion (pointing game)", "pointing"),
        ("average precision of pixels", "pixel_average_precision"),
        ("share of lesions marked, at one false mark a healthy image", "froc_at_1"),
    ]
    cells = [(words, *(study.estimate(preset, "full", key).text for preset in SHOWN)) for words, key in rows]
    chance = f"{study.evaluations['detect', 'full']['pointing_chance']:.2f}"
    cells.append(("chance: the lesions’ share of the breast", chance, chance))
    n = study.evaluations["detect", "full"]["n_annotated"]
    headers = ("Measure", *(NAMES[preset] for preset in SHOWN))
    return [Table(headers, cells, f"Maps against the {n} test images with a painted lesion.", layout="numbers even")]


def _faulty(study: DemoStudy) -> list[Block]:
    """Return one image with every fault, whether each was found, and the share found in all images."""
    positions, _ = healthy_test_images(study.runs["detect"], study.data, study.settings.stressed)
    faults = pd.read_csv(study.out / "stress" / "faults.csv", keep_default_na=False)
    untouched = faults.loc[faults["fault"] == "", "quality"].astype(float)
    first = faults[faults["image_id"] == study.data.index["image_id"].iloc[positions[0]]].set_index("fault")
    seed = read_json(study.out / "stress" / "manifest.json")["settings"]["seed"]
    panels, captions = [], []
    for fault, source in example_of_faults(study.data, positions, seed).items():
        if fault:
            panels.append(_square(source.pixels))
            is_found = float(first.loc[fault, "quality"]) > np.quantile(untouched, 0.95)
            captions.append(fault.replace("_", " ") + ("" if is_found else " (missed)"))
    alt = "A phantom with each of 21 kinds of technical faults."
    caption = "One healthy test image with each fault; missed: no more suspicious than 95 % of untouched images."
    grid = Figure.grid(np.stack(panels), _FAULTS_A_ROW, alt, caption, captions=captions)
    chart = Figure(
        data_uri((study.out / "stress" / "faults.png").read_bytes()),
        "Share of inserted faults that are found, by kind.",
        f"Each fault in {plural(study.stress['quality_n_healthy'], 'healthy image')}. The quality score needs no "
        "network: it compares what prepare measured with healthy images.",
    )
    return [grid, chart]


def _square(pixels: np.ndarray) -> np.ndarray:
    """Return an image (rows, columns) uint16 reduced to fit a square, padded with black."""
    image = Image.fromarray((255 * grey(pixels)).astype(np.uint8))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    square = Image.new("L", (_THUMBNAIL, _THUMBNAIL))
    square.paste(image, (0, 0))
    return np.asarray(square)


def _reviewed(study: DemoStudy) -> list[Block]:
    """Return the images with the highest finding scores, as the review page shows them."""
    scores, run = pd.read_csv(study.out / "scores.csv"), study.runs["detect"]
    highest = scores.sort_values("finding", ascending=False, kind="stable").head(_CASES)
    positions = pd.Index(study.data.index["image_id"]).get_indexer(pd.Index(highest["image_id"]))
    maps, scale = Detector(run).fused_maps(study.data, positions), MapScale.of_healthy(run.manifest["map_scale"])
    patients, figures = run.manifest["calibration_patients"], []
    for position, anomaly_map, (_, row) in zip(positions, maps, highest.iterrows(), strict=True):
        pixels = thumbnail((255 * grey(study.data.images[position])).astype(np.uint8), _PANEL)
        pair = data_uri(side_by_side([pixels.convert("RGB"), overlay(pixels, anomaly_map, scale)], gap=4))
        told = (percentile_in_words(row[f"{name}_percentile"], patients) for name in ("finding", "quality"))
        caption = Markup("<code>{}</code> finding {}, quality {}").format(row["image_id"], *told)
        figures.append(Figure(pair, "An image, and the image under its anomaly map.", caption))
    words = Markup(
        "Any images are scored like these, files, folders or DICOM: a row each in <em>scores.csv</em>, a map where one "
        "is asked for, and the 100 most suspicious, with the reason and the place, on one page: "
        '<a href="review.html">review.html</a>. These are the highest finding scores of all {} images; percentiles '
        "are places among the healthy calibration images, of {} patients."
    ).format(f"{len(scores):,}", patients)
    return [Text(words), Images(figures)]


def _costs(seconds: Mapping[str, float]) -> list[Block]:
    """Return the commands with their times."""
    rows = [(Cell(command.split()[1], (command,)), f"{value:.1f}") for command, value in seconds.items()]
    caption = "Each step is a command that one can run alone; run again, it completes what was interrupted."
    return [Table(("Command", "Seconds"), rows, caption, ("together", f"{sum(seconds.values()):.0f}"))]


def _next_steps() -> list[Block]:
    """Return what lies beside the page, and the commands for one's own images."""
    opened = [
        ("review.html", "the most suspicious images with their maps"),
        ("evaluation-detect-full/report.html", "the detecting networks in full"),
        ("evaluation-original-full/report.html", "the original network in full"),
        ("generated/grid.png", "generated images"),
        ("data/contact_sheet.png", "every prepared image with its outline"),
    ]
    links = [Markup('<a href="{0}">{0}</a>: {1}').format(place, words) for place, words in opened]
    own = Markup("").join(map(Markup("<code>{}</code>").format, OWN_IMAGES))
    return [Bullets(links), Text("On your own images, a folder of DICOM files here:", "heading"), Text(own)]
