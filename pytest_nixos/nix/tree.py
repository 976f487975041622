"""The state of a folder's files, as far as a flake in it can see them: a hash, without asking Nix.

In a git repository Nix sees the files that git tracks, as they are in the work tree, and HEAD's commit. Git's index
knows which of them have changed, so only those are read. A repository with anything unusual (filters, submodules,
hidden changes, a configuration that makes git look less closely) has no state here: then Nix itself must be asked.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.errors import PytestNixosError

# Settings of git's core.* that neither change what lies in the work tree nor how changes are found; None: any value.
_USUAL: Mapping[str, str | None] = {
    "core.repositoryformatversion": None, "core.filemode": "true", "core.bare": "false",
    "core.logallrefupdates": None, "core.symlinks": "true", "core.ignorecase": "false", "core.autocrlf": "false",
    "core.editor": None, "core.pager": None, "core.excludesfile": None, "core.quotepath": None,
    "core.hookspath": None, "core.sshcommand": None, "core.askpass": None, "core.compression": None,
    "core.abbrev": None, "core.whitespace": None, "core.untrackedcache": None, "core.preloadindex": None,
    "core.commentchar": None, "core.fsmonitor": "false", "core.commitgraph": None, "core.multipackindex": None,
    "core.trustctime": "true", "core.checkstat": "default", "extensions.objectformat": None,
}  # fmt: skip
_HARMLESS_ENV = ("GIT_EDITOR", "GIT_PAGER", "GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_SSH", "GIT_ASKPASS", "GIT_TERMINAL_")
_GIT_SECONDS = 60.0


class Unusual(Exception):
    """The repository has something that this module does not follow."""


def tree_state(folder: Path) -> str | None:
    """The state of the tree that a flake in `folder` belongs to; None when only Nix can tell."""
    try:
        root = _git_root(folder)
        return folder_state(folder) if root is None else _git_state(root)
    except (Unusual, PytestNixosError, OSError, ValueError):
        return None


def _git_root(folder: Path) -> Path | None:
    """The repository as Nix finds it: the nearest folder upwards that has a .git, on the same file system."""
    device = folder.stat().st_dev
    for place in (folder, *folder.parents):
        if place.stat().st_dev != device:
            return None
        if (place / ".git").exists():
            return place
    return None


def folder_state(folder: Path) -> str:
    """The state of a folder that is no git repository: every file in it, and the newest time, which flakes can read.

    Raises Unusual for what can't be in the Nix store, OSError for what can't be read.
    """
    total = hashlib.sha256()
    newest = folder.lstat().st_mtime_ns
    for place in _walk(folder):
        newest = max(newest, place.lstat().st_mtime_ns)
        total.update(f"{place.relative_to(folder)}\0{_content(place)}\0".encode("utf-8", "surrogateescape"))
    return f"folder {total.hexdigest()} {newest}"


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


def _content(place: Path) -> str:
    """Type, executable bit and content of a file; "absent" when there is none."""
    try:
        mode = place.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "absent"
    if stat.S_ISLNK(mode):
        return f"link {place.readlink()}"
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise Unusual(place)
    with place.open("rb") as file:
        return f"file {bool(mode & stat.S_IXUSR)} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _git_state(root: Path) -> str:
    """HEAD, the index, and the content of what differs from either."""
    git = root / ".git"
    if not git.is_dir() or any(_is_unusual_variable(name) for name in os.environ):
        raise Unusual(root)
    with ThreadPoolExecutor(3) as pool:
        config = pool.submit(_git, root, "config", "--list", "-z")
        index = pool.submit(_git, root, "ls-files", "-z", "--stage", "-v")
        status = pool.submit(
            _git, root, "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=no", "--no-renames",
            "--ignore-submodules=none",
        )  # fmt: skip
        _refuse_config(git, config.result())
        _refuse_index(index.result())
        parts = [status.result(), index.result(), _optional(git / "shallow")]
        for name in _changed(status.result()):
            place = root / os.fsdecode(name)
            parts.append(name + b"\0" + os.fsencode(_content(place)))
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return f"git {total.hexdigest()}"


def _is_unusual_variable(name: str) -> bool:
    return name.startswith("GIT_") and not name.startswith(_HARMLESS_ENV)


def _git(root: Path, *args: str) -> bytes:
    return proc.run(("git", "--no-optional-locks", "-C", str(root), *args), timeout=_GIT_SECONDS).stdout


def _refuse_config(git: Path, listing: bytes) -> None:
    """Settings, attributes and replaced objects that make the work tree differ from what the index says."""
    for entry in listing.decode("utf-8", "surrogateescape").split("\0"):
        name, _, value = entry.partition("\n")
        if name.startswith(("core.", "extensions.")) and _USUAL.get(name, "") not in (None, value):
            raise Unusual(entry)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for place in (git / "info" / "attributes", home / "git" / "attributes", Path("/etc/gitattributes")):
        if place.exists():
            raise Unusual(place)
    if (git / "refs" / "replace").exists() or b" refs/replace/" in _optional(git / "packed-refs"):
        raise Unusual(git)


def _refuse_index(listing: bytes) -> None:
    """Files that git does not look at, filters, submodules, conflicts. An entry is `TAG MODE HASH STAGE<tab>PATH`."""
    for entry in listing.split(b"\0"):
        if not entry:
            continue
        head, _, path = entry.partition(b"\t")
        tag, mode, _, stage = head.split(b" ")
        if tag != b"H" or mode == b"160000" or stage != b"0" or path.rsplit(b"/", 1)[-1] == b".gitattributes":
            raise Unusual(entry)


def _changed(status: bytes) -> Iterator[bytes]:
    """The paths of a status that differ from HEAD or from the index: `1 XY SUB MODE MODE MODE HASH HASH PATH`."""
    for entry in status.split(b"\0"):
        if entry.startswith(b"1 "):
            yield entry.split(b" ", 8)[8]
        elif entry and not entry.startswith(b"# "):
            raise Unusual(entry)


def _optional(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
