"""mini-MIAS: 322 digitised films of 161 patients, or any part of them."""

import re

import pandas as pd

from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.sources.csv_rows import clipped
from mammovae.data.sources.source import Headers, Source, header_fields
from mammovae.imageio.raw_tree import RawTree, open_raw

SIZE = 1024  # rows and columns of every film
_CLASSES = ("CALC", "CIRC", "SPIC", "MISC", "ARCH", "ASYM")
_SEVERITY = {"B": "benign", "M": "malignant"}
_FILM = re.compile(r"(?P<film>mdb(?P<number>\d{3}))\b\s*(?P<rest>.*)", re.IGNORECASE)
_ROW = re.compile(
    r"[FGD]\s+(?:NORM|(?P<kind>[A-Z]{4})\s+(?P<severity>[BM])"
    r"(?:\s+(?P<x>\d+)\s+(?P<y>\d+)\s+(?P<radius>\d+)|\s*\*?\s*NOTE\s*3\s*\*?)?)\s*"
)


def list_images(tree: RawTree, headers: Headers) -> pd.DataFrame:
    """List mini-MIAS (Suckling et al., Excerpta Medica ICS 1069:375-378, 1994), a row a film in order of number.

    Expects Info.txt and the films (mdb001.pgm, ...) anywhere in the tree; of two films of one name the one in fewer
    folders is taken. Healthy is class NORM; a film in the tree that is not listed has unknown health. The patient is
    the pair of films 2k-1 and 2k. The tissue letter is not BI-RADS density, so density is null. Findings carry the
    class code, the severity, and as box the square round the circle, clipped.

    Traps: Info.txt counts y from the bottom (row = 1024 - y); calls even films left, while the markers on the films say
    L on the odd ones, which is followed here; lists several rows a film, and rows without a position ("*NOTE 3*":
    calcifications spread over the whole breast). All views are MLO, 0.2 mm a pixel.
    """
    info = tree.find("Info.txt") or next((s for s in tree.files if _base_name(s) == "info.txt"), None)
    if info is None:
        raise InputError(f"{tree.root} is not mini-MIAS: it holds no Info.txt, as the set has beside mdb001.pgm")
    findings = _listed_findings(tree, info)
    files = _films(tree, headers)
    rows = []
    for film in sorted(findings.keys() | files.keys()):
        number = int(film[3:])
        first = number - (number + 1) % 2
        source = files.get(film, f"{film}.pgm")
        row = {"image_id": film, "patient_id": f"mdb{first:03d}-{first + 1:03d}", "side": "L" if number % 2 else "R"}
        row |= {"view": "MLO", "rows": SIZE, "columns": SIZE, "mm_per_pixel": 0.2}
        row |= {"source": source, "findings": findings.get(film)}
        is_listed = film in findings
        row |= {"healthy": not findings[film]} if is_listed else {"reason": "Info.txt does not list this film"}
        header = headers.get(source) or {}
        rows.append(row | (header_fields(header) if "unreadable" in header else {}))
    return index.table(rows, tree)


def _is_film(source: str) -> bool:
    return source.lower().endswith(".pgm")


def _base_name(source: str) -> str:
    return source.rpartition("/")[2].lower()


def _films(tree: RawTree, headers: Headers) -> dict[str, str]:
    """Return the sources of the films by their number's name, mdb001 and so on."""
    films: dict[str, str] = {}
    for source in sorted(filter(_is_film, tree.files), key=lambda source: (source.count("/"), source)):
        film = _base_name(source).removesuffix(".pgm")
        if not _FILM.fullmatch(film):
            continue
        header = header_fields(headers.get(source))
        size = header.get("rows", SIZE), header.get("columns", SIZE)  # of one that cannot be read, unknown
        if size != (SIZE, SIZE):  # circles would lie elsewhere
            text = f"{size[0]} x {size[1]} pixels, where mini-MIAS has {SIZE} x {SIZE}"
            raise InputError(f"{tree.file(source)} has {text}: use the films as released")
        films.setdefault(film, source)
    return films


def _listed_findings(tree: RawTree, source: str) -> dict[str, list[dict]]:
    """Return each listed film's findings, none for a normal one."""
    info = tree.file(source)
    try:
        with open_raw(info) as file:
            lines = file.read().decode("latin-1").splitlines()
    except (InputError, OSError) as error:
        raise InputError(f"cannot read {info}: {getattr(error, 'strerror', None) or error}") from None
    findings: dict[str, list[dict]] = {}
    for number, text in enumerate(lines, start=1):
        film = _FILM.fullmatch(text.strip())
        if not film:
            continue
        row = _ROW.fullmatch(film["rest"])
        if not row or row["kind"] not in (None, *_CLASSES):
            raise InputError(f"{info}, line {number}: {text.strip()!r} should look like 'mdb001 G CIRC B 535 425 197'")
        film_findings = findings.setdefault(film["film"].lower(), [])
        if row["kind"]:
            x, y, radius = int(row["x"] or 0), SIZE - int(row["y"] or 0), int(row["radius"] or 0)
            box = clipped((x - radius, y - radius, x + radius, y + radius), SIZE, SIZE) if row["x"] else None
            film_findings.append(index.finding(row["kind"], severity=_SEVERITY[row["severity"]], box=box))
    if not findings:
        raise InputError(f"{info} lists no film: its rows should look like 'mdb001 G CIRC B 535 425 197'")
    return findings


SOURCE = Source(
    reads="mini-MIAS, Info.txt and the films (mdb001.pgm and so on)",
    list_images=list_images,
    needs_header=_is_film,
    finding_shape="round",
)
