"""What a report tells of a run and its evaluation, gathered from their folders."""

import numpy as np
import pandas as pd

from mammovae.config import SamplingMode
from mammovae.data.dataset import Data
from mammovae.detection.detector import Detector
from mammovae.detection.reconstruct import reconstruct
from mammovae.generation.samplers import LatentSampler
from mammovae.models.base import HISTORY
from mammovae.models.run import Run
from mammovae.report.evaluation_page import EvaluationReport, ExampleImage
from mammovae.report.formatting import duration
from mammovae.report.images import MapScale
from mammovae.statistics.detection_metrics import DetectionMetrics
from mammovae.storage import file_hash

FINDING = "finding"


def score_labels(run: Run) -> dict[str, str]:
    """Return the columns that an evaluation judges with their labels, the headline first.

    Where one raw score alone is the finding score, the headline bears its name. Scores that need the other breast are
    judged by crossval, on the images that have it.
    """
    fused, members = run.settings.fused, run.members
    if len(fused) == 1:
        said = {FINDING: score_label(fused[0])}
        return said | ({"kl_divergence": "KL divergence"} if fused[0] != "kl_divergence" and "vae" in members else {})
    return {FINDING: "Finding score"} | {name: score_label(name) for name in fused}


def score_label(name: str) -> str:
    """Return the name of a score in words: "local_peak" -> "Local peak"."""
    return name.replace("_", " ").capitalize()


def build_report(
    run: Run, data: Data, table: pd.DataFrame, judgement: DetectionMetrics, protocol: str, seed: int, notes: list[str]
) -> EvaluationReport:
    """Gather the report of an evaluation: table is scores_table's, notes what has to be said of the protocol."""
    parts = data.parts(run.settings)
    shown = next((part for part in (parts["validation"], parts["train"]) if len(part)), table["position"].to_numpy())
    originals, made = reconstruct(run, data, shown[:8]) if len(shown) else (None, None)
    generated = real = None
    mode: SamplingMode = "vary" if "vae" in run.members else "latent"
    if len(parts["train"]) and run.generator is not None:
        drawn = LatentSampler(run, mode, seed, data if mode == "vary" else None)
        generated = drawn.draw(np.arange(16)).images
        beside = [place[0] for place in LatentSampler(run, "vary", seed, data).origins(np.arange(16))]
        real = data.batch(np.array(beside), drawn.member.size).image[:, 0].numpy()
    prepared, manifest = data.manifest, run.manifest
    kind = prepared["inputs"]["kind"] + (" (phantoms, no patients)" if prepared["phantoms"] else "")
    selection = " ".join(filter(None, [run.settings.side, run.settings.view]))
    healthy_rule = prepared["settings"]["healthy"] if data.source.healthy_rules else "as the set says"
    return EvaluationReport(
        title=f"mammovae: {kind}, preset {manifest['preset']}",
        subtitle=f"Protocol {protocol}: " + ("; ".join(notes) or "the test split of the data"),
        facts={
            "data set": kind,
            "preset": manifest["preset"],
            "trained on": f"{manifest['images']['train']:,} images",
            "tested on": f"{judgement.headline.n_healthy:,} healthy, {judgement.headline.n_finding:,} with findings",
        },
        data={
            "rule for healthy": healthy_rule,
            "prepared at": f"{data.size} px",
            "stored as": prepared["stored_as"],
            "duplicate groups": len(prepared["duplicates"]),
            "training selection": selection or "all sides and views",
        },
        counts=_split_counts(data),
        by_patient=prepared["by_patient"],
        settings=run.settings.model_dump(exclude_none=True),
        training={
            "parameters": sum(manifest["parameters"].values()),
            "training images": manifest["images"]["train"],
            "validation images": manifest["images"]["validation"],
            "time": duration(manifest["training_seconds"]),
        },
        history=pd.read_csv(run.path / "members" / _shown(run) / HISTORY),
        originals=originals,
        reconstructions=made,
        generated=generated,
        generated_mode=mode,
        real=real,
        judgement=judgement,
        score_label=_score_label(run),
        cases=_cases(run, data, table),
        map_scale=MapScale.of_healthy(manifest["map_scale"]),
        limits=_limits(run, data),
        notes={} if generated is not None else {"generated": _why_none(run)},
        provenance={
            "run": {key: manifest[key] for key in ("written", "versions", "git_commit", "machine", "weights")},
            "data": {"index": file_hash(data.path / "index.parquet"), "listing": prepared["inputs"]["listing"]},
            "seeds": {"split": prepared["settings"]["seed"], "training": run.settings.seed, "evaluation": seed},
        },
    )


