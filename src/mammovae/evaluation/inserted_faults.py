"""Faults planted into the source images of healthy films, prepared as any file is, and scored for quality."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mammovae.config import InputError, UsageError
from mammovae.data.dataset import Data, guessed_mm_per_pixel
from mammovae.data.laterality import against_header
from mammovae.data.prepare import prepare_decoded
from mammovae.data.segmentation import find_breast
from mammovae.detection.quality import MEASURES, TEMPLATE, Quality, thumbnails
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid
from mammovae.imageio.read import image_files, read
from mammovae.parallel import pool
from mammovae.perturbations.technical_faults import FAULTS, FaultContext, FaultFamily, SourceImage, insert_fault
from mammovae.phantoms.anatomy import make_phantom
from mammovae.report.progress import Progress
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap, flatten_estimates

REVIEWED = (0.01, 0.05, 0.1)
"""Shares of healthy images sent to review at which recall is read; 1 % only where there are 100 healthy images."""
_DONORS = 8


class CorruptionJob(NamedTuple):
    """One healthy image on its way to a worker, which plants every fault into it."""

    row: int
    path: Path
    side: str | None
    view: str | None
    mm: float | None
    donor: Path
    other_view: Path | int


@dataclass(frozen=True)
class CorruptionSettings:
    """How a DATA folder was prepared, and with which family and seed faults are drawn."""

    size: int
    stretch: bool
    convention: str | None
    family: FaultFamily
    seed: int


def score_inserted_faults(
    quality: Quality,
    data: Data,
    positions: np.ndarray,
    family: FaultFamily,
    seed: int,
    other_view: Path | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Score healthy images untouched and with each fault: position, fault ("" untouched), quality, refused, reason.

    Reads the raw files anew: UsageError when they are not where prepare found them. A refusal by prepare counts as
    found (quality infinite). Pictures of the view that an image is not come from the folder other_view, else from the
    data set, else from phantoms.
    """
    rows: list[tuple[int, str, bool]] = []
    jobs = _jobs(data, positions, seed, other_view)
    settings = data.manifest["settings"]
    sort = CorruptionSettings(data.size, settings["stretch"], data.manifest["stored_as"], family, seed)
    measures: list[dict[str, float]] = []
    pictures: list[np.ndarray] = []
    outlines: list[np.ndarray] = []
    reasons: list[str | None] = []
    with Progress("planting faults", len(jobs), unit="images") as progress:
        for job, results in pool.map_unordered(partial(corrupt_and_prepare, sort=sort), jobs, workers=workers):
            if isinstance(results, InputError):
                raise UsageError(f"{job.path} cannot be read again: {results}; prepare the data where its files are")
            for fault, result in results:
                rows.append((job.row, fault, isinstance(result, str)))
                refused = isinstance(result, str)
                measures.append({} if refused else result[0])
                pictures.append(np.zeros((TEMPLATE, TEMPLATE)) if refused else result[1])
                outlines.append(np.zeros((TEMPLATE, TEMPLATE)) if refused else result[2])
                reasons.append(result if refused else None)
            progress.advance(1)
    table = pd.DataFrame(rows, columns=["position", "fault", "refused"])
    measured = pd.DataFrame(measures)
    measured = measured[[name for name in MEASURES if name in measured]].fillna(0.0)
    normal = quality.normal(measured, np.stack(pictures), np.stack(outlines))
    score, said = quality.score(normal), quality.reasons(normal)
    table["quality"] = np.where(table["refused"], np.inf, score)
    table["reason"] = [told or words for told, words in zip(reasons, said, strict=True)]
    # Workers answer in any order.
    return table.sort_values(["position", "fault"], kind="stable", ignore_index=True)


def corrupt_and_prepare(job: CorruptionJob, *, sort: CorruptionSettings) -> list[tuple[str, Any]]:
    """Prepare one source image untouched ("") and with every fault planted into it; a refusal is its sentence.

    Untouched too it is read whole, so that no fault is told by how much of a file was decoded.
    """
    picture = read(job.path)
    breast = find_breast(picture.pixels)
    other = _phantom(job.other_view, job.view) if isinstance(job.other_view, int) else read(job.other_view).pixels
    # As if taken of the same breast: a chest wall at the wrong edge would be another fault, and an easy one.
    if find_breast(other).chest_wall != breast.chest_wall:
        other = np.ascontiguousarray(other[:, ::-1])
    donor, results = read(job.donor).pixels, []
    untouched, mm = SourceImage(picture.pixels, job.side, job.view), job.mm or guessed_mm_per_pixel(breast.mask)
    context = FaultContext(breast.mask, breast.chest_wall, mm, donor, other)
    for fault in ("", *FAULTS):
        source = insert_fault(untouched, context, fault, sort.family, [sort.seed, job.row]) if fault else untouched
        try:
            made = prepare_decoded(
                DecodedImage(source.pixels, {}, (), PixelGrid(*source.pixels.shape)),
                size=sort.size,
                stretch=sort.stretch,
            )
        except InputError as error:
            results.append((fault, str(error)))
            continue
        wrong = against_header(source.side, made.chest_wall, sort.convention)
        shrunk = thumbnails(made.image[None], made.mask[None])
        results.append((fault, (made.measures | {"against_header": float(wrong)}, shrunk[0][0], shrunk[1][0])))
    return results


