import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.records.github import GitHub
from pytest_nixos.records.signing import Trusted
from pytest_nixos.records.stores.base import Kit
from tests.records.fake_github import FakeGitHub, Reply, page_of

TOKEN = "ghp_" + "s" * 36
ITEMS = [{"id": number} for number in range(250)]


@pytest.fixture
def server() -> Iterator[FakeGitHub]:
    with FakeGitHub({"GET /list": lambda request: page_of(request, "items", ITEMS)}) as fake:
        yield fake


def github(url: str, repository: str | None = "o/r", **secrets: str) -> GitHub:
    here = Path("/")
    kit = Kit(
        trusted=Trusted(),
        keys=(),
        base=here,
        cache=here,
        env={"GITHUB_API_URL": f"{url}/", "GITHUB_REPOSITORY": "env/ironment"},
        secrets=secrets,
        nix=lambda *_: (),
    )
    return GitHub(kit, repository)


def soon() -> Deadline:
    return Deadline(20)


@pytest.mark.parametrize(
    ("secrets", "header"),
    [
        ({}, None),
        ({"GITHUB_TOKEN": f"{TOKEN}\n"}, f"Bearer {TOKEN}"),
        ({"GH_TOKEN": TOKEN}, f"Bearer {TOKEN}"),
        ({"GH_TOKEN": "other", "GITHUB_TOKEN": TOKEN}, f"Bearer {TOKEN}"),
    ],
)
def test_it_asks_as_github_wishes(server: FakeGitHub, secrets: dict[str, str], header: str | None) -> None:
    server.routes["GET /x"] = Reply(200, {"a": 1})
    client = github(server.url, **secrets)
    assert client.get("/x", {"q": "a b&c"}, soon()) == {"a": 1}
    (request,) = server.requests
    assert request.headers.get("authorization") == header
    assert client.authenticated == (header is not None)
    assert request.headers["x-github-api-version"] == "2022-11-28"
    assert request.headers["accept"] == "application/vnd.github+json"
    assert request.params == {"q": "a b&c"}


def test_the_repository_is_the_run_s_unless_named(server: FakeGitHub) -> None:
    assert github(server.url, None).repository == "env/ironment"
    assert github(server.url).repository == "o/r"
    for wrong in ("x", "a/b/c", "a/..", "a/b?c", "a b/c", "a/b\n"):
        with pytest.raises(PytestNixosError):
            github(server.url, wrong)


@pytest.mark.parametrize(
    ("limit", "requests", "size"), [(1, 1, "1"), (100, 1, "100"), (150, 2, "100"), (9999, 3, "100")]
)
def test_pages(server: FakeGitHub, limit: int, requests: int, size: str) -> None:
    assert github(server.url).pages("/list", {}, soon(), "items", limit) == ITEMS[:limit]
    assert len(server.requests) == requests
    assert {request.params["per_page"] for request in server.requests} == {size}


def test_a_count_that_lies_makes_no_more_requests_than_the_limit_needs(server: FakeGitHub) -> None:
    full = [{"id": 1}] * 100
    server.routes["GET /lie"] = Reply(200, {"total_count": 10**9, "items": full})
    assert len(github(server.url).pages("/lie", {}, soon(), "items", 300)) == 300
    assert len(server.requests) == 3
    server.routes["GET /lie"] = Reply(200, {"total_count": 10**9, "items": []})
    assert github(server.url).pages("/lie", {}, soon(), "items", 300) == []


