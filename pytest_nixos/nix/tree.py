"""The state of a folder's files, as far as a flake in it can see them: a hash, without asking Nix.

In a git repository Nix sees the files that git tracks, as they are in the work tree, and HEAD's commit. Git's index
knows which of them have changed, so only those are read. A repository with anything unusual (filters, submodules,
hidden changes, a configuration that makes git look less closely) has no state here: then Nix itself must be asked.
"""

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.errors import PytestNixosError

# Settings of git that change what lies in the work tree or how changes are found, unless they are listed below.
_SENSITIVE = ("core.", "extensions.", "attr.", "tar.", "diff.autorefreshindex", "diff.trustexitcode")
# Those that don't, or not with this value; None: any value.
_USUAL: Mapping[str, str | None] = {
    "core.repositoryformatversion": None, "core.filemode": "true", "core.bare": "false",
    "core.logallrefupdates": None, "core.symlinks": "true", "core.ignorecase": "false", "core.autocrlf": "false",
    "core.editor": None, "core.pager": None, "core.excludesfile": None, "core.quotepath": None,
    "core.hookspath": None, "core.sshcommand": None, "core.askpass": None, "core.compression": None,
    "core.abbrev": None, "core.whitespace": None, "core.untrackedcache": None, "core.preloadindex": None,
    "core.commentchar": None, "core.fsmonitor": "false", "core.commitgraph": None, "core.multipackindex": None,
    "core.trustctime": "true", "core.checkstat": "default", "extensions.objectformat": None,
    "core.bigfilethreshold": None, "core.commentstring": None, "core.fsync": None, "core.fsyncmethod": None,
    "core.fsyncobjectfiles": None, "core.gitproxy": None, "core.loosecompression": None, "core.notesref": None,
    "core.sharedrepository": None,
}  # fmt: skip
_HARMLESS_ENV = (
    "GIT_ASKPASS", "GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_EDITOR", "GIT_HTTP_", "GIT_PAGER", "GIT_PROMPT_", "GIT_PS1_",
    "GIT_SEQUENCE_EDITOR", "GIT_SSH", "GIT_SSL_", "GIT_TERMINAL_",
)  # fmt: skip
# What makes objects or attributes other than they seem, and git directories that are not their own.
_UNUSUAL_FILES = ("info/attributes", "info/grafts", "refs/replace", "commondir")
_GIT_SECONDS = 60.0
_CLOCK_REALTIME_COARSE = 5  # of clock_gettime(2) on Linux, which Python has no name for


class Unusual(Exception):
    """The repository has something that this module does not follow."""


def tree_state(folder: Path) -> str | None:
    """The state of the tree that a flake in `folder` belongs to; None when only Nix can tell."""
    try:
        root = git_root(folder)
        return folder_state(folder) if root is None else _git_state(root)
    except (Unusual, PytestNixosError, OSError, ValueError, RuntimeError):  # the last where nobody has a home
        return None


