"""The past of a GitHub repository: asks which workflow runs are to be believed. What that means, `workflows` says."""

import urllib.parse
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.records import workflows
from pytest_nixos.records.artifacts import ArtifactUnreadable
from pytest_nixos.records.github import GitHub
from pytest_nixos.records.http import side_by_side
from pytest_nixos.records.workflows import Run, Trust

T = TypeVar("T")
_BATCHES = 3  # of runs that are looked at until enough are believed


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The believed runs of a repository: of its default branch unless `branch` is given; at most `runs` of them."""

    github: GitHub
    branch: str
    workflow: str
    events: frozenset[str]
    runs: int

    @property
    def name(self) -> str:
        """The store's name."""
        return f"github-runs:{self.github.repository}"

    @property
    def base(self) -> str:
        """The path that all of the repository's begin with."""
        return f"/repos/{self.github.repository}"

    def trust(self, deadline: Deadline) -> Trust:
        """What is believed, by GitHub's word on the repository."""
        answer = self.github.get(self.base, {}, deadline)
        trust = workflows.trust_in(answer, self.branch, self.workflow, self.events)
        return trust if trust is not None else self._puzzled("the repository")

    def tip(self, trust: Trust, deadline: Deadline) -> str:
        """The newest commit of the branch; by its reference, since a tag may have the branch's name."""
        path = f"{self.base}/git/ref/heads/{urllib.parse.quote(trust.branch, errors='replace')}"
        tip = workflows.tip_of(self.github.get(path, {}, deadline), trust.branch)
        return tip if tip is not None else self._puzzled(f"the branch {trust.branch}")

    def believed(self, trust: Trust, ids: Sequence[int], deadline: Deadline) -> tuple[set[int], list[str]]:
        """Those of the runs that are believed, the first ones given first; and why others could not be judged.

        A few more are looked at than are wanted: those of a merge queue may not be in the branch yet.
        """
        found: list[int] = []
        errors: list[str] = []
        tip = self.tip(trust, deadline) if ids else ""
        for start in range(0, min(len(ids), self.runs * _BATCHES), self.runs):
            asked = tried(lambda id_: self._run(trust, id_, deadline), ids[start : start + self.runs], errors)
            runs: list[Run] = [run for run in asked if run is not None]
            commits = self.in_history(tip, {run.commit for run in runs}, deadline, errors)
            found += [run.id for run in runs if run.commit in commits]
            if len(found) >= self.runs:
                break
        return set(found[: self.runs]), errors

    def in_history(self, tip: str, commits: Set[str], deadline: Deadline, errors: list[str]) -> set[str]:
        """Those of the commits that a branch with this newest commit has."""

        def has(commit: str) -> str:
            comparison = self.github.get(f"{self.base}/compare/{tip}...{commit}", {"per_page": "1"}, deadline)
            return commit if workflows.is_in_history(comparison, commit) else ""

        return {*(commits & {tip}), *filter(None, tried(has, sorted(commits - {tip}), errors))}

    def _run(self, trust: Trust, id_: int, deadline: Deadline) -> Run | None:
        run = trust.run(self.github.get(f"{self.base}/actions/runs/{id_}", {"exclude_pull_requests": "true"}, deadline))
        return run if run is not None and run.id == id_ else None

    def _puzzled(self, what: str) -> NoReturn:
        raise RecordsUnavailable(f"GitHub's answer on {what} of {self.github.repository} is not understood")


def tried(work: Callable[[T], Any], items: Iterable[T], errors: list[str]) -> list[Any]:
    """`work` on every item side by side; where it fails None, with the reason in `errors`."""

    def attempt(item: T) -> Any:
        try:
            return work(item)
        except (RecordsUnavailable, ArtifactUnreadable) as error:
            errors.append(error.message if isinstance(error, RecordsUnavailable) else str(error))
            return None

    return side_by_side(attempt, items)
