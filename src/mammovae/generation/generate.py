"""A folder of generated images: PNG or DICOM files, a grid, and a DATA folder that can be trained on."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from PIL import Image

from mammovae.config import Side, UsageError, View
from mammovae.data import index
from mammovae.data.dataset import guessed_mm_per_pixel
from mammovae.data.finalize import SHEET_IMAGES, counts
from mammovae.data.geometry import Geometry
from mammovae.data.measurements import MEASUREMENTS, measure_image
from mammovae.data.split import assign_splits
from mammovae.generation.dicom_export import encode
from mammovae.generation.latent_density import DENSITY
from mammovae.generation.samplers import DERIVED, LatentSampler, stored, told
from mammovae.report.progress import Progress
from mammovae.storage import StageFolder, atomic_write, digest, file_hash

GENERATED = "generated.csv"
_BATCH, _SHOWN = 32, 64
_NOT_DERIVED = "no patient's image was encoded to make them; mammovae audit looks for copies"


def generate_from(drawn: LatentSampler, out: Path, count: int, dicom: bool = False) -> dict[str, Any]:
    """Fill the folder out with count images of a sampler, whose data may have another's splits; return the manifest."""
    if count < 1:
        raise UsageError(f"--count {count} makes no image: give at least 1")
    if dicom:
        words = told(drawn.conditions(np.arange(count)))
        if None in (*words["side"], *words["view"]):
            raise UsageError(
                "a DICOM mammogram states its side and view, and this run does not always know them: "
                "give --side and --view"
            )
    run = drawn.run
    settings = {
        "mode": drawn.mode,
        "count": count,
        "seed": drawn.seed,
        "temperature": drawn.heat,
        "dicom": dicom,
        **drawn.asked,
    }
    inputs = {
        "kind": "generated",
        "root": str(out.resolve()),
        "run": str(run.path.resolve()),
        "weights": run.manifest["weights"][drawn.name],
        "fitted": file_hash(run.path / DENSITY),
    }
    if drawn.data is not None:
        inputs |= {"source": str(drawn.data.path.resolve()), "index": drawn.data.digest}
    inputs["listing"] = digest(settings, inputs)
    with StageFolder(out, "generate", settings, inputs) as stage:
        if not stage.done:
            # Where the folder lies and how many images it holds change nothing about an image: nor do they its name.
            key = digest(run.manifest["weights"], inputs["fitted"], settings | {"count": None, "dicom": None})
            frame = _fill(stage.out, drawn, count, dicom, key)
            derived = DERIVED.get(drawn.mode)
            prepared = {**run.manifest["prepared"], "size": drawn.member.size, "seed": drawn.seed}
            stage.finish(
                note=_NOT_DERIVED if derived is None else f"each image is {derived}",
                size=drawn.member.size,
                by_patient=True,
                stored_as=prepared["stored_as"],
                phantoms=prepared["phantoms"],
                duplicates=[],
                counts=counts(frame),
                prepared=prepared,
                run={"weights": run.manifest["weights"], "preset": run.manifest["preset"]},
                sampling=settings | ({"density_kind": drawn.density.name} if drawn.mode == "latent" else {}),
            )
        return stage.facts()


