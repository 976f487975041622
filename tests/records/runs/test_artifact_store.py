"""The records of past runs against a fake GitHub, which is held against GitHub's own description."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.model import Outcome, Verdict
from pytest_nixos.records import kept
from pytest_nixos.records.signing import Trusted
from pytest_nixos.records.stores.base import Found
from tests.records import npm
from tests.records.fake_runs import (
    DB,
    GOOD_ZIP,
    GREEN_JOBS,
    REPOSITORY,
    WEB,
    FakeRuns,
    folder_of,
    found,
    store,
    zipped,
)
from tests.records.making import NOW, secret_key, subject, verdict

MANY = 1000


def test_npm_brings_the_description() -> None:
    assert npm.openapi()["openapi"].startswith("3.0")


def test_records_of_trusted_runs_are_found(repository: FakeRuns) -> None:
    repository.upload(repository.run(), folder_of([WEB, DB]))
    assert found(repository) == [WEB]
    assert set(found(repository, wanted=[subject("web"), subject("db")])) == {WEB, DB}
    assert found(repository, wanted=[subject("mail")]) == []
    assert {record.verdict for record in store(repository).every(Deadline(10)).records} == {WEB, DB}


def test_the_repository_is_that_of_the_workflow_unless_named(repository: FakeRuns) -> None:
    repository.upload(repository.run(), folder_of([WEB]))
    here = store(repository, location="")
    assert here.name == f"github-runs:{REPOSITORY}"
    assert [record.verdict for record in here.lookup([subject("web")], Deadline(10)).records] == [WEB]


def test_the_storage_never_sees_the_token(repository: FakeRuns) -> None:
    repository.upload(repository.run(), folder_of([WEB]))
    assert found(repository) == [WEB]
    assert all(request.headers["authorization"] == "Bearer very-secret" for request in repository.github.requests)
    assert [request.headers.get("authorization") for request in repository.storage.requests] == [None]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"event": "schedule"},
        {"event": "workflow_dispatch"},
        {"event": "merge_group", "head_branch": "gh-readonly-queue/main/pr-7-0123"},  # and has been merged
        {"head": 1},
        {"conclusion": "failure"},  # of another check
        {"conclusion": "cancelled"},
        {"status": "in_progress", "conclusion": None},
    ],
    ids=str,
)
def test_runs_that_are_believed(repository: FakeRuns, changes: dict[str, Any]) -> None:
    repository.upload(repository.run(**changes), folder_of([WEB]))
    assert found(repository) == [WEB]


def test_a_matrix_uploads_under_many_names(repository: FakeRuns) -> None:
    run = repository.run()
    repository.upload(run, folder_of([WEB]), name="nixos-verified-1")
    repository.upload(run, folder_of([DB]), name="nixos-verified-2")
    repository.upload(run, folder_of([verdict("mail")]), name="other")
    wanted = [subject("web"), subject("db"), subject("mail")]
    assert set(found(repository, "?name=nixos-verified*", wanted)) == {WEB, DB}
    assert found(repository, "?name=nixos-verified-2", wanted) == [DB]
    assert found(repository, "", wanted) == []


def test_a_failure_is_found_too(repository: FakeRuns) -> None:
    """Policy needs it: what failed last is not verified."""
    failed = verdict("web", outcome=Outcome.FAILED, finished_at=NOW + 1)
    repository.upload(repository.run(), folder_of([WEB, failed]))
    assert set(found(repository)) == {WEB, failed}


@pytest.mark.parametrize("between", [0, 1])
def test_only_the_newest_runs_are_read(repository: FakeRuns, between: int) -> None:
    """Of those that are believed, wherever others are."""
    for name in ("web", "db"):
        repository.upload(repository.run(), folder_of([verdict(name)]))
    for _ in range(between):
        repository.upload(repository.run(event="workflow_run"), folder_of([verdict("mail", by="liar")]))
    repository.upload(repository.run(), folder_of([verdict("mail")]))
    wanted = [subject(name) for name in ("web", "db", "mail")]
    assert {(v.check, v.by) for v in found(repository, "?runs=2", wanted)} == {("db", "me@ci"), ("mail", "me@ci")}


def test_runs_that_are_not_believed_do_not_hide_older_ones(repository: FakeRuns) -> None:
    """Such as those of a merge queue, whose commits may not be in the branch yet."""
    repository.upload(repository.run(), folder_of([WEB]))
    for number in range(4):
        queued = repository.run(100 + number, event="merge_group", head_branch=f"gh-readonly-queue/main/pr-{number}")
        repository.upload(queued, folder_of([verdict("web", by="liar")]))
    assert found(repository, "?runs=2") == [WEB]


def test_another_branch_when_asked_for(repository: FakeRuns) -> None:
    repository.branch = "release/24.05"
    repository.upload(repository.run(), folder_of([WEB]))
    assert found(repository) == []
    assert found(repository, "?branch=release/24.05") == [WEB]


@pytest.mark.parametrize("path", [".github/workflows/ci.yml", ".github/workflows/ci.yml@main"])
@pytest.mark.parametrize("option", ["ci.yml", ".github/workflows/ci.yml"])
def test_one_workflow_when_asked_for(repository: FakeRuns, path: str, option: str) -> None:
    repository.upload(repository.run(path=path), folder_of([WEB]))
    assert found(repository, f"?workflow={option}") == [WEB]
    assert found(repository, "?workflow=i.yml") == []
    assert found(repository, "?workflow=ci.ym") == []


def test_a_signature_is_seen_when_its_key_is_trusted(repository: FakeRuns) -> None:
    key = secret_key("ci-1")
    repository.upload(repository.run(), folder_of([WEB], (key,)))
    repository.upload(repository.run(), folder_of([DB]))
    wanted = [subject("web"), subject("db")]

    def signers(trusted: Trusted) -> dict[str, tuple[str, ...]]:
        records = store(repository, trusted=trusted).lookup(wanted, Deadline(10)).records
        return {record.verdict.check: record.signers for record in records}

    assert signers(Trusted([key.public])) == {"web": ("ci-1",), "db": ()}
    assert signers(Trusted([secret_key("other").public])) == {"web": (), "db": ()}
    forged = key.name + ":" + secret_key("forger").public.partition(":")[2]
    assert signers(Trusted([forged])) == {"web": (), "db": ()}


def kept_records(fake: FakeRuns, cache: Path) -> list[Verdict]:
    return [r.verdict for r in store(fake, cache=cache).lookup([subject("web")], Deadline(10)).records]


def test_an_artifact_is_downloaded_once(repository: FakeRuns, tmp_path: Path) -> None:
    row = repository.upload(repository.run(), folder_of([WEB]))
    assert [kept_records(repository, tmp_path) for _ in range(3)] == [[WEB]] * 3
    assert len(repository.storage.requests) == 1
    row["digest"] = None  # what has no digest can't be recognised
    assert [kept_records(repository, tmp_path) for _ in range(2)] == [[WEB]] * 2
    assert len(repository.storage.requests) == 3


@pytest.mark.parametrize("damage", [b"", GOOD_ZIP[:-1], zipped(folder_of([verdict("web", by="liar")]))])
def test_what_is_kept_is_not_believed(repository: FakeRuns, tmp_path: Path, damage: bytes) -> None:
    repository.upload(repository.run(), folder_of([WEB]))
    kept_records(repository, tmp_path)
    (file,) = (tmp_path / "artifacts").iterdir()
    file.write_bytes(damage)
    assert [kept_records(repository, tmp_path) for _ in range(2)] == [[WEB]] * 2
    assert len(repository.storage.requests) == 2


def test_what_is_not_believed_any_more_is_not_read_from_what_is_kept(loose: FakeRuns, tmp_path: Path) -> None:
    row = loose.upload(loose.run(), folder_of([WEB]))
    assert kept_records(loose, tmp_path) == [WEB]
    row["expired"] = True
    assert kept_records(loose, tmp_path) == []


def test_the_oldest_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_MOST_FILES", 2)
    datas = [bytes([number]) for number in range(4)]
    digests = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in datas]
    store = kept.Kept(tmp_path)
    for age, (digest, data) in enumerate(zip(digests, datas, strict=True)):
        store.put(digest, data)
        os.utime(tmp_path / f"{digest.removeprefix('sha256:')}.zip", (age, age))
    assert store.get(digests[0]) == datas[0]  # which makes it the newest
    store.forget()
    assert [store.get(digest) for digest in digests] == [datas[0], None, None, datas[3]]


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../x", "sha512:" + "0" * 64, "sha256:" + "0" * 63 + "\n"])
def test_a_digest_that_is_none_has_no_file(tmp_path: Path, digest: str) -> None:
    store = kept.Kept(tmp_path)
    store.put(digest, b"x")
    assert store.get(digest) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("query", ["", GREEN_JOBS])
def test_it_is_read_only(repository: FakeRuns, query: str) -> None:
    runs = store(repository, query)
    for change in (runs.write, runs.remove):
        with pytest.raises(RecordsUnavailable, match="read-only") as caught:
            change([WEB], Deadline(1))
        assert "upload-artifact" in caught.value.hint
    runs.renew([WEB], Deadline(1))
    assert runs.lookup([], Deadline(1)) == Found()
    assert repository.round_trips == 0


NONSENSE = [
    *("runs=0", "runs=21", "runs=x", "runs=", "runs=1000000000000", "name=", "name=*", "name=a*b", "name=a**"),
    *("job=", "job=test", "job={system}", "job={check}&name=x"),
]


@pytest.mark.parametrize("query", NONSENSE)
def test_options_that_make_no_sense(repository: FakeRuns, query: str) -> None:
    with pytest.raises(PytestNixosError, match="github-runs:"):
        store(repository, f"?{query}")


@pytest.mark.parametrize("shards", [1, 16])
def test_artifacts_of_a_thousand_checks_are_a_handful_of_round_trips(repository: FakeRuns, shards: int) -> None:
    names = [f"c{number}" for number in range(MANY)]
    run = repository.run()
    for shard in range(shards):
        repository.upload(run, folder_of(map(verdict, names[shard::shards])), name=f"nixos-verified-{shard}")
    assert len(found(repository, "?name=nixos-verified-*", list(map(subject, names)))) == MANY
    assert repository.round_trips == 4 + 2 * shards
