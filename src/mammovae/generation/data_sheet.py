"""The data sheet of generated images: how they were made, what they are, and what they may not be used for.

Its questions are those of Gebru et al., "Datasheets for datasets" (Commun. ACM 64:86, 2021).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mammovae.data import index
from mammovae.data.dataset import Data
from mammovae.generation.samplers import DERIVED
from mammovae.report.formatting import plural, value
from mammovae.report.markdown import bullets, table
from mammovae.report.recorded_figures import RecordedFigures, optional_record, read_figures, record_figures
from mammovae.storage import MANIFEST, read_json, update_text

DATA_SHEET = "data_sheet.md"
_EDITED = "<!-- Written anew by mammovae generate and audit: edit the copy that you publish. -->"
_DRAWN = {
    "latent": "the network decoded latent vectors drawn from a distribution fitted to those of the training images",
    "prior": "the network decoded latent vectors drawn from N(0, I)",
    "vary": "the network encoded training images, added noise to their latent vectors, and decoded these",
    "interpolate": "the network decoded latent vectors on the way from one training image to another",
}
_KNOWN = {"side": "side", "view": "view", "density": "breast density"}
_NOT_FOR = (
    "No diagnosis, screening or triage, and no teaching of what disease looks like: none shows what anybody has.",
    "No passing off as real images. Whoever shows or shares them says that they are synthetic.",
    "No proof that a detector works on patients: a figure measured on these images is one on these images.",
    "No attempt to find the patients of the training images by them.",
)


def write_data_sheet(folder: Path, manifest: Mapping[str, Any], frame: pd.DataFrame) -> None:
    """Write the sheet of a generated DATA folder anew, from its manifest, its index and its recorded figures."""
    update_text(folder / DATA_SHEET, data_sheet(manifest, frame, read_figures(folder).values()))


def record_on_sheet(folder: Path, real: Data, metrics: Mapping[str, Any], inputs: Mapping[str, Any], seed: int) -> None:
    """Record an audit's figures within the generated DATA folder, and write its sheet anew; or say why not.

    real: what the images were set beside; metrics: what metrics.json holds; inputs: what was measured.
    """
    about = {"command": "audit", "seed": seed, "kind": real.manifest["inputs"]["kind"], "is_own": True}
    about |= {name: real.manifest[name] for name in ("phantoms", "by_patient")} | {"training_images_left_out": True}
    with optional_record(f"the data sheet of {folder}"):
        record_figures(folder, metrics, inputs, **about)
        write_data_sheet(folder, read_json(folder / MANIFEST), index.read(folder / "index.parquet"))


def data_sheet(manifest: Mapping[str, Any], frame: pd.DataFrame, figures: Iterable[RecordedFigures]) -> str:
    """Return the sheet as Markdown: no patient_id and no path is in it, and the same folder gives the same text."""
    sections = {
        "Motivation": "Synthetic mammograms for research: to fill a training set, to test software, to show what a "
        "network has learnt.",
        "Composition": _composition(manifest, frame),
        "How they were made": _making(manifest),
        "Audit": _audit(list(figures)),
        "Uses": f"Not to be used for:\n\n{bullets(_NOT_FOR)}",
        "Distribution and licence": _licence(manifest),
        "Maintenance": "The folder is not maintained: the same command, run and seed make the same images again, and "
        "another seed makes others.",
    }
    parts = [f"## {heading}\n\n{text}" for heading, text in sections.items()]
    return "\n\n".join([_EDITED, f"# {plural(manifest['counts']['ok'], 'generated mammogram')}", *parts]) + "\n"


def _composition(manifest: Mapping[str, Any], frame: pd.DataFrame) -> str:
    counts, size = manifest["counts"], manifest["size"]
    form = "DICOM objects, marked synthetic, in `dicom/`" if manifest["sampling"]["dicom"] else "PNG files in `png/`"
    parts = [
        f"{plural(counts['ok'], 'image')} of {size} x {size} pixels with breast masks, as a DATA folder and as {form}; "
        f"{counts['failed']:,} more hold nothing like a breast and are in `failures.csv`. No finding was drawn on "
        "purpose."
    ]
    for name, words in _KNOWN.items():
        groups = frame[name].astype(object).where(frame[name].notna(), "unknown").value_counts().sort_index()
        parts.append(table((words, "images"), [(str(group), f"{number:,}") for group, number in groups.items()]))
    return "\n\n".join(parts)


def _making(manifest: Mapping[str, Any]) -> str:
    sampling, run = manifest["sampling"], manifest["run"]
    rows = [
        ("mode", sampling["mode"]),
        *((name.replace("_", " "), value(item)) for name, item in sampling.items() if name not in ("mode", "dicom")),
        ("preset of the run", run["preset"]),
        *((f"weights of {name} (SHA-256)", weights) for name, weights in run["weights"].items()),
        ("mammovae", manifest["versions"]["mammovae"]),
    ]
    learnt = "phantoms, synthetic mammograms of no patient" if manifest["phantoms"] else "mammograms of patients"
    how = f"In mode {sampling['mode']} {_DRAWN[sampling['mode']]}. The network learnt from {learnt}: see the run's "
    return f"{how}`model_card.md`. {manifest['note'][0].upper()}{manifest['note'][1:]}.\n\n{table(('', ''), rows)}"


def _audit(figures: list[RecordedFigures]) -> str:
    if not figures:
        return "Not audited yet: `mammovae audit` writes its figures here. Until then nothing is known of copies."
    parts = []
    for one in figures:
        parts += [f"{one.title}, seed {one.seed}:", table(("figure", "value (95 % interval)", "images"), one.rows)]
        parts += one.remarks
    parts.append("Another attack may succeed: no figure here proves that the images are anonymous.")
    return "\n\n".join(parts)


def _licence(manifest: Mapping[str, Any]) -> str:
    if manifest["phantoms"]:
        return "The run learnt from phantoms alone, so no terms of a data set rest on these images."
    patients = ""
    if manifest["sampling"]["mode"] in DERIVED:
        patients = " Each image is derived from patients' images by construction, and must be handled like these."
    return (
        "The data sets that the run learnt from keep their own licences and terms of use: whether images derived from "
        f"them may be handed on, to whom and for what, is for these to say.{patients}"
    )
