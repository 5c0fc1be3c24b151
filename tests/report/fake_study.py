"""A study made of numbers: blobs for breasts and scores that know a little, in the shape a real report has."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mammovae.report.evaluation_page import (
    ExampleImage,
    cases_section,
    data_section,
    detection_section,
    generated_section,
    introduction,
    reconstructions_section,
    training_section,
)
from mammovae.report.images import MapScale
from mammovae.report.page import Facts, Page, limits_section, provenance_section
from mammovae.report.summary_text import LIMITS
from mammovae.statistics.detection_metrics import detection_metrics

TITLES = {"vae": {"loss": "negative ELBO (nats)", "reconstruction": "reconstruction (nats)", "kl": "KL (nats)"}}
CATEGORIES = ("Mass", "Suspicious Calcification", "Asymmetry", "Architectural Distortion")


def breasts(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Return (count, size, size) uint16 half ellipses with smooth texture, chest wall on the left."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    images = np.zeros((count, size, size))
    for image in images:
        wide, tall, grey = rng.uniform(0.45, 0.85), rng.uniform(0.36, 0.47), rng.uniform(0.3, 0.6)
        radius = np.hypot(x / wide, (y - 0.5) / tall)
        texture = sum(
            np.cos(2 * np.pi * (rng.uniform(-f, f) * x + rng.uniform(-f, f) * y + rng.random())) / f
            for f in (2, 4, 7, 12)
        )
        image[:] = np.clip(1 - radius**4, 0, 1) ** 0.5 * (grey + 0.09 * texture)
    return (np.clip(images, 0, 1) * 65535).astype(np.uint16)


def table(patients: int = 150, seed: int = 0, findings: bool = True) -> pd.DataFrame:
    """Return two images a patient with a score, three baselines, health, categories and density."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 2)
    finding = findings & (rng.random(patient.size) < 0.3)
    level = rng.normal(size=patients)[patient] + rng.normal(size=patient.size)
    category = rng.choice(4, patient.size, p=[0.5, 0.3, 0.17, 0.03])
    return pd.DataFrame(
        {
            "image_id": [f"image-{number:04d}" for number in range(patient.size)],
            "patient_id": [f"SECRET-{number}" for number in patient],
            "healthy": pd.array([None if i % 29 == 3 else not f for i, f in enumerate(finding)], dtype="boolean"),
            "categories": [[CATEGORIES[c]] if f else [] for c, f in zip(category, finding, strict=True)],
            "density": [[*"ABCD", None][i] for i in rng.choice(5, patient.size, p=[0.1, 0.3, 0.4, 0.15, 0.05])],
            "loss": level + 0.8 * finding * (category != 1) + 4900,
            "kl": level + rng.normal(size=patient.size),
            "grey": level * 0.6 + rng.normal(size=patient.size) + 0.2 * finding,
            "area": rng.normal(size=patient.size) + 0.1 * finding,
            "pca": level + rng.normal(size=patient.size) + 0.5 * finding,
        }
    )


