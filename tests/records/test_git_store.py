"""The git store against real git: repositories in folders, and `git http-backend` behind a server of our own."""

import base64
import contextlib
import dataclasses
import datetime
import ipaddress
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.model import Derivation, Outcome, Subject, Verdict
from pytest_nixos.records import sealed
from pytest_nixos.records.naming import name_of
from pytest_nixos.records.places import parse_place
from pytest_nixos.records.signing import SecretKey, Trusted, parse_secret_key
from pytest_nixos.records.stores.base import Kit
from pytest_nixos.records.stores.git import GitStore, open_git
from pytest_nixos.records.stores.git_refs import Ref, layout_of
from tests.conftest import need
from tests.records.git_server import GitServer, git, make_repository, serving

LAYOUT = layout_of("refs/nixos-verified/v2")
TAGS = "refs/tags/verified-"


def make_key(name: str) -> tuple[SecretKey, str]:
    """A secret key, and its public half as Nix writes it."""
    secret = Ed25519PrivateKey.generate()
    seed, public = secret.private_bytes_raw(), secret.public_key().public_bytes_raw()
    parsed = parse_secret_key(f"{name}:{base64.b64encode(seed + public).decode()}")
    return parsed, f"{name}:{base64.b64encode(public).decode()}"


KEY, PUBLIC = make_key("ci-1")
OTHER_KEY, _ = make_key("ci-1")