def _fill(out: Path, drawn: LatentSampler, count: int, dicom: bool, key: str) -> pd.DataFrame:
    """Write images, masks, files, grid and tables; return the index."""
    from mammovae.report.images import contact_sheet, image_grid
    from mammovae.report.style import save

    size = drawn.member.size
    rows: list[dict[str, Any]] = []
    origins: list[dict[str, Any]] = []
    measures: list[dict[str, float]] = []
    with (
        atomic_write(out / "images.npy") as images_path,
        atomic_write(out / "masks.npy") as masks_path,
        Progress("generating", count, unit="images") as progress,
    ):
        images = np.lib.format.open_memmap(images_path, mode="w+", dtype=np.uint16, shape=(count, size, size))
        masks = np.lib.format.open_memmap(masks_path, mode="w+", dtype=np.uint8, shape=(count, size, size))
        for start in range(0, count, _BATCH):
            numbers = np.arange(start, min(start + _BATCH, count))
            samples = drawn.draw(numbers)
            images[numbers], masks[numbers] = stored(samples.images), samples.masks
            words = told(samples.conditions)
            for place, number in enumerate(map(int, numbers)):
                known = {name: values[place] for name, values in words.items()}
                row = _row(drawn, number, samples.sources[place], masks[number], known, dicom, key)
                ok = row["status"] == "ok"
                # What is no breast to prepare's eye is still what the network made: only DICOM needs a breast's size.
                if ok or not dicom:
                    _write(out / row["source"], images[number], masks[number], known, f"{key}/{row['image_id']}", drawn)
                found = measure_image(images[number], masks[number] > 0, "left") | {"against_header": 0.0} if ok else {}
                measures.append(found)
                rows.append(row)
                origins.append(_origin(drawn, row["image_id"], samples.sources[place]))
            progress.advance(len(numbers))
        images.flush()
        masks.flush()
        save(image_grid(images[:_SHOWN], columns=8), out / "grid.png")
        with atomic_write(out / "contact_sheet.png") as partial:
            captions = [row["image_id"] for row in rows[:SHEET_IMAGES]]
            contact_sheet(images[:SHEET_IMAGES], masks[:SHEET_IMAGES], captions).save(partial)
    for name, table in ((GENERATED, origins), ("failures.csv", _failures(rows))):
        with atomic_write(out / name) as partial:
            pd.DataFrame(table).to_csv(partial, index=False)
    with atomic_write(out / MEASUREMENTS) as partial:
        pd.DataFrame(measures).to_parquet(partial, index=False)
    frame = assign_splits(index.table(rows), drawn.seed)
    frame.loc[frame["status"] != "ok", "split"] = "unused"
    index.write(frame, out / "index.parquet")
    return frame


def _row(
    drawn: LatentSampler,
    number: int,
    sources: tuple[int, ...],
    mask: np.ndarray,
    known: dict[str, str | None],
    dicom: bool,
    key: str,
) -> dict[str, Any]:
    """Return an image's row of the index: healthy as far as the run learnt from healthy images alone."""
    size, name = drawn.member.size, f"{drawn.mode}-{number:05d}"
    patient = f"{key}-{name}"
    if sources and drawn.data is not None:
        # Images of one patient stay in one split, those of pairs all together; her own name stays out of the index.
        real = drawn.data.index["patient_id"].iloc[np.array(sources, dtype=int)].tolist()
        patient = f"{key}-from-" + (digest(*real) if drawn.mode == "vary" else "pairs")
    mirrored = dicom and known["side"] == "R"
    geometry = asdict(Geometry(0, 0, size, size, mirrored, 1.0, 1.0, 0.0, 0.0, size))
    empty = not mask.any()
    return {
        "image_id": name,
        "patient_id": patient,
        "healthy": True if drawn.run.settings.include == "healthy" else None,
        "source": f"dicom/{name}.dcm" if dicom else f"png/{name}.png",
        "rows": size,
        "columns": size,
        "status": "failed" if empty else "ok",
        "reason": "nothing like a breast is in the generated image" if empty else None,
        **known,
        **{field: value for field, value in geometry.items() if field in index.COLUMNS},
    }


def _origin(drawn: LatentSampler, name: str, sources: tuple[int, ...]) -> dict[str, Any]:
    ids = [] if drawn.data is None else drawn.data.index["image_id"].iloc[np.array(sources, dtype=int)].tolist()
    return {"image_id": name, "mode": drawn.mode, "source_image_ids": ";".join(ids)}


def _failures(rows: list[dict[str, Any]]) -> pd.DataFrame:
    failed = [row for row in rows if row["status"] == "failed"]
    return pd.DataFrame(failed, columns=["image_id", "source", "reason"])


def _write(
    path: Path, image: np.ndarray, mask: np.ndarray, known: dict[str, str | None], key: str, drawn: LatentSampler
) -> None:
    with atomic_write(path) as partial:
        if path.suffix == ".png":
            Image.fromarray(image).save(partial)
            return
        content = encode(
            image,
            key=key,
            side=cast(Side | None, known["side"]),
            view=cast(View | None, known["view"]),
            mm_per_pixel=guessed_mm_per_pixel(mask),
            model=drawn.name,
            run=drawn.run.manifest["weights"][drawn.name],
            sampler=drawn.mode,
            from_patients=drawn.mode in DERIVED,
        )
        partial.write_bytes(content)
