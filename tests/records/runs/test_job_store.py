"""What green jobs of our very commit say."""

from typing import Any

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.model import Record
from pytest_nixos.records import workflows
from pytest_nixos.records.stores.base import Found
from tests.records.fake_github import Reply
from tests.records.fake_runs import (
    GREEN_JOBS,
    RUNS,
    FakeRuns,
    commit,
    found,
    look_up,
    nothing,
    store,
)
from tests.records.making import NOW, subject, verdict

MANY = 1000


def test_a_green_job_of_our_commit(repository: FakeRuns) -> None:
    run = repository.run()
    repository.job(run, "test (web)")
    repository.job(run, "test (web-2)")
    repository.job(run, "lint")
    (record,) = look_up(repository, GREEN_JOBS, [subject("web"), subject("db")]).records
    by = f"GitHub Actions run {run}"
    assert record == Record(verdict=verdict("web", seconds=0.0, by=by, finished_at=NOW))
    assert store(repository, GREEN_JOBS).every(Deadline(10)) == Found()


def test_a_job_speaks_of_a_check_that_is_built(repository: FakeRuns) -> None:
    repository.job(repository.run(), "test (web)")
    built = subject("web", driver=False)
    assert [v.driver for v in found(repository, GREEN_JOBS, [built])] == [None]


def test_a_merge_queues_jobs_count_once_merged(repository: FakeRuns) -> None:
    repository.job(repository.run(event="merge_group", head_branch="gh-readonly-queue/main/pr-7"), "test (web)")
    assert len(found(repository, GREEN_JOBS)) == 1


def test_a_commit_that_is_not_the_newest(repository: FakeRuns) -> None:
    repository.history.append(commit(10))
    repository.job(repository.run(), "test (web)")
    assert len(found(repository, GREEN_JOBS)) == 1


@pytest.mark.parametrize("event", ["schedule", "workflow_dispatch"])
def test_what_may_have_run_less_does_not_count(repository: FakeRuns, event: str) -> None:
    repository.job(repository.run(event=event), "test (web)")
    assert nothing(repository, GREEN_JOBS) == ""


JOB_CHANGES: dict[str, dict[str, Any]] = {
    "other check": {"name": "test (db)"},
    "check in part": {"name": "test (web-2)"},
    "in other letters": {"name": "Test (web)"},
    "a space more": {"name": "test (web) "},
    "name of the run only": {"name": "test"},
    "failed": {"conclusion": "failure"},
    "skipped": {"conclusion": "skipped"},
    "cancelled": {"conclusion": "cancelled"},
    "neutral": {"conclusion": "neutral"},
    "no conclusion": {"conclusion": None},
    "goes on": {"status": "in_progress"},
    "of another run": {"run_id": 7},
    "of another commit": {"head_sha": commit(8)},
    "no end": {"completed_at": None},
    "end that is no time": {"completed_at": "yesterday"},
    "end of no time zone": {"completed_at": "2027-01-15T08:00:00"},
    "end before all time": {"completed_at": "0001-01-01T00:00:00Z"},
    "name as list": {"name": ["test (web)"]},
    "end as number": {"completed_at": NOW},
}


@pytest.mark.parametrize("changes", JOB_CHANGES.values(), ids=JOB_CHANGES.keys())
def test_jobs_that_prove_nothing(loose: FakeRuns, changes: dict[str, Any]) -> None:
    loose.job(loose.run(), "test (web)", **changes)
    assert nothing(loose, GREEN_JOBS) == ""


@pytest.mark.parametrize("conclusion", ["failure", "skipped", "success"])
def test_all_jobs_of_a_name_must_have_passed(repository: FakeRuns, conclusion: str) -> None:
    run = repository.run()
    repository.job(run, "test (web)")
    repository.job(run, "test (web)", conclusion=conclusion)
    assert len(found(repository, GREEN_JOBS)) == (conclusion == "success")


def test_a_name_that_two_checks_share_says_nothing(repository: FakeRuns) -> None:
    """As in two flakes of one repository."""
    repository.job(repository.run(), "test (web)")
    twin = subject("web-of-another-flake", check="web")
    assert found(repository, GREEN_JOBS, [subject("web"), twin]) == []