def verdict(number: int = 0, **changes: object) -> Verdict:
    made = Verdict(
        drv_path=f"/nix/store/{number:032d}-x.drv",
        out_path=f"/nix/store/{number:031d}o-x",
        driver=f"/nix/store/{number:031d}d-driver",
        outcome=Outcome.PASSED,
        finished_at=round(time.time(), 3),
        seconds=1.0,
        by="tester@host",
        check=f"host{number}",
        system="x86_64-linux",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def subject(of: Verdict) -> Subject:
    made = Derivation(drv_path=of.drv_path, outputs={"out": of.out_path})
    return Subject(check=of.check, system=of.system, derivation=made, driver=of.driver)


def soon() -> Deadline:
    return Deadline(60)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "served" / "records.git")


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A desk with its own home."""
    (tmp_path / "home").mkdir()
    (tmp_path / "base").mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "GIT_CONFIG_NOSYSTEM": "1"}
    return Kit(
        trusted=Trusted([PUBLIC]), keys=(KEY,), base=tmp_path / "base", cache=tmp_path / "cache", env=env, secrets={},
        nix=lambda *args: ("nix", *args),
    )  # fmt: skip


def store_at(location: object, kit: Kit, **changes: object) -> GitStore:
    changed = dataclasses.replace(kit, **changes)  # type: ignore[arg-type]
    return open_git(parse_place(f"git:{location}"), changed)


@pytest.fixture
def store(repository: Path, kit: Kit) -> GitStore:
    return store_at(repository, kit)


@pytest.fixture
def server(repository: Path) -> Iterator[GitServer]:
    with serving(repository.parent) as running:
        yield running


def plant(repository: Path, ref: str, data: bytes) -> str:
    """Put a blob at a ref, as one who may push anything could."""
    oid = git(repository, "hash-object", "-w", "--stdin", stdin=data)
    git(repository, "update-ref", ref, oid)
    return oid


# Round trips


@pytest.mark.parametrize("where", ["path", "file", "http", "relative", "remote", "pushurl", "shallow"])
def test_what_is_written_is_found_and_nothing_else(
    where: str, repository: Path, server: GitServer, kit: Kit, tmp_path: Path
) -> None:
    url, desk = f"{server.url}/records.git", kit.base
    location = {
        "path": str(repository), "file": f"file://{repository}", "http": url, "relative": "../served/records.git"
    }.get(where, "origin")  # fmt: skip
    if where == "remote":
        git(desk, "init", "-q")
        git(desk, "remote", "add", "origin", url)
    elif where == "pushurl":
        git(desk, "init", "-q")
        git(desk, "remote", "add", "origin", url)
        git(desk, "remote", "set-url", "--push", "origin", f"file://{repository}")
    elif where == "shallow":
        git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", str(desk))
    store = store_at(location, kit)
    kept, other = verdict(1), verdict(2)
    assert store.lookup([subject(kept)], soon()).records == ()
    store.write([kept, other], soon())
    found = store.lookup([subject(kept)], soon())
    assert [record.verdict for record in found.records] == [kept]
    assert found.records[0].signers == ("ci-1",)
    assert found.warnings == ()
    assert store.lookup([subject(verdict(3))], soon()).records == ()
    assert {record.verdict for record in store.every(soon()).records} == {kept, other}
    store.remove([kept], soon())
    assert [record.verdict for record in store.every(soon()).records] == [other]


def test_a_record_of_the_same_output_is_found(store: GitStore) -> None:
    kept = verdict(1)
    store.write([kept], soon())
    same = Derivation(drv_path=verdict(9).drv_path, outputs={"out": kept.out_path})
    asked = Subject(check="y", system="x", derivation=same, driver=None)
    assert [record.verdict for record in store.lookup([asked], soon()).records] == [kept]


@pytest.mark.parametrize("prefix", [LAYOUT.root[:-1], TAGS, "refs/tags/records"])
def test_any_name_of_a_check_will_do(prefix: str, repository: Path, kit: Kit) -> None:
    names = ["ä ö", "a..b", "x.lock", "@", "@{0}", "", ".x.", "a/b", "~^:?*[\\", "x" * 300, "web", "web/x"]
    store = store_at(f"{repository}?prefix={prefix}", kit)
    kept = [verdict(number, check=name, flags=("network", "tcg")) for number, name in enumerate(names)]
    store.write(kept, soon())
    for each in kept:
        assert [record.verdict for record in store.lookup([subject(each)], soon()).records] == [each]
    store.remove(kept, soon())
    assert store.every(soon()).records == ()


def test_tags_are_flat_and_foreign_tags_no_matter(repository: Path, kit: Kit) -> None:
    git(repository, "update-ref", "refs/tags/verified-web-0123456789abcdef", "refs/heads/main")
    git(repository, "tag", "verified-", "main")
    git(repository, "tag", "v1.0", "main")
    store = store_at(f"{repository}?prefix={TAGS}", kit)
    kept = verdict(1)
    store.write([kept], soon())
    found = store.every(soon())
    assert ([record.verdict for record in found.records], found.warnings) == ([kept], ())
    assert f"verified-host1-{name_of(kept)}" in git(repository, "tag", "--list").splitlines()


def test_a_plain_clone_gets_no_records(store: GitStore, repository: Path, tmp_path: Path) -> None:
    store.write([verdict(1)], soon())
    git(tmp_path, "clone", "-q", f"file://{repository}", "clone")
    assert "nixos" not in git(tmp_path / "clone", "for-each-ref")


def test_a_thousand_records_are_three_requests(server: GitServer, kit: Kit) -> None:
    store = store_at(f"{server.url}/records.git", kit)
    many = [verdict(number) for number in range(1000)]
    store.write(many, soon())
    pushes = [request for request in server.requests if request == "POST /records.git/git-receive-pack"]
    assert len(pushes) <= 4
    server.requests.clear()
    found = store.lookup([subject(each) for each in many], soon())
    assert {record.verdict for record in found.records} == set(many)
    assert len(server.requests) == 3  # capabilities, our refs, their objects
    server.requests.clear()
    assert len(store.lookup([subject(many[7])], soon()).records) == 1
    assert len(server.requests) == 2  # nothing is new


def test_refs_of_others_are_not_listed(repository: Path, server: GitServer, kit: Kit) -> None:
    """The server filters: what the rest of a repository weighs does not matter."""
    for number in range(50):
        git(repository, "update-ref", f"refs/pull/{number}/head", "refs/heads/main")
    store = store_at(f"{server.url}/records.git", kit)
    store.write([verdict(1)], soon())
    assert len(store.every(soon()).records) == 1
    assert [line.split()[-1] for line in git(store.scratch, "for-each-ref").splitlines()] == [LAYOUT.ref_of(verdict(1))]


# What is there and is no record


def damages(good: Verdict) -> dict[str, bytes]:
    line = sealed.seal(good, (KEY,))
    return {
        "empty": b"",
        "cut": line[:-3],
        "other": sealed.seal(verdict(2), (KEY,)),
        "failure": sealed.seal(dataclasses.replace(good, outcome=Outcome.FAILED), (KEY,)),
        "flagged": sealed.seal(dataclasses.replace(good, flags=("tcg",)), (KEY,)),
        "future schema": line.replace(b'"v":2', b'"v":3'),
        "huge": line + b" " * sealed.MAX_BYTES,
        "noise": bytes(range(256)),
    }


@pytest.mark.parametrize("damage", damages(verdict(1)))
def test_a_damaged_record_is_a_warning(damage: str, store: GitStore, repository: Path) -> None:
    good, whole = verdict(1), verdict(3)
    store.write([whole], soon())
    plant(repository, LAYOUT.ref_of(good), damages(good)[damage])
    found = store.lookup([subject(good), subject(whole)], soon())
    assert [record.verdict for record in found.records] == [whole]
    assert len(found.warnings) == 1
    assert LAYOUT.ref_of(good) in found.warnings[0]
    store.write([good], soon())  # one that is no record takes no one's place
    assert [record.verdict for record in store.lookup([subject(good)], soon()).records] == [good]


@pytest.mark.parametrize("kind", ["commit", "tag", "tree"])
def test_what_is_no_blob_is_not_followed(kind: str, store: GitStore, repository: Path) -> None:
    if kind == "tag":
        git(repository, "-c", "user.name=x", "-c", "user.email=x@example.org", "tag", "-m", "x", "x", "main")
    target = git(repository, "rev-parse", {"commit": "main", "tree": "main^{tree}", "tag": "x"}[kind])
    git(repository, "update-ref", LAYOUT.ref_of(verdict(1)), target)
    found = store.lookup([subject(verdict(1))], soon())
    assert found.records == ()
    assert len(found.warnings) == 1


def test_what_is_large_or_no_blob_is_not_even_read(store: GitStore, tmp_path: Path) -> None:
    """There is no repository from which it could be."""
    name = LAYOUT.ref_of(verdict(1))
    for kind, size in (("blob", sealed.MAX_BYTES + 1), ("commit", 10), ("tag", 10), ("tree", 10)):
        assert store.read(tmp_path / "none", [Ref(name=name, oid="0" * 40, kind=kind, size=size)], soon()) == {
            name: None
        }


def test_swapped_records_are_refused_and_counted_in_one_warning(store: GitStore, repository: Path) -> None:
    one, two = verdict(1), verdict(2)
    plant(repository, LAYOUT.ref_of(one), sealed.seal(two, (KEY,)))
    plant(repository, LAYOUT.ref_of(two), sealed.seal(one, (KEY,)))
    found = store.lookup([subject(one), subject(two)], soon())
    assert found.records == ()
    assert len(found.warnings) == 1
    assert "2 records" in found.warnings[0]


@pytest.mark.parametrize("keys", [(), (OTHER_KEY,)], ids=["unsigned", "foreign"])
def test_what_no_trusted_key_has_signed_has_no_signer(keys: tuple[SecretKey, ...], repository: Path, kit: Kit) -> None:
    """And it keeps nobody from writing what is signed."""
    forged = verdict(1, by="forger")
    store_at(repository, kit, keys=keys).write([forged], soon())
    ours = store_at(repository, kit)
    assert [record.signers for record in ours.lookup([subject(forged)], soon()).records] == [()]
    ours.write([verdict(1)], soon())
    assert [record.signers for record in ours.lookup([subject(forged)], soon()).records] == [("ci-1",)]


def test_a_record_under_another_check_counts_by_its_name(store: GitStore, repository: Path) -> None:
    """System and check in a ref are for people; a record is of a derivation, whatever checks have it."""
    kept = verdict(1)
    ref = f"{LAYOUT.root}aarch64-linux/other/{name_of(kept)}"
    plant(repository, ref, sealed.seal(kept, (KEY,)))
    store.write([kept], soon())
    assert [record.verdict for record in store.lookup([subject(kept)], soon()).records] == [kept]
    store.remove([kept], soon())
    assert ref not in git(repository, "for-each-ref")


def test_refs_with_odd_names_hurt_nobody(store: GitStore, repository: Path) -> None:
    store.write([verdict(1)], soon())
    for odd in ("x", "\u2028x y\u0085".replace(" ", ""), "a/b/c/d", "'"):
        git(repository, "update-ref", f"refs/nixos-verified/v2/{odd}", "refs/heads/main")
    found = store.every(soon())
    assert (len(found.records), found.warnings) == (1, ())


# Age of records


def test_a_record_is_replaced_only_by_a_much_newer_one(store: GitStore) -> None:
    old = verdict(1, finished_at=time.time() - 86400)
    newer, newest = verdict(1), verdict(1, finished_at=time.time() + 1)
    for written, expected in ((old, old), (newer, newer), (newest, newer), (old, newer)):
        store.write([written], soon())
        assert [record.verdict for record in store.lookup([subject(old)], soon()).records] == [expected]


def test_a_record_from_the_future_is_replaced(store: GitStore, repository: Path) -> None:
    plant(repository, LAYOUT.ref_of(verdict(1)), sealed.seal(verdict(1, finished_at=time.time() + 86400), (KEY,)))
    store.write([made := verdict(1)], soon())
    assert [record.verdict for record in store.every(soon()).records] == [made]


def test_a_server_that_lets_nobody_replace_keeps_the_old_record(store: GitStore, repository: Path) -> None:
    old = verdict(1, finished_at=time.time() - 86400)
    store.write([old], soon())
    hook = repository / "hooks" / "update"
    hook.write_text("#!/bin/sh\ncase $2 in *[!0]*) exit 1;; esac\n")
    hook.chmod(0o755)
    store.write([verdict(1), fresh := verdict(2)], soon())
    assert {record.verdict for record in store.every(soon()).records} == {old, fresh}


# The scratch repository


def test_a_revoked_record_is_not_found_in_the_scratch_repository(store: GitStore, repository: Path) -> None:
    store.write([verdict(1), verdict(2)], soon())
    assert len(store.every(soon()).records) == 2
    git(repository, "update-ref", "-d", LAYOUT.ref_of(verdict(1)))
    assert [record.verdict.check for record in store.every(soon()).records] == ["host2"]
    repository.rename(repository.with_name("gone"))
    with pytest.raises(RecordsUnavailable, match=r"records\.git"):
        store.every(soon())


def _no_head(scratch: Path) -> None:
    (scratch / "HEAD").unlink()


def _only_a_folder(scratch: Path) -> None:
    shutil.rmtree(scratch)
    scratch.mkdir()


def _no_objects(scratch: Path) -> None:
    for pack in (scratch / "objects" / "pack").iterdir():
        pack.unlink()


def _cut_packs(scratch: Path) -> None:
    for pack in (scratch / "objects" / "pack").glob("*.pack"):
        pack.chmod(stat.S_IRUSR | stat.S_IWUSR)
        pack.write_bytes(pack.read_bytes()[:20])


def _locked_ref(scratch: Path) -> None:
    (scratch / f"{LAYOUT.ref_of(verdict(2))}.lock").touch()
    git(scratch, "update-ref", "-d", LAYOUT.ref_of(verdict(1)))


def _ref_in_the_way(scratch: Path) -> None:
    folder = scratch / LAYOUT.ref_of(verdict(1))
    folder.unlink()
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "y").write_text("no ref")


def _empty_ref(scratch: Path) -> None:
    (scratch / LAYOUT.ref_of(verdict(1))).write_bytes(b"")


def _config(scratch: Path) -> None:
    (scratch / "config").write_text("[nonsense")


@pytest.mark.parametrize(
    "breaking", [_no_head, _only_a_folder, _no_objects, _cut_packs, _locked_ref, _ref_in_the_way, _empty_ref, _config]
)
def test_a_broken_scratch_repository_is_made_anew(breaking: Callable[[Path], None], store: GitStore) -> None:
    kept = {verdict(1), verdict(2)}
    store.write(list(kept), soon())
    store.every(soon())
    breaking(store.scratch)
    assert {record.verdict.check for record in store.every(soon()).records} == {"host1", "host2"}


def test_the_scratch_repository_does_not_grow_for_ever(store: GitStore) -> None:
    store.write([verdict(1)], soon())
    store.every(soon())
    packs = store.scratch / "objects" / "pack"
    for number in range(51):
        shutil.copy(next(packs.glob("*.pack")), packs / f"pack-{number}.pack")
    assert len(store.every(soon()).records) == 1
    assert len(list(packs.glob("*.pack"))) == 1


def test_a_scratch_repository_in_use_is_waited_for_until_the_deadline(store: GitStore) -> None:
    with store._locked(soon()), pytest.raises(RecordsUnavailable, match="in use") as caught:
        store.every(Deadline(0.1))
    assert caught.value.transient


# Many writers


def test_a_hundred_writers_of_the_same_and_of_other_records(repository: Path, kit: Kit) -> None:
    def work(number: int) -> None:
        mine = verdict(number, by=f"writer{number}")
        store_at(f"file://{repository}", kit).write([verdict(1000, by=f"writer{number}"), mine], Deadline(300))

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(work, range(100)))
    records = store_at(repository, kit).every(soon()).records
    assert len(records) == 101


def test_sixteen_writers_over_http(server: GitServer, kit: Kit) -> None:
    def work(number: int) -> None:
        mine = verdict(number, by=f"writer{number}")
        store_at(f"{server.url}/records.git", kit).write([verdict(1000, by=f"writer{number}"), mine], Deadline(300))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    found = store_at(f"{server.url}/records.git", kit).every(soon())
    assert (len(found.records), found.warnings) == (17, ())


def test_records_are_removed_while_others_write(repository: Path, kit: Kit) -> None:
    store = store_at(repository, kit)
    store.write([verdict(number) for number in range(8)], soon())

    def work(number: int) -> None:
        mine = store_at(repository, kit, cache=kit.cache / str(number))
        mine.remove([verdict(number)], Deadline(120))
        mine.write([verdict(100 + number)], Deadline(120))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert {record.verdict.check for record in store.every(soon()).records} == {f"host{100 + n}" for n in range(8)}


# Servers that are not well


@pytest.mark.parametrize(("status", "transient"), [(500, True), (503, True), (401, False), (403, False), (404, False)])
def test_a_server_s_error_is_one_sentence(status: int, transient: bool, server: GitServer, kit: Kit) -> None:
    store = store_at(f"{server.url.replace('://', '://me:secret@')}/records.git", kit)
    store.write([verdict(1)], soon())
    assert len(store.every(soon()).records) == 1
    server.status = status
    for call in (lambda: store.every(soon()), lambda: store.write([verdict(2)], soon())):
        with pytest.raises(RecordsUnavailable) as caught:
            call()
        assert caught.value.transient is transient
        assert "secret" not in str(caught.value)
        assert len(caught.value.message.splitlines()) == 1


def test_a_server_that_asks_for_a_password_gets_none(server: GitServer, kit: Kit) -> None:
    server.authorization = "Basic nobody knows"
    with pytest.raises(RecordsUnavailable, match="prompts disabled") as caught:
        store_at(f"{server.url}/records.git", kit).every(soon())
    assert "asks nobody" in caught.value.hint


def test_a_server_that_is_down_may_come_back(kit: Kit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RecordsUnavailable, match="connect") as caught:
        store_at(f"http://127.0.0.1:{port}/x.git", kit).every(soon())
    assert caught.value.transient


@pytest.mark.parametrize("url", ["http://{}/x.git", "git://{}/x.git", "ssh://git@{}/x.git"])
def test_a_server_that_says_nothing_is_left_at_the_deadline(url: str, kit: Kit) -> None:
    if url.startswith("ssh:"):
        need("ssh")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        store, start = store_at(url.format(address), kit), time.monotonic()
        with pytest.raises(RecordsUnavailable, match="in time") as caught:
            store.every(Deadline(0.3))
        assert time.monotonic() - start < 5
        assert caught.value.transient
        assert not _processes_that_name(address.rpartition(":")[2])


def _processes_that_name(text: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (process / "cmdline").read_bytes() and int(process.name) != os.getpid():
                found.append(process.name)
    return found


def test_an_expired_deadline_starts_nothing(store: GitStore) -> None:
    with pytest.raises(RecordsUnavailable, match="in time"):
        store.every(Deadline(0))
    with pytest.raises(RecordsUnavailable, match="in time"):
        store.write([verdict(1)], Deadline(0))


@pytest.mark.parametrize("hook", ["pre-receive", "update"])
def test_a_server_that_refuses_is_told_at_once(hook: str, store: GitStore, repository: Path) -> None:
    (repository / "hooks" / hook).write_text("#!/bin/sh\nexit 1\n")
    (repository / "hooks" / hook).chmod(0o755)
    start = time.monotonic()
    with pytest.raises(RecordsUnavailable, match="declined") as caught:
        store.write([verdict(1)], soon())
    assert not caught.value.transient
    assert time.monotonic() - start < 5


def test_a_server_that_deletes_nothing_is_told(store: GitStore, repository: Path) -> None:
    store.write([verdict(1)], soon())
    (repository / "hooks" / "update").write_text("#!/bin/sh\nexit 1\n")
    (repository / "hooks" / "update").chmod(0o755)
    with pytest.raises(RecordsUnavailable, match="declined") as caught:
        store.remove([verdict(1)], soon())
    assert not caught.value.transient


# What surrounds git


def test_the_user_s_own_configuration_does_no_harm(server: GitServer, kit: Kit, tmp_path: Path) -> None:
    store = store_at(f"{server.url}/records.git", kit)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for hook in ("pre-push", "reference-transaction", "post-checkout"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        (hooks / hook).chmod(0o755)
    (Path(kit.env["HOME"]) / ".gitconfig").write_text(
        f"[core]\nhooksPath = {hooks}\nfsmonitor = true\n[push]\ngpgSign = true\npushOption = x\ndefault = nothing\n"
        "followTags = true\nrecurseSubmodules = only\nuseForceIfIncludes = true\nnegotiate = true\n"
        "[fetch]\nprune = true\npruneTags = true\nfsckObjects = true\nrecurseSubmodules = true\noutput = compact\n"
        "[transfer]\nfsckObjects = true\n[protocol]\nversion = 0\n[init]\ndefaultBranch = x\ntemplateDir = /nowhere\n"
        "[gc]\nauto = 1\n[color]\nui = always\npush = always\n[safe]\nbareRepository = explicit\n"
        '[url "nowhere:"]\npushInsteadOf = elsewhere:\n'
    )
    store.write([verdict(1)], soon())
    assert len(store.lookup([subject(verdict(1))], soon()).records) == 1
    store.remove([verdict(1)], soon())
    assert store.every(soon()).records == ()
    assert not (tmp_path / "ran").exists()


def test_insteadof_is_followed(repository: Path, kit: Kit) -> None:
    (Path(kit.env["HOME"]) / ".gitconfig").write_text(f'[url "file://{repository.parent}/"]\ninsteadOf = "our:"\n')
    store = store_at("our:records.git", kit)
    store.write([verdict(1)], soon())
    assert len(store.every(soon()).records) == 1


@pytest.mark.parametrize("location", ["-x", "--upload-pack=x", "", "a\nb", "nowhere", "no/where"])
def test_what_names_no_repository_is_an_error_at_once(location: str, kit: Kit) -> None:
    with pytest.raises(PytestNixosError):
        store_at(location, kit)


def test_a_remote_whose_url_is_an_option_is_refused(kit: Kit) -> None:
    git(kit.base, "init", "-q")
    git(kit.base, "config", "remote.evil.url", "--upload-pack=touch ran")
    with pytest.raises(PytestNixosError, match="option"):
        store_at("evil", kit)


def test_a_transport_that_runs_commands_is_not_used(kit: Kit, tmp_path: Path) -> None:
    with pytest.raises(RecordsUnavailable, match="ext"):
        store_at(f"ext::touch {tmp_path}/ran", kit).every(soon())
    assert not (tmp_path / "ran").exists()


def test_ssh_asks_nothing_unless_the_user_has_said_how_it_is_called(kit: Kit, tmp_path: Path) -> None:
    said = {**kit.env, "GIT_SSH_COMMAND": "my-ssh"}
    assert store_at("ssh://x/y", kit).git.env["GIT_SSH_COMMAND"] == "ssh -o BatchMode=yes"
    assert store_at("ssh://x/y", kit, env=said).git.env["GIT_SSH_COMMAND"] == "my-ssh"
    (Path(kit.env["HOME"]) / ".gitconfig").write_text("[core]\nsshCommand = their-ssh\n")
    assert "GIT_SSH_COMMAND" not in store_at("ssh://x/y", kit).git.env


def test_a_real_ssh_transport_is_given_the_repository(repository: Path, kit: Kit, tmp_path: Path) -> None:
    """With a program in the place of ssh, which runs the far end's command here."""
    (tmp_path / "ssh").write_text(f'#!/bin/sh\nfor last; do :; done\necho "$@" >>{tmp_path}/said\nexec sh -c "$last"\n')
    (tmp_path / "ssh").chmod(0o755)
    env = {**kit.env, "PATH": f"{tmp_path}:{kit.env['PATH']}"}
    store = store_at(f"git@example.org:{repository}", kit, env=env)
    store.write([verdict(1)], soon())
    assert len(store.every(soon()).records) == 1
    assert all("BatchMode=yes" in line for line in (tmp_path / "said").read_text().splitlines())


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that signs itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(pem)
    file = folder / "certificate.pem"
    file.write_bytes(text)
    return file


