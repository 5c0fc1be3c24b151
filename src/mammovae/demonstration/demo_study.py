"""What the demo's steps have left in their folder: tables, metrics and runs of both kinds of networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from mammovae.config import PresetName, Protocol
from mammovae.data.dataset import Data
from mammovae.demonstration.demo_settings import SHOWN, DemoSettings, evaluation_folder, run_folder
from mammovae.evaluation.scored_images import BASELINES, identity
from mammovae.models.run import Run
from mammovae.statistics.bootstrap import Estimate, flatten_estimates
from mammovae.statistics.detection_metrics import DetectionMetrics, detection_metrics
from mammovae.storage import read_json

NAMES: dict[PresetName, str] = {"original": "Original network", "detect": "Detecting networks"}


@dataclass(frozen=True)
class DemoStudy:
    """The demo's folder opened."""

    out: Path
    settings: DemoSettings
    data: Data
    runs: Mapping[PresetName, Run]
    truth: Mapping[str, Any]
    """By image_id, what was painted."""
    evaluations: Mapping[tuple[PresetName, Protocol], Mapping[str, Any]]
    """The metrics of each run by each protocol."""

    @classmethod
    def open(cls, out: Path, settings: DemoSettings) -> "DemoStudy":
        """Open the folder once all steps are done."""
        pairs = [(preset, protocol) for preset in SHOWN for protocol in get_args(Protocol)]
        evaluations = {pair: read_json(evaluation_folder(out, *pair) / "metrics.json") for pair in pairs}
        runs = {preset: Run.open(run_folder(out, preset)) for preset in SHOWN}
        return cls(
            out, settings, Data.open(out / "data"), runs, read_json(out / "raw" / "truth.json")["images"], evaluations
        )

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a test image: identity, the finding score of each preset and its percentile, and the baselines."""
        table = identity(self.data, self.data.select("test"))
        for preset in SHOWN:
            scores = pd.read_csv(evaluation_folder(self.out, preset, "full") / "scores.csv").set_index("image_id")
            scores = scores.loc[table["image_id"]].reset_index()
            table = table.assign(**{preset: scores["finding"], f"{preset}_percentile": scores["finding_percentile"]})
            table = table.assign(**{name: scores[name] for name in BASELINES if name in scores})
        return table

    @cached_property
    def detection(self) -> DetectionMetrics:
        """The detecting networks' score beside the original network's and the baselines, in the same resamples."""
        baselines = {name: label for name, label in BASELINES.items() if name in self.table}
        baselines = {"original": "Original network’s score"} | baselines
        return detection_metrics(self.table, {"detect": "Detecting networks’ score"}, baselines)

    @cached_property
    def stress(self) -> dict[str, Any]:
        """What stress measured."""
        return read_json(self.out / "stress" / "metrics.json")

    def estimate(self, preset: PresetName, protocol: Protocol, key: str) -> Estimate:
        """Return a figure of an evaluation with its interval."""
        metrics = self.evaluations[preset, protocol]
        low, high = (metrics[f"{key}_{end}"] for end in ("low", "high"))
        n_healthy = metrics["n_healthy"] + (metrics["n_healthy_affected"] if key == "auroc_all_healthy" else 0)
        return Estimate(metrics[key], low, high, n_healthy, metrics["n_finding"])

    @property
    def is_ahead(self) -> bool:
        """Whether the detecting networks' interval lies above the original network's."""
        low, high = self.detection.headline.low, self.detection.baselines[0].high
        return low is not None and high is not None and low > high

    def metrics(self, seconds: Mapping[str, float]) -> dict[str, Any]:
        """Return the flat keys of metrics.json; seconds: what each step took."""
        head, original, *baselines = (self.detection.headline, *self.detection.baselines)
        rows = {"auroc": head, "original_auroc": original, "auroc_minus_original": self.detection.differences[0]}
        rows |= {f"baseline_{row.name}_auroc": row for row in baselines}
        for preset in SHOWN:
            rows[f"{preset}_pointing"] = self.estimate(preset, "full", "pointing")
            rows[f"{preset}_auroc_20"] = self.estimate(preset, "original", "auroc_all_healthy")
        counts = {"n_healthy": head.n_healthy, "n_finding": head.n_finding}
        metrics: dict[str, Any] = counts | flatten_estimates(rows)
        metrics["pointing_chance"] = self.evaluations["detect", "full"]["pointing_chance"]
        metrics["quality_recall_5_mean"] = self.stress["quality_recall_5_mean"]
        return metrics | {"seconds": round(sum(seconds.values()), 1)}

    def cases(self, count: int) -> pd.DataFrame:
        """Return test images with a finding at even steps from the highest to the lowest score, as rows of table."""
        findings = self.table[self.table["healthy"] == False]  # noqa: E712
        ranked = findings.sort_values("detect", ascending=False, kind="stable")
        places = np.unique(np.linspace(0, len(ranked) - 1, count).round().astype(int)) if len(ranked) else []
        return ranked.iloc[places]

    def inserted(self) -> pd.DataFrame:
        """Return the lesions of the test images: image_id, kind, diameter_mm, contrast."""
        names = ("kind", "diameter_mm", "contrast")
        rows = [
            {"image_id": image_id, **{name: lesion[name] for name in names}}
            for image_id in self.table["image_id"]
            for lesion in self.truth[image_id]["lesions"]
        ]
        return pd.DataFrame(rows, columns=["image_id", *names])
