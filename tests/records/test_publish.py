"""Records on their way: in batches, again after an error that passes, and nothing is lost in silence."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.model import Outcome, Verdict
from pytest_nixos.records import publish
from pytest_nixos.records.keeper import Keeper
from pytest_nixos.records.places import Terms, parse_place
from pytest_nixos.records.publish import Outbox, Published
from pytest_nixos.records.rights import Where
from pytest_nixos.records.signing import Trusted
from pytest_nixos.records.stores.base import Kit
from tests.records.making import EmptyStore, secret_key, subject, verdict


@dataclass
class Sink(EmptyStore):
    """A store that keeps batches, after as many errors as it is told to make."""

    errors: list[Exception] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    name: str = "sink"
    gate: threading.Event | None = None

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        if self.gate:
            self.gate.wait(10)
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append([one.check for one in verdicts])


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_PATIENCE_SECONDS", (0.01,))


def close(outbox: Outbox, deadline: Deadline) -> Published:
    outbox.end(deadline)
    outbox.wait(deadline)
    return outbox.result()


def test_all_is_written_and_counted() -> None:
    sink = Sink()
    outbox = Outbox(sink, Terms(), 0.01)
    for name in ("a", "b", "c"):
        outbox.put(verdict(name))
    published = close(outbox, Deadline(10))
    assert [name for batch in sink.batches for name in batch] == ["a", "b", "c"]
    assert (published.written, published.lost, published.why) == (3, 0, "")


def test_what_comes_while_a_batch_is_in_flight_goes_with_the_next() -> None:
    sink = Sink(gate=threading.Event())
    outbox = Outbox(sink, Terms(), 0.01)
    outbox.put(verdict("a"))
    while not sink.batches:
        outbox.put(verdict("b"))
        assert sink.gate
        sink.gate.set()
    assert close(outbox, Deadline(10)).lost == 0
    assert len(sink.batches) <= 3


def test_only_passes_without_flags_are_published() -> None:
    sink = Sink()
    outbox = Outbox(sink, Terms(), 0.01)
    outbox.put(verdict("failed", outcome=Outcome.FAILED))
    outbox.put(verdict("slow", flags=("tcg",)))
    result = close(outbox, Deadline(10))
    assert (result.written, result.held, result.lost) == (0, 1, 0)
    allowed = Outbox(sink, Terms(allow=frozenset({"tcg"})), 0.01)
    allowed.put(verdict("slow", flags=("tcg",)))
    allowed.put(verdict("worse", flags=("tcg", "retried")))
    assert close(allowed, Deadline(10)).written == 1
    assert sink.batches == [["slow"]]


def test_an_error_that_passes_costs_a_retry() -> None:
    sink = Sink([RecordsUnavailable("busy", transient=True)] * 2)
    outbox = Outbox(sink, Terms(), 0.01)
    outbox.put(verdict("a"))
    published = close(outbox, Deadline(10))
    assert (published.written, published.lost) == (1, 0)


@pytest.mark.parametrize("error", [RecordsUnavailable("forbidden"), OSError("disk"), PytestNixosError("no git")])
def test_an_error_that_stays_is_told_with_the_number_that_is_lost(error: Exception) -> None:
    sink = Sink([error])
    outbox = Outbox(sink, Terms(), 0.01)
    outbox.put(verdict("a"))
    outbox.put(verdict("b"))
    published = close(outbox, Deadline(10))
    assert (published.written, published.lost) == (0, 2)
    assert published.why


def test_the_end_does_not_wait_for_ever() -> None:
    hanging = Outbox(Sink(gate=threading.Event()), Terms(), 0.01)
    hanging.put(verdict("a"))
    assert close(hanging, Deadline(0.05)).lost == 1
    failing = Outbox(Sink([RecordsUnavailable("down", transient=True)] * 9999), Terms(), 0.01)
    failing.put(verdict("a"))
    published = close(failing, Deadline(60))  # some tries are enough
    assert (published.lost, published.why) == (1, "down")


def kit(folder: Path, *, keys: bool = True, trusted: bool = True) -> Kit:
    key = secret_key()
    return Kit(
        trusted=Trusted([key.public] if trusted else []),
        keys=(key,) if keys else (),
        base=folder,
        cache=folder / "cache",
        env={},
        secrets={},
        nix=lambda *args: ("nix", *args),
    )


def test_a_local_record_is_on_the_disk_at_once(tmp_path: Path) -> None:
    keeper = Keeper([parse_place("dir:records")], kit(tmp_path), Where.LAPTOP, 5)
    assert keeper.keep(verdict("a")) == []
    assert len(list((tmp_path / "records").iterdir())) == 1
    answer = keeper.look_up([subject("a")], now=2e9, max_age=None)
    assert answer.evidence[0] is not None
    assert answer.evidence[0].signers == ("ci-1",)


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    keeper = Keeper([parse_place("dir:file")], kit(tmp_path), Where.LAPTOP, 5)
    assert "can't be written" in keeper.keep(verdict("a"))[0]


def test_a_signed_store_needs_keys(tmp_path: Path) -> None:
    place = parse_place("dir:records?signed=yes")
    with pytest.raises(PytestNixosError, match="no key is trusted"):
        Keeper([place], kit(tmp_path, keys=False, trusted=False), Where.MAIN, 5)
    [opened] = Keeper([place], kit(tmp_path, keys=False), Where.MAIN, 5).stores
    assert opened.not_written == "no secret key to sign with"
    outputs, cachix = parse_place("nix:file:///c?evidence=output"), parse_place("nix:https://c.org?via=cachix")
    [opened] = Keeper([outputs], kit(tmp_path, keys=False, trusted=False), Where.MAIN, 5).stores
    assert opened.not_written == "whoever builds outputs writes them"
    [opened] = Keeper([cachix], kit(tmp_path, keys=False), Where.MAIN, 5).stores
    assert opened.not_written == ""
    with pytest.raises(PytestNixosError, match="no secret key"):
        Keeper([parse_place("dir:records?signed=yes&push=yes")], kit(tmp_path, keys=False), Where.MAIN, 5)
