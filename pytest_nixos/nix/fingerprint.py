"""What an evaluation is of: a key that changes whenever its result could.

Nix's own word counts: the flake as it has locked it (`nix flake metadata`: the hash of the tree, its revision, its
times) and every locked input. Where all inputs are locked that is itself a function of the tree, so the answer is
kept by the state of the tree (nix.tree), and Nix need not be started for a tree that was seen before.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_nixos.errors import CommandFailed
from pytest_nixos.nix import describe, eval_jobs, settings, tree
from pytest_nixos.nix.cache import Cache
from pytest_nixos.nix.target import Target, flake_file
from pytest_nixos.nix.tree import Unusual, folder_state, git_root

SCHEMA = 3  # of what is kept by a fingerprint
_REVISED = ("git", "github", "gitlab", "sourcehut", "mercurial")  # inputs that a revision fixes


@dataclass(frozen=True, slots=True)
class Seen:
    """A flake whose tree was seen before: its key, and the states of the folders that its inputs are, by path."""

    key: str
    local: dict[str, str]


def fingerprint(target: Target, cache: Cache) -> str | None:
    """The key of the target's evaluation; None when it may not be kept: impure, or not locked all through."""
    if _is_impure(target):
        return None
    now = seen(target, cache)
    return now.key if now is not None else _ask(target, cache, tree.now())


def seen(target: Target, cache: Cache) -> Seen | None:
    """What `fingerprint` gives where Nix need not be asked; else None."""
    state = None if _is_impure(target) else _tree(target)
    base = ground(target)
    known = cache.get("locked", digest(base, state)) if state else None
    if known is None or not is_still(known["local"]):
        return None
    return Seen(digest(base, known["locked"], known["local"]), known["local"])


def is_still(local: dict[str, str]) -> bool:
    """Whether local folders are in the states that were noted."""
    return _local_states(local) == local


def is_undisturbed(target: Target, moment: int) -> bool:
    """Whether nobody has written to the flake since `moment` (of nix.tree.now), not even to undo it at once.

    Each evaluator reads the flake when it starts, so that equal keys before and after are not enough.
    """
    return target.ref.path is None or not tree.touched_since(target.ref.path.parent, moment)


def commit(target: Target) -> str | None:
    """The full hash of the commit that the target is, when it is nothing but that commit; else None.

    A clean tree of git whose inputs are all in its lock file, evaluated pure and without overrides.
    Raises CommandFailed when Nix can't read the flake.
    """
    if target.overrides or _is_impure(target):
        return None
    metadata = target.metadata()
    locked, nodes = metadata.get("locked", {}), metadata.get("locks", {}).get("nodes", {})
    root = metadata.get("locks", {}).get("root")
    inputs = [node.get("locked", {}) for name, node in nodes.items() if name != root]
    is_pinned = all(_is_fixed(entry) and not _is_local(entry, target.nix.store_dir) for entry in inputs)
    rev = locked.get("rev")
    return rev if isinstance(rev, str) and is_pinned and _is_of_tree(target, metadata) else None


def _is_impure(target: Target) -> bool:
    return target.impure or settings.are_impure() or any(map(_is_unwatched, _urls(target)))


def _urls(target: Target) -> list[str]:
    own = [] if target.ref.path else [target.ref.url]
    return [*own, *(url for _, url in target.overrides if not url.startswith("path:/"))]


def _is_unwatched(url: str) -> bool:
    """Whether a reference means files of this machine that may be edited and put back unnoticed."""
    if url.startswith("/"):
        return git_root(Path(os.path.realpath(url))) is not None
    return url.startswith((".", "path:", "git+file:", "hg+file:", "file:"))


def _tree(target: Target) -> str | None:
    return tree.tree_state(target.ref.path.parent) if target.ref.path else None


def ground(target: Target) -> list[Any]:
    """All but the flake and its inputs: this program, Nix, its settings, what is asked for."""
    nix = target.nix
    own = [SCHEMA, describe.source(), nix.name, nix.version, nix.system, nix.store_dir, settings.digest()]
    own.append(eval_jobs.identity())
    return [*own, target.ref.url, target.attr, [(*override, _place(override[1])) for override in target.overrides]]


def _place(url: str) -> list[str]:
    """What Nix makes of a bare folder as an override: without its links, and in which repository."""
    if not url.startswith("/"):
        return []
    place = Path(os.path.realpath(url))
    return [str(place), str(git_root(place))]


def _ask(target: Target, cache: Cache, moment: int) -> str | None:
    """The key by Nix's own word, which is kept where it depends on nothing but the tree and local folders."""
    state, base = _tree(target), ground(target)
    try:
        metadata = target.metadata()
    except (CommandFailed, ValueError):
        return None  # the evaluation will say why
    locked, locks = metadata.get("locked", {}), metadata.get("locks", {})
    inputs = [node.get("locked", {}) for name, node in locks.get("nodes", {}).items() if name != locks.get("root")]
    if "narHash" not in locked or not all(map(_is_fixed, inputs)):
        return None
    folders = {entry["path"] for entry in inputs if _is_local(entry, target.nix.store_dir)}
    local = _local_states(folders)
    if local is None:
        return None
    said = digest(locked, locks)
    still = state is not None and _is_of_tree(target, metadata) and _is_still(target, metadata, state, local)
    if still and is_undisturbed(target, moment):
        cache.put("locked", digest(base, state), {"locked": said, "local": local})
    return digest(base, said, local)


def _is_still(target: Target, metadata: dict[str, Any], state: str, local: dict[str, str]) -> bool:
    """Whether what Nix said is of this tree and these folders: each may have been edited while the other was read."""
    return state == _tree(target) and (not local or target.metadata() == metadata)


def _is_fixed(entry: dict[str, Any]) -> bool:
    return "narHash" in entry or _is_inside(entry) or (entry.get("type") in _REVISED and "rev" in entry)


def _is_inside(entry: dict[str, Any]) -> bool:
    """Whether an input is a part of the flake that has it: Nix refuses relative paths that lead out of that."""
    return entry.get("type") == "path" and not entry.get("path", "/").startswith("/")


def _is_local(entry: dict[str, Any], store_dir: str) -> bool:
    """Whether an input is a folder of this machine, which may change under a lock that still names its old hash."""
    path = entry.get("path", "")
    return entry.get("type") == "path" and path.startswith("/") and not path.startswith(f"{store_dir}/")


def _local_states(folders: Iterable[str]) -> dict[str, str] | None:
    try:
        return {folder: folder_state(Path(folder)) for folder in folders}
    except (OSError, Unusual):
        return None


def _is_of_tree(target: Target, metadata: dict[str, Any]) -> bool:
    """Whether each input is in the lock file, as Nix sees that, or a folder that is looked at every time.

    An input that is found through a registry is neither, nor is one that has no lock yet.
    """
    if not all(url.startswith(("path:/", "/")) for _, url in target.overrides):
        return False
    try:
        own = json.loads(flake_file(metadata).with_name("flake.lock").read_bytes())["nodes"]
    except (OSError, ValueError, KeyError, TypeError):
        own = {}
    locks = metadata["locks"]
    others = [node for name, node in locks["nodes"].items() if name != locks["root"] and own.get(name) != node]
    return all(_is_looked_at(node, target.nix.store_dir) for node in others)


def _is_looked_at(node: dict[str, Any], store_dir: str) -> bool:
    entry = node.get("locked", {})
    return _is_inside(entry) or (_is_local(entry, store_dir) and node.get("original", {}).get("type") != "indirect")


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