def test_github_s_token_is_given_to_github_alone(repository: Path, kit: Kit, tmp_path: Path) -> None:
    secrets, trusted = {"GITHUB_TOKEN": "very-secret"}, certificate(tmp_path)
    with serving(repository.parent, trusted) as server:
        server.authorization = f"Basic {base64.b64encode(b'x-access-token:very-secret').decode()}"
        env = {
            **kit.env, "GITHUB_SERVER_URL": server.url, "GIT_SSL_CAINFO": str(trusted), "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{server.url}/.extraheader", "GIT_CONFIG_VALUE_0": "Authorization: Basic old",
        }  # fmt: skip
        store = store_at(f"{server.url}/records.git", kit, env=env, secrets=secrets)
        store.write([verdict(1)], soon())
        assert len(store.every(soon()).records) == 1
        elsewhere = store_at(f"{server.url}/records.git", kit, env={**env, "GITHUB_SERVER_URL": ""}, secrets=secrets)
        with pytest.raises(RecordsUnavailable):
            elsewhere.every(soon())
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(b"very-secret" in content for content in written)
    assert "very-secret" not in repr(store)


def test_threads_share_one_scratch_repository(store: GitStore) -> None:
    """As sessions on one machine do, one after the other."""
    store.write([verdict(1)], soon())
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(len(store.every(soon()).records))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 20
