"""Faults inserted into the source files of healthy images, prepared as any file is, and scored for quality."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mammovae.config import InputError, UsageError
from mammovae.data.dataset import Data, guessed_mm_per_pixel
from mammovae.data.laterality import against_header
from mammovae.data.prepare_image import prepare_decoded
from mammovae.data.segmentation import find_breast
from mammovae.detection.quality import MEASURES, THUMBNAIL, Quality, thumbnails
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid
from mammovae.imageio.read import image_files, read
from mammovae.parallel import pool
from mammovae.perturbations.technical_faults import FAULTS, FaultContext, SourceImage, insert_fault
from mammovae.phantoms.anatomy import make_phantom
from mammovae.report.progress import Progress
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap, flatten_estimates

REVIEWED = (0.01, 0.05, 0.1)
"""Shares of healthy images sent to review at which recall is read; 1 % only where there are 100 healthy images."""
_DONORS = 8


class CorruptionJob(NamedTuple):
    """One healthy image on its way to a worker; other_view: an image of a view that it is not, or a phantom's seed."""

    row: int
    path: Path
    side: str | None
    view: str | None
    mm: float | None
    donor: Path
    other_view: Path | int


class CorruptedImage(NamedTuple):
    """What quality is measured from: prepare's measurements, the small image and outline; or why prepare refused it."""

    measures: dict[str, float]
    thumbnail: np.ndarray
    outline: np.ndarray
    refusal: str | None = None


