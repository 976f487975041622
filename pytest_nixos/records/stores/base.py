"""What every kind of record store can do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from pytest_nixos.model import Derivation, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An answer to a look-up: the verdicts that name one of the derivations, and what could not be read."""

    verdicts: tuple[Verdict, ...] = ()
    warnings: tuple[str, ...] = ()


class RecordStore(Protocol):
    """A place that keeps verdicts.

    No method raises for a store that is missing, unreadable or half-written: what can't be read is not
    there, and the reason is a warning.
    """

    @property
    def name(self) -> str:
        """The store for people, as in "verified by <name>"."""

    def lookup(self, wanted: Iterable[Derivation]) -> Found:
        """All verdicts on any of `wanted`, by derivation path or by output path."""

    def record(self, verdict: Verdict) -> str:
        """Keep a verdict at once; the answer is a warning, "" when it is kept."""
