"""All record stores of a session: opened from how they were named, with what may be read and written here."""

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.model import Evidence, Subject, Verdict
from pytest_nixos.records.lookup import Answer, Source, look_up
from pytest_nixos.records.places import Place, Push
from pytest_nixos.records.publish import Outbox, Published
from pytest_nixos.records.rights import Where, may_push
from pytest_nixos.records.stores.base import Kit, RecordStore
from pytest_nixos.records.stores.opening import open_store

_NO_KEY = "no secret key to sign with"
_KEY_HINT = "put one made by `nix key generate-secret` into a file, and name it with --nixos-secret-key-file=FILE"
_GATHER_SECONDS = {"gha": 5.0}  # a service that counts uploads
_DAY_SECONDS = 86400.0
_CHEAPEST_FIRST = ("dir", "gha", "git", "nix", "github-runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A store, how it was named, and why it is not written ("" when it is)."""

    place: Place
    store: RecordStore
    not_written: str


class Keeper:
    """The stores of a session. Local ones are written at once, the others by threads of their own."""

    def __init__(self, places: Sequence[Place], kit: Kit, where: Where, seconds: float) -> None:
        """seconds: for a look-up in all stores. Raises PytestNixosError for a store that can't be used as named."""
        ordered = sorted(places, key=lambda place: _CHEAPEST_FIRST.index(place.scheme))
        self.stores = tuple(_open(place, kit, where) for place in ordered)
        self._seconds, self._kit = seconds, kit
        self._outboxes: list[Outbox] | None = None

    @property
    def _written(self) -> list[Opened]:
        return [opened for opened in self.stores if not opened.not_written]

    def look_up(
        self, subjects: Sequence[Subject], *, now: float, max_age: float | None, all_of_them: bool = False
    ) -> Answer:
        """What is known of the subjects; see lookup.look_up."""
        read = [opened for opened in self.stores if opened.place.terms.pull]
        sources = [Source(store=o.store, terms=o.place.terms, always=o.place.scheme == "dir") for o in read]
        deadline = Deadline(self._seconds)
        own = self._kit.is_own_output
        return look_up(
            sources, subjects, deadline, now=now, max_age=max_age, is_own_output=own, all_of_them=all_of_them
        )

    def keep(self, verdict: Verdict) -> list[str]:
        """Keep a verdict in the local stores before this returns, and send it to the others; warnings."""
        warnings = []
        for opened in self._written:
            if opened.place.scheme == "dir":
                try:
                    opened.store.write([verdict], Deadline(None))
                except PytestNixosError as error:
                    warnings.append(f"the record of {verdict.check or verdict.drv_path} is lost: {error.message}")
        for outbox in self._open_outboxes():
            outbox.put(verdict)
        return warnings

    def renew(self, evidence: Iterable[Evidence], seconds: float) -> None:
        """Tell the stores that we may write which of their records are still in use, once a day.

        That it fails costs no more than a run of the check one day.
        """
        used: dict[str, list[Verdict]] = {}
        for entry in evidence:
            used.setdefault(entry.record, []).append(entry.verdict)
        for opened in self._written:
            if opened.store.name in used and opened.place.scheme != "dir":
                with contextlib.suppress(Exception):
                    if _is_today(self._kit.cache / f"renewed-{sha256(opened.store.name.encode()).hexdigest()[:16]}"):
                        continue
                    opened.store.renew(used[opened.store.name], Deadline(seconds))

    def refuse_unsigned(self) -> None:
        """Raises PytestNixosError where a store is not written for want of a key: a secret that CI forgot."""
        for opened in self.stores:
            if opened.not_written == _NO_KEY:
                raise PytestNixosError(f"{opened.place} can't be written: there is {_NO_KEY}", _KEY_HINT)

    @property
    def on_their_way(self) -> int:
        """How many records wait to be written to other stores than folders."""
        return sum(outbox.waiting for outbox in self._outboxes or [])

    def close(self, seconds: float) -> list[Published]:
        """Write what is on its way, for at most that many seconds; what was published where."""
        outboxes, self._outboxes = self._outboxes or [], []
        deadline = Deadline(seconds)
        for outbox in outboxes:
            outbox.end(deadline)
        try:
            for outbox in outboxes:
                outbox.wait(deadline)
        except KeyboardInterrupt:
            pass  # the user waits no longer; what is lost is said
        return [outbox.result() for outbox in outboxes]

    def _open_outboxes(self) -> list[Outbox]:
        if self._outboxes is None:
            remote = [opened for opened in self._written if opened.place.scheme != "dir"]
            self._outboxes = [Outbox(o.store, o.place.terms, _GATHER_SECONDS.get(o.place.scheme, 1.0)) for o in remote]
        return self._outboxes


def _is_today(note: Path) -> bool:
    """Whether this was asked within a day before; the question is noted. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if time.time() - note.stat().st_mtime < _DAY_SECONDS:
            return True
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()
    return False


def _open(place: Place, kit: Kit, where: Where) -> Opened:
    terms = place.terms
    right = may_push(place.scheme, where, terms.push)
    unsigned = terms.signed and not kit.keys and not place.signs_itself
    if place.is_of_outputs:
        return Opened(place=place, store=open_store(place, kit), not_written="whoever builds outputs writes them")
    if terms.signed and terms.pull and not kit.trusted:
        raise PytestNixosError(
            f"{place} counts signed records only, and no key is trusted",
            "name one with --nixos-trusted-key, or say ?signed=no to believe whoever may write there",
        )
    if unsigned and right.granted and terms.push is Push.YES:
        raise PytestNixosError(
            f"{place} is to be written, and there is no secret key to sign with",
            _KEY_HINT,
        )
    why = right.why if not right.granted else _NO_KEY if unsigned else ""
    return Opened(place=place, store=open_store(place, kit), not_written=why)
