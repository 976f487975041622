import dataclasses
import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.model import Derivation, Outcome, Subject, Verdict
from pytest_nixos.records.naming import name_of
from pytest_nixos.records.stores.base import Found
from pytest_nixos.records.stores.directory import DirectoryStore
from pytest_nixos.records.verdict import encode

SOON = Deadline(None)


def derivation(letter: str) -> Derivation:
    return Derivation(
        drv_path=f"/nix/store/{letter * 32}-x.drv", outputs={"out": f"/nix/store/{letter.upper() * 32}-x"}
    )


def verdict(letter: str = "a", **changes: object) -> Verdict:
    drv = derivation(letter)
    made = Verdict(
        drv_path=drv.drv_path,
        out_path=drv.out_path,
        driver=None,
        outcome=Outcome.PASSED,
        finished_at=time.time(),
        seconds=1.0,
        by="x",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def look_up(folder: Path, *derivations: Derivation) -> Found:
    wanted = [Subject(check="x", system="s", derivation=d, driver=None) for d in derivations or [derivation("a")]]
    return DirectoryStore(folder).lookup(wanted, SOON)


def found(folder: Path, *derivations: Derivation) -> list[Verdict]:
    return [record.verdict for record in look_up(folder, *derivations).records]


def file_name(verdict: Verdict) -> str:
    return f"{name_of(verdict)}.json"


def test_what_is_recorded_is_found_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    assert found(folder) == []
    kept = verdict("a")
    DirectoryStore(folder).write([kept], SOON)
    assert found(folder) == [kept]
    assert found(folder, derivation("b")) == []
    assert found(folder, Derivation(drv_path=derivation("c").drv_path, outputs=derivation("a").outputs)) == [kept]


def test_a_failure_or_a_flagged_result_does_not_replace_a_proof(tmp_path: Path) -> None:
    passed, failed, flagged = verdict("a"), verdict("a", outcome=Outcome.FAILED), verdict("a", flags=("tcg",))
    DirectoryStore(tmp_path).write([passed, failed, flagged], SOON)
    assert sorted(map(repr, found(tmp_path))) == sorted(map(repr, [passed, failed, flagged]))


def test_all_records_can_be_listed_and_removed(tmp_path: Path) -> None:
    store, kept, gone = DirectoryStore(tmp_path), verdict("a"), verdict("b")
    store.write([kept, gone], SOON)
    store.remove([gone, verdict("c")], SOON)
    assert [record.verdict for record in store.every(SOON).records] == [kept]


@pytest.mark.parametrize("damage", [b"", b"{", encode(verdict("b")), encode(verdict("a"))[:-2], b"\0" * 100])
def test_a_damaged_record_is_a_warning(tmp_path: Path, damage: bytes) -> None:
    """A record of another derivation in its place is damage, too: a name alone proves nothing."""
    (tmp_path / file_name(verdict("a"))).write_bytes(damage)
    answer = look_up(tmp_path)
    assert answer.records == ()
    assert "damaged" in answer.warnings[0]


def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / file_name(verdict("a")))
    assert "damaged" in look_up(tmp_path).warnings[0]


def test_others_may_read_a_shared_folder(tmp_path: Path) -> None:
    DirectoryStore(tmp_path).write([verdict("a")], SOON)
    assert (tmp_path / file_name(verdict("a"))).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("changes", [{"outcome": Outcome.FAILED}, {"flags": ("tcg",)}, {"driver": "/nix/store/x"}])
def test_a_record_renamed_to_a_proof_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / file_name(verdict("a"))).write_bytes(encode(verdict("a", **changes)))
    assert found(tmp_path) == []


def test_what_cannot_be_read_or_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsUnavailable, match="can't be read"):
        look_up(tmp_path / "file")
    with pytest.raises(RecordsUnavailable, match="can't be written"):
        DirectoryStore(tmp_path / "file").write([verdict("a")], SOON)
    (tmp_path / "records" / file_name(verdict("a"))).mkdir(parents=True)
    assert found(tmp_path / "records") == []


def _write_many(folder: str) -> None:
    for _ in range(100):
        DirectoryStore(Path(folder)).write([verdict("a", finished_at=time.time())], SOON)


def test_many_sessions_write_and_read_one_record(tmp_path: Path) -> None:
    DirectoryStore(tmp_path).write([verdict("a")], SOON)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(tmp_path),)) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        answer = look_up(tmp_path)
        assert len(answer.records) == 1
        assert not answer.warnings
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [file_name(verdict("a"))]


def full_disk(*args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failure_without_room_takes_a_proof_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    store.write([verdict()], SOON)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", full_disk)
        store.write([verdict(outcome=Outcome.FAILED)], SOON)
        with pytest.raises(RecordsUnavailable, match="No space left"):
            store.write([verdict("b")], SOON)
    found = look_up(tmp_path, derivation("a"), derivation("b"))
    outcomes = {record.verdict.outcome: record.verdict.finished_at for record in found.records}
    assert outcomes[Outcome.FAILED] > outcomes[Outcome.PASSED]
    store.write([verdict()], SOON)  # a later pass has the last word, as it has over a failure that can be read
    assert [r.verdict.outcome for r in look_up(tmp_path, derivation("a")).records] == [Outcome.PASSED]


def test_where_not_even_a_name_fits_the_proof_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    store.write([verdict(), verdict(flags=("tcg",)), verdict("b")], SOON)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", full_disk)
        full.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(RecordsUnavailable, match="No space left"):
            store.write([verdict(outcome=Outcome.FAILED)], SOON)
    assert [r.verdict.drv_path for r in store.every(SOON).records] == [derivation("b").drv_path]
