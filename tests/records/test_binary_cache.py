import dataclasses
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_nixos import proc
from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.model import Derivation, Outcome, Subject, Verdict
from pytest_nixos.nix.command import Nix
from pytest_nixos.records import marker, narinfo
from pytest_nixos.records.narinfo import PathInfo
from pytest_nixos.records.places import parse_place
from pytest_nixos.records.signing import SecretKey, Trusted, parse_secret_key
from pytest_nixos.records.stores.base import Found, Kit
from pytest_nixos.records.stores.binary_cache import BinaryCacheStore, open_binary_cache
from pytest_nixos.records.stores.cache_access import NixCache
from pytest_nixos.records.stores.cache_writing import attic, cachix, write_cache
from tests.records.cache_server import CacheServer, Reply, cache_server
from tests.records.test_narinfo import key_pair

SECRET, PUBLIC = key_pair("records-1")
pytestmark = pytest.mark.nix
KEY = parse_secret_key(SECRET)
STRANGER = parse_secret_key(key_pair("stranger-1")[0])
NAMESAKE = parse_secret_key(key_pair("records-1")[0])
DRIVER = f"/nix/store/{'d' * 32}-driver"
LONG = 60.0


def subject(letter: str = "a", driver: str | None = DRIVER, **changes: Any) -> Subject:
    derivation = Derivation(
        drv_path=f"/nix/store/{letter * 32}-vm-test-run-web.drv",
        outputs={"out": f"/nix/store/{letter * 31}0-vm-test-run-web"},
    )
    derivation = replace(derivation, **{k: v for k, v in changes.items() if k in ("outputs", "fixed")})
    own = {k: v for k, v in changes.items() if k in ("check", "system")}
    return replace(Subject(check="web", system="x86_64-linux", derivation=derivation, driver=driver), **own)


def verdict(of: Subject, **changes: Any) -> Verdict:
    made = Verdict(
        drv_path=of.derivation.drv_path,
        out_path=of.derivation.out_path,
        driver=of.driver,
        outcome=Outcome.PASSED,
        finished_at=1_700_000_000.0,
        seconds=3.0,
        by="me@host",
        check=of.check,
        system=of.system,
    )
    return dataclasses.replace(made, **changes)


def put(folder: Path, info: PathInfo, *keys: SecretKey, content: bytes = b"x", **changes: Any) -> Path:
    """Write a narinfo into a cache; keys sign what it is before the changes."""
    signatures = tuple(key.sign(narinfo.fingerprint(info)) for key in keys)
    folder.mkdir(exist_ok=True)
    file = folder / f"{narinfo.hash_part(changes.get('path', info.path))}.narinfo"
    file.write_bytes(narinfo.write(replace(info, **{"url": "nar/x", "signatures": signatures, **changes})))
    return file


@pytest.fixture
def kit(tmp_path: Path, nix: Nix) -> Kit:
    env = dict(os.environ) | {"NETRC": str(tmp_path / "netrc"), "NO_PROXY": "*"}
    return Kit(
        trusted=Trusted([PUBLIC]),
        keys=(KEY,),
        base=tmp_path,
        cache=tmp_path / "kept",
        env=env,
        secrets={},
        nix=nix.flake,
        is_own_output=lambda derivation: True,
        output_keys=lambda: Trusted([PUBLIC]),
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CacheServer]:
    (tmp_path / "served").mkdir()
    with cache_server(tmp_path / "served") as running:
        yield running


def opened(kit: Kit, location: str) -> BinaryCacheStore:
    store = open_binary_cache(parse_place(f"nix:{location}"), kit)
    store.patience = ()
    return store


def at_folder(kit: Kit, options: str = "") -> BinaryCacheStore:
    return opened(kit, f"file://{kit.base}/cache{options}")


def ask(store: BinaryCacheStore, *wanted: Subject, seconds: float = LONG) -> Found:
    return store.lookup(wanted, Deadline(seconds))


# Through a real Nix, to a folder and to a server


@pytest.mark.parametrize("where", ["folder", "server"])
def test_what_is_written_is_found_and_nothing_else(kit: Kit, server: CacheServer, where: str) -> None:
    store = opened(kit, server.url) if where == "server" else at_folder(kit)
    passed, driven, built = verdict(subject("a")), verdict(subject("b")), verdict(subject("c", None))
    store.write([passed, driven, built, verdict(subject("f"), outcome=Outcome.FAILED)], Deadline(LONG))
    found = ask(store, *(subject(letter) for letter in "abdf"), subject("c", None))
    assert found.warnings == ()
    by = f"marker in {store.name}"
    expected = [replace(v, finished_at=0.0, seconds=0.0, by=by) for v in (passed, driven, built)]
    assert [record.verdict for record in found.records] == expected
    assert {record.signers for record in found.records} == {("records-1",)}
    store.write([passed], Deadline(LONG))  # once more is as good
    store.renew([passed], Deadline(LONG))