def test_a_file_comes_from_the_storage_which_gets_no_token(server: FakeGitHub) -> None:
    with FakeGitHub({"GET /blob": Reply(200, b"content")}) as storage:
        server.routes["GET /zip"] = Reply(302, b"", {"Location": f"{storage.url}/blob?sig=x"})
        assert github(server.url, GITHUB_TOKEN=TOKEN).download("/zip", soon(), 7) == b"content"
        assert "authorization" in server.requests[0].headers
        assert "authorization" not in storage.requests[0].headers
        with pytest.raises(RecordsUnavailable, match="longer than 6 bytes"):
            github(server.url).download("/zip", soon(), 6)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Reply(302, b""), None),
        (Reply(302, b"", {"Location": "file:///etc/passwd"}), None),
        (Reply(302, b"", {"Location": "/zip"}), None),
        (Reply(302, b"", {"Location": "/blob"}), Reply(302, b"", {"Location": "/zip"})),
        (Reply(302, b"", {"Location": "/blob"}), Reply(404, b"gone")),
        (Reply(302, b"", {"Location": "/blob"}), Reply(200, b"half", cut=2)),
        (Reply(410, {"message": "Artifact has expired"}), None),
    ],
)
def test_a_file_that_does_not_come_is_an_error(server: FakeGitHub, first: Reply, second: Reply | None) -> None:
    server.routes |= {"GET /zip": first} | ({"GET /blob": second} if second else {})
    with pytest.raises(RecordsUnavailable):
        github(server.url).download("/zip", soon(), 100)
    assert len(server.requests) <= 2


def test_nobody_is_sent_from_https_to_http() -> None:
    from pytest_nixos.records.http import Answer

    for target in ("http://storage/x", "ftp://x"):
        with pytest.raises(RecordsUnavailable, match="not https"):
            github("https://api.github.test")._target(Answer(status=302, headers={"location": target}, body=b""))


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (Reply(429, b"", {"Retry-After": "17"}), "17 s"),
        (Reply(403, b"", {"Retry-After": "18"}), "18 s"),
        (Reply(403, b"", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) - 9)}), "1 s"),
        (Reply(403, b"", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "soon"}), "60 s"),
        (Reply(429, b"", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), "60 s"),
    ],
)
def test_a_rate_limit_says_how_long_it_lasts(server: FakeGitHub, reply: Reply, seconds: str) -> None:
    server.routes["GET /x"] = reply
    with pytest.raises(RecordsUnavailable, match=f"in {seconds}") as error:
        github(server.url).get("/x", {}, soon())
    assert error.value.transient


@pytest.mark.parametrize(
    ("status", "token", "hint", "transient"),
    [
        (401, TOKEN, "not valid", False),
        (403, TOKEN, "actions: read", False),
        (404, TOKEN, "actions: read", False),
        (404, "", "GITHUB_TOKEN", False),
        (301, TOKEN, "new name", False),
        (422, TOKEN, "", False),
        (503, TOKEN, "", True),
    ],
)
def test_errors_say_what_to_do(server: FakeGitHub, status: int, token: str, hint: str, transient: bool) -> None:
    server.routes["GET /x"] = Reply(status, {"message": "Some words"})
    with pytest.raises(RecordsUnavailable, match=rf"{status} \(Some words\)") as error:
        github(server.url, GITHUB_TOKEN=token).get("/x", {}, soon())
    assert hint in error.value.hint
    assert bool(hint) == bool(error.value.hint)
    assert error.value.transient == transient


@pytest.mark.parametrize("message", [f"token {TOKEN}", "x" * 201, "\x1b[31mred", 7, None])
def test_what_github_says_is_not_shown_blindly(server: FakeGitHub, message: object) -> None:
    server.routes["GET /x"] = Reply(403, {"message": message})
    with pytest.raises(RecordsUnavailable) as error:
        github(server.url, GITHUB_TOKEN=TOKEN).get("/x", {}, soon())
    assert error.value.message == "GitHub answers with status 403 for o/r"


def test_what_is_gone_is_deleted(server: FakeGitHub) -> None:
    server.routes["DELETE /ok"] = Reply(204, b"")
    for path in ("/ok", "/gone"):
        github(server.url).delete(path, {}, soon())
    server.routes["DELETE /no"] = Reply(403, b"")
    with pytest.raises(RecordsUnavailable):
        github(server.url).delete("/no", {}, soon())


def test_a_server_that_is_not_there_is_transient() -> None:
    with pytest.raises(RecordsUnavailable, match="does not answer") as error:
        github("http://127.0.0.1:9").get("/x", {}, Deadline(5))
    assert error.value.transient
