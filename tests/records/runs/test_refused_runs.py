"""What must not be believed: runs of forks, of pull requests, of other branches, and their artifacts."""

import hashlib
from typing import Any

import pytest

from pytest_nixos.records import artifacts
from tests.records.fake_github import Reply
from tests.records.fake_runs import (
    FORK,
    GREEN_JOBS,
    ID,
    RUN,
    WEB,
    FakeRuns,
    commit,
    folder_of,
    found,
    nothing,
    zipped,
)

UNTRUSTED: dict[str, dict[str, Any]] = {
    "fork": {"head_repository": {"id": FORK}},
    "fork that is gone": {"head_repository": None},
    "fork's pull request": {"head_repository": {"id": FORK}, "event": "pull_request"},
    "run of another repository": {"repository": {"id": FORK}},
    "other branch": {"head_branch": "topic"},
    "no branch": {"head_branch": None},
    "branch in other letters": {"head_branch": "Main"},
    "branch like a ref": {"head_branch": "refs/heads/main"},
    "pull request": {"event": "pull_request", "head_branch": "topic"},
    "pull request from the default branch": {"event": "pull_request"},
    "pull_request_target": {"event": "pull_request_target"},
    "workflow_run": {"event": "workflow_run"},
    "issue_comment": {"event": "issue_comment"},
    "repository_dispatch": {"event": "repository_dispatch"},
    "event of the future": {"event": "pushed"},
    "not started": {"status": "queued", "conclusion": None},
    "waits for approval": {"status": "waiting", "conclusion": None},
    "tag named like the branch": {"head": 666},
    "merge queue, not merged": {"head": 666, "event": "merge_group", "head_branch": "gh-readonly-queue/main/pr-7"},
    "merge queue of another branch": {"event": "merge_group", "head_branch": "gh-readonly-queue/topic/pr-7"},
    "merge queue without its branch": {"event": "merge_group"},
    "push to a branch like the queue's": {"head_branch": "gh-readonly-queue/main/pr-7"},
}


@pytest.mark.parametrize("changes", UNTRUSTED.values(), ids=UNTRUSTED.keys())
@pytest.mark.parametrize("row_lies", [False, True])
def test_untrusted_runs(loose: FakeRuns, changes: dict[str, Any], row_lies: bool) -> None:
    """Whether the artifact's row says so or only the run itself."""
    row = loose.upload(loose.run(**changes), folder_of([WEB]))
    if row_lies:
        row["workflow_run"] |= {"head_branch": "main", "head_repository_id": ID}
    assert nothing(loose) == ""


@pytest.mark.parametrize("changes", UNTRUSTED.values(), ids=UNTRUSTED.keys())
def test_jobs_of_untrusted_runs(loose: FakeRuns, changes: dict[str, Any]) -> None:
    if "head" in changes:  # our own commit is not in the branch
        loose.history[-1] = commit(10)
    loose.job(loose.run(**{**changes, "head": 9}), "test (web)")
    assert nothing(loose, GREEN_JOBS) == ""


ROWS: dict[str, dict[str, Any]] = {
    "expired": {"expired": True},
    "no word on expiry": {"expired": None},
    "expiry as text": {"expired": "false"},
    "other name": {"name": "nixos-verified-2"},
    "no run": {"workflow_run": None},
    "wrong digest": {"digest": "sha256:" + "0" * 64},
    "digest of another kind": {"digest": "sha512:" + "0" * 128},
    "digest without a kind": {"digest": hashlib.sha256(zipped(folder_of([WEB]))).hexdigest()},
    "digest as number": {"digest": 7},
    "too large": {"size_in_bytes": artifacts.MAX_BYTES + 1},
    "size as text": {"size_in_bytes": "7"},
    "id as truth": {"id": True},
}


@pytest.mark.parametrize("changes", ROWS.values(), ids=ROWS.keys())
def test_artifacts_that_are_not_read(loose: FakeRuns, changes: dict[str, Any]) -> None:
    loose.upload(loose.run(), folder_of([WEB]), **changes)
    nothing(loose)


@pytest.mark.parametrize("changes", [{"repository_id": FORK}, {"head_repository_id": FORK}, {"head_branch": "topic"}])
def test_the_row_alone_shuts_out(loose: FakeRuns, changes: dict[str, Any]) -> None:
    """Nothing of a fork's or a branch's run is even downloaded."""
    loose.upload(loose.run(), folder_of([WEB]))["workflow_run"] |= changes
    assert nothing(loose) == ""
    assert not loose.github.asked(RUN)
    assert not loose.storage.requests


def test_a_repository_under_another_number_is_another(loose: FakeRuns) -> None:
    """A name that was given to a new repository, say."""
    loose.upload(loose.run(), folder_of([WEB]))
    loose.repository["id"] = FORK
    assert nothing(loose) == ""


def test_an_answer_on_another_run_is_not_believed(loose: FakeRuns) -> None:
    loose.upload(loose.run(event="pull_request"), folder_of([WEB]))
    trusted = loose.run()
    loose.github.routes[RUN] = Reply(content=loose.runs[trusted])
    assert nothing(loose) == ""


def test_the_default_branch_is_githubs_word(loose: FakeRuns) -> None:
    loose.upload(loose.run(), folder_of([WEB]))
    loose.repository["default_branch"] = "trunk"
    assert nothing(loose) == ""


def test_a_digest_is_not_always_there(repository: FakeRuns) -> None:
    repository.upload(repository.run(), folder_of([WEB]), digest=None)
    assert found(repository) == [WEB]
