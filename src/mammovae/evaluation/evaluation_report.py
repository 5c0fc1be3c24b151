"""The page of an evaluation, gathered from the folders of its run and data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detection.detector import Detector
from mammovae.evaluation.evaluation_metrics import FINDING, EvaluationMetrics, score_label
from mammovae.evaluation.evaluation_sections import metrics_sections
from mammovae.generation.samplers import LatentSampler
from mammovae.models.base import HISTORY
from mammovae.models.run import Run
from mammovae.report import evaluation_page as sections
from mammovae.report.evaluation_page import ExampleImage
from mammovae.report.formatting import UNAFFECTED, duration
from mammovae.report.images import MapScale
from mammovae.report.page import Facts, Page, Section, limits_section, provenance_section
from mammovae.report.summary_text import LIMITS
from mammovae.statistics.detection_metrics import DetectionMetrics
from mammovae.storage import file_hash


@dataclass(frozen=True)
class ImageSelection:
    """How the test images were chosen: by which protocol and seed, and what has to be said of it."""

    protocol: str
    seed: int
    notes: Sequence[str]


def build_page(
    run: Run, data: Data, table: pd.DataFrame, metrics: EvaluationMetrics, selection: ImageSelection
) -> Page:
    """Return the page of an evaluation; table is score_images'."""
    prepared, manifest, settings = data.manifest, run.manifest, run.settings
    by_patient, name = prepared["by_patient"], _score_name(run)
    kind = prepared["inputs"]["kind"] + (" (phantoms, no patients)" if prepared["phantoms"] else "")
    parts = data.parts(settings)
    candidates = (parts["validation"], parts["train"], table["position"].to_numpy())
    shown = next((positions[:8] for positions in candidates if len(positions)), None)
    facts = {
        "data set": kind,
        "preset": manifest["preset"],
        "trained on": f"{manifest['images']['train']:,} images",
        "tested on": _tested_on(metrics.detection),
    }
    provenance = {
        "run": {key: manifest[key] for key in ("written", "versions", "git_commit", "machine", "weights")},
        "data": {"index": file_hash(data.path / "index.parquet")},
        "seeds": {"split": prepared["settings"]["seed"], "training": settings.seed, "evaluation": selection.seed},
    }
    cases, map_scale = _cases(run, data, table, name.split(" (")[0]), MapScale.of_healthy(manifest["map_scale"])
    size = max(member.size for member in run.members.values())
    smallest = f"Images are {size} x {size} pixels: what is smaller than a pixel there cannot be detected."
    return Page(
        "mammovae study report",
        f"mammovae: {kind}, preset {manifest['preset']}",
        f"Protocol {selection.protocol}: " + ("; ".join(selection.notes) or "the test split of the data"),
        [Facts(facts)],
        sections.introduction(settings.include == "unlabelled", by_patient),
        [
            _data_section(run, data),
            _training_section(run, by_patient),
            sections.reconstructions_section(*(() if shown is None else run.reconstruct(data, shown))),
            _generated_section(run, data, parts["train"], selection.seed),
            *metrics_sections(metrics, name, by_patient),
            sections.cases_section(cases, map_scale),
            limits_section([smallest, *data.source.healthy_rules.get(prepared["settings"]["healthy"], ()), *LIMITS]),
            provenance_section(provenance),
        ],
    )


def _tested_on(metrics: DetectionMetrics) -> str:
    headline, controls = metrics.headline, metrics.affected.get(metrics.headline.name)
    healthy = f"{headline.n_healthy:,} healthy {UNAFFECTED}"
    if controls is not None:
        healthy += f", {controls.n_healthy:,} healthy of patients with one elsewhere"
    return f"{healthy}, {headline.n_finding:,} with findings"


def _data_section(run: Run, data: Data) -> Section:
    prepared = data.manifest
    facts = {
        "rule for healthy": prepared["settings"]["healthy"] if data.source.healthy_rules else "as the set says",
        "prepared at": f"{data.size} px",
        "stored as": prepared["stored_as"],
        "duplicate groups": len(prepared["duplicates"]),
        "training selection": " ".join(filter(None, [run.settings.side, run.settings.view])) or "all sides and views",
    }
    return sections.data_section(facts, split_counts(data), prepared["by_patient"])