def now() -> int:
    """This moment by the clock of file times, in nanoseconds."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def touched_since(folder: Path, moment: int) -> bool:
    """Whether a file of the tree of the flake in `folder` may have been written since `moment`, even if it was undone.

    Outside of a repository the state of the tree tells, since it covers all times.
    """
    try:
        root = git_root(folder)
        if root is None:
            return False
        names = [
            os.fsdecode(name) for name in _git(root, "ls-files", "-z", "--recurse-submodules").split(b"\0") if name
        ]
        return any(_changed_at(root / name) >= moment for name in (".git", ".git/HEAD", *names))
    except (PytestNixosError, OSError):
        return True


def _changed_at(place: Path) -> int:
    try:
        return place.lstat().st_ctime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0


def git_root(folder: Path) -> Path | None:
    """The repository as Nix finds it: the nearest folder upwards that has a .git of any kind, but never `/` itself."""
    places = (folder, *folder.parents)[:-1]
    return next((place for place in places if os.path.lexists(place / ".git")), None)


def folder_state(folder: Path) -> str:
    """The state of a folder that is no git repository: where it is, every file in it, and their times.

    A flake can read one of the times, the newest; which ones count differs between versions of Nix.
    Raises Unusual for what can't be in the Nix store, OSError for what can't be read.
    """
    total = hashlib.sha256(os.fsencode(os.path.realpath(folder)))
    for place in _walk(folder):
        entry = f"\0{place.relative_to(folder)}\0{place.lstat().st_mtime_ns}\0{content(place)}"
        total.update(os.fsencode(entry))
    return f"folder {total.hexdigest()}"


def _walk(place: Path, *, follow: bool = True) -> Iterator[Path]:
    yield place
    if place.is_dir() and (follow or not place.is_symlink()):
        for inner in sorted(place.iterdir()):
            yield from _walk(inner, follow=False)


def content(place: Path) -> str:
    """Type, executable bit and content of a file. Raises Unusual for a socket and the like."""
    mode = place.lstat().st_mode
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
    with ThreadPoolExecutor(4) as pool:
        top = pool.submit(_git, root, "rev-parse", "--show-toplevel")
        config = pool.submit(_git, root, "config", "--list", "-z")
        index = pool.submit(_git, root, "ls-files", "-z", "--stage", "-v")
        status = pool.submit(
            _git, root, "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=no", "--no-renames",
            "--no-ahead-behind", "--ignore-submodules=none",
        )  # fmt: skip
        if top.result() != os.fsencode(root) + b"\n":
            raise Unusual(root)  # its .git is none, and git has found another one
        _refuse_config(git, config.result())
        _refuse_index(root, index.result())
        parts = [config.result(), status.result(), index.result(), _optional(git / "shallow")]
        parts += [name + b"\0" + _changed_content(root, name) for name in _changed(status.result())]
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
        if name.startswith(_SENSITIVE) and (name not in _USUAL or _USUAL[name] not in (None, value)):
            raise Unusual(entry)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for place in (*(git / name for name in _UNUSUAL_FILES), home / "git" / "attributes", Path("/etc/gitattributes")):
        if os.path.lexists(place):
            raise Unusual(place)
    if b" refs/replace/" in _optional(git / "packed-refs"):
        raise Unusual(git)


def _refuse_index(root: Path, listing: bytes) -> None:
    """Files that git does not look at, filters, submodules, conflicts. An entry is `TAG MODE HASH STAGE<tab>PATH`."""
    folders = {b""}
    for entry in listing.split(b"\0"):
        if not entry:
            continue
        head, _, path = entry.partition(b"\t")
        tag, mode, _, stage = head.split(b" ")
        if tag != b"H" or mode == b"160000" or stage != b"0" or path.rpartition(b"/")[2] == b".gitattributes":
            raise Unusual(entry)
        while (path := path.rpartition(b"/")[0]) not in folders:
            folders.add(path)
    for folder in folders:  # git obeys attributes that it does not track, too
        if os.path.lexists(root / os.fsdecode(folder) / ".gitattributes"):
            raise Unusual(folder)


def _changed(status: bytes) -> Iterator[bytes]:
    """The paths of a status that differ from HEAD or from the index: `1 XY SUB MODE MODE MODE HASH HASH PATH`."""
    for entry in status.split(b"\0"):
        if entry.startswith(b"1 "):
            yield entry.split(b" ", 8)[8]
        elif entry and not entry.startswith(b"# "):
            raise Unusual(entry)


def _changed_content(root: Path, name: bytes) -> bytes:
    """The content of a changed file; "absent" and which of its folders are there when there is none.

    Raises Unusual where a folder has taken a file's place, or a link a folder's: versions of Nix differ in what of
    the files behind it they let a flake see.
    """
    place = root / os.fsdecode(name)
    above = place.relative_to(root).parents
    if any((root / folder).is_symlink() for folder in list(above)[:-1]):
        raise Unusual(place)
    try:
        found = content(place)
    except (FileNotFoundError, NotADirectoryError):
        # Some versions show the folders that it was in, empty, as long as they are there.
        return b"absent " + b"".join(b"01"[(root / folder).is_dir()].to_bytes(1, "big") for folder in above)
    if found == "folder":
        raise Unusual(place)
    return os.fsencode(found)


def _optional(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
