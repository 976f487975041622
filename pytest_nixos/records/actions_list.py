"""The entries of GitHub's Actions cache as its REST API lists them, of the refs that we may believe.

The listing shows every ref's entries, those of other pull requests too, to whoever asks without a ref. What a run may
believe is what the cache service would give it: its own ref's entries, those of its pull request's base and those of
the default branch. Who is not a run of this repository believes the default branch alone: only there has everything
been merged by someone who may.

Sources: GitHub's REST API, "GitHub Actions cache"; GitHub's docs, "Dependency caching reference", on scopes.
"""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.records.github import GitHub
from pytest_nixos.records.http import side_by_side

VERSION = hashlib.sha256(b"pytest-nixos|v2").hexdigest()
_MOST_ROWS = 5000  # of one ref, the newest: 50 requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An entry of our version: its key, its ref, when it was made and last read (seconds since the epoch)."""

    key: str
    ref: str
    created_at: float
    accessed_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Entries, and the number of those that were listed and are not what was asked for."""

    rows: tuple[Row, ...]
    foreign: int


class CacheList:
    """The listing of a repository. Methods raise RecordsUnavailable."""

    def __init__(self, github: GitHub, env: Mapping[str, str]) -> None:
        self._github = github
        self._own = own_refs(env, github.repository)
        branch = env.get("PYTEST_NIXOS_DEFAULT_BRANCH", "") if self._own else ""
        self._default = f"refs/heads/{branch}" if branch else ""
        self._path = f"/repos/{github.repository}/actions/caches"
        self._asking = threading.Lock()

    def refs(self, deadline: Deadline) -> tuple[str, ...]:
        """The refs whose entries count, the default branch first."""
        with self._asking:
            self._default = self._default or self._asked(deadline)
        return tuple(dict.fromkeys((self._default, *self._own)))

    def rows(self, prefix: str, deadline: Deadline, limit: int = _MOST_ROWS) -> Listed:
        """The entries whose keys begin with `prefix`, of each ref the newest; all refs and pages side by side."""

        def of(ref: str) -> list[Row | None]:
            asked = {"key": prefix, "ref": ref, "sort": "created_at", "direction": "desc"}
            items = self._github.pages(self._path, asked, deadline, "actions_caches", limit)
            return [parse_row(item, ref, prefix) for item in items]

        rows = list(chain.from_iterable(side_by_side(of, self.refs(deadline))))
        ours = tuple(row for row in rows if row is not None)
        return Listed(rows=ours, foreign=len(rows) - len(ours))

    def _asked(self, deadline: Deadline) -> str:
        repository = self._github.get(f"/repos/{self._github.repository}", {}, deadline)
        branch = repository.get("default_branch") if isinstance(repository, dict) else None
        if not isinstance(branch, str) or not branch:
            raise RecordsUnavailable("GitHub does not say which branch is the default one")
        return f"refs/heads/{branch}"

    def delete(self, key: str, deadline: Deadline) -> None:
        """Delete the entry with that whole key: a run's own one, and at a desk that of the default branch.

        What other refs have proven is not a run's to remove; at a desk, GitHub asks for a token that may.
        """
        ref = self._own[0] if self._own else self.refs(deadline)[0]
        self._github.delete(self._path, {"key": key, "ref": ref}, deadline)


def own_refs(env: Mapping[str, str], repository: str) -> tuple[str, ...]:
    """The refs of the run that we are, the pull request's base included; none elsewhere and for other repositories."""
    here = env.get("GITHUB_REPOSITORY", "").lower() == repository.lower()
    ref, base = env.get("GITHUB_REF", ""), env.get("GITHUB_BASE_REF", "")
    if env.get("GITHUB_ACTIONS") != "true" or not here or not ref.startswith("refs/"):
        return ()
    return (ref, f"refs/heads/{base}") if base else (ref,)


def parse_row(item: Mapping[str, Any], ref: str, prefix: str) -> Row | None:
    """A row of the listing; None when it is not of that ref, of our version and of that prefix."""
    key = item.get("key")
    created, accessed = _moment(item.get("created_at")), _moment(item.get("last_accessed_at"))
    if item.get("ref") != ref or item.get("version") != VERSION or created is None:
        return None
    if not isinstance(key, str) or not key.startswith(prefix):
        return None
    return Row(key=key, ref=ref, created_at=created, accessed_at=accessed or created)


def _moment(text: Any) -> float | None:
    """Seconds since the epoch; None for what is no date and time with a time zone."""
    try:
        moment = datetime.fromisoformat(text)
        return max(0.0, moment.timestamp()) if moment.tzinfo is not None else None
    except (TypeError, ValueError, OverflowError):
        return None
