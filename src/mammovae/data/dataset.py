"""A DATA folder opened, or several as one: its index, its memory-mapped images, and batches of tensors from them."""

import hashlib
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from mammovae.arguments import TO_PATH, checked
from mammovae.config import InputError, TrainSettings, UsageError
from mammovae.data import index
from mammovae.data.copies import set_aside
from mammovae.data.geometry import Geometry
from mammovae.data.joined import Folder, JoinedArray, join, mapped, named_file
from mammovae.data.measurements import MEASUREMENTS
from mammovae.data.patients import made_up_patients
from mammovae.data.sources import SOURCES, Source
from mammovae.data.split import include_unlabelled
from mammovae.storage import file_hash, read_manifest

_SHOWN = 16  # images in a notebook
WRITERS = ("prepare", "generate")  # the commands whose folders are DATA folders


class Batch(NamedTuple):
    """What a network is given of n images: float32 (n, 1, S, S) each, grey values in [0, 1], masks 0 or 1."""

    image: torch.Tensor
    mask: torch.Tensor
    other: torch.Tensor | None = None  # the same patient's other breast in the same view, all 0 where there is none
    other_mask: torch.Tensor | None = None
    condition: torch.Tensor | None = None  # what is known of each image, (n, 6): see conditions
    mm_per_pixel: torch.Tensor | None = None  # the size of a pixel at the detector, (n,)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        # From pinned memory a GPU fetches while Python goes on; the way back has to be waited for.
        parts = {name: part for name, part in self._asdict().items() if part is not None}
        return Batch(**{name: part.to(device, non_blocking=device.type == "cuda") for name, part in parts.items()})


