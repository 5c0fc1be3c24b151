"""mini-MIAS: 322 digitised films of 161 patients, or any part of them."""

import re
from pathlib import Path

import pandas as pd

from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.sources.csv_rows import clipped
from mammovae.data.sources.source import Source, find_entry, header_of

SIZE = 1024  # rows and columns of every film
_CLASSES = ("CALC", "CIRC", "SPIC", "MISC", "ARCH", "ASYM")
_SEVERITY = {"B": "benign", "M": "malignant"}
_FILM = re.compile(r"(?P<film>mdb(?P<number>\d{3}))\b\s*(?P<rest>.*)", re.IGNORECASE)
_ROW = re.compile(
    r"[FGD]\s+(?:NORM|(?P<kind>[A-Z]{4})\s+(?P<severity>[BM])"
    r"(?:\s+(?P<x>\d+)\s+(?P<y>\d+)\s+(?P<radius>\d+)|\s*\*?\s*NOTE\s*3\s*\*?)?)\s*"
)


def list_images(root: Path) -> pd.DataFrame:
    """List mini-MIAS (Suckling et al., Excerpta Medica ICS 1069:375-378, 1994), a row a film in order of number.

    Expects Info.txt with the films (mdb001.pgm, ...) beside it. Healthy is class NORM; a film in the folder that is not
    listed has unknown health. The patient is the pair of films 2k-1 and 2k. The tissue letter is not BI-RADS density,
    so density is null. Findings carry the class code, the severity, and as box the square round the circle, clipped.

    Traps: Info.txt counts y from the bottom (row = 1024 - y); calls even films left, while the markers on the films say
    L on the odd ones, which is followed here; lists several rows a film, and rows without a position ("*NOTE 3*":
    calcifications spread over the whole breast). All views are MLO, 0.2 mm a pixel.
    """
    info = find_entry(root, "Info.txt")
    if info is None:
        raise InputError(f"{root} is not mini-MIAS: it holds no Info.txt, expected beside mdb001.pgm and the others")
    findings = _listed_findings(info)
    if not findings:
        raise InputError(f"{info} lists no film: its rows should look like 'mdb001 G CIRC B 535 425 197'")
    files = {path.stem.lower(): path.name for path in root.iterdir() if path.suffix.lower() == ".pgm"}
    for name in files.values():
        header = header_of(root / name) or {"rows": SIZE, "columns": SIZE}  # damaged ones fail when they are read
        if (header["rows"], header["columns"]) != (SIZE, SIZE):  # circles would lie elsewhere
            size = f"{header['rows']} x {header['columns']} pixels, where mini-MIAS has {SIZE} x {SIZE}"
            raise InputError(f"{root / name} has {size}: use the films as released")
    unlisted = {name for name in files if _FILM.fullmatch(name)} - set(findings)
    rows = []
    for film in sorted({*findings, *unlisted}):
        number = int(film[3:])
        first = number - (number + 1) % 2
        row = {"image_id": film, "patient_id": f"mdb{first:03d}-{first + 1:03d}", "side": "L" if number % 2 else "R"}
        row |= {"view": "MLO", "rows": SIZE, "columns": SIZE, "mm_per_pixel": 0.2}
        row |= {"source": files.get(film, f"{film}.pgm"), "findings": findings.get(film)}
        is_listed = film not in unlisted
        row |= {"healthy": not findings[film]} if is_listed else {"reason": "Info.txt does not list this film"}
        rows.append(row)
    return index.table(rows, root)


def _listed_findings(info: Path) -> dict[str, list[dict]]:
    """Return each listed film's findings, none for a normal one."""
    findings: dict[str, list[dict]] = {}
    for number, text in enumerate(info.read_text(encoding="latin-1").splitlines(), start=1):
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
    return findings


SOURCE = Source(
    reads="mini-MIAS, Info.txt beside the films (mdb001.pgm and so on)", list_images=list_images, finding_shape="round"
)
