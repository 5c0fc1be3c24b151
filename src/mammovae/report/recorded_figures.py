"""Figures recorded within the folder that they are of: what a model card or a data sheet shows of it."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import AfterValidator

from mammovae.config import InputError, LesionKind, Protocol, Seed, Settings, SourceKind
from mammovae.report.formatting import headline, value
from mammovae.statistics.bootstrap import Estimate
from mammovae.storage import digest, read_json, update_text

FIGURES = "figures"
"""The folder, within a RUN or a generated DATA folder, that holds a file an evaluation, stress test or audit."""
_FILE = re.compile(r"(evaluate|stress|audit)-[0-9a-f]{16}\.json")
_WORDS = {
    "n_healthy": "healthy",
    "n_healthy_affected": "healthy",
    "n_finding": "with a finding",
    "n_annotated": "with a finding",
    "quality_n_healthy": "healthy",
    "n_generated": "generated",
    "n_real": "real",
}


class _Figure(NamedTuple):
    """A figure that is recorded: its key in metrics.json, words for people, and the keys of its numbers of images."""

    key: str
    label: str
    numbers: tuple[str, ...]


_AGAINST, _AGAINST_AFFECTED = ("n_healthy", "n_finding"), ("n_healthy_affected", "n_finding")
_IN_HEALTHY, _GENERATED = ("quality_n_healthy",), ("n_generated",)
_BASELINES = {"mean_grey": "mean grey", "breast_area": "breast area", "pca_residual": "PCA residual"}
_BASELINES |= {"blobs": "blob filter"}
_COMPARED = {
    "two_sample_auroc": "classifier two-sample test, AUROC (0.5: not distinguished)",
    "spectrum_error": "error of the power spectrum (dB)",
    "recall": "recall: real images among the generated",
}
_SHOWN = {
    "evaluate": [
        _Figure("auroc", "AUROC of the finding score, against patients without any finding", _AGAINST),
        _Figure("auroc_affected", "the same, against healthy images of affected patients", _AGAINST_AFFECTED),
        _Figure("average_precision", "average precision of the finding score", _AGAINST),
        *(_Figure(f"baseline_{key}_auroc", f"baseline: {label}, AUROC", _AGAINST) for key, label in _BASELINES.items()),
        _Figure("pointing", "share whose anomaly map has its maximum in a lesion", ("n_annotated",)),
        _Figure("pointing_chance", "the same by chance", ("n_annotated",)),
    ],
    "stress": [
        _Figure("quality_auroc_mean", "AUROC of the quality score, mean over inserted faults", _IN_HEALTHY),
        _Figure("quality_recall_5_mean", "share of inserted faults found when 5 % are reviewed", _IN_HEALTHY),
        *(
            _Figure(f"lesion_auroc_{kind}", f"AUROC of the finding score, inserted {kind}", (f"lesion_n_{kind}",))
            for kind in get_args(LesionKind)
        ),
    ],
    "audit": [
        *(
            figure
            for key, label in _COMPARED.items()
            for figure in (
                _Figure(key, label, ("n_generated", "n_real")),
                _Figure(f"reference_{key}", f"{label}; real against other real images", ("n_real",)),
            )
        ),
        _Figure("membership_auroc", "membership inference, AUROC (0.5: nothing disclosed)", ("n_generated", "n_real")),
        _Figure("exact_copies", "exact copies of training images", _GENERATED),
        _Figure("training_patients_reached", "training patients near to whom an image is", _GENERATED),
        _Figure("held_out_patients_reached", "the same of held-out patients", _GENERATED),
    ],
}
"""What is recorded of each command, in the order in which it is shown."""
_COUNTED = {"evaluate": ("n_patients",), "stress": (), "audit": ("n_train", "n_failed")}


def _check_kinds(kinds: str) -> str:
    if unknown := set(kinds.split(", ")) - {*get_args(SourceKind), "generated"}:
        raise ValueError(f"{min(unknown)} is no kind of data set")
    return kinds


Kinds = Annotated[str, AfterValidator(_check_kinds)]
"""The kinds of the data sets of a DATA folder: "vindr", or "vindr, mias" of joined ones."""


class RecordedFigures(Settings):
    """Figures of one evaluation, stress test or audit: no path, and of the images only what data set and how many."""

    command: Literal["evaluate", "stress", "audit"]
    """What measured them."""
    seed: Seed
    """Its seed."""
    protocol: Protocol | None = None
    """Of an evaluation, which test images."""
    kind: Kinds
    """The kinds of the data sets that the test images are of."""
    phantoms: bool
    """Whether they are phantoms."""
    by_patient: bool
    """Whether patients were known, so that intervals are over patients."""
    is_own: bool
    """Whether they are the test split of the very data that the run was trained on; one of several folders is not."""
    training_images_left_out: bool
    """Whether it is known that the run was trained on none of these patients; else it could not be checked."""
    figures: dict[str, float | int | None]
    """Some of the keys of metrics.json, intervals as KEY_low and KEY_high."""

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Each figure in words, with its 95 % interval, and the images behind it."""
        found = []
        for key, label, numbers in _SHOWN[self.command]:
            if key in self.figures:
                low = f"{key}_low"
                one, ends = self.figures[key], (self.figures.get(low), self.figures.get(f"{key}_high"))
                is_estimate = low in self.figures or one is None
                text = Estimate(one, *ends, 0, 0).text if is_estimate else value(round(one, 2))
                behind = [(self.figures[n], _WORDS.get(n, "images")) for n in numbers if n in self.figures]
                found.append((label, text, ", ".join(f"{number:,} {word}" for number, word in behind)))
        return found

    @property
    def title(self) -> str:
        """What was measured on which images."""
        what = {"evaluate": "Evaluation", "stress": "Stress test", "audit": "Audit"}[self.command]
        whose = "the data that the run was trained on" if self.is_own else "another DATA folder"
        kind = f"{self.kind}{', phantoms' if self.phantoms else ''}"
        protocol = ", protocol original (20 against 20)" if self.protocol == "original" else ""
        return f"{what} {'by' if self.command == 'audit' else 'on'} test images of {whose} ({kind}){protocol}"

    @property
    def remarks(self) -> list[str]:
        """What has to be said of all these figures."""
        remarks = []
        if not self.by_patient:
            remarks.append("Not by patient: patients are unknown, and the intervals are over images.")
        if not self.training_images_left_out:
            remarks.append("Whether the run was trained on these patients could not be checked.")
        return remarks

    @property
    def headline(self) -> str:
        """The most important of them in a line; without them, as a foreign run may be, what was measured."""
        main = _SHOWN[self.command][0]
        if not {main.key, *main.numbers} <= self.figures.keys():
            return self.title
        if self.command == "evaluate":
            return f"{self.title}: {headline(self.figures)}"
        label, text, behind = self.rows[0]
        return f"{self.title}: {label} {text}, {behind}"