def _shown(run: Run) -> str:
    """The member whose losses the report draws: the VAE where there is one."""
    return next(
        (name for name in ("vae", "residual_vae", "pyramid_vae") if name in run.members), next(iter(run.members))
    )


def _score_label(run: Run) -> str:
    fused = run.settings.fused
    if fused == ("reconstruction_loss",):
        return "reconstruction loss (nats)"
    return score_label(fused[0]).lower() if len(fused) == 1 else "finding score (healthy standard deviations)"


def _why_none(run: Run) -> str:
    if run.generator is None:
        return "No generated images: this run only detects."
    return "No generated images: this data has no training image."


def _split_counts(data: Data) -> pd.DataFrame:
    frame = data.index
    ok = frame["status"] == "ok"
    groups = {
        "healthy": ok & (frame["healthy"] == True).fillna(False),  # noqa: E712 - nullable column
        "finding": ok & (frame["healthy"] == False).fillna(False),  # noqa: E712 - nullable column
        "unknown": ok & frame["healthy"].isna(),
        "failed": ~ok,
    }
    splits = ["train", "validation", "calibration", "test", "unused"]
    return pd.DataFrame(
        {name: [int((mask & (frame["split"] == split)).sum()) for split in splits] for name, mask in groups.items()},
        index=splits,
    )


def _cases(run: Run, data: Data, table: pd.DataFrame, each: int = 4) -> list[ExampleImage]:
    """Pick the highest and the lowest scores of both arms, by score alone."""
    picked: list[tuple[str, pd.Series]] = []
    known = table[table["healthy"].notna()]
    for healthy, words in ((False, "Findings"), (True, "Healthy images")):
        arm = known[known["healthy"] == healthy].sort_values(FINDING, ascending=False, kind="stable")
        count = min(each, len(arm) // 2)
        picked += [(f"{words} scored highest", row) for _, row in arm.head(count).iterrows()]
        picked += [(f"{words} scored lowest", row) for _, row in arm.tail(count).iterrows()]
    if not picked:
        return []
    positions = np.array([row["position"] for _, row in picked])
    detector = Detector(run)
    maps = np.concatenate([whole for *_, whole in detector.data(data, positions)])
    images, made = reconstruct(run, data, positions)
    shrink = data.size / images.shape[-1]
    cases = []
    for (group, row), image, reconstruction, map in zip(picked, images, made, maps, strict=True):
        geometry = data.geometry(row["position"])
        boxes = [
            tuple((edge + 0.5) / shrink - 0.5 for edge in geometry.box_to_square(*box))
            for item in data.index["findings"].iloc[row["position"]]
            if None not in (box := tuple(item[edge] for edge in ("xmin", "ymin", "xmax", "ymax")))
        ]
        digits = 0 if abs(row[FINDING]) >= 100 else 2
        caption = f"{_score_label(run).split(' (')[0]} {row[FINDING]:,.{digits}f}"
        caption += "".join(f", {name}" for name in row["categories"])
        cases.append(ExampleImage(row["image_id"], image, group, map, reconstruction, boxes, caption))
    return cases


def _limits(run: Run, data: Data) -> list[str]:
    size = max(member.size for member in run.members.values())
    limits = [f"Images are {size} x {size} pixels: what is smaller than a pixel there cannot be found."]
    return [*limits, *data.source.healthy_rules.get(data.manifest["settings"]["healthy"], ())]
