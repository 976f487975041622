"""Files that no check depends on: the user's claim, which is tried before it is believed.

A flake's own hash and times change with every file in it, so Nix evaluates all of it again after an edit of the README.
Here the user names files that no check reads (`README.md`, `docs/*`). The first time that only such files have changed,
the flake is evaluated in a copy in which each of them has a content that Nix can neither read as text nor import, in
which the revision, the times and all hashes of the flake are others, and without import from derivations. When every
derivation is the same as before, none of that can have mattered, and from then on changes to these files alone do not
call for an evaluation.

What this can't see is code that computes with the text of a hash, a time or a path of the flake and happens to come to
the same result twice, and a copy of such a file that is pinned by a hash. So it is off unless files are named.
"""

import contextlib
import fnmatch
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.errors import PytestNixosError, StoreError
from pytest_nixos.nix.attrs import FlakeRef, quote_path
from pytest_nixos.nix.target import Target
from pytest_nixos.nix.tree import Unusual, content, git_root, tree_state

_ALWAYS_READ = ("flake.nix", "flake.lock")
_PLAIN = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false")
_WHO = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
_LONG_AGO = 981173106  # 2001-02-03 04:05:06 UTC, in seconds: no time of a real commit, in none of its parts


@dataclass(frozen=True, slots=True)
class Unread:
    """The claim: shell patterns of paths below the flake's folder, in which `*` stands for `/`, too."""

    patterns: tuple[str, ...]

    def covers(self, path: str) -> bool:
        """Whether no check depends on the content of the file at `path`, which is relative to the flake's folder."""
        if path in _ALWAYS_READ:
            return False
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class _Tree:
    """A flake's tree: its root, the folder of the flake in it, the files that the flake can see, and what git adds."""

    root: Path
    flake: Path
    names: tuple[str, ...]
    is_git: bool
    is_dirty: bool = False

    def path(self, name: str) -> str:
        """A file's path seen from the flake's folder."""
        return os.path.relpath(self.root / name, self.flake)


def skeleton(folder: Path, unread: Unread) -> str | None:
    """What is left of the state of a flake's tree when nobody reads those files; None when only Nix can tell.

    Their names and types remain, and so does whether git calls the tree dirty, which a flake can see.
    """
    if tree_state(folder) is None:
        return None
    try:
        tree = _tree(folder)
        total = hashlib.sha256(f"{tree.is_git} {tree.is_dirty}".encode())
        for name in tree.names:
            total.update(os.fsencode(f"\0{name}\0{_content(tree.root / name, unread.covers(tree.path(name)))}"))
    except (OSError, PytestNixosError, Unusual):
        return None
    return total.hexdigest()


def _content(place: Path, only_type: bool) -> str:
    mode = place.lstat().st_mode
    return f"file {bool(mode & stat.S_IXUSR)}" if only_type and stat.S_ISREG(mode) else content(place)


def _tree(folder: Path) -> _Tree:
    root = git_root(folder)
    if root is None:
        inner = sorted(folder.rglob("*"))
        return _Tree(folder, folder, tuple(str(path.relative_to(folder)) for path in inner), False)
    if (root / ".git" / "shallow").exists():
        raise Unusual(root)  # whether a flake sees the number of commits then depends on the version of Nix
    names = _git(root, "ls-files", "-z").split(b"\0")
    changed = bool(_git(root, "diff", "HEAD", "--name-only", "-z"))
    if bool(_git(root, "status", "--porcelain", "-z", "--untracked-files=no")) != changed:
        raise Unusual(root)  # staged and taken back: versions of Nix differ in whether that is dirty
    return _Tree(root, folder, tuple(os.fsdecode(name) for name in names if name), True, changed)


def _git(root: Path, *args: str, env: dict[str, str] | None = None) -> bytes:
    argv = ("git", "--no-optional-locks", "-C", str(root), *args)
    return proc.run(argv, timeout=60, env=None if env is None else {**os.environ, **env}).stdout


def commits(folder: Path) -> int:
    """The number of commits up to HEAD of the repository that a flake is in; 0 where there is none."""
    root = git_root(folder)
    return 0 if root is None else int(_git(root, "rev-list", "--count", "HEAD"))


@contextlib.contextmanager
def unreadable(target: Target, unread: Unread, commits: int, place: Path | None = None) -> Iterator[Target | None]:
    """The same target in a copy of its tree in which those files can't be read; None when there are none.

    place: a folder for the copy, which is removed at the end.
    commits: how many commits the copy must not have, since a flake can see their number.
    Raises StoreError at the end when the tree has changed meanwhile: what was found is not of it.
    """
    assert target.ref.path is not None
    tree = _tree(target.ref.path.parent)
    hidden = [name for name in tree.names if unread.covers(tree.path(name)) and _is_file(tree.root / name)]
    if not hidden:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pytest-nixos-", dir=place) as scratch:
        root = Path(scratch).resolve() / "source"
        _copy(tree, root, set(hidden))
        if tree.is_git:
            _commit(tree, root, root / hidden[0], 2 if commits == 1 else 1)
        folder = root / os.path.relpath(tree.flake, tree.root)
        ref = FlakeRef(url=quote_path(folder), label=target.ref.label, path=folder / "flake.nix")
        yield replace(target, ref=ref, options=("--option", "allow-import-from-derivation", "false"))
        others = set(tree.names) - set(hidden)
        if any(_content(root / name, False) != _content(tree.root / name, False) for name in others):
            raise StoreError(f"{tree.root} has changed while it was evaluated")


def _is_file(place: Path) -> bool:
    return place.is_file() and not place.is_symlink()


def _copy(tree: _Tree, root: Path, hidden: set[str]) -> None:
    root.mkdir()
    for name in tree.names:
        source, copy = tree.root / name, root / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name in hidden:
            copy.write_bytes(_unreadable_content())
            shutil.copymode(source, copy)
        elif source.is_dir() and not source.is_symlink():
            copy.mkdir()
        else:
            shutil.copy2(source, copy, follow_symlinks=False)
    for copy in (root, *root.rglob("*")):
        os.utime(copy, (_LONG_AGO, _LONG_AGO), follow_symlinks=False)


def _commit(tree: _Tree, root: Path, hidden: Path, commits: int) -> None:
    """Make the copy a repository of another revision, number of commits and time; dirty like the real one."""
    env = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"{_LONG_AGO} +0000")
    _git(root, "init", "--quiet", "--template=")
    _git(root, "add", "--all", "--force")
    for _ in range(commits):
        _git(root, *_PLAIN, *_WHO, "commit", "--quiet", "--no-verify", "--allow-empty", "--message", "copy", env=env)
    if tree.is_dirty:
        hidden.write_bytes(_unreadable_content())


def _unreadable_content() -> bytes:
    """What readFile refuses for its zero byte, which tryEval does not catch, and import for what is before that."""
    return b"]})\0" + secrets.token_bytes(16 + secrets.randbelow(16))
