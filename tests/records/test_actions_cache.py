"""The Actions cache as a record store, against a fake that GitHub's own client judges (test_actions_cache_judges)."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.model import Derivation, Outcome, Record, Subject, Verdict
from pytest_nixos.records import actions_service, bundle, sealed
from pytest_nixos.records.actions_list import VERSION, Row, own_refs, parse_row
from pytest_nixos.records.actions_service import scopes
from pytest_nixos.records.places import parse_place
from pytest_nixos.records.signing import Trusted
from pytest_nixos.records.stores import actions_cache
from pytest_nixos.records.stores.actions_bundles import newest_of_each_session
from pytest_nixos.records.stores.actions_cache import ActionsCache, key_of, open_actions_cache
from pytest_nixos.records.stores.base import Found, Kit
from tests.records.fake_actions_cache import CACHES, GITHUB_TOKEN, READ, REPOSITORY, SERVICE, WRITE, FakeActionsCache
from tests.records.fake_github import Reply, Request
from tests.records.keys import PUBLIC, SECRET

MAIN, FEATURE, PULL = "refs/heads/main", "refs/heads/feature", "refs/pull/7/merge"
SYSTEM = "x86_64-linux"
DAY = 86400.0
LIST = f"GET {CACHES}"
FIND = f"POST {SERVICE}GetCacheEntryDownloadURL"
CREATE = f"POST {SERVICE}CreateCacheEntry"


def soon() -> Deadline:
    return Deadline(20)


def subject(number: int = 1) -> Subject:
    drv, out, driver = (f"/nix/store/{kind}{number:031d}-web" for kind in "abc")
    derivation = Derivation(drv_path=f"{drv}.drv", outputs={"out": out})
    return Subject(check=f"host{number}", system=SYSTEM, derivation=derivation, driver=driver)


def verdict(number: int = 1, **changes: object) -> Verdict:
    made = actions_cache._passed(subject(number))
    made = dataclasses.replace(made, finished_at=float(int(time.time())), seconds=3.0, by="ci@runner")
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def cache() -> Iterator[FakeActionsCache]:
    with FakeActionsCache() as fake:
        yield fake


Opener = Callable[..., ActionsCache]


@pytest.fixture
def store(cache: FakeActionsCache, tmp_path: Path) -> Opener:
    """Opens the store as a run on a ref has it; ref None: at a desk. rest, runtime: which token there is."""

    def open_(
        ref: str | None = MAIN,
        place: str = "gha:",
        *,
        base: str = "",
        rest: bool = True,
        runtime: bool = True,
        signed: bool = False,
        **more: str,
    ) -> ActionsCache:
        env, secrets = {"GITHUB_API_URL": cache.url, "GITHUB_REPOSITORY": REPOSITORY, **more}, {}
        if ref is not None:
            env |= {"GITHUB_ACTIONS": "true", "GITHUB_REF": ref, "GITHUB_BASE_REF": base, "GITHUB_RUN_ID": "42"}
            env |= {"ACTIONS_RESULTS_URL": cache.url}
        if ref is not None and runtime:
            others = [MAIN, *([f"refs/heads/{base}"] if base else [])]
            secrets["ACTIONS_RUNTIME_TOKEN"] = cache.token(
                (ref, READ | WRITE), *((other, READ) for other in others if other != ref)
            )
        if rest:
            secrets["GITHUB_TOKEN"] = GITHUB_TOKEN
        kit = Kit(
            trusted=Trusted([PUBLIC]) if signed else Trusted(),
            keys=(SECRET,) if signed else (),
            base=tmp_path,
            cache=tmp_path,
            env=env,
            secrets=secrets,
            nix=lambda *_: (),
        )
        return open_actions_cache(parse_place(place), kit)

    return open_


def verdicts(found: Found) -> list[Verdict]:
    return [record.verdict for record in found.records]


def same(found: Verdict, written: Verdict) -> bool:
    """Whether both prove the same; a key does not tell by whom and how long."""
    return dataclasses.replace(found, by="", seconds=0, finished_at=0) == dataclasses.replace(
        written, by="", seconds=0, finished_at=0
    )


# Reading and writing


@pytest.mark.parametrize("rest", [True, False], ids=["by REST", "by the service"])
def test_what_is_written_is_found(store: Opener, rest: bool) -> None:
    store().write([verdict(1), verdict(2)], soon())
    found = store(rest=rest).lookup([subject(1), subject(2), subject(3)], soon())
    assert not found.warnings
    assert sorted(v.check for v in verdicts(found)) == ["host1", "host2"]
    assert all(any(same(v, verdict(n)) for n in (1, 2)) for v in verdicts(found))


def test_a_key_tells_when_it_was_written_and_on_which_ref(cache: FakeActionsCache, store: Opener) -> None:
    cache.add(key_of(verdict(1, flags=("tcg",))), VERSION, MAIN, age=100.0)
    (found,) = verdicts(store(None).lookup([subject(1)], soon()))
    assert found.finished_at == pytest.approx(time.time() - 100, abs=2)
    assert found.by == "GitHub Actions, refs/heads/main"
    assert found.flags == ("tcg",)


def test_a_failure_is_read_as_a_failure(store: Opener) -> None:
    store().write([verdict(1, outcome=Outcome.FAILED)], soon())
    assert [v.outcome for v in verdicts(store().lookup([subject(1)], soon()))] == [Outcome.FAILED]
    assert not store(rest=False).lookup([subject(1)], soon()).records


def test_the_same_output_of_another_derivation_is_no_answer_of_a_key(cache: FakeActionsCache, store: Opener) -> None:
    other = verdict(1, drv_path=f"/nix/store/{'z' * 32}-web.drv")
    cache.add(key_of(other), VERSION, MAIN)
    assert not store().lookup([subject(1)], soon()).records


def test_to_write_again_is_success_and_changes_nothing(cache: FakeActionsCache, store: Opener) -> None:
    store().write([verdict(1)], soon())
    before = cache.entries[0].content
    store().write([verdict(1, by="another")], soon())
    assert [entry.content for entry in cache.entries] == [before]


def test_a_batch_that_failed_goes_on_where_it_stopped(cache: FakeActionsCache, store: Opener) -> None:
    opened, put, broken = store(), cache.server.routes["PUT /storage/{id}"], {"2"}

    def sometimes(request: Request) -> Reply:
        assert callable(put)
        return Reply(503) if request.parts["id"] in broken else put(request)

    cache.server.routes["PUT /storage/{id}"] = sometimes
    batch, wanted = [verdict(n) for n in (1, 2, 3)], [subject(n) for n in (1, 2, 3)]
    with pytest.raises(RecordsUnavailable) as error:
        opened.write(batch, soon())
    assert error.value.transient
    assert len(store().lookup(wanted, soon()).records) < 3
    broken.clear()
    opened.write(batch, soon())
    assert len(store().lookup(wanted, soon()).records) == 3
    assert len(cache.server.asked(CREATE)) == 3


def test_the_service_takes_a_key_once(cache: FakeActionsCache, store: Opener) -> None:
    service = store()._service
    assert service is not None
    for content in (b"first", b"second"):
        service.put("key", VERSION, content, soon())
    assert [entry.content for entry in cache.entries] == [b"first"]


def test_too_many_requests_end_a_batch(cache: FakeActionsCache, store: Opener) -> None:
    cache.server.routes[CREATE] = Reply(429, {"code": "resource_exhausted"}, {"Retry-After": "17"})
    with pytest.raises(RecordsUnavailable, match="17 s") as error:
        store(place="gha:?bundle=no").write([verdict(n) for n in range(100)], soon())
    assert error.value.transient
    assert len(cache.server.requests) <= 8  # those that were on their way


def test_what_can_be_no_key_is_not_written(cache: FakeActionsCache, store: Opener) -> None:
    for wrong in (verdict(system="a/b"), verdict(system="a,b"), verdict(flags=tuple(f"x{n:030d}" for n in range(20)))):
        with pytest.raises(RecordsUnavailable, match="can't be the key"):
            store().write([wrong], soon())
    with pytest.raises(RecordsUnavailable, match="can't be in"):
        store(place="gha:?bundle=yes").write([verdict(system="a,b")], soon())
    assert not cache.entries


def test_many_writers_of_the_same_records(cache: FakeActionsCache, store: Opener) -> None:
    opened = [store(place="gha:?bundle=no") for _ in range(8)]
    failures: list[Exception] = []

    def write(one: ActionsCache) -> None:
        try:
            one.write([verdict(n) for n in range(25)], soon())
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(one,)) for one in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(cache.entries) == len({entry.key for entry in cache.entries if entry.finalized}) == 25


# Who may write, and what is missing


def test_without_the_token_of_a_run_the_hint_says_how_to_get_it(store: Opener) -> None:
    with pytest.raises(RecordsUnavailable, match="ACTIONS_RUNTIME_TOKEN") as error:
        store(runtime=False).write([verdict()], soon())
    assert not error.value.transient
    assert "github-script" in error.value.hint


def test_a_token_that_may_only_read_is_not_tried(cache: FakeActionsCache, store: Opener) -> None:
    opened = store(FEATURE)
    assert opened._service is not None
    opened._service._scopes = scopes(cache.token((FEATURE, READ)))
    with pytest.raises(RecordsUnavailable, match="may not write"):
        opened.write([verdict()], soon())
    assert not cache.server.requests


@pytest.mark.parametrize(
    ("mode", "written", "read"), [("read", 0, 1), ("none", 0, 0), ("write-only", 1, 0), ("write", 1, 1)]
)
def test_the_mode_that_the_runner_allows_is_kept(
    cache: FakeActionsCache, store: Opener, mode: str, written: int, read: int
) -> None:
    cache.add(key_of(verdict(1)), VERSION, MAIN, sealed.seal(verdict(1)))
    opened = store(rest=False, ACTIONS_CACHE_MODE=mode)
    assert len(opened.lookup([subject(1)], soon()).records) == read
    try:
        opened.write([verdict(2)], soon())
    except RecordsUnavailable:
        assert not written
    assert len(cache.entries) == 1 + written


def test_another_repository_is_read_and_never_written(cache: FakeActionsCache, store: Opener) -> None:
    path = "/repos/other/hosts"
    row = {**cache.add(key_of(verdict(1)), VERSION, "refs/heads/trunk").row}
    cache.server.routes |= {
        f"GET {path}": Reply(200, {"default_branch": "trunk"}),
        f"GET {path}/actions/caches": Reply(200, {"total_count": 1, "actions_caches": [row]}),
    }
    opened = store(MAIN, "gha:other/hosts", PYTEST_NIXOS_DEFAULT_BRANCH="main")
    assert len(opened.lookup([subject(1)], soon()).records) == 1
    assert {r.params["ref"] for r in cache.server.asked(f"GET {path}/actions/caches")} == {"refs/heads/trunk"}
    assert not cache.server.asked(FIND)
    with pytest.raises(RecordsUnavailable, match="as a run of that repository"):
        opened.write([verdict()], soon())


@pytest.mark.parametrize("place", ["gha:no-slash", "gha:a/b/c", "gha:../x", "gha:a b/c", "gha:?bundle=maybe"])
def test_what_names_no_repository_is_an_error(store: Opener, place: str) -> None:
    with pytest.raises(PytestNixosError):
        store(MAIN, place)


def test_the_name_is_short(store: Opener) -> None:
    assert store().name == "gha:octo/hosts"


# Refs


def test_a_pull_request_reads_itself_its_base_and_the_default_branch(cache: FakeActionsCache, store: Opener) -> None:
    refs = (PULL, "refs/heads/release", MAIN, FEATURE, "refs/pull/8/merge")
    for number, ref in enumerate(refs):
        cache.add(key_of(verdict(number)), VERSION, ref, sealed.seal(verdict(number)))
    wanted = [subject(number) for number in range(len(refs))]
    found = store(PULL, base="release").lookup(wanted, soon())
    assert sorted(v.check for v in verdicts(found)) == ["host0", "host1", "host2"]
    by_service = store(PULL, base="release", rest=False).lookup(wanted, soon())
    assert sorted(v.check for v in verdicts(by_service)) == ["host0", "host1", "host2"]


def test_a_desk_reads_the_default_branch_alone(cache: FakeActionsCache, store: Opener) -> None:
    for number, ref in enumerate((MAIN, FEATURE, PULL)):
        cache.add(key_of(verdict(number)), VERSION, ref)
    found = store(None, GITHUB_REF=FEATURE).lookup([subject(n) for n in range(3)], soon())
    assert [v.check for v in verdicts(found)] == ["host0"]


def test_what_a_pull_request_writes_is_seen_by_nobody_else(store: Opener) -> None:
    store(PULL, base="main").write([verdict(1)], soon())
    assert store(PULL, base="main").lookup([subject(1)], soon()).records
    for ref, base in ((MAIN, ""), (FEATURE, ""), ("refs/pull/8/merge", "main"), (None, "")):
        for rest in (True, False) if ref else (True,):
            assert not store(ref, base=base, rest=rest).lookup([subject(1)], soon()).records


def test_the_default_branch_is_asked_for_once_unless_it_is_known(cache: FakeActionsCache, store: Opener) -> None:
    opened = store(FEATURE)
    opened.lookup([subject(1)], soon())
    opened.lookup([subject(1)], soon())
    assert len(cache.server.asked(f"GET /repos/{REPOSITORY}")) == 1
    store(FEATURE, PYTEST_NIXOS_DEFAULT_BRANCH="main").lookup([subject(1)], soon())
    assert len(cache.server.asked(f"GET /repos/{REPOSITORY}")) == 1


@pytest.mark.parametrize(
    ("env", "refs"),
    [
        ({}, ()),
        ({"GITHUB_REF": PULL}, ()),
        ({"GITHUB_ACTIONS": "true", "GITHUB_REF": "main"}, ()),
        ({"GITHUB_ACTIONS": "true"}, ()),
        ({"GITHUB_ACTIONS": "true", "GITHUB_REF": FEATURE}, (FEATURE,)),
        ({"GITHUB_ACTIONS": "true", "GITHUB_REF": PULL, "GITHUB_BASE_REF": "dev"}, (PULL, "refs/heads/dev")),
    ],
)
def test_own_refs(env: dict[str, str], refs: tuple[str, ...]) -> None:
    assert own_refs({"GITHUB_REPOSITORY": "Octo/Hosts", **env}, REPOSITORY) == refs
    assert own_refs({"GITHUB_REPOSITORY": "other/hosts", **env}, REPOSITORY) == ()


# What must not be believed


def _row(**changes: object) -> dict[str, object]:
    moment = "2026-11-01T10:00:00Z"
    row = {"id": 1, "ref": MAIN, "key": key_of(verdict(1)), "version": VERSION, "created_at": moment}
    return {**row, "last_accessed_at": moment, "size_in_bytes": 1, **changes}


KEY = key_of(verdict(1))
FOREIGN = {
    "other ref": _row(ref=FEATURE),
    "other case of the ref": _row(ref="refs/heads/Main"),
    "pull request": _row(ref=PULL),
    "no ref": _row(ref=None),
    "other version": _row(version="0" * 64),
    "no version": _row(version=None),
    "begin of a key": _row(key=KEY[:-1]),
    "key with more": _row(key=KEY + "-2"),
    "key with newline": _row(key=KEY + "\n"),
    "flag of no form": _row(key=KEY + "+TCG"),
    "older schema": _row(key=KEY.replace("-v2/", "-v1/")),
    "future schema": _row(key=KEY.replace("-v2/", "-v3/")),
    "other system": _row(key=KEY.replace("x86_64", "aarch64")),
    "other derivation": _row(key=KEY.replace("a000", "z000")),
    "other output": _row(key=KEY.replace("b000", "z000")),
    "other driver": _row(key=KEY.replace("c000", "z000")),
    "no driver": _row(key=KEY.replace("c0000000000000000000000000000001", "-")),
    "outcome of another kind": _row(key=KEY.replace("passed", "verified")),
    "outcome in capitals": _row(key=KEY.replace("passed", "PASSED")),
    "key of a bundle": _row(key=KEY.replace("-v2/", "-v2-bundle/")),
    "key is a number": _row(key=1),
    "key is a list": _row(key=[KEY]),
    "version is a list": _row(version=[VERSION]),
    "no time": _row(created_at=None),
    "time is a number": _row(created_at=1.0),
    "time of no zone": _row(created_at="2026-11-01T10:00:00"),
    "time is text": _row(created_at="yesterday"),
    "empty": {},
}


@pytest.mark.parametrize("row", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_row_proves_nothing(cache: FakeActionsCache, store: Opener, row: dict[str, object]) -> None:
    cache.server.routes[LIST] = lambda request: Reply(
        200, {"total_count": 1, "actions_caches": [row] if "bundle" not in request.params["key"] else []}
    )
    assert store(MAIN).lookup([subject(1)], soon()).records == ()


KEYS = st.text() | st.sampled_from([KEY, KEY + "x", KEY[:-1]]) | st.text().map(lambda text: KEY + text)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "key": KEYS | st.integers() | st.none(),
        "ref": st.sampled_from([MAIN, FEATURE, ""]) | st.text() | st.none(),
        "version": st.sampled_from([VERSION, "1"]) | st.lists(st.text()),
        "created_at": st.sampled_from(["2026-11-01T10:00:00Z"]) | st.text() | st.floats() | st.none(),
        "last_accessed_at": st.text() | st.integers(),
    },
)


@given(ROWS)
def test_no_row_at_all_proves_a_check_but_its_own(item: dict[str, object]) -> None:
    row = parse_row(item, MAIN, f"nixos-verified-v2/{SYSTEM}/")
    records = list(actions_cache._by_name([row] if row else [], [subject(1)]))
    ours = (item.get("ref"), item.get("version")) == (MAIN, VERSION)
    flagged = str(item.get("key")).startswith(KEY + "+") and all(record.verdict.flags for record in records)
    assert not records or (ours and (item["key"] == KEY or flagged))


def test_the_row_that_the_foreign_ones_are_made_of_is_believed(cache: FakeActionsCache, store: Opener) -> None:
    cache.server.routes[LIST] = lambda request: Reply(200, {"total_count": 1, "actions_caches": [_row()]})
    assert len(store(MAIN).lookup([subject(1)], soon()).records) == 1


def test_what_is_foreign_is_told_once(cache: FakeActionsCache, store: Opener) -> None:
    for number in range(300):
        cache.add(f"nixos-verified-v2/{SYSTEM}/{number}", VERSION, MAIN)
    (warning,) = store(None).lookup([subject(1)], soon()).warnings
    assert warning.startswith("300 entries")


FAILED = key_of(verdict(1, outcome=Outcome.FAILED))
FLAGGED = key_of(verdict(1, flags=("retried", "tcg")))


def test_outcome_and_flags_of_a_key_are_passed_on(cache: FakeActionsCache, store: Opener) -> None:
    cache.add(FAILED, VERSION, MAIN)
    cache.add(FLAGGED, VERSION, MAIN)
    found = verdicts(store(None).lookup([subject(1)], soon()))
    assert {(v.outcome, v.flags) for v in found} == {(Outcome.FAILED, ()), (Outcome.PASSED, ("retried", "tcg"))}


BROKEN = {
    "401": Reply(401, {"message": "Bad credentials"}),
    "403": Reply(403, {"message": "Resource not accessible by integration"}),
    "rate limit": Reply(403, {"message": "API rate limit exceeded"}, {"X-RateLimit-Remaining": "0"}),
    "404": Reply(404, {"message": "Not Found"}),
    "422": Reply(422, {"message": "Validation Failed"}),
    "429": Reply(429, {"message": "slow down"}, {"Retry-After": "3"}),
    "500": Reply(500, b"oops"),
    "502 with a page": Reply(502, b"<html>Unicorn!</html>"),
    "200 with a page": Reply(200, b"<html>Sign in</html>"),
    "204": Reply(204, b""),
    "truncated": Reply(200, {"total_count": 1, "actions_caches": [_row()]}, cut=40),
    "half of the JSON": Reply(200, json.dumps({"total_count": 1, "actions_caches": [_row()]}).encode()[:-2]),
    "no object": Reply(200, [_row()]),
    "no list": Reply(200, {"total_count": 1, "actions_caches": {"0": _row()}}),
    "no count": Reply(200, {"actions_caches": [_row()]}),
    "count is text": Reply(200, {"total_count": "1", "actions_caches": [_row()]}),
    "count is a truth": Reply(200, {"total_count": True, "actions_caches": [_row()]}),
    "rows are text": Reply(200, {"total_count": 1, "actions_caches": [json.dumps(_row())]}),
    "deep": Reply(200, b"[" * 100_000),
    "redirect loop": Reply(302, b"", {"Location": CACHES}),
    "redirect elsewhere": Reply(301, b"", {"Location": "https://example.invalid/"}),
    "no UTF-8": Reply(200, b'{"total_count": 1, "actions_caches": ["\xff"]}'),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_finds_nothing(cache: FakeActionsCache, store: Opener, reply: Reply) -> None:
    cache.server.routes[LIST] = reply
    with pytest.raises(RecordsUnavailable) as error:
        store(None).lookup([subject(1)], soon())
    assert error.value.transient == (
        reply.status in {429, 500, 502}
        or "limit" in str(reply.content)
        or reply.cut > 0
        or (reply.status == 200 and isinstance(reply.content, bytes))
    )
    assert GITHUB_TOKEN not in repr(error.value)
    assert len(cache.server.requests) <= 3


def test_an_empty_list_is_nothing_and_no_error(store: Opener) -> None:
    assert store(None).lookup([subject(1)], soon()) == Found()


def test_a_server_that_hangs_takes_no_longer_than_the_deadline(cache: FakeActionsCache, store: Opener) -> None:
    cache.server.routes[LIST] = Reply(200, {"total_count": 1, "actions_caches": [_row()]}, slow=30)
    before = time.monotonic()
    with pytest.raises(RecordsUnavailable, match="does not answer") as error:
        store(None).lookup([subject(1)], Deadline(0.2))
    assert time.monotonic() - before < 2
    assert error.value.transient


def test_a_page_that_fails_makes_the_look_up_fail(cache: FakeActionsCache, store: Opener) -> None:
    listing = cache.server.routes[LIST]
    for number in range(250):
        cache.add(key_of(verdict(number)), VERSION, MAIN)

    def third_fails(request: Request) -> Reply:
        assert callable(listing)
        return Reply(502) if request.params["page"] == "3" else listing(request)

    cache.server.routes[LIST] = third_fails
    with pytest.raises(RecordsUnavailable):
        store(None).lookup([subject(1)], soon())


# By the service


ANSWERS = {
    "nothing": Reply(200, {"ok": False, "signed_download_url": "", "matched_key": ""}),
    "not found": Reply(404, {"code": "not_found", "msg": ""}),
    "key with more": lambda url: Reply(200, {"ok": True, "signed_download_url": url, "matched_key": KEY + "+tcg"}),
    "begin of the key": lambda url: Reply(200, {"ok": True, "signed_download_url": url, "matched_key": KEY[:-1]}),
    "no key": lambda url: Reply(200, {"ok": True, "signed_download_url": url}),
    "ok is text": lambda url: Reply(200, {"ok": "true", "signed_download_url": url, "matched_key": KEY}),
    "no ok": lambda url: Reply(200, {"signed_download_url": url, "matched_key": KEY}),
    "no address": Reply(200, {"ok": True, "matched_key": KEY}),
    "a file": Reply(200, {"ok": True, "signed_download_url": "file:///etc/passwd", "matched_key": KEY}),
    "401": Reply(401, {"code": "unauthenticated"}),
    "403": Reply(403, {"code": "permission_denied", "msg": "cache read denied: no scopes"}),
    "429": Reply(429, b"", {"Retry-After": "3"}),
    "500": Reply(500, b"<html>"),
    "page": Reply(200, b"<html>"),
    "list": Reply(200, []),
    "truncated": lambda url: Reply(200, {"ok": True, "signed_download_url": url, "matched_key": KEY}, cut=5),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_a_wrong_answer_of_the_service_finds_nothing(
    cache: FakeActionsCache, store: Opener, answer: Reply | Callable[[str], Reply]
) -> None:
    entry = cache.add(KEY, VERSION, MAIN, sealed.seal(verdict(1)))
    cache.server.routes[FIND] = answer if isinstance(answer, Reply) else answer(cache._address(entry))
    opened = store(rest=False, place="gha:?bundle=no")
    found = opened.lookup([subject(1)], soon())
    assert found.records == ()
    assert all("eyJ" not in warning and entry.signature not in warning for warning in found.warnings)


CONTENTS = {
    "nothing": b"",
    "another host's": sealed.seal(verdict(2)),
    "a flagged one": sealed.seal(verdict(1, flags=("tcg",))),
    "a failure": sealed.seal(verdict(1, outcome=Outcome.FAILED)),
    "another driver's": sealed.seal(verdict(1, driver=None)),
    "another system's": sealed.seal(verdict(1, system="aarch64-linux")),
    "a future schema": sealed.seal(verdict(1)).replace(b'"v":2', b'"v":3'),
    "truncated": sealed.seal(verdict(1))[:-1],
    "more": sealed.seal(verdict(1)) + b"x",
    "two": sealed.seal(verdict(1)) * 2,
    "too long": sealed.seal(verdict(1, by="x" * 5000)),
    "a bundle": bundle.encode([sealed.seal(verdict(1))]),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_content_that_is_not_the_key_s_proves_nothing(cache: FakeActionsCache, store: Opener, content: bytes) -> None:
    cache.add(KEY, VERSION, MAIN, content)
    found = store(rest=False, place="gha:?bundle=no").lookup([subject(1)], soon())
    assert found.records == ()
    assert len(found.warnings) == 1


@pytest.mark.parametrize("reply", [Reply(403), Reply(404), Reply(500), Reply(302, b"", {"Location": "/"})])
def test_a_storage_that_fails_is_one_warning_for_all(cache: FakeActionsCache, store: Opener, reply: Reply) -> None:
    for number in range(20):
        cache.add(key_of(verdict(number)), VERSION, MAIN, sealed.seal(verdict(number)))
    cache.server.routes["GET /storage/{id}"] = reply
    found = store(rest=False, place="gha:?bundle=no").lookup([subject(n) for n in range(20)], soon())
    assert found.records == ()
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("20 records")
    assert f"status {reply.status}" in found.warnings[0]


def test_content_comes_from_https_where_the_service_does() -> None:
    for url in ("http://storage/x", "file:///x", "", None, 1):
        with pytest.raises(RecordsUnavailable, match="no usable address"):
            actions_service._address({"url": url}, "url", "https://results.test/")
    assert actions_service._address({"url": "https://s/x"}, "url", "https://results.test/") == "https://s/x"


@pytest.mark.parametrize(
    "claims",
    [
        "",
        "x",
        "a.b.c",
        "a.!!!.c",
        "a.e30.c",
        "a.bnVsbA.c",
        # {"ac": 1}, {"ac": "1"}, {"ac": "[1]"}, {"ac":"[{}]"}
        "a.eyJhYyI6IDF9.c",
        "a.eyJhYyI6ICIxIn0.c",
        "a.eyJhYyI6ICJbMV0ifQ.c",
        "a.eyJhYyI6Ilt7fV0ifQ.c",
    ],
)
def test_claims_that_say_nothing(claims: str) -> None:
    assert scopes(claims) is None


@given(st.text())
def test_no_token_breaks_us(token: str) -> None:
    scopes(token)
    scopes(f"a.{token}.c")


def test_the_claims_of_a_token(cache: FakeActionsCache) -> None:
    told = scopes(cache.token((PULL, READ | WRITE), (MAIN, READ), ("refs/heads/x", WRITE)))
    assert told is not None
    assert (told.read, told.write) == ((PULL, MAIN), (PULL, "refs/heads/x"))


def test_no_error_text_and_no_repr_holds_a_token(cache: FakeActionsCache, store: Opener) -> None:
    opened = store()
    assert opened._service is not None
    runtime = opened._service._token
    texts = [repr(opened), repr(opened._service), repr(opened._github)]
    for status in (400, 401, 403, 404, 409, 429, 500):
        for content in ({"message": f"no {GITHUB_TOKEN}", "code": runtime, "msg": runtime}, b"x"):
            for route in (LIST, FIND, f"DELETE {CACHES}"):
                cache.server.routes[route] = Reply(status, content)
            denied = {"ok": False, "message": f"cache write denied: {runtime}"}
            cache.server.routes[CREATE] = Reply(200, denied) if status == 403 else Reply(status, content)
            calls: list[Callable[[], object]] = [
                lambda: opened.lookup([subject(1)], soon()),
                lambda: opened.write([verdict(1)], soon()),
                lambda: opened.remove([verdict(1)], soon()),
                lambda: opened.every(soon()),
                lambda: opened.renew([verdict(1, finished_at=0.0)], soon()),
            ]
            for call in calls:
                try:
                    texts.append(repr(call()))
                except RecordsUnavailable as error:
                    texts += [repr(error), str(error)]
    assert len(texts) > 70
    assert not [text for text in texts if GITHUB_TOKEN in text or runtime in text]


def test_the_word_of_the_service_is_not_shown_blindly() -> None:
    service = actions_service.CacheService("https://results.test/", "token-1")
    assert service._said({"message": "cache write denied: read-only"}) == ": cache write denied: read-only"
    for message in ("token-1 is bad", "x" * 201, "\x1b[0m", "", 1, None):
        assert service._said({"message": message}) == ""


def test_no_token_goes_to_the_storage(cache: FakeActionsCache, store: Opener) -> None:
    store().write([verdict(1)], soon())
    store(rest=False).lookup([subject(1)], soon())
    storage = [request for request in cache.server.requests if request.path.startswith("/storage")]
    assert len(storage) == 2
    assert all("authorization" not in request.headers for request in storage)


# Signatures


def test_where_signatures_count_the_content_is_read(store: Opener) -> None:
    store(signed=True).write([verdict(1)], soon())
    store().write([verdict(2)], soon())
    wanted = [subject(1), subject(2)]
    assert {r.signers for r in store(signed=True).lookup(wanted, soon()).records} == {()}  # keys have no signature
    by_content = store(MAIN, "gha:?signed=yes", signed=True).lookup(wanted, soon())
    assert {(r.verdict.check, r.signers) for r in by_content.records} == {("host1", (SECRET.name,)), ("host2", ())}
    with pytest.raises(RecordsUnavailable, match="signatures"):
        store(None, "gha:?signed=yes", signed=True).lookup(wanted, soon())


# Bundles


def test_above_a_hundred_hosts_one_entry_is_written(cache: FakeActionsCache, store: Opener) -> None:
    opened = store()
    opened.lookup([subject(n) for n in range(150)], soon())
    opened.write([verdict(n) for n in range(150)], soon())
    assert len(cache.entries) == 1
    assert cache.entries[0].key.startswith(f"nixos-verified-v2-bundle/{SYSTEM}/")
    for rest in (True, False):
        found = store(rest=rest).lookup([subject(n) for n in range(151)], soon())
        assert len(found.records) == 150
        assert not found.warnings
        assert all(v.by == "ci@runner" for v in verdicts(found))


def test_each_batch_is_a_bundle_of_all_so_far(cache: FakeActionsCache, store: Opener) -> None:
    store(place="gha:?bundle=yes").write([verdict(1)], soon())
    opened = store(place="gha:?bundle=yes")
    opened.write([verdict(2)], soon())
    opened.write([verdict(3), verdict(4, outcome=Outcome.FAILED)], soon())
    contents = [bundle.parse(entry.content or b"") for entry in cache.entries]
    assert [len(content or ()) for content in contents] == [1, 2, 3]
    found = store(place="gha:?bundle=yes", rest=False).lookup([subject(n) for n in range(9)], soon())
    assert sorted(v.check for v in verdicts(found)) == ["host1", "host2", "host3"]


def test_a_look_up_that_fails_takes_nothing_from_the_next_bundle(cache: FakeActionsCache, store: Opener) -> None:
    opened, find = store(place="gha:?bundle=yes"), cache.server.routes[FIND]
    opened.write([verdict(1)], soon())
    cache.server.routes[FIND] = Reply(500)
    assert not opened.lookup([subject(1)], soon()).records
    cache.server.routes[FIND] = find
    opened.write([verdict(2)], soon())
    assert [len(bundle.parse(entry.content or b"") or ()) for entry in cache.entries] == [1, 2]


def test_jobs_side_by_side_lose_nothing(store: Opener) -> None:
    jobs = [store(place="gha:?bundle=yes") for _ in range(8)]
    for number, job in enumerate(jobs):
        job.lookup([subject(n) for n in range(16)], soon())
        job.write([verdict(number)], soon())
    for number, job in enumerate(jobs):
        job.write([verdict(8 + number)], soon())
    found = store(place="gha:?bundle=yes").lookup([subject(n) for n in range(16)], soon())
    assert len(found.records) == 16


def test_a_bundle_carries_the_signatures_of_others_and_no_new_ones(store: Opener) -> None:
    store(place="gha:?bundle=yes").write([verdict(1)], soon())
    store(place="gha:?bundle=yes", signed=True).write([verdict(2)], soon())
    found = store(place="gha:?bundle=yes", signed=True, rest=False).lookup([subject(1), subject(2)], soon())
    assert {(r.verdict.check, r.signers) for r in found.records} == {("host1", ()), ("host2", (SECRET.name,))}


def test_a_bundle_of_another_ref_is_not_read(store: Opener) -> None:
    store(PULL, "gha:?bundle=yes", base="main").write([verdict(1)], soon())
    for rest in (True, False):
        assert not store(MAIN, "gha:?bundle=yes", rest=rest).lookup([subject(1)], soon()).records
        assert store(PULL, "gha:?bundle=yes", base="main", rest=rest).lookup([subject(1)], soon()).records


BUNDLES = {
    "empty": b"",
    "truncated": bundle.encode([sealed.seal(verdict(1))])[:-1],
    "more": bundle.encode([sealed.seal(verdict(1))]) + b"1",
    "a record": sealed.seal(verdict(1)),
    "a failure": bundle.encode([sealed.seal(verdict(1, outcome=Outcome.FAILED))]),
    "another system's": bundle.encode([sealed.seal(verdict(1, system="aarch64-linux"))]),
    "a damaged record": bundle.encode([sealed.seal(verdict(1))[:-2]]),
    "a future schema": bundle.encode([sealed.seal(verdict(1)).replace(b'"v":2', b'"v":3')]),
    "a future bundle": bundle.encode([sealed.seal(verdict(1))]).replace(b"bundle;1", b"bundle;2"),
}


@pytest.mark.parametrize("content", BUNDLES.values(), ids=BUNDLES.keys())
@pytest.mark.parametrize("rest", [True, False])
def test_a_damaged_bundle_proves_nothing(cache: FakeActionsCache, store: Opener, content: bytes, rest: bool) -> None:
    cache.add(f"nixos-verified-v2-bundle/{SYSTEM}/1700000000-1-1-0123abcd-1", VERSION, MAIN, content)
    assert store(rest=rest).lookup([subject(1)], soon()).records == ()


def test_a_bundle_of_another_system_is_not_taken_for_ours(cache: FakeActionsCache, store: Opener) -> None:
    content = bundle.encode([sealed.seal(verdict(1, system="aarch64-linux"))])
    entry = cache.add("nixos-verified-v2-bundle/aarch64-linux/1700000000-1-1-0123abcd-1", VERSION, MAIN, content)
    answer = {"ok": True, "signed_download_url": cache._address(entry), "matched_key": entry.key}
    cache.server.routes[FIND] = Reply(200, answer)
    assert store(rest=False, place="gha:?bundle=yes").lookup([subject(1)], soon()) == Found()


def test_what_a_bundle_has_beside_the_damaged_is_read(cache: FakeActionsCache, store: Opener) -> None:
    content = bundle.encode([sealed.seal(verdict(1)), b"x", sealed.seal(verdict(2))])
    cache.add(f"nixos-verified-v2-bundle/{SYSTEM}/1700000000-1-1-0123abcd-1", VERSION, MAIN, content)
    found = store().lookup([subject(1), subject(2)], soon())
    assert len(found.records) == 2
    assert len(found.warnings) == 1


def test_at_a_desk_bundles_are_named_and_not_read(store: Opener) -> None:
    store(place="gha:?bundle=yes").write([verdict(1)], soon())
    found = store(None).lookup([subject(1)], soon())
    assert found.records == ()
    assert "bundle=no" in found.warnings[0]


def test_that_bundles_cannot_be_read_leaves_the_entries(cache: FakeActionsCache, store: Opener) -> None:
    cache.add(KEY, VERSION, MAIN)
    cache.add(f"nixos-verified-v2-bundle/{SYSTEM}/1700000000-1-1-0123abcd-1", VERSION, MAIN, b"")
    cache.server.routes[FIND] = Reply(500)
    found = store().lookup([subject(1)], soon())
    assert len(found.records) == 1
    assert len(found.warnings) == 1


def test_a_bundle_that_is_full_keeps_the_newest(store: Opener) -> None:
    opened = store(place="gha:?bundle=yes")
    now = time.time()
    opened.write([verdict(n, finished_at=now - n, by="x" * 3000) for n in range(1500)], soon())
    found = store(place="gha:?bundle=yes").lookup([subject(n) for n in range(1500)], soon())
    kept = sorted(int(v.check.removeprefix("host")) for v in verdicts(found))
    assert 1000 < len(kept) < 1500
    assert kept == list(range(len(kept)))


@given(st.lists(st.binary(min_size=1, max_size=sealed.MAX_BYTES)))
def test_a_bundle_comes_back_as_it_was(records: list[bytes]) -> None:
    assert bundle.parse(bundle.encode(records)) == tuple(records)


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1), st.data())
def test_a_bundle_that_was_cut_is_none_or_has_fewer(records: list[bytes], data: st.DataObject) -> None:
    whole = bundle.encode(records)
    parsed = bundle.parse(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert parsed is None or (len(parsed) < len(records) and list(parsed) == records[: len(parsed)])


@given(st.binary())
def test_no_bytes_break_the_reading_of_bundles(data: bytes) -> None:
    for text in (data, b"pytest-nixos-bundle;1\n" + data):
        parsed = bundle.parse(text)
        assert parsed is None or bundle.encode(parsed) == text


@given(st.integers(1, 10**14), st.integers(0, 10**17), st.integers(0, 99), st.binary(min_size=4, max_size=4))
def test_the_key_of_a_bundle_comes_back(moment: int, run: int, number: int, session: bytes) -> None:
    key = bundle.BundleKey(time=moment, writer=f"{run}-1-{session.hex()}", number=number)
    assert bundle.parse_key(str(key)) == key


@given(st.text())
def test_no_text_breaks_the_keys(text: str) -> None:
    parsed = bundle.parse_key(text)
    assert parsed is None or parsed.number >= 0
    assert actions_cache.parse_key(text) is None


def test_of_each_session_the_highest_number_is_read_and_of_each_ref_the_last_sessions() -> None:
    prefix = f"nixos-verified-v2-bundle/{SYSTEM}/1700000000-1-1-"
    rows = [
        Row(key=f"{prefix}{ref}00000{session:x}-{number}", ref=name, created_at=float(session), accessed_at=0.0)
        for ref, name in enumerate((MAIN, FEATURE))
        for session in range(16, 40)
        for number in (9, 10, 2)
    ]
    rows.append(Row(key="nixos-verified-v2-bundle/x", ref=MAIN, created_at=99.0, accessed_at=0.0))
    keys = newest_of_each_session(rows)
    assert len(keys) == 32
    assert all(key.endswith("-10") for key in keys)
    assert keys[0] == f"{prefix}000000{39:x}-10"


# Renew, list, remove


def test_renewed_is_what_was_not_used_for_days(cache: FakeActionsCache, store: Opener) -> None:
    old, young = cache.add(key_of(verdict(1)), VERSION, MAIN, age=5 * DAY), cache.add(key_of(verdict(2)), VERSION, MAIN)
    used = cache.add(key_of(verdict(3)), VERSION, MAIN, age=6 * DAY)
    used.accessed_at = time.time() - DAY
    opened = store(place="gha:?bundle=no")
    opened.renew(verdicts(opened.lookup([subject(n) for n in (1, 2, 3)], soon())), soon())
    assert time.time() - old.accessed_at < DAY
    assert len(cache.server.asked(FIND)) == 1
    opened.renew([verdict(1, finished_at=1.0), verdict(4, finished_at=1.0)], soon())
    store(runtime=False).renew([verdict(1, finished_at=1.0)], soon())
    assert len(cache.server.asked(FIND)) == 1
    store().renew([verdict(1, finished_at=1.0)], soon())
    assert len(cache.server.asked(FIND)) == 2
    assert young.accessed_at > 0


def test_all_records_are_listed_with_their_content(store: Opener) -> None:
    store(place="gha:?bundle=no").write([verdict(1), verdict(2, outcome=Outcome.FAILED)], soon())
    store(place="gha:?bundle=yes").write([verdict(3)], soon())
    assert sorted(v.check for v in verdicts(store().every(soon()))) == ["host1", "host2", "host3"]
    with pytest.raises(RecordsUnavailable, match="ACTIONS_RUNTIME_TOKEN"):
        store(None).every(soon())


def test_removed_is_forgotten(store: Opener) -> None:
    store(place="gha:?bundle=no").write([verdict(1), verdict(2)], soon())
    store(place="gha:?bundle=yes").write([verdict(1), verdict(3)], soon())
    store().remove([verdict(1)], soon())
    found = store().lookup([subject(n) for n in (1, 2, 3)], soon())
    assert [v.check for v in verdicts(found)] == ["host2"]
    store().remove([verdict(1)], soon())


def test_a_pull_request_does_not_remove_what_main_has_proven(cache: FakeActionsCache, store: Opener) -> None:
    for ref in (MAIN, PULL):
        store(ref, place="gha:?bundle=no").write([verdict(1)], soon())
    assert len(cache.entries) == 2
    store(PULL, base="main").remove([verdict(1)], soon())
    assert [entry.ref for entry in cache.entries if entry.finalized] == [MAIN]


def test_a_desk_removes_entries_and_says_what_it_cannot_see(store: Opener) -> None:
    store(place="gha:?bundle=no").write([verdict(1)], soon())
    store(None).remove([verdict(1)], soon())
    assert not store().lookup([subject(1)], soon()).records
    store(place="gha:?bundle=yes").write([verdict(1)], soon())
    with pytest.raises(RecordsUnavailable, match="1 bundles"):
        store(None).remove([verdict(1)], soon())


# Cost


@pytest.mark.parametrize(("ref", "requests"), [(None, 12), (FEATURE, 24)])
def test_a_thousand_records_are_a_handful_of_requests(
    cache: FakeActionsCache, store: Opener, ref: str | None, requests: int
) -> None:
    for number in range(1000):
        cache.add(key_of(verdict(number)), VERSION, MAIN)
        cache.add(key_of(verdict(number)), VERSION, FEATURE)
    found = store(ref).lookup([subject(n) for n in range(1000)], soon())
    assert {record.verdict.check for record in found.records} == {f"host{n}" for n in range(1000)}
    assert len(cache.server.requests) <= requests


def test_a_thousand_records_in_a_bundle_are_fewer(cache: FakeActionsCache, store: Opener) -> None:
    opened = store(place="gha:?bundle=yes")
    opened.write([verdict(n) for n in range(1000)], soon())
    cache.server.requests.clear()
    found = store(place="gha:?bundle=yes", PYTEST_NIXOS_DEFAULT_BRANCH="main").lookup(
        [subject(n) for n in range(1000)], soon()
    )
    assert len(found.records) == 1000
    assert all(isinstance(record, Record) for record in found.records)
    assert len(cache.server.requests) == 3