@pytest.mark.parametrize(
    ("template", "job", "system", "expected"),
    [
        ("{check}", "web", "x86_64-linux", True),
        ("{check}", "web", "aarch64-linux", False),
        ("{check} on {system}", "web on aarch64-linux", "aarch64-linux", True),
        ("{check} on {system}", "web on x86_64-linux", "aarch64-linux", False),
        ("{check} {{system}} {0} {check.__class__}", "web {x86_64-linux} {0} {check.__class__}", "x86_64-linux", True),
    ],
)
def test_names_of_jobs(repository: FakeRuns, template: str, job: str, system: str, expected: bool) -> None:
    repository.job(repository.run(), job)
    assert bool(found(repository, f"?job={template}", [subject("web", system=system)])) is expected


def test_a_check_named_like_a_blank() -> None:
    assert workflows.job_name("{check}/{system}", subject("{system}")) == "{system}/x86_64-linux"


NOT_GREEN = [{"conclusion": "failure"}, {"status": "in_progress", "conclusion": None}]


@pytest.mark.parametrize("changes", [*NOT_GREEN, {"path": ".github/workflows/x.yml"}], ids=str)
def test_a_run_that_is_not_green_or_of_another_workflow(repository: FakeRuns, changes: dict[str, Any]) -> None:
    repository.job(repository.run(**changes), "test (web)")
    assert nothing(repository, GREEN_JOBS + "&workflow=ci.yml") == ""


@pytest.mark.parametrize("known", ["", "main", "9" * 39, commit(9)[:12], commit(9).replace("0", "A"), commit(9) + "\n"])
def test_without_our_commit_nobody_is_asked(repository: FakeRuns, known: str) -> None:
    repository.job(repository.run(), "test (web)")
    assert store(repository, GREEN_JOBS, our_commit=known).lookup([subject("web")], Deadline(10)) == Found()
    assert repository.round_trips == 0


@pytest.mark.parametrize(
    "changes",
    [{"head": 8}, {"conclusion": "failure"}, {"conclusion": None}, {"status": "in_progress"}, {"status": "queued"}],
    ids=str,
)
def test_a_run_that_was_not_asked_for(loose: FakeRuns, changes: dict[str, Any]) -> None:
    """Should GitHub's filter let one through."""
    run = loose.run(**changes)
    loose.job(run, "test (web)")
    loose.github.routes[RUNS] = Reply(content={"total_count": 1, "workflow_runs": [loose.runs[run]]})
    assert nothing(loose, GREEN_JOBS) == ""


HERE = {"sha": commit(3)}


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        ({"status": "behind", "merge_base_commit": HERE}, True),
        ({"status": "identical", "merge_base_commit": HERE}, True),
        ({"status": "ahead", "merge_base_commit": HERE}, False),
        ({"status": "diverged", "merge_base_commit": HERE}, False),
        ({"status": ["behind"], "merge_base_commit": HERE}, False),
        ({"status": "behind", "merge_base_commit": {"sha": commit(2)}}, False),
        ({"status": "behind", "merge_base_commit": None}, False),
        ({"status": "behind"}, False),
        ([], False),
    ],
)
def test_what_is_in_the_history(comparison: Any, expected: bool) -> None:
    assert workflows.is_in_history(comparison, commit(3)) is expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"ref": "refs/heads/main", "object": {"type": "commit", "sha": commit(9)}}, commit(9)),
        ({"ref": "refs/tags/main", "object": {"type": "commit", "sha": commit(9)}}, None),
        ({"ref": "refs/heads/main", "object": {"type": "tag", "sha": commit(9)}}, None),
        ({"ref": "refs/heads/main", "object": {"type": "commit", "sha": "main"}}, None),
        ([{"ref": "refs/heads/main-2"}], None),  # what begins like it, as older versions of the API answer
    ],
)
def test_the_newest_commit_of_a_branch(reference: Any, expected: str | None) -> None:
    assert workflows.tip_of(reference, "main") == expected


def test_jobs_of_a_thousand_checks_are_a_handful_of_round_trips(repository: FakeRuns) -> None:
    names = [f"c{number}" for number in range(MANY)]
    run = repository.run()
    for name in names:
        repository.job(run, f"test ({name})")
    assert len(found(repository, GREEN_JOBS, list(map(subject, names)))) == MANY
    assert repository.round_trips == 3 + MANY // 100