def _jobs(data: Data, positions: np.ndarray, seed: int, other_view: Path | None) -> list[CorruptionJob]:
    root, frame = Path(data.manifest["inputs"]["root"]), data.index
    rng = np.random.default_rng([seed, 404])
    files = [] if other_view is None else list(image_files(other_view))
    if other_view is not None and not files:
        raise UsageError(f"there is no image in {other_view}: name a folder of images of the other view")
    healthy = np.flatnonzero((frame["status"] == "ok") & (frame["healthy"] == True).fillna(False))  # noqa: E712
    jobs = []
    for position in positions:
        row = frame.iloc[position]
        if not (root / row["source"]).is_file():
            raise UsageError(f"there is no {root / row['source']}: stress reads the raw files; put them back there")
        others = files or _of_other_view(frame, healthy, row["view"], root)
        donors = healthy[frame["patient_id"].iloc[healthy].to_numpy() != row["patient_id"]]
        donor = int(rng.choice(donors)) if len(donors) else int(position)
        jobs.append(
            CorruptionJob(
                int(position),
                root / row["source"],
                None if pd.isna(row["side"]) else row["side"],
                None if pd.isna(row["view"]) else row["view"],
                None if pd.isna(row["mm_per_pixel"]) else float(row["mm_per_pixel"]),
                root / frame["source"].iloc[donor],
                others[int(rng.integers(len(others)))] if others else int(rng.integers(_DONORS)),
            )
        )
    return jobs


def _of_other_view(frame: pd.DataFrame, healthy: np.ndarray, view: Any, root: Path) -> list[Path]:
    views = frame["view"].iloc[healthy]
    other = healthy[((views != view) & views.notna()).fillna(False).to_numpy(bool)] if not pd.isna(view) else []
    return [root / frame["source"].iloc[place] for place in other]


def _phantom(number: int, view: str | None) -> np.ndarray:
    """Return a phantom of the view that an image is not: an MLO one for CC, else a CC one."""
    wanted = "MLO" if view == "CC" else "CC"
    return make_phantom(number, number, "L", wanted, size=1024).image


@dataclass(frozen=True)
class FaultFigures:
    """How well faults are found: by fault and measure ("auroc", "recall_5" ...), and in the mean over faults."""

    by_fault: dict[str, dict[str, Estimate]]
    mean: dict[str, Estimate]
    refused: dict[str, float]
    """Share of images with the fault that prepare refused, which counts as found."""
    n_healthy: int

    def table(self) -> pd.DataFrame:
        """Return a row a fault: fault, n, refused (share), auroc, recall_5 and so on, and each figure as text."""
        return pd.DataFrame(
            {"fault": fault, "n": row["auroc"].n_finding, "refused": self.refused[fault]}
            | {name: figure.value for name, figure in row.items()}
            | {f"{name}_text": figure.text for name, figure in row.items()}
            for fault, row in self.by_fault.items()
        )

    def metrics(self) -> dict[str, float | int | None]:
        """Return flat keys: quality_auroc_mean, quality_recall_5_mean, quality_auroc_<fault>, ... with intervals."""
        rows = {f"quality_{name}_mean": figure for name, figure in self.mean.items()}
        rows |= {f"quality_{name}_{fault}": one for fault, row in self.by_fault.items() for name, one in row.items()}
        return {"quality_n_healthy": self.n_healthy} | flatten_estimates(rows)


def fault_figures(rows: pd.DataFrame) -> FaultFigures:
    """Judge the rows of planted_faults, with patient_id and fold, in resamples of whole patients.

    Recall at r % review is the share of images with the fault whose quality score exceeds the untouched images'
    (1 - r) quantile, which the intervals take as given. Each fault is in every image, so the mean AUROC is that of all
    faulty images together.
    """
    untouched = (rows["fault"] == "").to_numpy()
    quality = np.minimum(rows["quality"].to_numpy(np.float64), 1e12)  # infinite: refused
    bootstrap = PatientBootstrap(rows["patient_id"].astype(str), ~untouched, rows["fold"].tolist())
    bounds = {
        f"recall_{100 * share:g}": float(np.quantile(quality[untouched], 1 - share))
        for share in REVIEWED
        if share >= 0.05 or untouched.sum() >= 100
    }

    def figures(part: np.ndarray) -> dict[str, Estimate]:
        recalls = {name: bootstrap.mean((quality > bound).astype(float), part) for name, bound in bounds.items()}
        return {"auroc": bootstrap.auroc(quality, untouched | part)} | recalls

    with_fault = {fault: (rows["fault"] == fault).to_numpy() for fault in FAULTS}
    return FaultFigures(
        by_fault={fault: figures(part) for fault, part in with_fault.items()},
        mean=figures(~untouched),
        refused={fault: float(rows.loc[part, "refused"].mean()) for fault, part in with_fault.items()},
        n_healthy=int(untouched.sum()),
    )