def test_who_signs_later_signs_too(kit: Kit) -> None:
    """Someone else's marker is there already, so Nix does not send ours; its signature is added."""
    other = replace(kit, keys=(STRANGER,), trusted=Trusted([STRANGER.public]))
    at_folder(other).write([verdict(subject())], Deadline(LONG))
    assert ask(at_folder(kit), subject()).records == ()
    at_folder(kit).write([verdict(subject())], Deadline(LONG))
    for reader in (kit, other):
        assert len(ask(at_folder(reader), subject()).records) == 1


@pytest.mark.parametrize("by_nix", [False, True])
def test_what_was_not_there_is_asked_for_again(kit: Kit, server: CacheServer, by_nix: bool) -> None:
    """Nix would remember for an hour that it was not there."""
    store = opened(kit, server.url)
    if by_nix:
        store._access = NixCache(server.url, kit)
        put(server.folder, marker.of_verdict(verdict(subject("b"))).info, KEY)
        (server.folder / "nix-cache-info").write_text("StoreDir: /nix/store\n")
    assert len(ask(store, subject(), subject("b")).records) == by_nix
    opened(kit, server.url).write([verdict(subject())], Deadline(LONG))
    assert len(ask(store, subject(), subject("b")).records) == 1 + by_nix


def test_what_was_dropped_is_written_again(kit: Kit, server: CacheServer) -> None:
    """Nix would remember for a month that it was there."""
    store = opened(kit, server.url)
    store.write([verdict(subject())], Deadline(LONG))
    for file in server.folder.glob("*.narinfo"):
        file.unlink()
    assert ask(store, subject()).records == ()
    store.write([verdict(subject())], Deadline(LONG))
    assert len(ask(store, subject()).records) == 1


def test_a_cache_that_takes_and_forgets_is_an_error(kit: Kit, server: CacheServer) -> None:
    server.answer = lambda method, path: Reply(201) if method == "PUT" and path.endswith(".narinfo") else None
    with pytest.raises(RecordsUnavailable, match=r"does not give back 1 of 1 records as written: it is not there"):
        opened(kit, server.url).write([verdict(subject())], Deadline(LONG))


def test_a_cache_that_others_sign_for_us_is_an_error(kit: Kit) -> None:
    stranger = replace(kit, keys=(STRANGER,))
    with pytest.raises(RecordsUnavailable, match="no trusted key has signed"):
        at_folder(stranger).write([verdict(subject())], Deadline(LONG))


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_cache_that_refuses_is_an_error(kit: Kit, server: CacheServer, status: int) -> None:
    server.answer = lambda method, path: Reply(status) if method == "PUT" else None
    with pytest.raises(RecordsUnavailable):
        opened(kit, server.url).write([verdict(subject())], Deadline(LONG))


def test_a_cache_that_is_slow_to_show_is_waited_for(kit: Kit, server: CacheServer) -> None:
    """A delivery network before a cache."""
    misses = [1]

    def answer(method: str, path: str) -> Reply | None:
        written = any(server.folder.glob("*.narinfo"))
        return Reply(404) if written and method == "GET" and path.endswith(".narinfo") and misses.pop() else None

    server.answer = lambda method, path: answer(method, path) if misses else None
    store = opened(kit, server.url)
    store.patience = (0.01,)
    store.write([verdict(subject())], Deadline(LONG))
    assert misses == []


def test_without_a_key_nothing_is_written_unless_unsigned_counts(kit: Kit) -> None:
    keyless = replace(kit, keys=())
    with pytest.raises(RecordsUnavailable, match="no secret key"):
        at_folder(keyless).write([verdict(subject())], Deadline(LONG))
    at_folder(keyless, "?signed=no").write([verdict(subject())], Deadline(LONG))
    (record,) = ask(at_folder(keyless, "?signed=no"), subject()).records
    assert record.signers == ()
    assert ask(at_folder(kit), subject()).records == ()


