"""Who may write: every event of GitHub, every kind of store."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.records.places import Push
from pytest_nixos.records.rights import RIGHTS, Where, default_branch, may_push, where_are_we

QUEUE = "refs/heads/gh-readonly-queue/main/pr-1"
MAIN, OTHER = "refs/heads/main", "refs/heads/feature"


def event(**more: object) -> bytes:
    return json.dumps({"repository": {"default_branch": "main"}, **more}).encode()


def pull_request(head: object, base: object) -> bytes:
    return event(pull_request={"head": {"repo": head}, "base": {"repo": base}})


@pytest.mark.parametrize(
    ("name", "ref", "payload", "where"),
    [
        ("push", MAIN, event(), Where.MAIN),
        ("push", OTHER, event(), Where.BRANCH),
        ("push", "refs/tags/main", event(), Where.BRANCH),
        ("push", MAIN, b"", Where.BRANCH),  # nobody says which branch is the default one
        ("push", MAIN, b"{", Where.BRANCH),
        ("schedule", MAIN, event(), Where.SCHEDULE),
        ("workflow_dispatch", MAIN, event(), Where.MANUAL),
        ("workflow_dispatch", OTHER, event(), Where.BRANCH),
        ("merge_group", QUEUE, event(merge_group={"base_ref": MAIN}), Where.MERGE_QUEUE),
        ("merge_group", QUEUE, event(merge_group={"base_ref": OTHER}), Where.BRANCH),
        ("merge_group", QUEUE, event(), Where.BRANCH),
        ("pull_request", "refs/pull/1/merge", pull_request({"id": 1}, {"id": 1}), Where.PULL_REQUEST),
        ("pull_request", "refs/pull/1/merge", pull_request({"id": 2}, {"id": 1}), Where.FORK),
        ("pull_request", "refs/pull/1/merge", pull_request(None, {"id": 1}), Where.FORK),  # the fork is deleted
        ("pull_request", "refs/pull/1/merge", pull_request(None, None), Where.FORK),
        ("pull_request", "refs/pull/1/merge", b"", Where.FORK),
        ("pull_request_target", MAIN, pull_request({"id": 1}, {"id": 1}), Where.FOREIGN),
        ("issue_comment", MAIN, event(), Where.FOREIGN),
        ("workflow_run", MAIN, event(), Where.FOREIGN),
        ("", MAIN, event(), Where.FOREIGN),
    ],
)
def test_where_on_github(name: str, ref: str, payload: bytes, where: Where) -> None:
    env = {"GITHUB_ACTIONS": "true", "CI": "true", "GITHUB_EVENT_NAME": name, "GITHUB_REF": ref}
    assert where_are_we(env, payload, None) is where
    assert where_are_we(env, payload, "desktop") is where  # on GitHub only GitHub is believed


def test_where_elsewhere() -> None:
    assert where_are_we({}, b"", None) is Where.LAPTOP
    assert where_are_we({}, b"", "desktop") is Where.DESKTOP
    assert where_are_we({"CI": "1"}, b"", None) is Where.CI
    assert where_are_we({"CI": "1"}, b"", "cloud") is Where.CLOUD
    with pytest.raises(PytestNixosError, match="no tier"):
        where_are_we({}, b"", "phone")


D, Y, N = "by default", "with push=yes", "never"
TABLE = {  # as in docs/records.md
    Where.MAIN: {"dir": D, "git": D, "nix": D, "gha": D, "github-runs": N},
    Where.SCHEDULE: {"dir": D, "git": D, "nix": D, "gha": D, "github-runs": N},
    Where.MANUAL: {"dir": D, "git": D, "nix": D, "gha": D, "github-runs": N},
    Where.MERGE_QUEUE: {"dir": D, "git": D, "nix": D, "gha": D, "github-runs": N},
    Where.BRANCH: {"dir": D, "git": Y, "nix": Y, "gha": D, "github-runs": N},
    Where.PULL_REQUEST: {"dir": D, "git": Y, "nix": Y, "gha": D, "github-runs": N},
    Where.FORK: {"dir": D, "git": N, "nix": N, "gha": D, "github-runs": N},
    Where.FOREIGN: {"dir": D, "git": N, "nix": N, "gha": N, "github-runs": N},
    Where.CI: {"dir": D, "git": Y, "nix": Y, "gha": N, "github-runs": N},
    Where.CLOUD: {"dir": D, "git": D, "nix": D, "gha": N, "github-runs": N},
    Where.DESKTOP: {"dir": D, "git": D, "nix": D, "gha": N, "github-runs": N},
    Where.LAPTOP: {"dir": D, "git": Y, "nix": Y, "gha": N, "github-runs": N},
}


@pytest.mark.parametrize("where", Where)
@pytest.mark.parametrize("scheme", RIGHTS)
def test_the_table(scheme: str, where: Where) -> None:
    expected = TABLE[where][scheme]
    assert may_push(scheme, where, Push.AUTO).granted is (expected == D)
    assert may_push(scheme, where, Push.YES).granted is (expected in (D, Y))
    assert not may_push(scheme, where, Push.NO).granted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["repository", "pull_request", "repo"]), inner),
)


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_no_payload_makes_a_fork_or_a_foreign_event_write(payload: bytes) -> None:
    for name in ("pull_request", "pull_request_target"):
        env = {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": name, "GITHUB_REF": MAIN}
        assert not may_push("git", where_are_we(env, payload, "desktop"), Push.YES).granted
    assert isinstance(default_branch(payload), str)
