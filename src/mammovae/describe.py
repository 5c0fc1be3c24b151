"""Folders, images and the machine in words, for a terminal."""

import os
import platform
import re
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from mammovae.arguments import AnyPath, checked
from mammovae.config import InputError
from mammovae.data.dataset import WRITERS
from mammovae.data.explain import explain
from mammovae.data.index import printable
from mammovae.generation.data_sheet import DATA_SHEET
from mammovae.imageio.raw_tree import RawTree
from mammovae.models.run import CONFIG
from mammovae.parallel import pool
from mammovae.parallel.worker import THREAD_COUNTS
from mammovae.report.formatting import count_line, plural
from mammovae.report.recorded_figures import read_figures
from mammovae.storage import MANIFEST, provenance, read_json
from mammovae.training.model_card import CARD
from mammovae.version import __version__

_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*(?:;.*extra == ['\"]([\w-]+)['\"])?")


@checked
def describe(paths: Annotated[Sequence[AnyPath], Field(min_length=1)]) -> tuple[dict[str, str], int]:
    """Say in words what each path is, and count those of which only the reason can be said why they are nothing known.

    A folder of mammovae and a zip archive are a line, with what was measured of a run or of generated images a line
    more each; an image file is several. Files are read by a worker process, as their decoders may crash or never end.
    """
    descriptions: dict[str, str] = {}
    failed = 0
    files = [path for path in paths if path.is_file() and not zipfile.is_zipfile(path)]
    explained = dict(pool.map_unordered(explain, files, workers=1))
    for path in paths:
        try:
            if path in explained:
                descriptions[str(path)] = _checked(explained[path])
            else:
                descriptions[str(path)] = "\n".join(map(printable, _describe(path)))
        except InputError as error:
            descriptions[str(path)] = printable(str(error))
            failed += 1
    return descriptions, failed


def _checked(result: str | InputError) -> str:
    if isinstance(result, InputError):
        raise result
    return result


def _describe(path: Path) -> list[str]:
    """Return the lines that say what a path is that is no image."""
    if path.is_file():
        tree = RawTree.scan(path)
        if {MANIFEST, CONFIG} <= set(tree.files):
            return [f"{path}: zip archive of a RUN folder: unzip it, and name the folder that it was unzipped to"]
        files = plural(len(tree.files), "file")
        return [f"{path}: zip archive of {files}, which mammovae prepare and score read in place"]
    if not path.is_dir():
        raise InputError(f"there is no file or folder {path}: check the path")
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} is no folder of mammovae: it has no {MANIFEST}")
    manifest = read_json(path / MANIFEST)
    if not {"command", "state", "versions"} <= set(manifest):
        raise InputError(f"{path} is no folder of mammovae: its {MANIFEST} is another program's")
    state, done = f"{manifest['command']}, {manifest['state']}", manifest["state"] == "done"
    if done and manifest["command"] in WRITERS:
        data = f"{path}: DATA folder ({state}) at {manifest['size']} px; {count_line(manifest)}"
        return [data, *_sheet(path, DATA_SHEET, "data sheet")]
    if done and manifest["command"] == "train":
        images, weights = manifest["images"], sum(manifest["parameters"].values())
        run = f"{path}: RUN folder ({state}), preset {manifest['preset']}, {weights:,} parameters"
        trained = f"{run}, trained on {images['train']:,} images, calibrated on {images['calibration']:,}"
        return [trained, *_sheet(path, CARD, "model card")]
    return [f"{path}: {state}, written {manifest['written']} by mammovae {manifest['versions']['mammovae']}"]


def _sheet(folder: Path, name: str, what: str) -> list[str]:
    """Return what was measured of a run or of generated images, a line each, and where the whole is to be read."""
    if not (folder / name).is_file():
        return []
    return [*(f"  {one.headline}" for one in read_figures(folder).values()), f"  {what}: {folder / name}"]


def describe_system() -> dict[str, str]:
    """Say what a bug report needs of this machine and of what is installed, each in words by what it is of.

    Operating system, cores, memory, GPUs, threads, the version of every package that mammovae needs, and which of its
    extras are whole. Nothing in it names a user, a machine or a folder.
    """
    commit = provenance()["git_commit"]
    own = {
        "mammovae": __version__ + ("" if commit is None else f", commit {commit}"),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "operating system": _operating_system(),
        "cores": f"{pool.count_cores()} of {os.cpu_count()}, {torch.backends.cpu.get_cpu_capability()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "GPU": _gpus(),
        "threads": ", ".join([str(torch.get_num_threads()), *_thread_settings()]),
    }
    packages: dict[str, list[str]] = {}
    for line in requires("mammovae") or ():
        if match := _REQUIREMENT.match(line):
            packages.setdefault(match[2] or "", []).append(match[1])
    needed = {name: _version(name) or "missing" for name in packages.pop("", ())}
    return own | needed | {f"extra {name}": _completeness(others) for name, others in packages.items()}


def _operating_system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:  # macOS
        name = platform.mac_ver()[0]
    words = (platform.system(), platform.release(), platform.machine(), *platform.libc_ver(), f"({name})")
    return " ".join(word for word in words if word)


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    words = [f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus]
    return ", ".join([*words, f"CUDA {torch.version.cuda}"])


def _thread_settings() -> list[str]:
    return [f"{name}={os.environ[name]}" for name in THREAD_COUNTS if name in os.environ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _completeness(packages: Sequence[str]) -> str:
    missing = [package for package in packages if _version(package) is None]
    return f"without {', '.join(missing)}" if missing else "installed"