def test_nix_may_sign_with_a_key_that_the_location_names(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    keyless = replace(kit, keys=())
    at_folder(keyless, f"?secret-key={tmp_path}/key").write([verdict(subject())], Deadline(LONG))
    assert ask(at_folder(kit), subject()).records[0].signers == ("records-1",)


# Flags


def test_a_flagged_result_is_found_where_it_is_allowed(kit: Kit) -> None:
    flagged = verdict(subject(), flags=("tcg",))
    at_folder(kit, "?allow=tcg").write([flagged], Deadline(LONG))
    assert ask(at_folder(kit), subject()).records == ()
    assert len(ask(at_folder(kit, "?allow=all"), subject()).records) == 1
    assert ask(at_folder(kit, "?allow=retried"), subject()).records == ()
    (record,) = ask(at_folder(kit, "?allow=retried,tcg"), subject()).records
    assert record.verdict.flags == ("tcg",)


def test_flags_are_asked_for_only_where_the_plain_record_is_missing(kit: Kit, server: CacheServer) -> None:
    store = opened(kit, f"{server.url}?allow=retried,tcg")
    put(server.folder, marker.of_verdict(verdict(subject("a"))).info, KEY)
    put(server.folder, marker.of_verdict(verdict(subject("b"), flags=("tcg", "retried"))).info, KEY)
    found = ask(store, subject("a"), subject("b"))
    assert [r.verdict.flags for r in found.records] == [(), ("retried", "tcg")]
    assert len(server.requests) == 2 + 3


def test_what_was_found_is_kept_when_flags_can_not_be_asked_for(kit: Kit, server: CacheServer) -> None:
    put(server.folder, _MARKER, KEY)
    server.answer = lambda method, path: Reply(503) if len(server.requests) > 2 else None
    found = ask(opened(kit, f"{server.url}?allow=tcg"), subject(), subject("b"))
    assert len(found.records) == 1
    assert "503" in found.warnings[0]


def test_many_flags_are_asked_for_in_few_requests() -> None:
    assert marker.flag_sets("ab") == [("a",), ("b",), ("a", "b")]
    assert len(marker.flag_sets("abcdefgh")) == 9


# What must not be believed

_MARKER = marker.of_verdict(verdict(subject())).info
_ELSE = narinfo.text_file("/nix/store", "else", b"else")


def _text(change: Callable[[str], str]) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        file = put(folder, _MARKER, KEY)
        file.write_text(change(file.read_text()))

    return forge


def _other(**changes: Any) -> Callable[[Path], None]:
    """The marker of another verdict, rightly signed, in the place of ours."""

    def forge(folder: Path) -> None:
        other = marker.of_verdict(verdict(subject(), **changes)).info
        assert other.path != _MARKER.path
        put(folder, other, KEY).rename(folder / f"{narinfo.hash_part(_MARKER.path)}.narinfo")

    return forge


def _failed(folder: Path) -> None:
    content = marker.of_verdict(verdict(subject())).content.replace(b"passed", b"failed")
    info = narinfo.text_file("/nix/store", "nixos-verified-web", content)
    put(folder, info, KEY).rename(folder / f"{narinfo.hash_part(_MARKER.path)}.narinfo")


_FORGED: dict[str, Callable[[Path], object]] = {
    "no signature": lambda f: put(f, _MARKER),
    "signature of a stranger": lambda f: put(f, _MARKER, STRANGER),
    "signature of a stranger by the same name": lambda f: put(f, _MARKER, NAMESAKE),
    "signature of another path": lambda f: put(f, _MARKER, signatures=(KEY.sign(narinfo.fingerprint(_ELSE)),)),
    "signature of nothing": lambda f: put(f, _MARKER, signatures=(KEY.sign(b""),)),
    "signature cut": _text(lambda text: text.replace("==\n", "\n")),
    "no name in the signature": lambda f: put(
        f, _MARKER, signatures=(KEY.sign(narinfo.fingerprint(_MARKER)).partition(":")[2],)
    ),
    "hash altered": lambda f: put(f, _MARKER, KEY, nar_hash=_ELSE.nar_hash),
    "hash altered and signed": lambda f: put(f, replace(_MARKER, nar_hash=_ELSE.nar_hash), KEY),
    "size altered": lambda f: put(f, _MARKER, KEY, nar_size=1),
    "size altered and signed": lambda f: put(f, replace(_MARKER, nar_size=1), KEY),
    "path swapped": _text(lambda text: text.replace(_MARKER.path, _ELSE.path)),
    "path swapped and signed": lambda f: put(f, replace(_ELSE), KEY).rename(
        f / f"{narinfo.hash_part(_MARKER.path)}.narinfo"
    ),
    "name swapped and signed": lambda f: put(f, replace(_MARKER, path=_MARKER.path.replace("-web", "-db")), KEY),
    "references": lambda f: put(f, replace(_MARKER, references=(_ELSE.path,)), KEY),
    "another content address": lambda f: put(f, replace(_MARKER, ca=_ELSE.ca), KEY),
    "cut in the middle": _text(lambda text: text[:150]),
    "cut before the signature": _text(lambda text: text[: text.index("Sig:")]),
    "cut in the last line": _text(lambda text: text[:-5]),
    "empty": _text(lambda text: ""),
    "a page": _text(lambda text: f"<html><body>Log in to this network</body></html>\n{text}"),
    "two in one": _text(lambda text: text + text),
    "binary": _text(lambda text: "\0" + text),
    "another check": _other(check="db"),
    "another system": _other(system="aarch64-linux"),
    "another derivation": _other(drv_path=subject("b").derivation.drv_path),
    "another driver": _other(driver=DRIVER.replace("d", "c")),
    "no driver": _other(driver=None),
    "with flags": _other(flags=("tcg",)),
    "not passed": _failed,
    "a folder": lambda f: (f / f"{narinfo.hash_part(_MARKER.path)}.narinfo").mkdir(parents=True),
    "a pipe": lambda f: os.mkfifo(f / f"{narinfo.hash_part(_MARKER.path)}.narinfo"),
}


_FOLDERS_ONLY = {"a folder", "a pipe"}
_FORGED_WHERE = [
    (how, server_too) for how in _FORGED for server_too in (False, True) if not server_too or how not in _FOLDERS_ONLY
]


@pytest.mark.parametrize(("how", "server_too"), _FORGED_WHERE)
def test_a_forged_record_is_not_believed(kit: Kit, server: CacheServer, how: str, server_too: bool) -> None:
    folder = server.folder if server_too else kit.base / "cache"
    folder.mkdir(exist_ok=True)
    _FORGED[how](folder)
    good = put(folder, marker.of_verdict(verdict(subject("b"))).info, KEY)
    assert good.is_file()
    store = opened(kit, server.url) if server_too else at_folder(kit)
    found = ask(store, subject("b"), subject())
    assert [record.verdict.drv_path for record in found.records] == [subject("b").derivation.drv_path]
    assert len(found.warnings) == 1
    assert "1 of 2 look-ups" in found.warnings[0]


@pytest.mark.parametrize("of", [subject("b"), subject(driver=None), subject(check="db"), subject(system="x")])
def test_a_record_speaks_of_its_own_subject_only(kit: Kit, of: Subject) -> None:
    put(kit.base / "cache", _MARKER, KEY)
    assert ask(at_folder(kit), of) == Found()
    assert len(ask(at_folder(kit), subject()).records) == 1


def test_a_cache_that_keeps_no_content_addresses_is_believed(kit: Kit) -> None:
    """Cachix; what is signed is path and hash."""
    put(kit.base / "cache", _MARKER, KEY, ca=None)
    assert len(ask(at_folder(kit), subject()).records) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=400), st.integers(0, 500), st.integers(0, 60))