def _training_section(run: Run, by_patient: bool) -> Section:
    manifest = run.manifest
    facts = {
        "parameters": sum(manifest["parameters"].values()),
        "training images": manifest["images"]["train"],
        "validation images": manifest["images"]["validation"],
        "time": duration(manifest["training_seconds"]),
    }
    histories = {name: pd.read_csv(run.path / "members" / name / HISTORY) for name in run.members}
    settings = run.settings.model_dump(exclude_none=True)
    return sections.training_section(facts, histories, run.curves, settings, by_patient)


def _generated_section(run: Run, data: Data, train: np.ndarray, seed: int) -> Section:
    """Return images that the run generates beside real training images; by mode vary where that needs no density."""
    if run.generator is None or not len(train):
        reason = "this run only detects" if run.generator is None else "this data has no training image"
        return replace(sections.generated_section(), note=f"No generated images: {reason}.")
    mode = run.generator[1].shown_mode
    sampler = LatentSampler(run, mode, seed, data if mode == "vary" else None)
    positions = [origin[0] for origin in LatentSampler(run, "vary", seed, data).source_positions(np.arange(16))]
    real = data.batch(np.array(positions), sampler.member.size).image[:, 0].numpy()
    return sections.generated_section(sampler.generate(np.arange(16)).images, mode, real)


def _score_name(run: Run) -> str:
    fused = run.settings.fused
    if fused == ("reconstruction_loss",):
        return "reconstruction loss (nats)"
    return score_label(fused[0]).lower() if len(fused) == 1 else "finding score (healthy standard deviations)"


def _cases(run: Run, data: Data, table: pd.DataFrame, score_name: str, count: int = 4) -> list[ExampleImage]:
    """Pick the highest and the lowest scores of both groups, by score alone.

    Their maps come from a second pass over these few images: which they are is known only after the first, and a map
    of every image would have to be kept until then.
    """
    picked: list[tuple[str, pd.Series]] = []
    known = table[table["healthy"].notna()]
    for healthy, words in ((False, "Findings"), (True, "Healthy images")):
        ranked = known[known["healthy"] == healthy].sort_values(FINDING, ascending=False, kind="stable")
        number = min(count, len(ranked) // 2)
        for place, rows in (("highest", ranked.head(number)), ("lowest", ranked.tail(number))):
            picked += [(f"{words} scored {place}", row) for _, row in rows.iterrows()]
    if not picked:
        return []
    positions = np.array([row["position"] for _, row in picked])
    maps = Detector(run).fused_maps(data, positions)
    images, reconstructions = run.reconstruct(data, positions)
    shown = [None] * len(images) if reconstructions is None else reconstructions
    cases = []
    for (group, row), image, reconstruction, anomaly_map in zip(picked, images, shown, maps, strict=True):
        boxes = finding_boxes(data, row["position"], images.shape[-1])
        score = f"{row[FINDING]:,.{0 if abs(row[FINDING]) >= 100 else 2}f}".replace("-", "−")
        caption = ", ".join([f"{score_name} {score}", *row["categories"]])
        cases.append(ExampleImage(row["image_id"], image, group, anomaly_map, reconstruction, boxes, caption))
    return cases


def finding_boxes(data: Data, position: int, size: int) -> list[tuple[float, ...]]:
    """Return the frames (xmin, ymin, xmax, ymax) of an image's findings in pixels of its form of size x size pixels."""
    geometry, shrink = data.geometry(position), data.size / size
    return [
        tuple((edge + 0.5) / shrink - 0.5 for edge in geometry.box_to_prepared(*box))
        for item in data.index["findings"].iloc[position]
        if None not in (box := tuple(item[edge] for edge in ("xmin", "ymin", "xmax", "ymax")))
    ]


def split_counts(data: Data) -> pd.DataFrame:
    """Return numbers of images: a row a split, columns healthy, finding, unknown and failed."""
    frame = data.index
    health = frame["healthy"].map({True: "healthy", False: "finding"}).astype(object).fillna("unknown")
    state = health.where(frame["status"] == "ok", "failed")
    splits = ["train", "validation", "calibration", "test", "unused"]
    states = ["healthy", "finding", "unknown", "failed"]
    return pd.crosstab(frame["split"].astype(str), state).reindex(index=splits, columns=states, fill_value=0)
