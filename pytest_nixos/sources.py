"""The files that tests in Python are made of: what lies below some folders, what is installed, what is loaded.

A file is *installed* when it belongs to Python itself or to a distribution; every other one that this process has
loaded is the *project's*.
"""

import csv
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import site
import struct
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pytest_nixos import opened
from pytest_nixos.errors import CheckFailed

_STORE = "/nix/store/"
_DEBIAN = "/usr/lib/python3/dist-packages"
_TICK = os.sysconf("SC_CLK_TCK")
_INSTALL_SECONDS = 2.0
# What a distribution lists of its own, as seen from where it lies: not what describes it, nor what lies elsewhere.
_OWN = re.compile(r"(?![^/]*\.dist-info/)(?!(?:.*/)?\.\.(?:/|$))")
# What Python and pytest themselves write while they run.
_BY_THE_WAY = {"__pycache__", ".pytest_cache", ".git"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Files and folders as they were at one moment: a hash of names, contents and modes, and which files these are.

    changed_at: when the last of them was changed, in seconds since the epoch, by the clock of its file system.
    """

    digest: str
    files: frozenset[str]
    changed_at: float


def snapshot(patterns: Iterable[str], paths: Iterable[Path], base: Path) -> Snapshot:
    """All that matches the patterns, seen from folder `base`, and these paths; a folder stands for all below it.

    Links are followed. Raises CheckFailed for a pattern that nothing matches, OSError for what can't be read.
    """
    tops = {path.absolute() for path in paths}
    for pattern in patterns:
        tops |= {match.absolute() for match in _matches(pattern, base)}
    entries: dict[str, object] = {}
    files: set[str] = set()
    changed_at = 0.0
    for path in (path for top in sorted(tops) for path in _walk(top, frozenset())):
        status, real = path.stat(), os.path.realpath(path)
        place = os.path.relpath(path, base)
        if _is_stored(path):
            entries[place] = real  # what lies there never changes
            files |= {str(path), real}
        elif path.is_dir():
            entries[place] = "folder"
            changed_at = max(changed_at, _changed_at(path))
        else:
            entries[place] = [hashlib.sha256(path.read_bytes()).hexdigest(), status.st_mode & 0o111]
            files |= {str(path), real}
            changed_at = max(changed_at, status.st_ctime)
    return Snapshot(digest=digest(entries), files=frozenset(files), changed_at=changed_at)


def digest(value: object) -> str:
    """A hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def loaded(base: Path) -> frozenset[str]:
    """The project's files that this process has loaded as modules or, below folder `base`, has read as Python files."""
    names = {*filter(None, (_file(module) for module in list(sys.modules.values()))), *opened.below(str(base))}
    return frozenset(name for name in names if not is_installed(name, str(base)))


@cache
def is_installed(name: str, base: str) -> bool:
    """Whether a file belongs to Python or to a distribution."""
    real = os.path.realpath(name)
    if real in _distributions()[1] or (real.startswith(_pythons_folders()) and not real.startswith(_site_folders())):
        return True
    roots = tuple(f"{folder}/" for folder in (base, os.path.realpath(base)))
    if real.startswith(roots):
        return False
    folder, _, file = name.rpartition("/")
    if f"{os.path.realpath(folder)}/{file}" in _distributions()[1]:  # a link itself, as some installers make them
        return True
    return real.startswith(_STORE) and not name.startswith(roots)


def outdated(names: Iterable[str], versions: Iterable[str]) -> list[str]:
    """Those of some Python files whose compiled form is older: by time and size alone Python may take it all the same.

    versions: what compiled forms are called by whoever makes them, after the tag of this Python.
    """
    tags = [f"{sys.implementation.cache_tag}{version}" for version in ("", *versions)]
    pairs = ((Path(name), Path(name).parent / "__pycache__") for name in names if name.endswith(".py"))
    forms = ((path, cache / f"{path.stem}.{tag}.pyc") for path, cache in pairs for tag in tags)
    return [str(path) for path, form in forms if form.exists() and _is_believed(form, path)]


def _is_believed(form: Path, path: Path) -> bool:
    """Whether Python takes a compiled form for the source, though that was touched after it was made (PEP 552)."""
    with form.open("rb") as file:
        _, flags, mtime, size = struct.unpack("<4I", file.read(16).ljust(16, b"\0"))
    source = path.stat()
    same = (mtime, size) == (int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF)
    return form.stat().st_mtime < source.st_ctime and (same if flags == 0 else flags == 1)


def is_loose(name: str) -> bool:
    """Whether a file lies among distributions, and belongs to none."""
    return os.path.realpath(name).startswith(_site_folders())


def installation() -> str:
    """A hash of this Python, of how it was started, and of all that is installed for it."""
    # A store path says more than a version.
    stored = {path for name in [sys.prefix, *sys.path] if (path := os.path.realpath(name)).startswith(_STORE)}
    stored |= {real for module in list(sys.modules.values()) if (real := _file(module)).startswith(_STORE)}
    started = [list(sys.flags), sys.warnoptions, sorted(sys._xoptions.items())]
    python = [platform.python_implementation(), platform.python_version(), sys.platform]
    return digest([python, started, _distributions()[0], sorted(stored)])


@cache
def process_started() -> float:
    """When this process began, in seconds since the epoch, at most a hundredth of a second late.

    So much passes before Python can have read anything.
    """
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + (ticks + 1) / _TICK


@cache
def _distributions() -> tuple[str, frozenset[str]]:
    """A hash of all distributions, by name, version and contents, and the files that are theirs."""
    said, files = [], set()
    for one in importlib.metadata.distributions():
        # Their list as pip writes it; `one.files` would make tens of thousands of objects of it.
        listed = [row for row in csv.reader((one.read_text("RECORD") or "").splitlines()) if len(row) > 1]
        hashes = {row[0]: row[1] for row in listed if row[1] and _OWN.match(row[0])}
        folder = os.path.realpath(str(one.locate_file("")))
        theirs = {f"{folder}/{name}" for name in hashes}
        lists = [f"{folder}/{row[0]}" for row in listed if row[0].endswith(".dist-info/RECORD")]
        metadata = one.metadata
        said.append([str(metadata["Name"]), str(metadata["Version"]), digest(hashes), _touched(theirs, lists)])
        files |= theirs
    return digest(sorted(said)), frozenset(files)


def _touched(files: Iterable[str], lists: Iterable[str]) -> list[tuple[str, str]]:
    """The installed files that were written after the list that an installer writes last, with hashes of them."""
    installed = max(map(_written_at, lists), default=math.inf) + _INSTALL_SECONDS
    late = [name for name in files if _written_at(name) > installed]
    return sorted((name, hashlib.sha256(Path(name).read_bytes()).hexdigest()) for name in late)


def _written_at(name: str) -> float:
    try:
        return os.stat(name).st_mtime  # noqa: PTH116 - tens of thousands of files
    except FileNotFoundError:
        return 0.0


@cache
def _pythons_folders() -> tuple[str, ...]:
    """Where Python's own modules lie, its programs, and Debian's packages, which need not list their files."""
    paths = sysconfig.get_paths()
    names = [*(paths[key] for key in ("stdlib", "platstdlib", "scripts")), _DEBIAN]
    return tuple(f"{os.path.realpath(name)}/" for name in names)


@cache
def _site_folders() -> tuple[str, ...]:
    """Where distributions lie that list their files."""
    folders = {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(f"{os.path.realpath(name)}/" for name in sorted(folders - {_DEBIAN}))


def _file(module: object) -> str:
    try:
        name = vars(module).get("__file__")
    except TypeError:
        return ""
    return str(Path(name).absolute()) if isinstance(name, str) else ""


def _matches(pattern: str, base: Path) -> list[Path]:
    try:
        found = [base] if pattern in {".", "./"} else sorted(base.glob(pattern)) if pattern else []
    except (ValueError, IndexError, NotImplementedError):  # pathlib's words for an absolute pattern, and for a bad one
        found = []
    if not found:
        raise CheckFailed(f"there is no {pattern!r} in {base}", "patterns of reads= are seen from pytest's rootdir")
    return found


def _walk(path: Path, above: frozenset[str]) -> Iterator[Path]:
    """A path, and all below it; neither a link to a folder that it lies in is followed, nor one into the Nix store."""
    yield path
    real = os.path.realpath(path)
    if path.is_dir() and real not in above and not _is_stored(path):
        for entry in sorted(path.iterdir()):
            if entry.name not in _BY_THE_WAY:
                yield from _walk(entry, above | {real})


def _is_stored(path: Path) -> bool:
    """Whether a path that lies elsewhere leads into the Nix store."""
    return os.path.realpath(path).startswith(_STORE) and not str(path).startswith(_STORE)


def _changed_at(folder: Path) -> float:
    """When a folder was changed, unless that was because of what is written by the way."""
    changed = folder.stat().st_ctime
    made = [path.stat().st_ctime for path in (folder / name for name in _BY_THE_WAY) if path.is_dir()]
    return 0.0 if any(time >= changed - 0.1 for time in made) else changed