def test_no_bytes_in_the_cache_are_a_record(kit: Kit, new: bytes, place: int, dropped: int) -> None:
    """Whatever replaces part of a signed narinfo: it is refused, or says what was signed."""
    whole = put(kit.base / "cache", _MARKER, KEY).read_bytes()
    file = kit.base / "cache" / f"{narinfo.hash_part(_MARKER.path)}.narinfo"
    file.write_bytes(whole[:place] + new + whole[place + dropped :])
    found = ask(at_folder(kit), subject(), subject("b"))
    assert [r.verdict.drv_path for r in found.records] in ([], [subject().derivation.drv_path])
    assert not found.records or whole[place : place + dropped] != whole


# Servers that do not answer as they should


@pytest.mark.parametrize(
    ("reply", "transient"),
    [
        (Reply(401), False),
        (Reply(403), False),
        (Reply(500), True),
        (Reply(503), True),
        (Reply(429), True),
        (Reply(302, headers={"Location": "/else"}), False),
        (Reply(304), False),
        (Reply(200, b"<html>Log in</html>"), False),
        (Reply(200, b""), False),
        (Reply(200, b"x" * (1 << 20)), True),
        (Reply(200, b"StorePath: ", {"Content-Length": "400"}, cut=True), True),
        (Reply(206, narinfo.write(replace(_MARKER, url="x"))), False),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
def test_a_server_that_says_something_else_has_nothing(
    kit: Kit, server: CacheServer, reply: Reply, transient: bool
) -> None:
    put(server.folder, _MARKER, KEY)
    put(server.folder / "of-others", _MARKER, KEY).rename(server.folder / "else")
    bad = f"/{narinfo.hash_part(_MARKER.path)}.narinfo"
    server.answer = lambda method, path: reply if path == bad else None
    store = opened(kit, server.url)
    with pytest.raises(RecordsUnavailable) as error:
        ask(store, subject())
    assert error.value.transient is transient
    found = ask(store, subject("b"), subject())
    assert found.records == ()
    assert len(found.warnings) == 1
    server.answer = lambda method, path: None
    assert len(ask(store, subject()).records) == 1, "what failed once is asked for again"


def test_a_dead_server_is_unavailable(kit: Kit) -> None:
    with pytest.raises(RecordsUnavailable, match="can't be read") as error:
        ask(opened(kit, "http://127.0.0.1:1"), *(subject(letter) for letter in "abcd"))
    assert error.value.transient


def test_the_deadline_ends_a_look_up_and_keeps_what_was_answered(kit: Kit, server: CacheServer) -> None:
    put(server.folder, _MARKER, KEY)
    good = f"/{narinfo.hash_part(_MARKER.path)}.narinfo"
    server.answer = lambda method, path: None if path == good else Reply(hang=True)
    begin = time.monotonic()
    found = ask(opened(kit, server.url), subject(), *(subject(letter) for letter in "bcd"), seconds=0.5)
    assert time.monotonic() - begin < 5
    assert [record.verdict.drv_path for record in found.records] == [subject().derivation.drv_path]
    assert "of 4 look-ups" in found.warnings[0]


def test_a_slow_server_has_said_something_when_time_is_up(kit: Kit, server: CacheServer) -> None:
    wanted = [subject(check=f"web{n}") for n in range(400)]
    for one in wanted:
        put(server.folder, marker.of_verdict(verdict(one)).info, KEY)
    server.answer = lambda method, path: time.sleep(0.02)
    found = ask(opened(kit, server.url), *wanted, seconds=0.3)
    assert 0 < len(found.records) < len(wanted)
    left = len(wanted) - len(found.records)
    assert sum(int(text.split()[0]) for text in found.warnings) == left


def test_a_server_that_trickles_does_not_hold_us(kit: Kit, server: CacheServer) -> None:
    server.answer = lambda method, path: Reply(200, b"x" * 4000, trickle=0.05)
    begin = time.monotonic()
    with pytest.raises(RecordsUnavailable):
        ask(opened(kit, server.url), subject(), subject("b"), seconds=0.4)
    assert time.monotonic() - begin < 5


def test_a_server_in_trouble_is_not_asked_a_thousand_times(kit: Kit, server: CacheServer) -> None:
    server.answer = lambda method, path: Reply(503)
    with pytest.raises(RecordsUnavailable, match="503"):
        ask(opened(kit, server.url), *(subject(check=f"web{n}") for n in range(1000)))
    assert len(server.requests) < 50
    server.requests.clear()
    server.answer = lambda method, path: Reply(401)
    with pytest.raises(RecordsUnavailable, match="password"):
        ask(opened(kit, server.url), *(subject(check=f"web{n}") for n in range(1000)))
    assert len(server.requests) < 5


def test_a_thousand_look_ups_share_few_connections(kit: Kit, server: CacheServer) -> None:
    wanted = [subject(check=f"web{n}") for n in range(1000)]
    for one in wanted[::2]:
        put(server.folder, marker.of_verdict(verdict(one)).info, KEY)
    found = ask(opened(kit, server.url), *wanted)
    assert len(found.records) == 500
    assert len(server.requests) == 1000
    assert server.connections <= 16


# Passwords


def _wants_password(server: CacheServer) -> Callable[[str, str], Reply | None]:
    expected = "Basic dXNlcjpzZXNhbWU="
    return lambda method, path: None if server.headers[-1].get("authorization") == expected else Reply(401)


def test_a_password_is_taken_from_netrc(kit: Kit, server: CacheServer) -> None:
    put(server.folder, _MARKER, KEY)
    server.answer = _wants_password(server)
    with pytest.raises(RecordsUnavailable):
        ask(opened(kit, server.url), subject())
    (kit.base / "netrc").write_text("machine 127.0.0.1 login user password sesame\n")
    assert len(ask(opened(kit, server.url), subject()).records) == 1


def test_a_password_is_taken_from_where_nix_has_it(kit: Kit, server: CacheServer, tmp_path: Path) -> None:
    put(server.folder, _MARKER, KEY)
    (tmp_path / "of-nix").write_text("machine 127.0.0.1 login user password sesame\n")
    server.answer = _wants_password(server)
    config = f"{kit.env.get('NIX_CONFIG', '')}\nnetrc-file = {tmp_path}/of-nix\n"
    configured = replace(kit, env={**kit.env, "NIX_CONFIG": config})
    assert len(ask(opened(configured, server.url), subject()).records) == 1


def test_nix_is_asked_for_passwords_once(kit: Kit, server: CacheServer) -> None:
    asked: list[tuple[str, ...]] = []

    def nix(*args: str) -> tuple[str, ...]:
        asked.append(args)
        return ("false",)

    server.answer = lambda method, path: Reply(403)
    store = opened(replace(kit, nix=nix), server.url)
    with pytest.raises(RecordsUnavailable):
        ask(store, subject("a"), subject("b"), subject("c"))
    assert asked == [("config", "show", "--json"), ("show-config", "--json")]


def test_a_password_goes_to_its_own_host_only(kit: Kit, server: CacheServer) -> None:
    (kit.base / "netrc").write_text("machine example.org login user password sesame\n")
    ask(opened(kit, server.url), subject())
    assert all("authorization" not in headers for headers in server.headers)


# Outputs


def _output(of: Subject) -> PathInfo:
    path = of.derivation.out_path or "/nix/store/x"
    return PathInfo(path=path, nar_hash=_ELSE.nar_hash, nar_size=100, references=(_ELSE.path,))


def test_a_signed_output_proves_a_check_that_is_built(kit: Kit) -> None:
    built = subject(driver=None)
    put(kit.base / "cache", _output(built), KEY)
    (record,) = ask(at_folder(kit, "?evidence=output"), built).records
    assert record.signers == ("records-1",)
    assert record.verdict == verdict(built, finished_at=0.0, seconds=0.0, by=f"output in file://{kit.base}/cache")
    assert ask(at_folder(kit), built).records == ()
    assert len(ask(at_folder(kit, "?evidence=output,marker"), built, subject()).records) == 1


@pytest.mark.parametrize(
    "of",
    [
        subject(),
        subject(driver=None, fixed=True),
        subject(driver=None, outputs={"out": None}),
        subject("b", driver=None),
    ],
    ids=["driven", "fixed", "path unknown", "another"],
)
def test_an_output_proves_nothing_of(kit: Kit, of: Subject) -> None:
    put(kit.base / "cache", _output(subject()), KEY)
    assert ask(at_folder(kit, "?evidence=output"), of) == Found()


@pytest.mark.parametrize(
    ("keys", "changes"),
    [
        ((), {}),
        ((STRANGER,), {}),
        ((NAMESAKE,), {}),
        ((KEY,), {"nar_hash": _MARKER.nar_hash}),
        ((KEY,), {"references": ()}),
        ((KEY,), {"ca": _ELSE.ca}),
        ((KEY,), {"ca": "fixed:r:sha256:x"}),
    ],
)
@pytest.mark.parametrize("options", ["", "&signed=no"])
def test_an_output_that_is_not_signed_is_not_believed(
    kit: Kit, keys: tuple[SecretKey, ...], changes: dict[str, Any], options: str
) -> None:
    built = subject(driver=None)
    put(kit.base / "cache", _output(built), *keys, **changes)
    found = ask(at_folder(kit, f"?evidence=output{options}"), built)
    assert found.records == ()
    assert len(found.warnings) == 1


def test_an_output_proves_a_derivation_that_has_it_only(kit: Kit) -> None:
    """A flake may say of any derivation that its output is one that the cache has."""
    built = subject(driver=None)
    put(kit.base / "cache", _output(built), KEY)
    liar = replace(kit, is_own_output=lambda derivation: derivation != built.derivation)
    found = ask(at_folder(liar, "?evidence=output"), built)
    assert found.records == ()
    assert "another one than the flake says" in found.warnings[0]


def test_keys_of_outputs_are_for_outputs_and_keys_of_records_for_markers(kit: Kit) -> None:
    """Who signs all that is built, or uploaded, signs what anybody's flake makes of a marker's content."""
    built = subject(driver=None)
    apart = replace(kit, output_keys=lambda: Trusted([STRANGER.public]))
    store = at_folder(apart, "?evidence=output,marker")
    put(kit.base / "cache", _output(built), KEY)
    put(kit.base / "cache", _MARKER, STRANGER)
    assert ask(store, built, subject()).records == ()
    put(kit.base / "cache", _output(built), STRANGER)
    put(kit.base / "cache", _MARKER, KEY)
    assert [r.signers for r in ask(store, built, subject()).records] == [("stranger-1",), ("records-1",)]


def test_an_output_of_another_name_is_not_believed(kit: Kit) -> None:
    built = subject(driver=None)
    info = _output(built)
    put(kit.base / "cache", replace(info, path=info.path.replace("-web", "-db")), KEY)
    assert ask(at_folder(kit, "?evidence=output"), built).records == ()


def test_what_nix_built_and_signed_proves_the_check(kit: Kit, nix: Nix, busybox: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "tools").mkdir()
    shutil.copy(busybox.resolve(), tmp_path / "tools" / "busybox")
    expression = (
        f'derivation {{ name = "check"; system = builtins.currentSystem; builder = "${{{tmp_path}/tools}}/busybox";'
        ' args = ["sh" "-c" "echo fine > $out"]; outputs = ["out"]; }'
    )
    drv = proc.run(("nix-instantiate", "--expr", expression), timeout=60).stdout.decode().strip()
    out = proc.run(("nix-store", "--realise", drv), timeout=60).stdout.decode().strip()
    target = f"file://{tmp_path}/cache"
    nix.run(nix.flake("copy", "--to", f"{target}?secret-key={tmp_path}/key", out), timeout=60)
    derivation = Derivation(drv_path=drv, outputs={"out": out})
    built = Subject(check="x", system=nix.system, derivation=derivation, driver=None)
    (record,) = ask(at_folder(kit, "?evidence=output"), built).records
    assert record.signers == ("records-1",)
    assert ask(at_folder(kit, "?evidence=output"), replace(built, driver=DRIVER)).records == ()


# Other ways to write


def _program(folder: Path, name: str, script: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nset -e\n{script}\n")
    (folder / name).chmod(0o755)
    return str(folder)


def _signing(kit: Kit, program: str, location: str, seen: str, **secrets: str) -> tuple[Kit, BinaryCacheStore]:
    """A program that stands for a cache's own: it signs with the cache's key, and notes what it was given."""
    (kit.base / "key").write_text(SECRET)
    target = f"file://{kit.base}/cache?secret-key={kit.base}/key"
    copy = shlex.join([*kit.nix("copy", "--to", target)])
    script = f'echo "$*" > {kit.base}/argv; {{ {seen}; }} > {kit.base}/seen; shift 2; {copy} "$@"'
    path = _program(kit.base / "bin", program, script) + ":" + kit.env["PATH"]
    able = replace(kit, keys=(), env={**kit.env, "PATH": path}, secrets=secrets)
    store = opened(able, f"{location}?via={program}")
    store._access = opened(able, f"file://{kit.base}/cache")._access
    return able, store


def test_cachix_sends_and_signs(kit: Kit) -> None:
    seen = 'echo "$CACHIX_AUTH_TOKEN/$ATTIC_TOKEN"'
    location = "https://team.cachix.org"
    able, store = _signing(kit, "cachix", location, seen, CACHIX_AUTH_TOKEN="open", ATTIC_TOKEN="no")
    store.write([verdict(subject()), verdict(subject("b"))], Deadline(LONG))
    assert len(ask(at_folder(able), subject(), subject("b")).records) == 2
    assert (kit.base / "seen").read_text() == "open/\n"
    argv = (kit.base / "argv").read_text()
    assert argv.startswith("push team /nix/store/")
    assert "open" not in argv


def test_attic_reads_its_token_from_stdin(kit: Kit) -> None:
    seen = 'cat "$XDG_CONFIG_HOME/attic/config.toml" /dev/stdin; env'
    _, store = _signing(kit, "attic", "https://attic.example.org/x/team", seen, ATTIC_TOKEN="open-sesame")
    store.write([verdict(subject())], Deadline(LONG))
    seen_by_it = (kit.base / "seen").read_text()
    assert 'endpoint = "https://attic.example.org/x/"\ntoken-file = "/dev/stdin"\nopen-sesame' in seen_by_it
    assert seen_by_it.count("open-sesame") == 1
    assert (kit.base / "argv").read_text().startswith("push records:team /nix/store/")


def test_a_cache_that_drops_what_it_took_is_an_error(kit: Kit) -> None:
    """Cachix ends well with a token that is not good for writing."""
    path = _program(kit.base / "bin", "cachix", "exit 0") + ":" + kit.env["PATH"]
    able = replace(kit, env={**kit.env, "PATH": path})
    store = opened(able, "https://team.cachix.org?via=cachix")
    store._access = opened(able, f"file://{kit.base}/cache")._access
    with pytest.raises(RecordsUnavailable, match="does not give back 1 of 1 records"):
        store.write([verdict(subject())], Deadline(LONG))


def test_programs_are_named_as_their_caches_are() -> None:
    assert cachix("https://team.cachix.org").argv == ("cachix", "push", "team")
    assert attic("https://attic.example.org/team/", has_token=False).argv == ("attic", "push", "team")


def test_no_secret_is_seen_by_others(kit: Kit, tmp_path: Path) -> None:
    """Only AWS's are for Nix, and none is an argument."""
    path = _program(tmp_path / "bin", "nix", f'echo "$*" >> {tmp_path}/argv; env >> {tmp_path}/env; exit 1')
    secrets = {"AWS_SECRET_ACCESS_KEY": "for-aws", "CACHIX_AUTH_TOKEN": "for-cachix"}
    env = {**kit.env, "PATH": f"{path}:{kit.env['PATH']}", "GITHUB_SHA": "unneeded"}
    store = opened(replace(kit, env=env, secrets=secrets), "s3://bucket?region=eu-west-1")
    with pytest.raises(RecordsUnavailable):
        store.write([verdict(subject())], Deadline(LONG))
    with pytest.raises(RecordsUnavailable):
        ask(store, subject())
    argv, seen = (tmp_path / "argv").read_text(), (tmp_path / "env").read_text()
    assert "s3://bucket?region=eu-west-1" in argv
    assert "for-" not in argv
    assert "AWS_SECRET_ACCESS_KEY=for-aws" in seen
    assert "for-cachix" not in seen
    assert "unneeded" not in seen
    assert SECRET.partition(":")[2] not in argv + seen


# Stores that Nix reads for us


@pytest.fixture(scope="session")
def s3(nix: Nix) -> Iterator[str]:
    """A bucket's URL. Nix may be built without S3, or without passwords for it, so anybody may read the bucket."""
    moto = pytest.importorskip("moto.server")
    urllib3 = pytest.importorskip("urllib3")
    argv = nix.flake("path-info", "--store", "s3://x?endpoint=127.0.0.1:1&scheme=http", "--all")
    if "don't know how to open" in nix.run(argv, timeout=60, check=False).stderr_tail:
        pytest.skip("this Nix has no S3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urllib3.request("PUT", f"http://{host}:{port}/bucket")
    right = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [right]})
    assert urllib3.request("PUT", f"http://{host}:{port}/bucket?policy", body=policy).status < 300
    yield f"s3://bucket?endpoint={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


def test_records_in_a_bucket(kit: Kit, s3: str) -> None:
    secrets = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    store = opened(replace(kit, secrets=secrets), s3)
    assert store.name == "s3://bucket"
    assert ask(store, subject()) == Found()
    store.write([verdict(subject()), verdict(subject("b", None))], Deadline(LONG))
    assert len(ask(store, subject(), subject("b", None), subject("c")).records) == 2
    stranger = replace(kit, secrets=secrets, trusted=Trusted([STRANGER.public]))
    assert ask(opened(stranger, s3), subject()).records == ()


def test_a_nix_that_knows_no_such_store_is_said(kit: Kit) -> None:
    with pytest.raises(RecordsUnavailable, match=r"can't be read|error"):
        ask(opened(kit, "gopher://example.org"), subject())


def test_a_nix_that_wants_the_form_to_be_named_is_told(kit: Kit, tmp_path: Path) -> None:
    """As later ones will."""
    answer = json.dumps({_MARKER.path: None})
    script = f"case \"$*\" in *--json-format*) echo '{answer}';; *) echo 'error: say --json-format' >&2; exit 1;; esac"
    path = _program(tmp_path / "bin", "nix", script) + ":" + kit.env["PATH"]
    store = opened(replace(kit, env={**kit.env, "PATH": path}), "s3://bucket")
    assert ask(store, subject()) == Found()


# What it is called, and what it can't do


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("https://cache.example.org/", "cache.example.org"),
        ("https://example.org/cache?priority=3", "example.org/cache"),
        ("file:///var/cache", "file:///var/cache"),
        ("s3://bucket?endpoint=x", "s3://bucket"),
        ("ssh-ng://me@host", "ssh-ng://host"),
    ],
)
def test_its_name_is_short(kit: Kit, location: str, name: str) -> None:
    assert opened(kit, location).name == name


