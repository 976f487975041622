"""An earlier evaluation that still holds, though files have changed that no check reads (see nix.unread)."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.nix import settings
from pytest_nixos.nix.cache import Cache
from pytest_nixos.nix.evaluate import Evaluated
from pytest_nixos.nix.fingerprint import digest, ground, is_still, seen
from pytest_nixos.nix.target import Target
from pytest_nixos.nix.tree import Unusual
from pytest_nixos.nix.unread import Unread, commits, skeleton, unreadable

_KIND = "unread"


def remember(target: Target, cache: Cache, unread: Unread, key: str) -> None:
    """Note that the evaluation under `key` is of the present tree, for when only unread files change."""
    place, now = _place(target, unread), seen(target, cache)
    if place is None or now is None or now.key != key:
        return
    old = cache.get(_KIND, place)
    tried = old["tried"] if old is not None and old["local"] == now.local else None
    with contextlib.suppress(PytestNixosError):
        cache.put(_KIND, place, {"key": key, "local": now.local, "commits": _commits(target), "tried": tried})


def reusable(
    target: Target,
    cache: Cache,
    unread: Unread,
    scratch: Path | None,
    known: Callable[[str], Evaluated],
    evaluate: Callable[[Target], Evaluated],
) -> Evaluated | None:
    """An evaluation of another state of the tree that is one of the present state, too; None when there is none.

    scratch: where the copy is made. known: the evaluation kept under a key.
    evaluate: how the copy is evaluated, the first time that this is asked.
    """
    place = _place(target, unread)
    entry = cache.get(_KIND, place) if place is not None else None
    if place is None or entry is None:
        return None
    before = known(entry["key"])
    if not before.is_complete or not is_still(entry["local"]):
        return None
    if entry["tried"] is None:
        copy = unreadable(target, unread, entry["commits"], scratch)
        tried = _is_unread(copy, before, evaluate)
        entry["tried"] = tried and _place(target, unread) == place
        cache.put(_KIND, place, entry)
    return before if entry["tried"] is True else None


def forget(target: Target, cache: Cache, unread: Unread) -> None:
    """Do not reuse for the present tree what was reused."""
    if (place := _place(target, unread)) is not None:
        cache.drop(_KIND, place)


def _is_unread(
    unreadable_copy: AbstractContextManager[Target | None], before: Evaluated, evaluate: Callable[[Target], Evaluated]
) -> bool:
    """Whether the flake evaluates to the same where those files can't be read."""
    try:
        with unreadable_copy as copy:
            after = evaluate(copy) if copy is not None else None
    except (PytestNixosError, OSError, Unusual):  # no room for a copy, for instance
        return False
    return after is not None and (after.names, after.answers) == (before.names, before.answers)


def _commits(target: Target) -> int:
    assert target.ref.path is not None
    return commits(target.ref.path.parent)


def _place(target: Target, unread: Unread) -> str | None:
    if target.ref.path is None or target.impure or settings.are_impure():
        return None
    bones = skeleton(target.ref.path.parent, unread)
    parts: list[Any] = [ground(target), unread.patterns, bones]
    return digest(*parts) if bones is not None else None
