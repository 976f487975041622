"""Pushes records to remote stores while the session goes on: in batches, with retries, one thread for each store.

A record waits at most a moment for others to go with it; so a killed session has lost the batch in flight at most,
and that one is in the local store.
"""

import threading
from dataclasses import dataclass

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.model import Outcome, Verdict
from pytest_nixos.records.places import Terms
from pytest_nixos.records.stores.base import RecordStore

_WRITE_SECONDS = 60.0
_PATIENCE_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
_LARGEST_BATCH = 200
_TRIES_AT_THE_END = 3  # in a row without success: whoever waits for a server that is gone waits some seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What came of a store: records written, records that could not be and why (the last error), passes held back.

    A pass is held back for a flag that the store's terms do not allow.
    """

    store: str
    written: int
    lost: int
    why: str = ""
    held: int = 0


def is_publishable(verdict: Verdict, terms: Terms) -> bool:
    """Only what passed, and is not worth less than the store's terms allow."""
    return verdict.outcome is Outcome.PASSED and (terms.allow is None or terms.allow.issuperset(verdict.flags))


class Outbox:
    """The records on their way to one store. Any thread may put; the object's own thread writes."""

    def __init__(self, store: RecordStore, terms: Terms, gather_seconds: float = 1.0) -> None:
        """gather_seconds: how long a record waits for others to go with it."""
        self._store, self._terms, self._gather_seconds = store, terms, gather_seconds
        self._waiting: list[Verdict] = []
        self._changed = threading.Condition()
        self._ends: Deadline | None = None  # set when the session ends: until then we may try
        self._written, self._held, self._why = 0, 0, ""
        self._thread = threading.Thread(target=self._work, name=f"nixos-push {store.name}", daemon=True)
        self._thread.start()

    def put(self, verdict: Verdict) -> None:
        """Send a record on its way, if it is one for this store."""
        if not is_publishable(verdict, self._terms):
            self._held += verdict.outcome is Outcome.PASSED
            return
        with self._changed:
            self._waiting.append(verdict)
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """How many records are on their way."""
        with self._changed:
            return len(self._waiting)

    def end(self, deadline: Deadline) -> None:
        """Say that nothing more comes, and until when to try."""
        with self._changed:
            self._ends = deadline
            self._changed.notify()

    def wait(self, deadline: Deadline) -> None:
        """Wait until all is written or given up, or the deadline comes."""
        self._thread.join(deadline.remaining)

    def result(self) -> Published:
        """What came of it so far."""
        with self._changed:
            lost, name = len(self._waiting), self._store.name
            why = (self._why.removeprefix(f"{name}: ") or "there was no time left") if lost else ""
            return Published(store=name, written=self._written, lost=lost, why=why, held=self._held)

    def _work(self) -> None:
        failures, tries_left = 0, _TRIES_AT_THE_END
        while batch := self._next_batch():
            try:
                self._store.write(batch, Deadline(_WRITE_SECONDS, self._ends))
                self._done(batch)
                failures, tries_left = 0, _TRIES_AT_THE_END
            except RecordsUnavailable as error:
                self._failed(str(error.message))
                tries_left -= self._ends is not None
                if not error.transient or not tries_left or not self._rest(failures):
                    return
                failures += 1
            except (PytestNixosError, OSError, ValueError) as error:
                self._failed(str(error))
                return

    def _next_batch(self) -> list[Verdict]:
        """What is to be written next, gathered for a moment; empty when the session has ended and all is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends)
            self._changed.wait_for(lambda: len(self._waiting) >= _LARGEST_BATCH or self._ends, self._gather_seconds)
            return self._waiting[:_LARGEST_BATCH]

    def _done(self, batch: list[Verdict]) -> None:
        with self._changed:
            del self._waiting[: len(batch)]
            self._written += len(batch)

    def _failed(self, why: str) -> None:
        with self._changed:
            self._why = why

    def _rest(self, failures: int) -> bool:
        """Wait before the next try; whether there is to be one."""
        with self._changed:
            pause = _PATIENCE_SECONDS[min(failures, len(_PATIENCE_SECONDS) - 1)]
            if self._ends is None:  # the end of the session is worth a try at once
                self._changed.wait_for(lambda: self._ends, pause)
                return True
        threading.Event().wait(self._ends.within(pause))
        return not self._ends.expired