@pytest.mark.parametrize(
    "location",
    [
        "",
        "/var/cache",
        "cache.example.org",
        "https://me:secret@example.org",
        "file:///x?evidence=",
        "file:///x?evidence=all",
        "file:///x?via=carrier",
    ],
)
def test_what_makes_no_sense_is_said_at_once(kit: Kit, location: str) -> None:
    with pytest.raises(PytestNixosError) as error:
        opened(kit, location)
    assert "secret" not in str(error.value)


def test_a_cache_can_be_neither_listed_nor_cleaned(kit: Kit) -> None:
    with pytest.raises(RecordsUnavailable, match="can't be listed"):
        at_folder(kit).every(Deadline(LONG))
    with pytest.raises(RecordsUnavailable, match="nothing can be removed"):
        at_folder(kit).remove([verdict(subject())], Deadline(LONG))
    with pytest.raises(RecordsUnavailable, match="outputs only"):
        at_folder(kit, "?evidence=output").write([verdict(subject())], Deadline(LONG))


def test_renewing_downloads_the_archive(kit: Kit, server: CacheServer) -> None:
    write_cache(server.folder / "c", [marker.of_verdict(verdict(subject()))])
    store = opened(kit, f"{server.url}/c")
    store.renew([verdict(subject()), verdict(subject("b"))], Deadline(LONG))
    assert ("GET", f"/c/nar/{narinfo.base32(_MARKER.nar_hash)}.nar") in server.requests
    assert len(server.requests) == 3


@given(st.text(max_size=300))
def test_any_name_of_a_check_makes_a_store_path(check: str) -> None:
    of = subject(check=check)
    info = marker.of_verdict(verdict(of)).info
    assert narinfo.parse(narinfo.write(replace(info, url="x"))) == replace(info, url="x")
    assert len(info.path) < 200


def test_a_marker_says_what_passed() -> None:
    said = json.loads(marker.of_verdict(verdict(subject(), flags=("tcg", "retried"))).content)
    assert said == {
        "check": "web",
        "driver": DRIVER,
        "drv": subject().derivation.drv_path,
        "flags": ["retried", "tcg"],
        "outcome": "passed",
        "system": "x86_64-linux",
        "v": 2,
    }
