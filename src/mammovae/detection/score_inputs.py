"""The image files that score is given, by name, in folders or in zip archives: listed here, opened in workers."""

import os
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mammovae.config import UsageError
from mammovae.data.index import printable
from mammovae.data.prepare_image import PreparedImage, prepare_image
from mammovae.data.sources.source import is_image_that_failed, without_suffix
from mammovae.imageio.raw_tree import RawFile, RawTree, Stamp
from mammovae.imageio.read import IMAGE_SUFFIXES, read_header
from mammovae.report.formatting import plural
from mammovae.report.progress import Progress

_UNKNOWN = Stamp(0, 0)


class ImageFile(NamedTuple):
    """A file to score.

    image_id is its path below the folder or archive given, or its name, without the suffix of an image format (the dots
    of a UID stay); where several would be the same, `index.distinct_names` tells them apart.
    """

    image_id: str
    name: str  # as image_id, with the suffix
    file: RawFile
    source: str  # the file as given, for the table
    stamp: Stamp
    is_named_image: bool  # by its suffix, or by whoever gave it; else it may be anything, which its content says
    problem: str | None = None  # why it could not be listed


def list_files(paths: Iterable[Path], outputs: Iterable[Path]) -> list[ImageFile]:
    """List the files at paths and in the folders and zip archives there, each once, without opening any.

    Of a folder, what could not be listed is among them, with the problem; passed over are outputs (files that this call
    writes, and folders), folders that mammovae wrote, and archives, which are counted on standard error. The image_ids
    are not yet distinct.
    """
    files: dict[str, ImageFile] = {}
    excluded = {os.path.realpath(output) for output in outputs}
    for path in paths:
        if path.is_dir() or (path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path)):
            found = _list_tree(path, excluded)
        elif path.exists():
            # What a link points to is not what the user calls it.
            file = path.parent.resolve() / path.name
            found = [ImageFile(*_names(path.name), file, printable(str(path)), _stamp(path), True)]
        else:
            raise UsageError(f"there is no file or folder {path}: check the path")
        for image in found:
            files.setdefault(str(image.file), image)
    return list(files.values())


def _list_tree(given: Path, excluded: set[str]) -> list[ImageFile]:
    with Progress("listing", None, unit="files") as progress:
        tree = RawTree.scan(given.resolve(), report=lambda count: progress.advance(count - progress.done))
    if count := tree.archives.total():
        kinds = ", ".join(sorted(tree.archives))
        words = f"{plural(count, 'archive')} ({kinds}) in {printable(str(given))} not looked into"
        print(f"{words}: unpack, or name the .zip itself", file=sys.stderr)
    names = {Path(path).name for path in excluded}
    files = []
    for source, stamp in tree.files.items():
        name = PurePosixPath(source)
        if name.name.upper() == "DICOMDIR" or _is_within(tree.root, name, names, excluded):
            continue
        is_image = name.suffix.lower() in IMAGE_SUFFIXES
        if not is_image and not is_image_that_failed(source, tree):
            continue
        files.append(ImageFile(*_names(source), tree.file(source), printable(str(given / source)), stamp, is_image))
    for source, problem in tree.problems.items():
        row = (*_names(source), tree.root / source, printable(str(given / source)))
        files.append(ImageFile(*row, _UNKNOWN, True, printable(problem)))
    return files


def _is_within(root: Path, source: PurePosixPath, names: set[str], excluded: set[str]) -> bool:
    """Say whether a file of a folder is, or lies in, one of the excluded ones; names are theirs: a look saves much."""
    if names.isdisjoint(source.parts):
        return False
    path = os.path.realpath(root / source)
    return any(path == one or path.startswith(one + os.sep) for one in excluded)


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns)


def _names(source: str) -> tuple[str, str]:
    return printable(without_suffix(source)), printable(source)


def prepare_file(image: ImageFile, *, size: int, stretch: bool, white: int | None) -> PreparedImage | None:
    """Prepare a file in a worker process; None for one without an image's suffix whose content is no image's."""
    if not image.is_named_image and not is_image(image.file):
        return None
    return prepare_image(image.file, size=size, stretch=stretch, white=white)


def is_image(file: RawFile) -> bool:
    """Say whether a file's content is an image of a known kind; InputError when it is, but damaged."""
    return read_header(file) is not None
