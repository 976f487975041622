"""What the record stores say of the checks: the cheapest store first, all within one deadline.

A store that can't be read, that answers late or with an error, is a warning and has nothing: its checks run.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.model import Derivation, Evidence, Record, Subject
from pytest_nixos.records import policy
from pytest_nixos.records.places import Terms
from pytest_nixos.records.stores.base import Found, RecordStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A store that is read, and the terms on which its records count.

    always: it is asked for what is verified, too: only folders know of failures, which may be newer than a proof.
    """

    store: RecordStore
    terms: Terms
    always: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A record that speaks of a subject, the name of its store, and why it does not count ("" when it does)."""

    store: str
    record: Record
    refusal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """For each subject, in order, what proves it (None: nothing does) and all that was found; and warnings.

    newest: for each, when the newest pass was that counts but for its time (seconds since the epoch, 0 for none).
    """

    evidence: tuple[Evidence | None, ...]
    known: tuple[tuple[Known, ...], ...]
    newest: tuple[float, ...]
    warnings: tuple[str, ...]


def look_up(
    sources: Sequence[Source],
    subjects: Sequence[Subject],
    deadline: Deadline,
    *,
    now: float,
    max_age: float | None,
    is_own_output: Callable[[Derivation], bool],
    all_of_them: bool = False,
) -> Answer:
    """Ask the sources in their order, each for what is not verified yet; now, max_age: see policy.judge.

    is_own_output: whether a derivation has the output that the flake says it has; asked where only that counts.
    all_of_them: ask each source for everything, for people who want to know all that is known.
    """
    known: list[list[Known]] = [[] for _ in subjects]
    evidence: list[Evidence | None] = [None] * len(subjects)
    warnings: list[str] = []
    blind = False  # a store that may know of failures has not answered
    for source in sources:
        everything = all_of_them or source.always
        open_ = [n for n in range(len(subjects)) if everything or evidence[n] is None]
        if not open_:
            continue
        found = _ask(source.store, [subjects[n] for n in open_], deadline)
        blind |= source.always and not found.complete
        warnings += [*found.warnings, *_refused(source, found)]
        for n, entry in _assigned(source, subjects, open_, found):
            known[n].append(entry)
        for n in open_:
            counting = [(entry.store, entry.record) for entry in known[n] if not entry.refusal]
            proof = policy.judge(subjects[n], counting, now, max_age)
            by_output = proof is not None and proof.verdict.drv_path != subjects[n].derivation.drv_path
            evidence[n] = None if by_output and not is_own_output(subjects[n].derivation) else proof
    counts = [[entry.record for entry in entries if not entry.refusal] for entries in known]
    return Answer(
        evidence=(None,) * len(subjects) if blind else tuple(evidence),
        known=tuple(map(tuple, known)),
        newest=tuple(policy.newest_pass(one, records) for one, records in zip(subjects, counts, strict=True)),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _ask(store: RecordStore, wanted: Sequence[Subject], deadline: Deadline) -> Found:
    if deadline.expired:
        return Found(warnings=(f"{store.name} was not asked: there was no time left",), complete=False)
    try:
        return store.lookup(wanted, deadline)
    except PytestNixosError as error:
        return Found(warnings=(error.message,), complete=False)
    except Exception as error:  # a fault in reading records must not stop the tests
        return Found(warnings=(f"{store.name} can't be read: {type(error).__name__}: {error}",), complete=False)


def _refused(source: Source, found: Found) -> Iterator[str]:
    """One warning for all records that should have had a signature."""
    reasons = Counter(filter(None, (policy.refusal(record, source.terms) for record in found.records)))
    for reason, number in reasons.items():
        yield f"{number} of the records in {source.store.name} do not count: {reason}"


def _assigned(
    source: Source, subjects: Sequence[Subject], open_: Sequence[int], found: Found
) -> Iterator[tuple[int, Known]]:
    """The records that speak of open subjects, each with its subject's number."""
    by_path: dict[str, list[int]] = {}
    for n in open_:
        for path in filter(None, {subjects[n].derivation.drv_path, subjects[n].derivation.out_path}):
            by_path.setdefault(path, []).append(n)
    for record in found.records:
        verdict = record.verdict
        near = {*by_path.get(verdict.drv_path, ()), *by_path.get(verdict.out_path or "", ())}
        entry = Known(store=source.store.name, record=record, refusal=policy.refusal(record, source.terms))
        yield from ((n, entry) for n in near if policy.speaks_of(verdict, subjects[n].derivation))
