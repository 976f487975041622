"""Who may write records where. Pure; docs/records.md has the table for people.

A record is a claim that a check was run. So what counts is who could make a run claim something: code that nobody has
reviewed yet may say what it likes in its own run, and must not say it to others.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.records.places import Push


class Where(StrEnum):
    """Where we run, as far as the right to write is concerned."""

    MAIN = "push to the default branch"
    BRANCH = "push to another branch"
    PULL_REQUEST = "pull request"
    FORK = "pull request of a fork"
    SCHEDULE = "schedule"
    MANUAL = "started by hand on the default branch"
    MERGE_QUEUE = "merge queue"
    FOREIGN = "event that others can trigger"
    CI = "CI of an unknown kind"
    CLOUD = "cloud"
    DESKTOP = "desktop"
    LAPTOP = "laptop"


TIERS = {"cloud": Where.CLOUD, "desktop": Where.DESKTOP, "laptop": Where.LAPTOP}
_REVIEWED = frozenset({Where.MAIN, Where.SCHEDULE, Where.MANUAL, Where.MERGE_QUEUE, Where.CLOUD, Where.DESKTOP})
_OWN_CODE = frozenset({Where.BRANCH, Where.PULL_REQUEST, Where.CI, Where.LAPTOP})  # push=yes lets these write
_GITHUB = frozenset(Where) - {Where.FOREIGN, Where.CI, Where.CLOUD, Where.DESKTOP, Where.LAPTOP}
# By kind of store: where it is written unless said otherwise, and where it is when asked for with push=yes.
RIGHTS: dict[str, tuple[frozenset[Where], frozenset[Where]]] = {
    "dir": (frozenset(Where), frozenset(Where)),  # one's own disk; what is shared and not ours says push=no
    "git": (_REVIEWED, _REVIEWED | _OWN_CODE),
    "nix": (_REVIEWED, _REVIEWED | _OWN_CODE),
    "gha": (_GITHUB, _GITHUB),  # GitHub keeps what a run writes to the run's own ref
    "github-runs": (frozenset(), frozenset()),  # the workflow uploads its artifact itself
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Whether a store may be written, and why in a few words."""

    granted: bool
    why: str


def may_push(scheme: str, where: Where, wish: Push) -> Right:
    """The right to write a store of this kind from there."""
    by_default, at_most = RIGHTS[scheme]
    if wish is Push.NO:
        return Right(granted=False, why="push=no")
    if where in by_default or (wish is Push.YES and where in at_most):
        return Right(granted=True, why=where.value)
    if where in at_most:
        return Right(granted=False, why=f"{where.value}: say push=yes to write here")
    return Right(granted=False, why=where.value if at_most else "read-only")


def where_are_we(env: Mapping[str, str], event: bytes, tier: str | None) -> Where:
    """Where a process with this environment runs.

    event is the payload of GitHub's event (the file GITHUB_EVENT_PATH), b"" for none; tier is what the user says of a
    machine: cloud, desktop or laptop. On GitHub only GitHub is believed. Who says nothing is a laptop, which writes to
    nobody. Raises PytestNixosError for a tier that does not exist.
    Source: GitHub's docs, "Events that trigger workflows" and "Variables reference".
    """
    if tier is not None and tier not in TIERS:
        raise PytestNixosError(f"there is no tier {tier!r}", f"write one of {', '.join(TIERS)}")
    if env.get("GITHUB_ACTIONS") == "true":
        return _on_github(env, _payload(event))
    if tier is not None:
        return TIERS[tier]
    return Where.CI if env.get("CI") else Where.LAPTOP


def _on_github(env: Mapping[str, str], payload: dict[str, Any]) -> Where:
    on_default = _is_default(env, payload)
    match env.get("GITHUB_EVENT_NAME"):
        case "push":
            return Where.MAIN if on_default else Where.BRANCH
        case "schedule" if on_default:
            return Where.SCHEDULE
        case "workflow_dispatch":
            return Where.MANUAL if on_default else Where.BRANCH
        case "merge_group":
            base, default = _at(payload, "merge_group", "base_ref"), _at(payload, "repository", "default_branch")
            return Where.MERGE_QUEUE if base == f"refs/heads/{default}" else Where.BRANCH
        case "pull_request":
            return Where.PULL_REQUEST if _same_repository(payload) else Where.FORK
    return Where.FOREIGN


def default_branch(event: bytes) -> str:
    """The repository's default branch by GitHub's event; "" when it does not say."""
    name = _at(_payload(event), "repository", "default_branch")
    return name if isinstance(name, str) else ""


def _is_default(env: Mapping[str, str], payload: dict[str, Any]) -> bool:
    branch = _at(payload, "repository", "default_branch")
    return isinstance(branch, str) and bool(branch) and env.get("GITHUB_REF") == f"refs/heads/{branch}"


def _same_repository(payload: dict[str, Any]) -> bool:
    head, base = (_at(payload, "pull_request", side, "repo", "id") for side in ("head", "base"))
    return isinstance(head, int) and head == base


def _payload(event: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(event) if event else {}
    except (ValueError, RecursionError):
        payload = {}
    return payload if isinstance(payload, dict) else {}


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