def record_figures(folder: Path, metrics: Mapping[str, Any], inputs: Mapping[str, Any], **about: Any) -> None:
    """Record within a folder what metrics.json says of it: about is what RecordedFigures has beside its figures.

    inputs, of which only a hash is kept, are what the command measured: done again, it takes the same file's place.
    """
    keys = [name for one in _SHOWN[about["command"]] for name in (one.key, *one.numbers)]
    names = [end for key in keys for end in (key, f"{key}_low", f"{key}_high")] + list(_COUNTED[about["command"]])
    found = RecordedFigures(**about, figures={name: metrics[name] for name in names if name in metrics})
    place = folder / FIGURES / f"{found.command}-{digest(inputs, found.seed, found.protocol)}.json"
    update_text(place, json_text(found))


@contextmanager
def optional_record(place: str) -> Iterator[None]:
    """Let figures stay out of a place that cannot be written, and say so: such a folder is often read-only."""
    try:
        yield
    except (OSError, InputError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        print(f"the figures are not in {place}: {reason}", file=sys.stderr)


def json_text(found: RecordedFigures) -> str:
    """Return what the file of figures holds."""
    return json.dumps(found.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"


def read_figures(folder: Path) -> dict[str, RecordedFigures]:
    """Return the figures recorded within a folder by the names of their files; InputError names one that holds more."""
    paths = sorted(path for path in (folder / FIGURES).glob("*.json") if _FILE.fullmatch(path.name) and path.is_file())
    found = {}
    for path in paths:
        try:
            one = RecordedFigures(**read_json(path))
        except (TypeError, InputError) as error:
            raise InputError(f"{path} holds no figures of a run ({error}): delete it") from error
        allowed = {key for figure in _SHOWN[one.command] for key in (figure.key, *figure.numbers)}
        allowed |= set(_COUNTED[one.command])
        if unknown := [key for key in one.figures if re.sub("_(low|high)$", "", key) not in allowed]:
            raise InputError(f"{path} has a figure {unknown[0]!r}, which mammovae does not record: delete it")
        found[path.name] = one
    return found
