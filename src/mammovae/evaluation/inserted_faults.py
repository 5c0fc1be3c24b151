"""Faults inserted into the source files of healthy images, prepared as any file is, and scored for quality."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mammovae.config import InputError, UsageError
from mammovae.data.copies import set_aside
from mammovae.data.dataset import Data, guessed_mm_per_pixel
from mammovae.data.laterality import against_header
from mammovae.data.prepare_image import prepare_decoded
from mammovae.data.segmentation import find_breast
from mammovae.detection.quality import MEASURES, THUMBNAIL, Quality, thumbnails
from mammovae.detection.score_inputs import is_image, list_files
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid
from mammovae.imageio.raw_tree import RawFile, RawTree, raw_file
from mammovae.imageio.read import read
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
    path: RawFile
    side: str | None
    view: str | None
    mm: float | None
    donor: RawFile
    other_view: RawFile | int


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
    other_view: Sequence[RawFile] = (),
    workers: int | None = None,
) -> pd.DataFrame:
    """Score healthy images untouched and with each fault: position, fault ("" untouched), quality, refused, reason.

    other_view: images of the view that an image is not; without any those of the data set serve, else
    phantoms. Reads the raw files anew: UsageError when they are not where prepare found them. A refusal by prepare
    counts as a detection (quality infinite).
    """
    jobs = _jobs(data, positions, seed, other_view)
    manifest = data.manifest
    preparing = {"size": data.size, "stretch": manifest["settings"]["stretch"], "white": manifest.get("white")}
    corrupt = partial(corrupt_and_prepare, **preparing, convention=manifest["stored_as"], seed=seed)
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
    job: CorruptionJob, *, size: int, stretch: bool, white: int | None, convention: str | None, seed: int
) -> dict[str, CorruptedImage]:
    """Prepare one source image untouched ("") and with every fault of the test family inserted into it, by fault.

    size, stretch, white, convention: as the DATA folder was prepared. Untouched too the image is read whole, so that
    how much of a file was decoded gives no fault away.
    """
    prepared = partial(_prepared, size=size, stretch=stretch, convention=convention)
    return {fault: prepared(source) for fault, source in insert_faults(job, white, seed).items()}


def insert_faults(job: CorruptionJob, white: int | None, seed: int) -> dict[str, SourceImage]:
    """Return one source image untouched ("") and with every fault of the test family inserted into it, by fault."""
    pixels = read(job.path, white=white).pixels
    breast = find_breast(pixels)
    if isinstance(job.other_view, int):
        view = "MLO" if job.view == "CC" else "CC"
        other = make_phantom(job.other_view, job.other_view, "L", view, size=1024).image
    else:
        other = read(job.other_view, white=white).pixels
    # As if taken of the same breast: a chest wall at the wrong edge would be another fault, and an easy one.
    if find_breast(other).chest_wall != breast.chest_wall:
        other = np.ascontiguousarray(other[:, ::-1])
    untouched = SourceImage(pixels, job.side, job.view)
    mm_per_pixel = job.mm or guessed_mm_per_pixel(breast.mask)
    context = FaultContext(breast.mask, breast.chest_wall, mm_per_pixel, read(job.donor, white=white).pixels, other)
    faulty = {fault: insert_fault(untouched, context, fault, "test", [seed, job.row]) for fault in FAULTS}
    return {"": untouched, **faulty}


def example_of_faults(data: Data, positions: np.ndarray, seed: int) -> dict[str, SourceImage]:
    """Return the first image of score_inserted_faults as it is there: untouched ("") and with each fault."""
    return insert_faults(_jobs(data, positions, seed, ())[0], data.manifest.get("white"), seed)


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


def _jobs(data: Data, positions: np.ndarray, seed: int, others: Sequence[RawFile]) -> list[CorruptionJob]:
    """Return a job for each position; others: images of another view, without which those of data serve."""
    rng, columns, raw = np.random.default_rng([seed, 404]), _Columns.of(data), _RawFiles.of(data)
    jobs = []
    for position in map(int, positions):
        view, donors = columns.view[position], columns.donors(position)
        donor = raw.file(donors[int(rng.choice(len(donors)))] if len(donors) else position)
        same_set = columns.of_other_view.get(view, [])
        if others:
            other = others[int(rng.integers(len(others)))]
        elif len(same_set):
            other = raw.file(same_set[int(rng.integers(len(same_set)))])
        else:
            other = int(rng.integers(_DONORS))
        mm = columns.mm_per_pixel[position]
        jobs.append(CorruptionJob(position, raw.listed(position), columns.side[position], view, mm, donor, other))
    return jobs


class _Donors:
    """The healthy images of all patients but one: positions, in order, without a list of them for each patient."""

    def __init__(self, healthy: np.ndarray, left_out: Sequence[int]) -> None:
        self._healthy, self._left_out = healthy, left_out  # left_out: places in healthy, ascending

    def __len__(self) -> int:
        return len(self._healthy) - len(self._left_out)

    def __getitem__(self, number: int) -> int:
        for place in self._left_out:
            number += place <= number
        return int(self._healthy[number])


@dataclass(frozen=True)
class _Columns:
    """What jobs need to know of a DATA folder's images: lists by position, None for null."""

    side: list[str | None]
    view: list[str | None]
    mm_per_pixel: list[float | None]
    patient: list[str | None]
    healthy: np.ndarray  # positions of usable healthy images
    of_other_view: dict[str | None, np.ndarray]  # those of them that have another view than this, by view
    places: dict[str | None, list[int]]  # where a patient's images are in healthy, by patient

    @classmethod
    def of(cls, data: Data) -> "_Columns":
        frame = data.index
        side, view, mm_per_pixel, patient = (
            [None if pd.isna(cell) else cell for cell in frame[name].tolist()]
            for name in ("side", "view", "mm_per_pixel", "patient_id")
        )
        is_usable = (frame["status"] == "ok") & ~frame["image_id"].isin(set_aside(frame, data.manifest))
        healthy = np.flatnonzero(is_usable & (frame["healthy"] == True).fillna(False))  # noqa: E712
        views = np.array([view[position] or "" for position in healthy], object)
        of_other_view = {name: healthy[(views != name) & (views != "")] for name in set(view) if name is not None}
        places: dict[str | None, list[int]] = {}
        for place, position in enumerate(healthy.tolist()):
            places.setdefault(patient[position], []).append(place)
        return cls(side, view, mm_per_pixel, patient, healthy, of_other_view, places)

    def donors(self, position: int) -> _Donors:
        """Return the healthy images of other patients than a position's."""
        return _Donors(self.healthy, self.places.get(self.patient[position], []))


