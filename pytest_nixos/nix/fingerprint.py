"""What an evaluation is of: a key that changes whenever its result could.

Nix's own word counts: the flake as it has locked it (`nix flake metadata`: the hash of the tree, its revision, its
times) and every locked input. Where all inputs are locked that is itself a function of the tree, so the answer is
kept by the state of the tree (nix.tree), and Nix need not be started for a tree that was seen before.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pytest_nixos.errors import CommandFailed
from pytest_nixos.nix import describe, settings
from pytest_nixos.nix.cache import Cache
from pytest_nixos.nix.target import Target, flake_file
from pytest_nixos.nix.tree import Unusual, folder_state, tree_state

SCHEMA = 1  # of what is kept by a fingerprint
_REVISED = ("git", "github", "gitlab", "sourcehut", "mercurial")  # inputs that a revision fixes


def fingerprint(target: Target, cache: Cache) -> str | None:
    """The key of the target's evaluation; None when it may not be kept: impure, or not locked all through."""
    if target.impure:
        return None
    ground = _ground(target)
    tree = tree_state(target.ref.path.parent) if target.ref.path else None
    known = cache.get("locked", _digest(ground, tree)) if tree else None
    if known is not None and (local := _local_states(known["local"])) is not None:
        return _digest(ground, known["locked"], local)
    return _ask(target, cache, ground, tree)


def _ground(target: Target) -> list[Any]:
    """All but the flake and its inputs: this program, Nix, its settings, what is asked for."""
    nix = target.nix
    own = [SCHEMA, describe.source(), nix.name, nix.version, nix.system, nix.store_dir, settings.digest()]
    return [*own, target.ref.url, target.attr, target.overrides]


def _ask(target: Target, cache: Cache, ground: list[Any], tree: str | None) -> str | None:
    """The key by Nix's own word, which is kept where it depends on nothing but the tree and local folders."""
    try:
        metadata = target.metadata()
    except (CommandFailed, ValueError):
        return None  # the evaluation will say why
    locked, locks = metadata.get("locked", {}), metadata.get("locks", {})
    inputs = [node.get("locked", {}) for name, node in locks.get("nodes", {}).items() if name != locks.get("root")]
    if "narHash" not in locked or not all(map(_is_fixed, inputs)):
        return None
    folders = sorted({entry["path"] for entry in inputs if _is_local(entry, target.nix.store_dir)})
    local = _local_states(folders)
    if local is None:
        return None
    said = _digest(locked, locks)
    if tree is not None and _is_of_tree(target, metadata):
        cache.put("locked", _digest(ground, tree), {"locked": said, "local": folders})
    return _digest(ground, said, local)


def _is_fixed(entry: dict[str, Any]) -> bool:
    return "narHash" in entry or (entry.get("type") in _REVISED and "rev" in entry)


def _is_local(entry: dict[str, Any], store_dir: str) -> bool:
    """Whether an input is a folder of this machine, which may change under a lock that still names its old hash."""
    path = entry.get("path", "")
    return entry.get("type") == "path" and path.startswith("/") and not path.startswith(f"{store_dir}/")


def _local_states(folders: list[str]) -> list[str] | None:
    try:
        return [folder_state(Path(folder)) for folder in folders]
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
    return all(
        _is_local(node.get("locked", {}), target.nix.store_dir) and node.get("original", {}).get("type") != "indirect"
        for node in others
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
