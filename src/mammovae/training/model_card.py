"""The model card of a run: what it is, whom it learnt from, what was measured of it, and what it may not be used for.

Mitchell et al., "Model cards for model reporting" (FAT* 2019), with the front matter that the Hugging Face Hub reads.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mammovae.config import InputError, TrainSettings
from mammovae.data.dataset import Data
from mammovae.models.base import HISTORY, Generator
from mammovae.models.run import MEMBERS, Run
from mammovae.report.formatting import duration, plural, value
from mammovae.report.markdown import bullets, front_matter, table
from mammovae.report.recorded_figures import RecordedFigures, optional_record, read_figures, record_figures
from mammovae.report.summary_text import LIMITS
from mammovae.storage import update_text

CARD = "model_card.md"
_EDITED = "<!-- Written anew by mammovae train, evaluate, stress and pack: edit the copy that you publish. -->"
_SETTINGS = ("include", "side", "view", "limit", "batch_size", "learning_rate", "schedule", "precision", "seed")
_PRIVACY = (
    "A network can remember what it learnt from. What it reconstructs or generates may show a patient of its training "
    "images; `mammovae audit` looks for that in generated images, and proves of no run that it cannot happen.",
    "`private/` of the run shows patients and holds hashes by which they can be found: it stays with whoever trained "
    "the run. `mammovae pack` leaves it out.",
    "Who has an image itself can compute its scores, and see in `calibration.parquet` and `quality_reference.parquet` "
    "whether it is likely to be among the run's images.",
)
_USES = (
    "Meant for research: comparing methods, finding technical faults in archives before anything is trained on them, "
    "and making synthetic images to be audited.",
    "Not meant for diagnosis, screening, triage or any other decision about a patient.",
)


def write_card(folder: Path, manifest: Mapping[str, Any], settings: TrainSettings) -> None:
    """Write the card of a RUN folder anew from its manifest, its settings, its histories and its recorded figures."""
    update_text(folder / CARD, model_card(manifest, settings, epochs(folder, settings), read_figures(folder).values()))


def record_on_card(
    run: Run, data: Data, metrics: Mapping[str, Any], inputs: Mapping[str, Any], is_checked: bool, **about: Any
) -> None:
    """Record figures of a run within its folder, and write its card anew; where that cannot be written, say so.

    metrics: what metrics.json holds; inputs: what was measured; is_checked: whether the run is known to have learnt
    from none of the images; about: command, seed and protocol.
    """
    about |= {"kind": data.manifest["inputs"]["kind"], "training_images_left_out": is_checked}
    about |= {name: data.manifest[name] for name in ("phantoms", "by_patient")}
    with optional_record(f"the model card of {run.path}"):
        is_own = data.digest == run.manifest["inputs"]["index"]
        record_figures(run.path, metrics, inputs, is_own=is_own, **about)
        write_card(run.path, run.manifest, run.settings)


def epochs(folder: Path, settings: TrainSettings) -> dict[str, int]:
    """Return how many epochs each member of a run was trained for."""
    return {name: len(pd.read_csv(folder / "members" / name / HISTORY)) for name in settings.members}


def model_card(
    manifest: Mapping[str, Any], settings: TrainSettings, epochs: Mapping[str, int], figures: Iterable[RecordedFigures]
) -> str:
    """Return the card as Markdown: no patient_id and no path is in it, and the same run gives the same text."""
    if lacking := [name for name in ("training_data", "device") if name not in manifest]:
        raise InputError(
            f"its manifest.json does not say {lacking[0]}: it was trained by an older mammovae; train again"
        )
    sections = {
        "What it is": _model(manifest, settings, epochs),
        "Uses": bullets(_USES),
        "Training data": _training_data(manifest, settings),
        "Training": _training(manifest, settings),
        "Calibration": _calibration(manifest, settings),
        "Figures": _figures(list(figures)),
        "Limits": bullets(LIMITS),
        "Privacy": bullets(_PRIVACY),
        "Licence": _licence(manifest),
    }
    parts = [f"## {heading}\n\n{text}" for heading, text in sections.items()]
    title = f"# mammovae run, preset {manifest['preset']}"
    return "\n\n".join([_front_matter(manifest, settings), _EDITED, title, *parts]) + "\n"


def _front_matter(manifest: Mapping[str, Any], settings: TrainSettings) -> str:
    kinds = [MEMBERS[name] for name in settings.members]
    generates, detects = any(issubclass(kind, Generator) for kind in kinds), any(kind.detects for kind in kinds)
    licence = {"license": "apache-2.0" if manifest["prepared"]["phantoms"] else "other"}
    tags = ["mammography", "medical-imaging", "variational-autoencoder"]
    tags += ["anomaly-detection"] * detects + ["image-generation"] * generates + ["research-only"]
    task = {"pipeline_tag": "unconditional-image-generation"} if generates else {}
    return front_matter(licence | {"library_name": "mammovae"} | task | {"tags": tags})


def _model(manifest: Mapping[str, Any], settings: TrainSettings, epochs: Mapping[str, int]) -> str:
    size = manifest["prepared"]["size"]
    lines = [
        "Networks that learnt from mammograms of healthy breasts alone, to say how far another image is from healthy, "
        "and where, or to make new ones. Research software, which does not diagnose. It takes images that `mammovae "
        f"prepare` made, {size} x {size} pixels: one view of one breast each, the chest wall at the left.",
    ]
    rows = [
        (
            name,
            str(MEMBERS[name].__doc__).partition("\n")[0].removesuffix("."),
            f"{manifest['parameters'][name]:,}",
            f"{getattr(settings, name).size}",
            f"{epochs[name]:,}",
        )
        for name in settings.members
    ]
    lines.append(table(("member", "what it is", "parameters", "image size (px)", "epochs"), rows))
    made_of = f"The finding score is made of {value(settings.fused)}; the anomaly map of {value(settings.maps)}."
    if not any(MEMBERS[name].detects for name in settings.members):
        made_of = "It makes images; its scores are not made to find lesions."
    lines.append(f"{made_of} All settings are in `config.toml`.")
    return "\n\n".join(lines)


def _training_data(manifest: Mapping[str, Any], settings: TrainSettings) -> str:
    data, prepared = manifest["training_data"], manifest["prepared"]
    sets = f"Kind of data set, as `mammovae prepare` calls it: {data['kind']}"
    if "generated" in data["kind"]:
        sets += " (generated by another run; no patients)"
    elif prepared["phantoms"]:
        sets += " (phantoms: synthetic mammograms that mammovae painted; no patients)"
    chosen = "healthy images alone" if settings.include == "healthy" else "healthy images, and those of unknown health"
    split = "Split by patient" if data["by_patient"] else "Patients are unknown, so the split is not by patient"
    rows = [
        (name, f"{manifest['images'][name]:,}", f"{count:,}" if data["by_patient"] else "unknown")
        for name, count in data["patients"].items()
    ]
    parts = [f"{sets}. {split}; {chosen}.", table(("split", "images", "patients"), rows)]
    for name, words in (("density", "breast density"), ("vendor", "vendor"), ("age", "age (years)")):
        if data[name]:
            rows = [(group, f"{number:,}") for group, number in data[name].items()]
            parts.append(table((words, "training images"), rows))
        else:
            parts.append(f"{words.capitalize()}: not known of any group of five patients or more.")
    return "\n\n".join(parts)


def _training(manifest: Mapping[str, Any], settings: TrainSettings) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    rows = [
        ("time of all epochs", duration(manifest["training_seconds"])),
        ("device", f"{manifest['device']}{' x ' + str(manifest['devices']) if manifest['devices'] > 1 else ''}"),
        ("machine", manifest["machine"]),
        ("finished", manifest["written"][:10]),
        ("versions", versions),
        *((name.replace("_", " "), _setting(getattr(settings, name))) for name in _SETTINGS),
    ]
    return table(("training", ""), rows)


def _setting(item: Any) -> str:
    return "all" if item is None else value(item)


def _calibration(manifest: Mapping[str, Any], settings: TrainSettings) -> str:
    images, patients = manifest["images"]["calibration"], manifest["calibration_patients"]
    if not patients:
        return "None: this run only generates, and its scores have no percentiles."
    which = f"{plural(images, 'image')} {'known' if settings.include == 'healthy' else 'taken'} to be healthy"
    whose = plural(patients, "patient") if manifest["training_data"]["by_patient"] else "unknown patients"
    return (
        f"Percentiles and p-values rest on {which} of {whose}, whom training never saw. No "
        f"percentile lies above {100 * patients / (patients + 1):.1f}, and no false-positive rate below "
        f"{1 / (patients + 1):.2g} can be promised. They hold for images like those."
    )


def _figures(figures: Sequence[RecordedFigures]) -> str:
    if not figures:
        return "Not evaluated yet: `mammovae evaluate` and `mammovae stress` write their figures here."
    parts = []
    for one in figures:
        parts += [f"### {one.title}", table(("figure", "value (95 % interval)", "images"), one.rows), *one.remarks]
    return "\n\n".join(parts)


def _licence(manifest: Mapping[str, Any]) -> str:
    code = "The code of mammovae is under Apache-2.0"
    if manifest["prepared"]["phantoms"]:
        return f"{code}, and so are these weights, which learnt from phantoms alone."
    return (
        f"{code}. The weights learnt from data that keep their own licences and terms of use: whether, to whom and for "
        "what the weights may be handed on is for these to say. Name the data sets, and state their terms, in the copy "
        "of this card that you publish."
    )
