"""The fake of the Actions cache, and what we say to it, judged by GitHub's own client and GitHub's own description."""

from pathlib import Path
from typing import Any

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.records import sealed
from pytest_nixos.records.actions_list import VERSION
from pytest_nixos.records.actions_service import CacheService
from pytest_nixos.records.github import GitHub
from pytest_nixos.records.places import parse_place
from pytest_nixos.records.signing import Trusted
from pytest_nixos.records.stores.actions_cache import ActionsCache, key_of, open_actions_cache
from pytest_nixos.records.stores.base import Kit
from tests.records import npm
from tests.records.fake_actions_cache import CACHES, GITHUB_TOKEN, READ, REPOSITORY, WRITE, FakeActionsCache
from tests.records.fake_github import FakeGitHub, Reply
from tests.records.github_openapi import OpenApi
from tests.records.test_actions_cache import MAIN, PULL, SYSTEM, subject, verdict, verdicts

PULL_SCOPES, MAIN_SCOPES = ((PULL, READ | WRITE), (MAIN, READ)), ((MAIN, READ | WRITE),)


def soon() -> Deadline:
    return Deadline(20)


def judged(cache: FakeActionsCache, token: str, scratch: Path, *orders: dict[str, Any]) -> list[Any]:
    """What GitHub's client says to the orders; an error as its text."""
    env = {"ACTIONS_RESULTS_URL": f"{cache.url}/", "ACTIONS_RUNTIME_TOKEN": token}
    return [result.get("value", result.get("error")) for result in npm.judge(orders, env, scratch)]


def open_store(
    cache: FakeActionsCache, place: str = "gha:", *, rest: bool = True, runtime: bool = True, token: str | None = None
) -> ActionsCache:
    """The store as a run on the default branch has it."""
    secrets = {"ACTIONS_RUNTIME_TOKEN": token or cache.token(*MAIN_SCOPES)} if runtime else {}
    env = {
        "ACTIONS_RESULTS_URL": f"{cache.url}/",
        "GITHUB_ACTIONS": "true",
        "GITHUB_REF": MAIN,
        "GITHUB_REPOSITORY": REPOSITORY,
    }
    kit = _kit(cache.url, env, secrets | ({"GITHUB_TOKEN": GITHUB_TOKEN} if rest else {}))
    return open_actions_cache(parse_place(place), kit)


def _kit(url: str, env: dict[str, str], secrets: dict[str, str]) -> Kit:
    here = Path("/")
    return Kit(
        trusted=Trusted(),
        keys=(),
        base=here,
        cache=here,
        env={"GITHUB_API_URL": url, **env},
        secrets=secrets,
        nix=lambda *_: (),
    )


