"""The files of a raw data set, in a folder or a zip archive: listed once, without opening any of them."""

import io
import json
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from mammovae.config import InputError

MAX_FILE_BYTES = 2**30
"""Bytes of the largest file that is read; an uncompressed film scanned at 50 microns has a tenth of it."""
ARCHIVE_SUFFIXES = (".gz", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
"""Suffixes of files that may hold images and are not looked into."""
_MANIFEST, _MAX_MANIFEST_BYTES = "manifest.json", 2**26
_TELLING_FOLDERS = ("healthy", "finding")  # names that label what lies in them
_OWN_COMMANDS_THAT_MAKE_RAW_DATA = ("phantom",)


class Stamp(NamedTuple):
    """What says whether a file is still the same."""

    size: int
    """In bytes, unpacked."""
    modified_ns: int
    """When it was changed, in ns since 1970; of a file in a zip archive its checksum."""


@dataclass(frozen=True)
class ZipMember:
    """A file in a zip archive."""

    archive: Path
    name: str  # within the archive, with forward slashes

    def __str__(self) -> str:
        """Return the path as an error names it."""
        return f"{self.archive}/{self.name}"

    @property
    def suffix(self) -> str:
        """The name's last suffix, with its dot, as of a Path."""
        return PurePosixPath(self.name).suffix


RawFile = Path | ZipMember


def open_raw(file: RawFile) -> IO[bytes]:
    """Open a file for reading: only a regular one (a FIFO would be waited for), of a size that an image can have.

    Raises InputError, a sentence without the file's name, when it is none of these, and OSError as `open` does.
    """
    if isinstance(file, ZipMember):
        return _open_member(file)
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    status = os.fstat(handle)
    try:
        if stat.S_ISDIR(status.st_mode):
            raise InputError("it is a folder, name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise InputError("it is no regular file")
        check_file_size(status.st_size)
    except InputError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def check_file_size(size: int) -> None:
    """Refuse files that are empty or larger than any mammogram, before memory is taken for them."""
    if size == 0:
        raise InputError("the file is empty, fetch it again")
    if size > MAX_FILE_BYTES:
        raise InputError(f"the file has {size:,} bytes, more than a mammogram has ({MAX_FILE_BYTES:,} at most)")


def _open_member(member: ZipMember) -> IO[bytes]:
    archive = _archive(member.archive)
    try:
        info = archive.getinfo(member.name)
        check_file_size(info.file_size)
        with archive.open(info) as file:
            content = file.read(info.file_size + 1)  # what an archive says of sizes may be false
    except KeyError:
        raise FileNotFoundError(2, "No such file", str(member)) from None
    except NotImplementedError:
        raise InputError("its zip archive packs it in a way that is not read, unpack the archive") from None
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error):
        raise InputError("its zip archive is damaged there, fetch it again") from None
    if len(content) != info.file_size:
        raise InputError("its zip archive states another size than it holds, fetch it again")
    return io.BytesIO(content)


@lru_cache(2)
def _archive(path: Path) -> zipfile.ZipFile:
    """Open an archive, once a process: its directory may list a hundred thousand files."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile):
        raise InputError("its zip archive is damaged or gone, fetch it again") from None
    for info in archive.infolist():
        if "\\" in info.filename:  # as some archives from Windows have it, against the format
            info.filename = info.filename.replace("\\", "/")
            archive.NameToInfo[info.filename] = info
    return archive


@dataclass
class RawTree:
    """The regular files under a root, a folder or a zip archive, by their path from it."""

    root: Path
    files: dict[str, Stamp] = field(default_factory=dict)
    """By source (the path from the root, forward slashes), in a fixed order: a folder's files, then its folders."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why a file or a folder could not be listed, by its source (escaped where it is no UTF-8)."""
    archives: Counter[str] = field(default_factory=Counter)
    """How many files of each archive suffix were not looked into."""
    own_folders: list[str] = field(default_factory=list)
    """Folders of mammovae's own, which were passed by."""
    is_own: bool = False
    """Whether the root itself is a folder that mammovae wrote from images."""

    @classmethod
    def scan(cls, root: Path, *, report: Callable[[int], None] = lambda count: None) -> "RawTree":
        """List a folder or a zip archive; report is told now and then how many files were found.

        Links to folders are followed, once each; hidden files and folders that mammovae wrote (but for phantoms) are
        passed by, as are archives, which are counted. A folder or name that cannot be read is among the problems.
        """
        tree = cls(root)
        if root.is_file() and zipfile.is_zipfile(root):
            tree._scan_zip(report)
        elif root.is_dir():
            tree._scan_folder(report)
        elif root.exists():
            raise InputError(f"{root} is no folder and no whole zip archive: name a folder, or fetch it again")
        else:
            raise InputError(f"there is no folder (or zip archive) {root}: name the one that holds the images")
        return tree

    def file(self, source: str) -> RawFile:
        """Return the file of a source, to be opened by `open_raw`."""
        return raw_file(self.root, source)

    def find(self, name: str, folder: str = "") -> str | None:
        """Return the source of a folder's file of that name, case, spaces and punctuation aside; None without one."""
        wanted = _plain(name)
        return next((source for source in sorted(self.in_folder(folder)) if _plain(source) == wanted), None)

    def find_folder(self, name: str) -> str | None:
        """Return the name of the root's folder of that name, case, spaces and punctuation aside; None without one."""
        wanted = _plain(name)
        tops = sorted({source.partition("/")[0] for source in self.files if "/" in source})
        return next((folder for folder in tops if _plain(folder) == wanted), None)

    def in_folder(self, folder: str = "") -> list[str]:
        """Return the sources directly in a folder ("" is the root), in a fixed order."""
        return self._by_folder.get(folder, [])

    @cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        folders: dict[str, list[str]] = {}
        for source in self.files:
            folders.setdefault(source.rpartition("/")[0], []).append(source)
        return folders

    def _scan_folder(self, report: Callable[[int], None]) -> None:
        visited: set[str] = set()
        pending = [""]
        while pending:
            folder = pending.pop()
            path = self.root / folder
            real_path = os.path.realpath(path)
            if real_path in visited:
                continue
            visited.add(real_path)
            try:
                with os.scandir(path) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                if not folder:
                    raise InputError(f"cannot read the folder {self.root}: {error.strerror}") from None
                self.problems[folder] = f"cannot read the folder {path}: {error.strerror}, nothing in it was read"
                continue
            if any(entry.name == _MANIFEST for entry in found) and _is_own(path / _MANIFEST):
                if folder:
                    self.own_folders.append(folder)
                    continue
                self.is_own = True
            subfolders = [name for entry in found if (name := self._add(entry, folder)) is not None]
            pending += reversed(subfolders)
            report(len(self.files))

    def _add(self, entry: os.DirEntry, folder: str) -> str | None:
        """Add a folder's entry to the files or problems; return the source of one that is itself a folder."""
        # macOS archives double every file under __MACOSX.
        if entry.name.startswith((".", "__MACOSX")):
            return None
        source = f"{folder}/{entry.name}" if folder else entry.name
        try:
            source.encode()
        except UnicodeEncodeError:
            escaped = os.fsencode(source).decode("utf-8", "backslashreplace")
            self.problems[escaped] = "its name is no readable UTF-8: rename it"
            return None
        try:
            if entry.is_dir():
                return source
            status = entry.stat()
        except OSError as error:
            self.problems[source] = f"cannot read {self.root / source}: {error.strerror}"
            return None
        suffix = PurePosixPath(source).suffix.lower()
        if not stat.S_ISREG(status.st_mode):
            self.problems[source] = f"cannot read {self.root / source}: it is no regular file"
        elif suffix in ARCHIVE_SUFFIXES:
            self.archives[suffix] += 1
        else:
            self.files[source] = Stamp(status.st_size, status.st_mtime_ns)
        return None

    def _scan_zip(self, report: Callable[[int], None]) -> None:
        for cached in (_archive, _common_folder):  # of an archive that was replaced since
            cached.cache_clear()
        members = _members(self.root)
        prefix = _common_folder(self.root)
        manifests = (info.filename for info in members if info.filename.endswith(f"/{_MANIFEST}"))
        own = [name.removesuffix(_MANIFEST) for name in manifests if _is_own(ZipMember(self.root, name))]
        self.own_folders += [folder.removeprefix(prefix).rstrip("/") for folder in own if folder != prefix]
        self.is_own = prefix in own
        for info in sorted(members, key=lambda info: _walk_order(info.filename)):
            source = info.filename.removeprefix(prefix)
            if any(f"{source}/".startswith(f"{folder}/") for folder in self.own_folders):
                continue
            suffix = PurePosixPath(source).suffix.lower()
            if suffix in ARCHIVE_SUFFIXES:
                self.archives[suffix] += 1
            elif info.flag_bits & 1:
                self.problems[source] = f"cannot read {self.root}/{source}: it is encrypted, unpack the archive"
            else:
                self.files[source] = Stamp(info.file_size, info.CRC)
        report(len(self.files))


def raw_file(root: Path, source: str) -> RawFile:
    """Return the file of a source under a root, which may be a zip archive."""
    return ZipMember(root, _common_folder(root) + source) if root.is_file() else root / source


def _members(archive: Path) -> list[zipfile.ZipInfo]:
    return [info for info in _archive(archive).infolist() if not info.is_dir() and not _is_hidden(info.filename)]


@lru_cache(2)
def _common_folder(archive: Path) -> str:
    """Return what the names of all files of an archive begin with, where it holds one folder: "NAME/", else ""."""
    tops = {info.filename.partition("/")[0] if "/" in info.filename else "" for info in _members(archive)}
    top = tops.pop() if len(tops) == 1 else ""
    return f"{top}/" if top and top.lower() not in _TELLING_FOLDERS else ""


def _walk_order(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts a folder's files before its folders, each by name."""
    *folders, last = name.split("/")
    return (*((1, folder) for folder in folders), (0, last))


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.removeprefix("./").split("/"))


def _is_own(manifest: RawFile) -> bool:
    """Say whether a manifest is that of a folder that mammovae wrote from images, not of a raw tree.

    Other programs give that name to files of any content and size, or to what is no file.
    """
    try:
        with open_raw(manifest) as file:
            content = json.loads(file.read(_MAX_MANIFEST_BYTES))
    except (InputError, OSError, ValueError, RecursionError):
        return False
    versions = content.get("versions") if isinstance(content, dict) else None
    is_ours = isinstance(versions, dict) and "mammovae" in versions
    return is_ours and content.get("command") not in _OWN_COMMANDS_THAT_MAKE_RAW_DATA


def _plain(name: str) -> str:
    return "".join(c for c in name.rpartition("/")[2].lower() if c.isascii() and c.isalnum())