def history(epochs: int = 60) -> pd.DataFrame:
    """Return a loss that falls, the validation's a little above, with a gap in it."""
    epoch = np.arange(1, epochs + 1)
    reconstruction, kl = 4700 + 2400 / epoch**1.1, 60 * (1 - np.exp(-epoch / 8))
    frame = pd.DataFrame({"epoch": epoch, "loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl})
    for part, extra in (("loss", 35), ("reconstruction", 32), ("kl", 3)):
        frame[f"validation_{part}"] = frame[part] + extra + 6 * np.sin(epoch)
    frame.loc[frame.index[5:8], ["validation_loss", "validation_reconstruction", "validation_kl"]] = np.nan
    return frame


def cases(size: int = 64) -> list[ExampleImage]:
    """Return two groups of cases: inserted blobs that are detected, and healthy breasts whose maps stay near zero."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size]
    examples = []
    for number, image in enumerate(breasts(6, size, seed=9)):
        noise = np.abs(rng.normal(0, 0.05, (size, size))) * (image > 0)
        centre = (0.3 * size + 2 * number, 0.5 * size)
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * (0.06 * size) ** 2))
        has_finding = number < 4
        examples.append(
            ExampleImage(
                image_id=f"image-{number:04d}",
                image=image,
                reconstruction=np.clip(image / 65535 * 0.95, 0, 1),
                anomaly_map=noise + blob * 0.35 * has_finding,
                boxes=[(centre[0] - 6, centre[1] - 6, centre[0] + 6, centre[1] + 6)] if has_finding else [],
                caption="mass, percentile 99" if has_finding else "healthy, percentile 97",
                group="Findings scored highest" if has_finding else "Healthy images scored highest",
            )
        )
    return examples


def study(size: int = 64, resamples: int = 300) -> dict[str, dict[str, Any]]:
    """Return what each section of a whole report is made of, by section: see page."""
    images = breasts(24, size)
    splits = ["train", "validation", "calibration", "test", "unused"]
    data = {"Source": "vindr", "Healthy": "no finding and BI-RADS 1 or 2", "Pixels": "128 × 128", "Split": "by patient"}
    counts = {
        "healthy": [1000, 100, 200, 210, 0],
        "finding": [0, 0, 0, 80, 310],
        "unknown": [0, 0, 0, 10, 90],
        "failed": [1, 0, 0, 2, 0],
    }
    settings = {
        "seed": 0,
        "side": "R",
        "view": "MLO",
        "fit": {"epochs": 60, "learning_rate": 1e-3},
        "vae": {"latent": 1024, "filters": (32, 64)},
    }
    metrics = detection_metrics(
        table(),
        {"loss": "Reconstruction loss", "kl": "KL divergence"},
        {"grey": "Mean grey", "area": "Breast area", "pca": "PCA residual"},
        resamples=resamples,
    )
    provenance = {
        "version": "0.1.0",
        "commit": "0" * 40,
        "command": "mammovae evaluate RUN DATA --out OUT",
        "seeds": {"train": 0},
    }
    training = {"Parameters": 51125505, "Time": "1 h 12 min", "Training images": 1000}
    return {
        "data": {"facts": data, "counts": pd.DataFrame(counts, index=splits)},
        "training": {"facts": training, "histories": {"vae": history()}, "titles": TITLES, "settings": settings},
        "reconstructions": {
            "originals": images[:12],
            "reconstructions": images[:12] // 65535 + images[:12] / 65535 * 0.95,
        },
        "generated": {"generated": breasts(24, size, seed=4), "real": images},
        "detection": {"metrics": metrics, "score_label": "Reconstruction loss (nats)"},
        "cases": {"cases": cases(size), "scale": MapScale.of_healthy(0.13)},
        "limits": {"limits": ["The test split has one vendor only.", *LIMITS]},
        "provenance": {"values": provenance},
    }


def page(parts: Mapping[str, Mapping[str, Any]], title: str = "Right MLO, original preset", **changes: Any) -> Page:
    """Return a report of those parts; a section of which there is none is built from nothing.

    changes: SECTION={argument: value}, to be put in the place of what parts says; notes={SECTION: text}.
    """
    builders = {
        "data": data_section,
        "training": training_section,
        "reconstructions": reconstructions_section,
        "generated": generated_section,
        "detection": detection_section,
        "cases": cases_section,
        "limits": limits_section,
        "provenance": provenance_section,
    }
    nothing = {"limits": {"limits": LIMITS}, "provenance": {"values": {}}}
    arguments = {name: {**(parts.get(name) or nothing.get(name, {})), **changes.get(name, {})} for name in builders}
    by_patient = bool(arguments["detection"].get("by_patient", True))
    return Page(
        "mammovae study report",
        title,
        "1,000 healthy images of a made-up archive, measured on 300 test images",
        [Facts(changes.get("facts", {"Data": "fake (phantoms)", "Images": 1500, "Preset": "original"}))],
        introduction(by_patient=by_patient),
        [
            replace(builder(**arguments[name]), note=changes.get("notes", {}).get(name, ""))  # pyrefly: ignore
            for name, builder in builders.items()
        ],
    )
