"""Write a folder of generated images: PNG or DICOM files, a grid, and a DATA folder that can be trained on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import InstanceOf

from mammovae.arguments import AnyPath, Count, checked
from mammovae.config import UsageError
from mammovae.data import index
from mammovae.data.dataset import guessed_mm_per_pixel
from mammovae.data.finalize import SHEET_IMAGES, counts
from mammovae.data.geometry import Geometry
from mammovae.data.measurements import MEASUREMENTS, measure_image
from mammovae.data.split import assign_splits
from mammovae.generation.data_sheet import write_data_sheet
from mammovae.generation.dicom_export import Origin, encode
from mammovae.generation.latent_density import DENSITY
from mammovae.generation.samplers import DERIVED, LatentSampler, condition_labels, to_uint16
from mammovae.report.progress import Progress
from mammovae.storage import StageFolder, allocate_array, atomic_write, digest, file_hash, write_csv

GENERATED = "generated.csv"
_BATCH, _SHOWN = 32, 64
_NOT_DERIVED = "no patient's image was encoded to make them; mammovae audit looks for copies"


@checked
def generate_from(
    sampler: InstanceOf[LatentSampler], out: AnyPath, count: Count, dicom: bool = False
) -> dict[str, Any]:
    """Fill the folder out with count images of a sampler, whose data may have other splits; return the manifest."""
    if dicom:
        labels = condition_labels(sampler.conditions(np.arange(count)))
        if None in (*labels["side"], *labels["view"]):
            unknown = "a DICOM mammogram states its side and view, and this run does not always know them"
            raise UsageError(f"{unknown}: give --side and --view")
    run = sampler.run
    settings = {"mode": sampler.mode, "count": count, "seed": sampler.seed, "temperature": sampler.noise_scale}
    settings |= {"dicom": dicom, **sampler.requested}
    inputs = {"kind": "generated", "root": str(out.resolve()), "run": str(run.path.resolve())}
    inputs |= {"weights": run.manifest["weights"][sampler.member_name], "fitted": file_hash(run.path / DENSITY)}
    if sampler.data is not None:
        inputs |= {"source": str(sampler.data.path.resolve()), "index": sampler.data.digest}
    with StageFolder(out, "generate", settings, inputs) as stage:
        if not stage.done:
            # An image and its name depend neither on the folder's place nor on how many images it holds.
            key = digest(run.manifest["weights"], inputs["fitted"], settings | {"count": None, "dicom": None})
            frame = _FolderWriter(stage.out, sampler, dicom, key).write(count)
            derived = DERIVED.get(sampler.mode)
            facts = {"note": _NOT_DERIVED if derived is None else f"each image is {derived}"}
            prepared = {**run.manifest["prepared"], "size": sampler.member.size, "seed": sampler.seed}
            facts |= {name: prepared[name] for name in ("size", "stored_as", "phantoms", "white")}
            facts |= {"by_patient": True, "duplicates": [], "contradictions": [], "notes": []}
            facts |= {"counts": counts(frame), "prepared": prepared}
            facts |= {"run": {name: run.manifest[name] for name in ("weights", "preset")}}
            fitted = {"latent_density": sampler.distribution.name} if sampler.mode == "latent" else {}
            facts |= {"sampling": settings | fitted}
            write_data_sheet(stage.out, stage.facts() | facts, frame)
            stage.finish(**facts)
        return stage.facts()


@dataclass(frozen=True)
class _FolderWriter:
    """Writes a sampler's images, masks, files, overviews and tables into a folder; key names the sampler's images."""

    out: Path
    sampler: LatentSampler
    dicom: bool
    key: str

    def write(self, count: int) -> pd.DataFrame:
        """Write count images and all tables; return the index."""
        from mammovae.report.images import contact_sheet, image_grid
        from mammovae.report.style import save

        rows: list[dict[str, Any]] = []
        origins: list[dict[str, Any]] = []
        measures: list[dict[str, float]] = []
        shape = (count, self.sampler.member.size, self.sampler.member.size)
        with (
            atomic_write(self.out / "images.npy") as images_path,
            atomic_write(self.out / "masks.npy") as masks_path,
            Progress("generating", count, unit="images") as progress,
        ):
            images = allocate_array(images_path, np.uint16, shape)
            masks = allocate_array(masks_path, np.uint8, shape)
            for start in range(0, count, _BATCH):
                numbers = np.arange(start, min(start + _BATCH, count))
                generated = self.sampler.generate(numbers)
                images[numbers], masks[numbers] = to_uint16(generated.images), generated.masks
                labels = condition_labels(generated.conditions)
                for place, number in enumerate(map(int, numbers)):
                    image, mask, sources = images[number], masks[number], generated.sources[place]
                    row = self._row(number, sources, mask, {name: values[place] for name, values in labels.items()})
                    is_ok = row["status"] == "ok"
                    # A failed image is still an output of the network; only DICOM needs a breast's size.
                    if is_ok or not self.dicom:
                        self._write_image(row, image, mask)
                    measures.append(measure_image(image, mask > 0, "left") | {"against_header": 0.0} if is_ok else {})
                    rows.append(row)
                    origins.append({"image_id": row["image_id"], "mode": self.sampler.mode})
                    origins[-1]["source_image_ids"] = ";".join(self._source_column("image_id", sources))
                progress.advance(len(numbers))
            images.flush()
            masks.flush()
            save(image_grid(images[:_SHOWN], columns=8), self.out / "grid.png")
            captions = [row["image_id"] for row in rows[:SHEET_IMAGES]]
            with atomic_write(self.out / "contact_sheet.png") as partial:
                contact_sheet(images[:SHEET_IMAGES], masks[:SHEET_IMAGES], captions).save(partial)
        failures = pd.DataFrame(rows).query("status == 'failed'")[["image_id", "source", "reason"]]
        for name, table in ((GENERATED, pd.DataFrame(origins)), ("failures.csv", failures)):
            write_csv(table, self.out / name)
        with atomic_write(self.out / MEASUREMENTS) as partial:
            pd.DataFrame(measures).to_parquet(partial, index=False)
        frame = assign_splits(index.table(rows), self.sampler.seed)
        frame.loc[frame["status"] != "ok", "split"] = "unused"
        index.write(frame, self.out / "index.parquet")
        return frame

    def _row(self, number: int, sources: tuple[int, ...], mask: np.ndarray, labels: dict[str, Any]) -> dict[str, Any]:
        """Return an image's row of the index: healthy if the run was trained on healthy images alone."""
        size, image_id = self.sampler.member.size, f"{self.sampler.mode}-{number:05d}"
        patient = f"{self.key}-{image_id}"
        if sources:
            # Images of one patient stay in one split, those of pairs all together; no real patient_id is written.
            patients = self._source_column("patient_id", sources)
            patient = f"{self.key}-from-" + (digest(*patients) if self.sampler.mode == "vary" else "pairs")
        is_mirrored, is_empty = self.dicom and labels["side"] == "R", not mask.any()
        geometry = asdict(Geometry(0, 0, size, size, is_mirrored, 1.0, 1.0, 0.0, 0.0, size))
        return {
            "image_id": image_id,
            "patient_id": patient,
            "healthy": True if self.sampler.run.settings.include == "healthy" else None,
            "source": f"dicom/{image_id}.dcm" if self.dicom else f"png/{image_id}.png",
            "rows": size,
            "columns": size,
            "status": "failed" if is_empty else "ok",
            "reason": "nothing like a breast is in the generated image" if is_empty else None,
            **labels,
            **{field: value for field, value in geometry.items() if field in index.COLUMNS},
        }

    def _source_column(self, name: str, sources: tuple[int, ...]) -> list[str]:
        """Return a column of the source's index for the images behind a generated one."""
        data = self.sampler.data
        return [] if data is None else data.index[name].iloc[np.array(sources, dtype=int)].tolist()

    def _write_image(self, row: dict[str, Any], image: np.ndarray, mask: np.ndarray) -> None:
        sampler = self.sampler
        with atomic_write(self.out / row["source"]) as partial:
            if not self.dicom:
                Image.fromarray(image).save(partial)
                return
            weights, is_derived = sampler.run.manifest["weights"][sampler.member_name], sampler.mode in DERIVED
            origin = Origin(f"{self.key}/{row['image_id']}", sampler.member_name, weights, sampler.mode, is_derived)
            mm_per_pixel = guessed_mm_per_pixel(mask)
            partial.write_bytes(encode(image, origin, side=row["side"], view=row["view"], mm_per_pixel=mm_per_pixel))
