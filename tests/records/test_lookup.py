"""Asking stores: the cheapest first, for what is open; whatever goes wrong in one is a warning and no proof."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.model import Outcome, Record, Subject, Verdict
from pytest_nixos.records.lookup import Answer, Source, look_up
from pytest_nixos.records.places import Terms
from pytest_nixos.records.reasons import why_not
from pytest_nixos.records.stores.base import Found
from tests.records.making import NOW, EmptyStore, subject, verdict


@dataclass
class Memory(EmptyStore):
    """A store that says what it is told to, and remembers what it was asked."""

    name: str = "memory"
    records: Sequence[Record] = ()
    error: Exception | None = None
    asked: list[list[str]] = field(default_factory=list)

    def lookup(self, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        self.asked.append([one.check for one in wanted])
        if self.error:
            raise self.error
        return Found(records=tuple(self.records))


def ask(
    *stores: Memory, terms: Terms | None = None, seconds: float = 9, all_of_them: bool = False, own: bool = True
) -> Answer:
    sources = [Source(store=store, terms=terms or Terms()) for store in stores]
    subjects = [subject("web"), subject("db")]
    return look_up(
        sources,
        subjects,
        Deadline(seconds),
        now=NOW,
        max_age=None,
        is_own_output=lambda _: own,
        all_of_them=all_of_them,
    )


def of(*verdicts: Verdict, signers: tuple[str, ...] = ()) -> list[Record]:
    return [Record(verdict=one, signers=signers) for one in verdicts]


def test_a_later_store_is_asked_for_what_is_open() -> None:
    first, second, third = Memory("a", of(verdict("web"))), Memory("b", of(verdict("db"))), Memory("c")
    answer = ask(first, second, third)
    assert [evidence and evidence.record for evidence in answer.evidence] == ["a", "b"]
    assert (first.asked, second.asked, third.asked) == ([["web", "db"]], [["db"]], [])
    ask(first, second, third, all_of_them=True)
    assert third.asked == [["web", "db"]]


@pytest.mark.parametrize("error", [RecordsUnavailable("down"), OSError("down"), KeyError("down"), RecursionError()])
def test_a_store_that_fails_is_one_warning_and_the_next_is_asked(error: Exception) -> None:
    answer = ask(Memory("broken", of(verdict("web")), error), Memory("whole", of(verdict("db"))))
    assert [evidence and evidence.record for evidence in answer.evidence] == [None, "whole"]
    assert len(answer.warnings) == 1


def test_out_of_time_means_nothing_was_found() -> None:
    store = Memory("late", of(verdict("web")))
    answer = ask(store, seconds=0)
    assert answer.evidence == (None, None)
    assert store.asked == []
    assert "no time left" in answer.warnings[0]


def test_unsigned_records_do_not_count_and_that_is_said_once() -> None:
    answer = ask(Memory("git", of(verdict("web"), verdict("db"))), terms=Terms(signed=True))
    assert answer.evidence == (None, None)
    assert answer.warnings == ("2 of the records in git do not count: not signed by a trusted key",)
    assert ask(Memory("git", of(verdict("web"), signers=("ci-1",))), terms=Terms(signed=True)).evidence[0]


def test_a_record_of_another_key_proves_nothing() -> None:
    foreign = [
        verdict("mail"),
        verdict("web", drv_path=verdict("mail").drv_path, out_path=None),
        verdict("web", driver=None),
        verdict("web", outcome=Outcome.FAILED),
        verdict("web", finished_at=NOW + 1000),
    ]
    assert ask(Memory("a", of(*foreign))).evidence == (None, None)


def test_a_record_of_the_same_output_counts_where_the_derivation_says_that_it_is_its_own() -> None:
    """A flake may say of any derivation that its output is another's."""
    same_output = of(verdict("web", drv_path=verdict("mail").drv_path))
    assert ask(Memory("a", same_output)).evidence[0] is not None
    assert ask(Memory("a", same_output), own=False).evidence[0] is None
    assert ask(Memory("a", of(verdict("web"))), own=False).evidence[0] is not None


def test_a_newer_failure_in_another_store_takes_the_proof_away() -> None:
    failed = verdict("web", outcome=Outcome.FAILED, finished_at=NOW - 1)
    old = verdict("web", finished_at=NOW - 2)
    assert ask(Memory("local", of(failed)), Memory("remote", of(old))).evidence == (None, None)


@pytest.mark.parametrize(
    ("records", "terms", "reason"),
    [
        ([], Terms(), "no record"),
        (of(verdict("web")), Terms(signed=True), "not signed"),
        (of(verdict("web", flags=("tcg",))), Terms(), "flagged tcg"),
        (of(verdict("web", driver=None)), Terms(), "another driver"),
        (of(verdict("web", outcome=Outcome.FAILED)), Terms(), "a failure"),
        (of(verdict("web", finished_at=NOW + 1000)), Terms(), "future"),
    ],
)
def test_why_a_check_is_not_verified(records: list[Record], terms: Terms, reason: str) -> None:
    answer = ask(Memory("a", records), terms=terms)
    assert answer.evidence[0] is None
    assert reason in why_not(subject("web"), answer.known[0], None)


def test_a_record_of_unknown_age_and_one_that_is_too_old() -> None:
    for finished_at, reason in ((0.0, "how old"), (NOW - 100, "too old")):
        known = ask(Memory("a", of(verdict("web", finished_at=finished_at)))).known[0]
        assert reason in why_not(subject("web"), known, 10.0)
