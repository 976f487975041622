"""Which workflow runs of a GitHub repository are believed, and what their jobs say. Pure.

Whoever may open a pull request makes runs, with the workflow's file as the pull request has it. So a run is believed
for what started it and from where, never for its name or its colour. Everything here reads GitHub's answers as foreign
text: what has another form than GitHub promises is not believed.

Source: GitHub's REST reference, "Workflow runs", "Artifacts" and "Workflow jobs"; "Events that trigger workflows".
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pytest_nixos.model import Outcome, Subject, Verdict

# Others: pull_request runs code that nobody has reviewed; pull_request_target, workflow_run and issue_comment run on
# the default branch, but for strangers, and handle what strangers sent.
REVIEWED = frozenset({"push", "schedule", "workflow_dispatch", "merge_group"})
# What a run of these does is in the commit; a schedule may do less than a push, and one started by hand has inputs.
OF_COMMIT = frozenset({"push", "merge_group"})
_STARTED = frozenset({"in_progress", "completed"})
_FOLDER = ".github/workflows/"
_QUEUE = "gh-readonly-queue/"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BLANK = re.compile(r"\{(check|system)\}")
_USUAL_SYSTEM = "x86_64-linux"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact of a run that may be believed: its size in bytes, `digest` as GitHub writes it, "" for none."""

    id: int
    name: str
    size: int
    digest: str
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that is believed if its commit is in the branch's history; green: it has ended and nothing failed."""

    id: int
    commit: str
    green: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What is believed: runs of this repository, for this branch, of this workflow ("" for any), started by `events`.

    A merge queue tests a commit before it becomes the branch's; its runs have a branch of their own.
    """

    repository: int
    branch: str
    workflow: str = ""
    events: frozenset[str] = REVIEWED

    def artifact(self, row: Any) -> Artifact | None:
        """A row of the list of artifacts; None when its run can't be believed, or it is gone."""
        run = _at(row, "workflow_run")
        id_, size, of = (_number(value) for value in (_at(row, "id"), _at(row, "size_in_bytes"), _at(run, "id")))
        name, digest = _at(row, "name"), _at(row, "digest")
        if id_ is None or size is None or of is None or not isinstance(name, str):
            return None
        if _at(row, "expired") is not False or not (digest is None or isinstance(digest, str)):
            return None
        if not self._is_ours(_at(run, "repository_id"), _at(run, "head_repository_id")):
            return None
        branch = _at(run, "head_branch")
        if branch != self.branch and not self._is_queue(branch):
            return None
        return Artifact(id=id_, name=name, size=size, digest=digest or "", run=of)

    def run(self, answer: Any) -> Run | None:
        """A run as GitHub describes it; None when it can't be believed.

        How it ended does not matter for records, each of which speaks of its own check only: a run is believed while
        it goes on, and when other jobs of it have failed.
        """
        id_, commit, event = _number(_at(answer, "id")), _at(answer, "head_sha"), _at(answer, "event")
        status, conclusion = _at(answer, "status"), _at(answer, "conclusion")
        if id_ is None or not is_commit(commit) or not _is_one_of(_STARTED, status):
            return None
        if not self._is_ours(_at(answer, "repository", "id"), _at(answer, "head_repository", "id")):
            return None
        if not _is_one_of(self.events, event) or not self._is_for_us(event, _at(answer, "head_branch")):
            return None
        if not self._is_our_workflow(_at(answer, "path")):
            return None
        return Run(id=id_, commit=commit, green=status == "completed" and conclusion == "success")

    def _is_ours(self, repository: Any, head: Any) -> bool:
        """A fork has another number, and one that is gone has none."""
        return _number(repository) == self.repository and _number(head) == self.repository

    def _is_for_us(self, event: Any, branch: Any) -> bool:
        if event == "merge_group":
            return self._is_queue(branch)
        return isinstance(branch, str) and branch == self.branch

    def _is_queue(self, branch: Any) -> bool:
        return isinstance(branch, str) and branch.startswith(f"{_QUEUE}{self.branch}/")

    def _is_our_workflow(self, path: Any) -> bool:
        """The path may be followed by the branch: `.github/workflows/ci.yml@main`."""
        wanted = self.workflow if "/" in self.workflow else _FOLDER + self.workflow
        return not self.workflow or (isinstance(path, str) and (path == wanted or path.startswith(wanted + "@")))