def score_inserted_faults(
    quality: Quality,
    data: Data,
    positions: np.ndarray,
    seed: int,
    other_view: Path | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Score healthy images untouched and with each fault: position, fault ("" untouched), quality, refused, reason.

    other_view: a folder of images of the view that an image is not; without it those of the data set serve, else
    phantoms. Reads the raw files anew: UsageError when they are not where prepare found them. A refusal by prepare
    counts as a detection (quality infinite).
    """
    jobs = _jobs(data, positions, seed, other_view)
    stretch, convention = data.manifest["settings"]["stretch"], data.manifest["stored_as"]
    corrupt = partial(corrupt_and_prepare, size=data.size, stretch=stretch, convention=convention, seed=seed)
    rows: list[tuple[int, str, CorruptedImage]] = []
    with Progress("inserting faults", len(jobs), unit="images") as progress:
        for job, by_fault in pool.map_unordered(corrupt, jobs, workers=workers):
            if isinstance(by_fault, InputError):
                raise UsageError(f"{job.path} cannot be read again: {by_fault}; prepare the data where its files are")
            rows += [(job.row, fault, image) for fault, image in by_fault.items()]
            progress.advance(1)
    rows.sort(key=lambda row: row[:2])  # workers answer in any order
    images = [image for _, _, image in rows]
    measures = pd.DataFrame([image.measures for image in images])
    measures = measures[[name for name in MEASURES if name in measures]].fillna(0.0)
    templates = (np.stack([image.thumbnail for image in images]), np.stack([image.outline for image in images]))
    normal = quality.normal_scores(measures, *templates)
    refused = np.array([image.refusal is not None for image in images])
    scores = np.where(refused, np.inf, quality.score(normal))
    reasons = [image.refusal or words for image, words in zip(images, quality.reasons(normal), strict=True)]
    table = pd.DataFrame([row[:2] for row in rows], columns=["position", "fault"])
    return table.assign(refused=refused, quality=scores, reason=reasons)


def corrupt_and_prepare(
    job: CorruptionJob, *, size: int, stretch: bool, convention: str | None, seed: int
) -> dict[str, CorruptedImage]:
    """Prepare one source image untouched ("") and with every fault of the test family inserted into it, by fault.

    size, stretch, convention: as the DATA folder was prepared. Untouched too the image is read whole, so that how much
    of a file was decoded gives no fault away.
    """
    prepared = partial(_prepared, size=size, stretch=stretch, convention=convention)
    pixels = read(job.path).pixels
    breast = find_breast(pixels)
    if isinstance(job.other_view, int):
        view = "MLO" if job.view == "CC" else "CC"
        other = make_phantom(job.other_view, job.other_view, "L", view, size=1024).image
    else:
        other = read(job.other_view).pixels
    # As if taken of the same breast: a chest wall at the wrong edge would be another fault, and an easy one.
    if find_breast(other).chest_wall != breast.chest_wall:
        other = np.ascontiguousarray(other[:, ::-1])
    untouched = SourceImage(pixels, job.side, job.view)
    mm_per_pixel = job.mm or guessed_mm_per_pixel(breast.mask)
    context = FaultContext(breast.mask, breast.chest_wall, mm_per_pixel, read(job.donor).pixels, other)
    sources = {fault: insert_fault(untouched, context, fault, "test", [seed, job.row]) for fault in FAULTS}
    return {fault: prepared(source) for fault, source in {"": untouched, **sources}.items()}


def _prepared(source: SourceImage, size: int, stretch: bool, convention: str | None) -> CorruptedImage:
    decoded = DecodedImage(source.pixels, {}, (), PixelGrid(*source.pixels.shape))
    try:
        prepared = prepare_decoded(decoded, size=size, stretch=stretch)
    except InputError as error:
        blank = np.zeros((THUMBNAIL, THUMBNAIL))
        return CorruptedImage({}, blank, blank, str(error))
    conflict = against_header(source.side, prepared.chest_wall, convention)
    thumbnail, outline = thumbnails(prepared.image[None], prepared.mask[None])
    return CorruptedImage(prepared.measurements | {"against_header": float(conflict)}, thumbnail[0], outline[0])


def _jobs(data: Data, positions: np.ndarray, seed: int, other_view: Path | None) -> list[CorruptionJob]:
    root, frame, rng = Path(data.manifest["inputs"]["root"]), data.index, np.random.default_rng([seed, 404])
    files = [] if other_view is None else list(image_files(other_view))
    if other_view is not None and not files:
        raise UsageError(f"there is no image in {other_view}: name a folder of images of the other view")
    healthy = np.flatnonzero((frame["status"] == "ok") & (frame["healthy"] == True).fillna(False))  # noqa: E712
    jobs = []
    for position in positions:
        row = frame.iloc[position]
        path = root / row["source"]
        if not path.is_file():
            raise UsageError(f"there is no {path}: stress reads the raw files; put them back there")
        side, view, mm = (None if pd.isna(row[name]) else row[name] for name in ("side", "view", "mm_per_pixel"))
        views = frame["view"].iloc[healthy]
        others = healthy[((views != view) & views.notna()).fillna(False).to_numpy(bool)] if view else []
        choices = files or [root / frame["source"].iloc[other] for other in others]
        donors = healthy[frame["patient_id"].iloc[healthy].to_numpy() != row["patient_id"]]
        donor = root / frame["source"].iloc[int(rng.choice(donors)) if len(donors) else int(position)]
        other = choices[int(rng.integers(len(choices)))] if choices else int(rng.integers(_DONORS))
        jobs.append(CorruptionJob(int(position), path, side, view, None if mm is None else float(mm), donor, other))
    return jobs


@dataclass(frozen=True)
class FaultMetrics:
    """How well faults are detected: by fault and measure ("auroc", "recall_5" ...), and in the mean over faults."""

    by_fault: dict[str, dict[str, Estimate]]
    mean: dict[str, Estimate]
    refused: dict[str, float]
    """Share of images with the fault that prepare refused, which counts as a detection."""
    n_healthy: int

    def table(self) -> pd.DataFrame:
        """Return a row a fault: fault, n, refused (share), auroc, recall_5 and so on, and each of these as text."""
        return pd.DataFrame(
            {"fault": fault, "n": row["auroc"].n_finding, "refused": self.refused[fault]}
            | {name: estimate.value for name, estimate in row.items()}
            | {f"{name}_text": estimate.text for name, estimate in row.items()}
            for fault, row in self.by_fault.items()
        )

    def metrics(self) -> dict[str, float | int | None]:
        """Return flat keys: quality_auroc_mean, quality_recall_5_mean, quality_auroc_<fault>, ... with intervals."""
        rows = {f"quality_{name}_mean": estimate for name, estimate in self.mean.items()}
        rows |= {f"quality_{name}_{fault}": one for fault, row in self.by_fault.items() for name, one in row.items()}
        return {"quality_n_healthy": self.n_healthy} | flatten_estimates(rows)


def fault_metrics(rows: pd.DataFrame) -> FaultMetrics:
    """Measure how well the rows of score_inserted_faults, with patient_id and fold, are detected.

    Recall at r % review is the share of images with the fault whose quality score exceeds the untouched images'
    (1 - r) quantile, which the intervals, from resamples of whole patients, take as given. Each fault is in every
    image, so the mean AUROC is that of all faulty images together.
    """
    untouched = (rows["fault"] == "").to_numpy()
    quality = np.minimum(rows["quality"].to_numpy(np.float64), 1e12)  # infinite: refused
    bootstrap = PatientBootstrap(rows["patient_id"].astype(str), ~untouched, rows["fold"].tolist())
    bounds = {
        f"recall_{100 * share:g}": float(np.quantile(quality[untouched], 1 - share))
        for share in REVIEWED
        if share >= 0.05 or untouched.sum() >= 100
    }

    def estimates(part: np.ndarray) -> dict[str, Estimate]:
        recalls = {name: bootstrap.mean((quality > bound).astype(float), part) for name, bound in bounds.items()}
        return {"auroc": bootstrap.auroc(quality, untouched | part)} | recalls

    with_fault = {fault: (rows["fault"] == fault).to_numpy() for fault in FAULTS}
    return FaultMetrics(
        by_fault={fault: estimates(part) for fault, part in with_fault.items()},
        mean=estimates(~untouched),
        refused={fault: float(rows.loc[part, "refused"].mean()) for fault, part in with_fault.items()},
        n_healthy=int(untouched.sum()),
    )