def test_what_the_official_client_writes_we_read(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").write_text("saved by actions/cache")
    record = sealed.seal(verdict(1))
    (tmp_path / "record").write_bytes(record)
    put = {"order": "put", "key": key_of(verdict(1)), "version": VERSION, "file": str(tmp_path / "record")}
    with FakeActionsCache() as cache:
        token = cache.token(*MAIN_SCOPES)
        saved, made, again = judged(
            cache, token, tmp_path, {"order": "save", "key": "tree-1", "file": "folder.txt"}, put, put
        )
        assert (saved > 0, made) == (True, True)
        assert "already exists" in again
        for rest in (True, False):
            (found,) = verdicts(open_store(cache, rest=rest).lookup([subject(1)], soon()))
            assert found.check == "host1"
        open_store(cache).write([verdict(1, by="somebody later")], soon())
        (content,) = [entry.content for entry in cache.entries if entry.version == VERSION]
        assert content == record


def test_what_we_write_the_official_client_reads(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").write_text("saved by actions/cache")
    written = verdict(1)
    key, bundled = key_of(written), f"nixos-verified-v2-bundle/{SYSTEM}/"
    with FakeActionsCache() as cache:
        token = cache.token(*MAIN_SCOPES)
        judged(cache, token, tmp_path, {"order": "save", "key": "tree-1", "file": "folder.txt"})
        (saved,) = cache.entries
        CacheService(cache.url, token).put(
            "tree-2", saved.version, saved.content or b"", soon()
        )  # an archive of theirs
        open_store(cache, "gha:?bundle=no").write([written], soon())
        open_store(cache, "gha:?bundle=yes").write([verdict(2)], soon())
        (tmp_path / "folder.txt").unlink()
        answers = judged(
            cache,
            token,
            tmp_path,
            {"order": "restore", "key": "tree-2", "file": "folder.txt"},
            {"order": "restore", "key": "tree-3", "file": "folder.txt", "prefixes": ["tree-"], "lookupOnly": True},
            {"order": "restore", "key": "forest", "file": "folder.txt"},
            {"order": "get", "key": key, "version": VERSION, "file": str(tmp_path / "record")},
            {"order": "get", "key": bundled, "version": VERSION, "file": str(tmp_path / "bundle")},
            {"order": "get", "key": key, "version": "0" * 64},
            {"order": "save", "key": "tree-2", "file": "record"},
            {"order": "put", "key": key, "version": VERSION, "file": str(tmp_path / "bundle")},
        )
        entries = {entry.key: entry.content for entry in cache.entries if entry.finalized}
    assert answers[:4] == ["tree-2", "tree-2", None, key]
    assert answers[4].startswith(bundled)
    assert answers[5] is None
    assert answers[6] > 0  # another path is another version
    assert "already exists" in answers[7]
    assert (tmp_path / "folder.txt").read_text() == "saved by actions/cache"
    assert (tmp_path / "record").read_bytes() == sealed.seal(written) == entries[key]
    assert (tmp_path / "bundle").read_bytes() == entries[answers[4]]


def test_the_official_client_meets_the_same_borders(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").write_text("saved by actions/cache")
    save = {"order": "save", "key": "tree-1", "file": "folder.txt"}
    restore = {"order": "restore", "key": "tree-1", "file": "folder.txt", "lookupOnly": True}
    with FakeActionsCache() as cache:
        pull, main = cache.token(*PULL_SCOPES), cache.token(*MAIN_SCOPES)
        saved, again, seen = judged(cache, pull, tmp_path, save, save, restore)
        assert (saved > 0, again, seen) == (True, -1, "tree-1")
        assert judged(cache, main, tmp_path, restore, save) == [None, 2]
        reader = cache.token((PULL, READ), (MAIN, READ))
        denied = judged(cache, reader, tmp_path, {**save, "key": "tree-2"}, restore)
        assert denied == [-1, "tree-1"]
        assert judged(cache, "no.such.token", tmp_path, restore) == [None]
        with pytest.raises(RecordsUnavailable, match="may not write"):
            open_store(cache, token=reader).write([verdict(1)], soon())


@pytest.fixture(scope="module")
def rules() -> OpenApi:
    return OpenApi(npm.openapi())


def _repository(rules: OpenApi) -> dict[str, Any]:
    """GitHub's example, where it keeps to GitHub's description: with a language, without other repositories."""
    example: dict[str, Any] = rules.example("full-repository-default-response")
    wrong = {"parent", "source", "template_repository"}
    return {key: value for key, value in example.items() if key not in wrong} | {
        "default_branch": "main",
        "language": None,
    }


def test_github_s_description_allows_what_we_ask_and_what_the_fake_answers(rules: OpenApi) -> None:
    with FakeActionsCache(rules, _repository(rules)) as cache:
        for number in range(150):
            cache.add(key_of(verdict(number)), VERSION, MAIN, sealed.seal(verdict(number)), age=float(number))
        store = open_store(cache, "gha:?bundle=no", runtime=False)
        assert len(store.lookup([subject(n) for n in range(150)], soon()).records) == 150
        store.remove([verdict(1)], soon())
        store.remove([verdict(1)], soon())
        assert len(store.lookup([subject(n) for n in range(150)], soon()).records) == 149
        assert cache.server.wrong_answers == []
        assert len(cache.server.asked(f"DELETE {CACHES}")) == 2


@pytest.mark.parametrize(
    ("path", "params"),
    [
        (CACHES, {"version": VERSION}),
        (CACHES, {"sort": "key"}),
        (CACHES, {"direction": "down"}),
        (CACHES, {"per_page": "101"}),
        (CACHES, {"per_page": "0"}),
        (CACHES, {"page": "first"}),
        (f"/repos/{REPOSITORY}", {"page": "1"}),
        (f"/repos/{REPOSITORY}/actions/hoards", {}),
    ],
)
def test_what_the_description_does_not_allow_is_refused(rules: OpenApi, path: str, params: dict[str, str]) -> None:
    with FakeActionsCache(rules, _repository(rules)) as cache:
        kit = open_store(cache)._github
        with pytest.raises(RecordsUnavailable, match="422"):
            kit.get(path, params, soon())


@pytest.mark.parametrize(
    "content",
    [
        {"total_count": 1},
        {"total_count": "1", "actions_caches": []},
        {"total_count": 1, "actions_caches": [{"ref": 1}]},
    ],
)
def test_an_answer_that_github_would_not_give_is_noticed(rules: OpenApi, content: dict[str, Any]) -> None:
    with FakeGitHub({f"GET {CACHES}": Reply(200, content)}, rules) as server:
        GitHub(_kit(server.url, {}, {}), REPOSITORY).get(CACHES, {}, soon())
        assert len(server.wrong_answers) == 1
