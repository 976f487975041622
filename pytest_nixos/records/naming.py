"""The name of a record, made of what it says, and which records speak of what is asked for. Pure.

A name is `<derivation>.<output>.<driver>.<outcome>`, each path by the hash in its name, "-" where there is none, and
`+<flag>` for each flag. A listing of names answers all look-ups; where only names can be kept, a name is the record.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_nixos.model import Outcome, Subject, Verdict

UNKNOWN_BUT_LATE = 4102444800.0  # the year 2100, in seconds since the epoch
_NO_PATH = "-"
_HASH = "[0-9A-Za-z]{32}"
_NAME = re.compile(
    rf"(?P<drv>{_HASH})\.(?P<out>{_HASH}|-)\.(?P<driver>{_HASH}|-)\.(?P<outcome>passed|failed)"
    r"(?P<flags>(?:\+[a-z][a-z0-9-]{0,31})*)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """What a record's name says: hashes of store paths, "-" for no path; outcome and flags."""

    drv: str
    out: str
    driver: str
    outcome: Outcome
    flags: tuple[str, ...]


def name_of(verdict: Verdict) -> str:
    """The name of a verdict's record. A failure never takes the place of a proof, nor does a flagged result."""
    hashes = ".".join(_hash(path) for path in (verdict.drv_path, verdict.out_path, verdict.driver))
    return "+".join([f"{hashes}.{verdict.outcome.value}", *sorted(verdict.flags)])


def parse_name(text: str) -> Name | None:
    """What a name says; None for what is no name of a record."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    flags = tuple(match["flags"].split("+")[1:])
    return Name(
        drv=match["drv"],
        out=match["out"],
        driver=match["driver"],
        outcome=Outcome(match["outcome"]),
        flags=flags,
    )


def verdict_by_name(name: Name, subject: Subject, finished_at: float, by: str) -> Verdict | None:
    """The verdict that a record without content is, for a subject that it names exactly; else None.

    finished_at is in seconds since the epoch, 0 when unknown.
    """
    derivation = subject.derivation
    hashes = tuple(_hash(path) for path in (derivation.drv_path, derivation.out_path, subject.driver))
    if hashes != (name.drv, name.out, name.driver):
        return None
    return Verdict.of(subject, name.outcome, finished_at=finished_at, by=by, flags=name.flags)


def failure_by_name(name: Name, subject: Subject) -> Verdict | None:
    """The failure that an unreadable record is by its name, for a subject that it may speak of; None for a pass.

    Nobody knows when it was, so it is newer than any pass.
    """
    runs = {_hash(subject.driver), _hash(subject.part or subject.driver)}
    if name.outcome is not Outcome.FAILED or name.driver not in runs:
        return None
    return Verdict.of(subject, Outcome.FAILED, finished_at=UNKNOWN_BUT_LATE, by="a record that can't be read")


class Wanted:
    """The subjects of a look-up, by derivation and by output: a record of either speaks of them."""

    def __init__(self, subjects: Iterable[Subject]) -> None:
        self._by_hash: dict[str, list[Subject]] = {}
        for subject in subjects:
            for path in filter(None, (subject.derivation.drv_path, subject.derivation.out_path)):
                self._by_hash.setdefault(_hash(path), []).append(subject)

    def near(self, name: Name | None) -> list[Subject]:
        """The subjects that a record of that name may speak of."""
        if name is None:
            return []
        return [*self._by_hash.get(name.drv, ()), *(self._by_hash.get(name.out, ()) if name.out != _NO_PATH else ())]


def _hash(store_path: str | None) -> str:
    return store_path.rsplit("/", 1)[-1][:32] if store_path else _NO_PATH