@dataclass(frozen=True)
class _RawFiles:
    """The files that a DATA folder was prepared from, by position."""

    root: Path
    sources: list[str]
    members: Container[str] | None  # of a zip archive

    @classmethod
    def of(cls, data: Data) -> "_RawFiles":
        root = Path(data.manifest["inputs"]["root"])
        return cls(root, data.index["source"].tolist(), RawTree.scan(root).files if root.is_file() else None)

    def file(self, position: int) -> RawFile:
        return raw_file(self.root, self.sources[position])

    def listed(self, position: int) -> RawFile:
        """Return the file at a position; UsageError when it is gone."""
        file = self.file(position)
        is_there = file.is_file() if isinstance(file, Path) else self.sources[position] in (self.members or ())
        if not is_there:
            raise UsageError(f"there is no {file}: stress reads the raw files; put them back there")
        return file


def images_of_other_view(folder: Path | None, workers: int | None = None) -> list[RawFile]:
    """Return the images of a folder or zip archive; worker processes look into files without an image's suffix."""
    if folder is None:
        return []
    files = [image for image in list_files([folder], []) if image.problem is None]
    doubtful = [image.file for image in files if not image.is_named_image]
    answers = dict(pool.map_unordered(is_image, doubtful, workers=workers))
    images = [image.file for image in files if image.is_named_image or answers[image.file] is True]
    if not images:
        raise UsageError(f"there is no image in {folder}: name a folder of images of the other view")
    return images


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
