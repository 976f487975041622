import dataclasses
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from pytest_nixos.model import Derivation, Outcome, Verdict
from pytest_nixos.records.stores.directory import DirectoryStore, file_name
from pytest_nixos.records.verdict import encode


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


def test_what_is_recorded_is_found_and_nothing_else(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "records")
    assert store.lookup([derivation("a")]).verdicts == ()
    kept = verdict("a")
    assert store.record(kept) == ""
    assert store.lookup([derivation("a")]).verdicts == (kept,)
    assert store.lookup([derivation("b")]).verdicts == ()
    same_output = Derivation(drv_path=derivation("c").drv_path, outputs=derivation("a").outputs)
    assert store.lookup([same_output]).verdicts == (kept,)


def test_a_failure_does_not_replace_a_proof(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    passed, failed = verdict("a"), verdict("a", outcome=Outcome.FAILED)
    store.record(passed)
    store.record(failed)
    assert set(store.lookup([derivation("a")]).verdicts) == {passed, failed}


@pytest.mark.parametrize("damage", [b"", b"{", encode(verdict("b")), encode(verdict("a"))[:-2], b"\0" * 100])
def test_a_damaged_record_is_a_warning(tmp_path: Path, damage: bytes) -> None:
    """A record of another derivation in its place is damage, too: a name alone proves nothing."""
    store = DirectoryStore(tmp_path)
    (tmp_path / file_name(verdict("a"))).write_bytes(damage)
    found = store.lookup([derivation("a")])
    assert found.verdicts == ()
    assert "damaged" in found.warnings[0]


def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / file_name(verdict("a")))
    assert "damaged" in DirectoryStore(tmp_path).lookup([derivation("a")]).warnings[0]


def test_others_may_read_a_shared_folder(tmp_path: Path) -> None:
    DirectoryStore(tmp_path).record(verdict("a"))
    assert (tmp_path / file_name(verdict("a"))).stat().st_mode & 0o777 == 0o644


def test_a_failure_renamed_to_a_proof_is_refused(tmp_path: Path) -> None:
    failed = verdict("a", outcome=Outcome.FAILED)
    (tmp_path / file_name(verdict("a"))).write_bytes(encode(failed))
    assert DirectoryStore(tmp_path).lookup([derivation("a")]).verdicts == ()


def test_what_cannot_be_read_or_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = DirectoryStore(tmp_path / "file")
    assert "can't be read" in store.lookup([derivation("a")]).warnings[0]
    assert "could not be written" in store.record(verdict("a"))
    (tmp_path / "records" / file_name(verdict("a"))).mkdir(parents=True)
    assert DirectoryStore(tmp_path / "records").lookup([derivation("a")]).verdicts == ()


def _write_many(folder: str) -> None:
    for _ in range(100):
        assert DirectoryStore(Path(folder)).record(verdict("a", finished_at=time.time())) == ""


def test_many_sessions_write_and_read_one_record(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.record(verdict("a"))
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(tmp_path),)) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = store.lookup([derivation("a")])
        assert len(found.verdicts) == 1
        assert not found.warnings
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [file_name(verdict("a"))]
