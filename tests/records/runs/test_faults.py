"""A GitHub that does not answer as it should, at each step of both forms."""

import time

import pytest

from pytest_nixos.errors import RecordsUnavailable
from tests.records.fake_github import Reply, Request
from tests.records.fake_runs import (
    BLOB,
    DB,
    EACH_STEP,
    REPO,
    REPOSITORY,
    WEB,
    FakeRuns,
    folder_of,
    found,
    look_up,
    nothing,
    prepared,
    route,
)
from tests.records.making import subject


@pytest.mark.parametrize("status", [204, 301, 401, 403, 404, 410, 429, 500, 503])
@pytest.mark.parametrize(("query", "step"), EACH_STEP)
def test_every_status_at_every_step(loose: FakeRuns, query: str, step: str, status: int) -> None:
    prepared(loose)
    assert len(found(loose, query)) == 1
    route(loose, step, Reply(status, {"message": "no", "location": "/"} if status != 204 else b""))
    said = nothing(loose, query)
    assert said
    assert "\n" not in said
    assert "secret" not in said


@pytest.mark.parametrize(("query", "step"), EACH_STEP)
def test_a_hanging_github(loose: FakeRuns, query: str, step: str) -> None:
    route(prepared(loose), step, Reply(slow=60))
    start = time.monotonic()
    assert nothing(loose, query, seconds=0.3)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(("query", "step"), EACH_STEP)
def test_a_truncated_answer(loose: FakeRuns, query: str, step: str) -> None:
    prepared(loose)
    server = loose.storage if step == BLOB else loose.github
    whole = server.routes[step]

    def cut(request: Request) -> Reply:
        reply = whole(request) if callable(whole) else whole
        return Reply(reply.status, reply.body, {}, cut=1)

    server.routes[step] = cut
    assert nothing(loose, query)


def test_a_limit_that_is_reached_is_transient(loose: FakeRuns) -> None:
    route(prepared(loose), REPO, Reply(403, {}, {"x-ratelimit-remaining": "0"}))
    with pytest.raises(RecordsUnavailable, match="rate limit") as caught:
        look_up(loose)
    assert caught.value.transient


def test_one_artifact_that_cannot_be_read_does_not_hide_others(loose: FakeRuns) -> None:
    prepared(loose)
    loose.upload(loose.run(), folder_of([DB]))
    loose.storage.routes["GET /blobs/2"] = Reply(500)
    loose.storage.routes = dict(reversed(loose.storage.routes.items()))
    answer = look_up(loose, wanted=[subject("web"), subject("db")])
    assert [record.verdict for record in answer.records] == [WEB]
    assert answer.warnings == (
        f"github-runs:{REPOSITORY}: 1 artifacts could not be read: GitHub's storage answers with status 500",
    )