def trust_in(answer: Any, branch: str, workflow: str, events: frozenset[str]) -> Trust | None:
    """Trust in a repository as GitHub describes it, for its default branch unless another is named."""
    id_, default = _number(_at(answer, "id")), _at(answer, "default_branch")
    if id_ is None or not isinstance(default, str) or not default or not default.isprintable():
        return None
    return Trust(repository=id_, branch=branch or default, workflow=workflow, events=events)


def is_commit(value: Any) -> bool:
    """Whether it is the full hash of a commit."""
    return isinstance(value, str) and _COMMIT.fullmatch(value) is not None


def tip_of(answer: Any, branch: str) -> str | None:
    """The newest commit of a branch, from GitHub's answer on its reference; None when it speaks of something else."""
    commit = _at(answer, "object", "sha")
    named = _at(answer, "ref") == f"refs/heads/{branch}" and _at(answer, "object", "type") == "commit"
    return commit if named and is_commit(commit) else None


def is_in_history(comparison: Any, commit: str) -> bool:
    """Whether a comparison of a branch's tip with `commit` says that the branch has it."""
    return (
        _at(comparison, "status") in ("behind", "identical") and _at(comparison, "merge_base_commit", "sha") == commit
    )


def job_name(template: str, subject: Subject) -> str | None:
    """The name of the job that tests a subject: the template with {check} and {system} filled in.

    A name without {system} can only mean one system, and that is the one of GitHub's usual runners: None for others.
    """
    if "{system}" not in template and subject.system != _USUAL_SYSTEM:
        return None
    return _BLANK.sub(lambda blank: subject.check if blank[1] == "check" else subject.system, template)


def verdicts_by_jobs(
    jobs: Iterable[Mapping[str, Any]], run: Run, template: str, subjects: Iterable[Subject]
) -> list[Verdict]:
    """The subjects that a run's jobs prove, by the jobs' names.

    Where jobs share a name all must have passed; where subjects share one, it says nothing of any.
    """
    by_name: dict[Any, list[Mapping[str, Any]]] = {}
    for job in jobs:
        name = job.get("name")
        by_name.setdefault(name if isinstance(name, str) else None, []).append(job)
    verdicts = []
    for name, subject in _by_job(template, subjects).items():
        ends = [_passed_at(job, run) for job in by_name.get(name, ())]
        known = [end for end in ends if end is not None]
        if known and len(known) == len(ends):
            verdicts.append(_verdict(subject, min(known), run))
    return verdicts


def _by_job(template: str, subjects: Iterable[Subject]) -> dict[str, Subject]:
    named: dict[str, list[Subject]] = {}
    for subject in subjects:
        name = job_name(template, subject)
        if name is not None:
            named.setdefault(name, []).append(subject)
    return {name: same[0] for name, same in named.items() if len(same) == 1}


def _passed_at(job: Mapping[str, Any], run: Run) -> float | None:
    """When a job of this run ended well, in seconds since the epoch; None when it did not, or is of another run."""
    said = [job.get(name) for name in ("run_id", "head_sha", "status", "conclusion")]
    return _seconds(job.get("completed_at")) if said == [run.id, run.commit, "completed", "success"] else None


def _verdict(subject: Subject, finished_at: float, run: Run) -> Verdict:
    # No duration: how long the job took says little of the check.
    return Verdict.of(subject, Outcome.PASSED, finished_at=finished_at, by=f"GitHub Actions run {run.id}")


def _seconds(text: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        seconds = moment.timestamp() if moment.tzinfo is not None else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if seconds >= 0 else None


def _is_one_of(known: frozenset[str], value: Any) -> bool:
    return isinstance(value, str) and value in known  # a list can't even be looked up


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