@dataclass(frozen=True)
class Data:
    """A finished DATA folder, or several as one: row i of images and masks belongs to row i of index."""

    paths: tuple[Path, ...]  # the folders
    manifest: dict[str, Any]  # of the folder; of several, what they share
    index: pd.DataFrame  # index.parquet, a row an image
    images: np.ndarray | JoinedArray  # uint16 (N, S, S), memory-mapped
    masks: np.ndarray | JoinedArray  # uint8 (N, S, S), 1 inside the breast
    patients: np.ndarray
    """Object (N,): kind of data set and patient_id in the image's own folder, "mias:012"; None where none is known."""
    starts: tuple[int, ...]  # the first row of each folder, and the number of rows

    @classmethod
    @checked
    def open(cls, *paths: Annotated[str | PathLike[str], TO_PATH]) -> "Data":
        """Open a folder that prepare or generate finished, or several as one; InputError says what else it is.

        docs/how-to/several-folders.md says what becomes of patients, copies and image_ids that several folders have.

        Parameters
        ----------
        paths
            Folders that prepare or generate wrote, each named once; the order decides the order of the rows.
        """
        resolved = [Path(path).resolve() for path in paths]
        if len(set(resolved)) < len(paths):
            twice = next(path for path, place in zip(paths, resolved, strict=True) if resolved.count(place) > 1)
            raise UsageError(f"{twice} is named twice: name each DATA folder once")
        parts = [cls._open(Path(path)) for path in paths]
        if len(parts) == 1:
            return parts[0]
        images, masks = (JoinedArray([getattr(part, name) for part in parts]) for name in ("images", "masks"))
        manifest, frame = join([Folder(part.path, part.manifest, part.index, part.patients) for part in parts], images)
        starts = (0, *(int(end) for end in np.cumsum([len(part.index) for part in parts])))
        patients = np.concatenate([part.patients for part in parts])
        return cls(tuple(part.path for part in parts), manifest, frame, images, masks, patients, starts)

    @classmethod
    def _open(cls, path: Path) -> "Data":
        manifest = read_manifest(path, *WRITERS)
        # Of generated images, prepared says which settings their prepared images stand for.
        manifest = manifest | {"settings": manifest.get("prepared", manifest["settings"])}
        images, masks = (_open_array(path / name) for name in ("images.npy", "masks.npy"))
        frame = index.read(path / "index.parquet")
        if not len(frame) == len(images) == len(masks):
            raise InputError(f"{path} has {len(frame)} rows and {len(images)} images: prepare the data again")
        patients = (f"{manifest['inputs']['kind']}:" + frame["patient_id"]).to_numpy(object)
        patients[made_up_patients(frame, manifest["by_patient"])] = None
        return cls((path,), manifest, frame, images, masks, patients, (0, len(frame)))

    def __getstate__(self) -> dict[str, Any]:
        """Name the memory-mapped files instead of holding their pixels: another process opens them itself."""
        return vars(self) | {name: named_file(getattr(self, name)) for name in ("images", "masks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the memory-mapped files that __getstate__ named."""
        vars(self).update(state | {name: mapped(state[name]) for name in ("images", "masks")})

    @property
    def path(self) -> Path:
        """The folder, of commands that take one."""
        (path,) = self.paths
        return path

    @property
    def name(self) -> str:
        """The folder, or folders, in a sentence."""
        return ", ".join(map(str, self.paths))

    def __fspath__(self) -> str:
        """Return the folder, so that data can be given wherever its path can; UsageError where there are several."""
        if len(self.paths) > 1:
            raise UsageError(f"{self.name} are several folders: name one of them")
        return str(self.path)

    def _repr_html_(self) -> str:
        """Show counts, the first images and the first rows in a notebook."""
        from mammovae.report import notebook
        from mammovae.report.formatting import count_line
        from mammovae.report.images import contact_sheet

        usable = np.flatnonzero((self.index["status"] == "ok").to_numpy(bool))[:_SHOWN]
        sheet = contact_sheet(self.images[usable], self.masks[usable], columns=_SHOWN // 2)
        names = ["image_id", "side", "view", "healthy", "density", "split", "status"]
        parts = (
            notebook.image(sheet, "Prepared images, each with its breast outlined"),
            notebook.rows(self.index[names], 4),
        )
        counts = count_line(self.manifest) if len(self.paths) == 1 else f"{len(self.index):,} images"
        return notebook.card(f"DATA folder {self.name}, {self.size} px", notebook.text(counts), *parts)

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """What prepare measured for the quality score, float64, a row an image; null where it failed.

        Of several folders, what all of them measured.
        """
        tables = [_read_measurements(path) for path in self.paths]
        measured = [list(table) for table in tables if len(table.columns)]  # nothing is where every image failed
        shared = [name for name in measured[0] if all(name in names for names in measured)] if measured else []
        rows = map(range, np.diff(self.starts).tolist())
        parts = [table.reindex(index=part, columns=shared) for table, part in zip(tables, rows, strict=True)]
        return pd.concat(parts, ignore_index=True)

    @property
    def source(self) -> Source:
        """What the kind of raw data says of itself; generated images are a folder of images."""
        return SOURCES.get(self.manifest["inputs"]["kind"], SOURCES["folder"])

    @property
    def size(self) -> int:
        """Rows and columns of each prepared image, in pixels."""
        return self.images.shape[1]

    @property
    def digest(self) -> str:
        """A hash of the index as it is held, so that another split is another input."""
        held = self.index[["image_id", "patient_id", "split", "healthy"]].to_json(orient="values")
        on_disk = "".join(file_hash(path / "index.parquet") for path in self.paths)
        return hashlib.sha256((on_disk + held).encode()).hexdigest()

    def select(self, split: str, *, side: str | None = None, view: str | None = None) -> np.ndarray:
        """Return the positions of the usable images of a split, in the index's order."""
        frame = self.index
        keep = (frame["status"] == "ok") & (frame["split"] == split)
        for name, value in (("side", side), ("view", view)):
            if value is not None:
                keep &= (frame[name] == value).fillna(False)
        return np.flatnonzero(keep)

    def healthy(self, positions: np.ndarray) -> np.ndarray:
        """Say of each position whether its image is known to be healthy: bool (n,)."""
        return (self.index["healthy"].iloc[positions] == True).fillna(False).to_numpy(bool)  # noqa: E712

    def parts(self, settings: TrainSettings) -> dict[str, np.ndarray]:
        """Return the positions of train, validation and calibration, as settings ask; any may be empty."""
        data = self
        if settings.include == "unlabelled":
            aside = set_aside(self.index, self.manifest)
            data = replace(self, index=include_unlabelled(self.index, self.manifest["settings"]["seed"], aside))
        parts = {}
        for split in ("train", "validation", "calibration"):
            positions = data.select(split, side=settings.side, view=settings.view)
            if settings.include == "healthy":
                positions = positions[data.healthy(positions)]
            parts[split] = positions
        if settings.limit is not None and settings.limit < len(parts["train"]):
            drawn = np.random.default_rng(settings.seed).choice(parts["train"], settings.limit, replace=False)
            parts["train"] = np.sort(drawn)
        return parts

    def for_training(self, settings: TrainSettings) -> dict[str, np.ndarray]:
        """Return parts; raises InputError, with the counts that explain it, when there is nothing to train on."""
        parts = self.parts(settings)
        if not len(parts["train"]):
            unknown = int(self.index["healthy"].isna().sum())
            hint = "check --side, --view and how the data was split"
            if unknown and settings.include == "healthy":
                hint = f"{unknown} images are of unknown health: --include unlabelled trains on them too"
            raise InputError(f"{self.name} has no image to train on that matches; {hint}")
        return parts

    def check_size(self, settings: TrainSettings) -> None:
        """Refuse, with UsageError, images whose size is no whole multiple of those of the networks of settings.

        Larger ones are averaged; smaller ones are never enlarged, as what a network then saw would not be in the image.
        """
        sizes = {getattr(settings, name).size for name in settings.members}
        if any(self.size % size for size in sizes):
            problem = f"{self.name} holds images of {self.size} px, and the networks take {in_pixels(sizes)}"
            remedy = f"prepare it again with --size {math.lcm(*sizes)}, or choose other sizes of networks"
            raise UsageError(f"{problem}: {remedy}")

    def geometries(self, positions: np.ndarray) -> list[Geometry]:
        """Return how the source images became the prepared images at positions."""
        rows = self.index.iloc[positions].assign(size=self.size)[[field.name for field in fields(Geometry)]]
        return [Geometry(*row) for row in rows.astype(object).itertuples(index=False, name=None)]

    def geometry(self, position: int) -> Geometry:
        """Return how the source image became the prepared image at position."""
        return self.geometries(np.array([position]))[0]

    @cached_property
    def conditions(self) -> np.ndarray:
        """What is known of each image, float32 (N, 6), as the function conditions gives it."""
        return conditions(self.index)

    @cached_property
    def others(self) -> np.ndarray:
        """The position of the other breast of each image, int (N,): usable, as index.other_breasts finds it; or -1.

        In the same folder, by the patient_ids that it has there.
        """
        folder = np.repeat(np.arange(len(self.paths)), np.diff(self.starts))
        frame = self.index.assign(patient_id=self.patients, folder=folder)
        return index.other_breasts(frame, (frame["status"] == "ok").to_numpy(bool))

    def batch(self, positions: np.ndarray, size: int, other: bool = False) -> Batch:
        """Return the images at positions for a network of size pixels; with other, their other breasts too."""
        image, mask = to_tensors(self.images[positions], self.masks[positions], size)
        mm_per_pixel = torch.from_numpy(self.mm_per_pixel(positions).astype(np.float32)) * (self.size // size)
        known = {"condition": torch.from_numpy(self.conditions[positions]), "mm_per_pixel": mm_per_pixel}
        if not other:
            return Batch(image, mask, **known)
        return Batch(image, mask, *to_tensors(*self.other_breasts(positions), size), **known)

    def other_breasts(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images and masks (n, S, S) of the other breasts, all 0 where there is none."""
        others = self.others[positions]
        is_known = (others >= 0)[:, None, None]
        return self.images[others] * is_known.astype(np.uint16), self.masks[others] * is_known.astype(np.uint8)

    def batches(
        self, positions: np.ndarray, size: int, batch_size: int, other: bool = False
    ) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield (positions, batch) in order, at most batch_size images at a time."""
        for start in range(0, len(positions), batch_size):
            part = positions[start : start + batch_size]
            yield part, self.batch(part, size, other)

    def mm_per_pixel(self, positions: np.ndarray) -> np.ndarray:
        """Return the size of prepared pixels at the detector, float64 (n,), in mm; where it is unknown, a guess."""
        sizes = self._mm_per_pixel
        for position in positions[np.isnan(sizes[positions])]:  # kept, for every batch asks
            sizes[position] = guessed_mm_per_pixel(self.masks[position])
        return sizes[positions]

    @cached_property
    def _mm_per_pixel(self) -> np.ndarray:
        """The size of each prepared pixel as the source says it, float64 (N,); NaN where it does not, until guessed."""
        source, scale = (self.index[name].to_numpy(np.float64, na_value=np.nan) for name in ("mm_per_pixel", "scale_y"))
        return source / scale


def in_pixels(sizes: Collection[int]) -> str:
    """Return sizes in words: "256 and 512 px"."""
    *rest, last = sorted(set(sizes))
    return f"{', '.join(map(str, rest))} and {last} px" if rest else f"{last} px"


def _open_array(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot open {file}: {error}; prepare the data again") from error


def _read_measurements(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path / MEASUREMENTS)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path / MEASUREMENTS}: {error}; prepare the data again") from error


def conditions(frame: pd.DataFrame) -> np.ndarray:
    """Return float32 (N, 6): side (L -1, R 1), view (CC -1, MLO 1), then a 1 for density A, B, C or D; unknown is 0."""
    side, view, density = (frame[name].fillna("").to_numpy(object) for name in ("side", "view", "density"))
    codes = [
        (side == "R") * 1 - (side == "L"),
        (view == "MLO") * 1 - (view == "CC"),
        *(density == name for name in "ABCD"),
    ]
    return np.stack(codes, axis=1).astype(np.float32)


def guessed_mm_per_pixel(mask: np.ndarray) -> float:
    """Return a pixel's size in mm where none is known, taking the breast in mask (rows, columns) to be 180 mm high."""
    return 180.0 / max(1, int((mask > 0).any(axis=1).sum()))


def to_tensors(images: np.ndarray, masks: np.ndarray, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn uint16 images and their masks (n, S, S) into a network's input: see area_means."""
    grey, mask = (torch.from_numpy(part.astype(np.float32)) for part in (images, masks))
    return area_means(grey, mask, size)


def area_means(grey: torch.Tensor, mask: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn stored values, 0 to 65535, and masks, float32 (n, S, S) each, into a network's input (n, 1, size, size).

    Where S is a whole multiple of size the area mean is taken; a mask's pixel counts when half of it does.
    """
    ratio, rest = divmod(grey.shape[-1], size)
    if rest or not ratio:
        sizes = f"images of {grey.shape[-1]} px do not fit a network of {size} px"
        raise UsageError(f"{sizes}: prepare at {size} or a multiple of it")
    # By a tensor, for instead of dividing by a number a GPU multiplies by its reciprocal, which rounds otherwise.
    image, mask = grey[:, None] / grey.new_full((), 65535), mask[:, None]
    if ratio > 1:
        image = torch.nn.functional.avg_pool2d(image, ratio)
        mask = (torch.nn.functional.avg_pool2d(mask, ratio) >= 0.5).float()
    return image, mask
