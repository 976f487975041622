"""Bundles in the cache of GitHub Actions: one entry with the records of a session and those it has read before.

Jobs of one run do not see what the others write at that time, so the newest bundle of each of the last sessions is
read; the next session's holds them all. Records are carried on as they are, with the signatures they have: nobody signs
for others.
"""

import re
import secrets
import time
from collections.abc import Iterable, Sequence

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.model import Outcome, Record, Subject, Verdict
from pytest_nixos.records import bundle, sealed
from pytest_nixos.records.actions_list import VERSION, CacheList, Row
from pytest_nixos.records.actions_service import CacheService, Entry, no_service
from pytest_nixos.records.http import side_by_side
from pytest_nixos.records.naming import Wanted, name_of, parse_name
from pytest_nixos.records.stores.base import Found, Kit

PREFIX = "nixos-verified-v2-bundle/"
SYSTEM = re.compile("[A-Za-z0-9_-]{1,64}")
_LISTED = 1000  # bundles of one ref that are looked at, the newest: each job of a run may have written many
_SESSIONS = 16  # of one ref, whose bundles are read


class Content(dict[str, tuple[Record, bytes]]):
    """Records by name, each with the bytes it was read from; of the same name the newest stays."""

    def take(self, record: Record, data: bytes) -> None:
        """Add a record of something that passed."""
        name = name_of(record.verdict)
        known = self.get(name)
        newer = known is None or known[0].verdict.finished_at < record.verdict.finished_at
        if newer and record.verdict.outcome is Outcome.PASSED:
            self[name] = record, data

    def take_all(self, other: "Content") -> None:
        """Add all records of another."""
        for record, data in other.values():
            self.take(record, data)

    def newest_first(self) -> Iterable[bytes]:
        """The records as bytes."""
        entries = sorted(self.values(), key=lambda entry: -entry[0].verdict.finished_at)
        return (data for _, data in entries)


class Bundles:
    """The bundles of a repository; what was read and written of each system is kept for the next write."""

    def __init__(self, store: str, listed: CacheList | None, service: CacheService | None, kit: Kit) -> None:
        """store: its name for people. listed: None when the REST API can't be asked."""
        self._store, self._list, self._service, self._kit = store, listed, service, kit
        run, attempt = kit.env.get("GITHUB_RUN_ID", ""), kit.env.get("GITHUB_RUN_ATTEMPT", "")
        self._writer = f"{_number(run)}-{_number(attempt)}-{secrets.token_hex(4)}"
        self._written = 0
        self._known: dict[str, Content] = {}

    def lookup(self, system: str, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        """What the bundles say of the subjects."""
        if self._service is None:
            return Found(warnings=self._unreadable(system, deadline))
        content, warnings = self._read(system, deadline)
        self._known.setdefault(system, Content()).take_all(content)
        near = Wanted(wanted)
        records = (record for name, (record, _) in content.items() if near.near(parse_name(name)))
        return Found(records=tuple(records), warnings=warnings)

    def every(self, deadline: Deadline) -> Found:
        """All records of all bundles, as far as they can be listed."""
        content, warnings = self._read("", deadline)
        return Found(records=tuple(record for record, _ in content.values()), warnings=warnings)

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """One entry for each system, with all that was written before and all that was read."""
        if self._service is None:
            raise no_service(f"writing {self._store}")
        for system in dict.fromkeys(verdict.system for verdict in verdicts):
            content = self._before(system, deadline)
            for verdict in verdicts:
                if verdict.system == system:
                    content.take(Record(verdict=verdict), sealed.seal(verdict, self._kit.keys))
            key = self._next_key(system)
            self._service.put(key, VERSION, bundle.encode(content.newest_first()), deadline)

    def remove(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """Delete the bundles that hold one of these."""
        listed = self._list
        if listed is None:
            return
        names = {name_of(verdict) for verdict in verdicts}
        rows = listed.rows(PREFIX, deadline, _LISTED).rows
        if rows and self._service is None:
            raise no_service(f"looking into the {len(rows)} bundles in {self._store}")
        contents = side_by_side(lambda row: self._open(row.key, deadline), rows)
        holding = [row.key for row, (content, _) in zip(rows, contents, strict=True) if names & content.keys()]
        side_by_side(lambda key: listed.delete(key, deadline), dict.fromkeys(holding))

    def _next_key(self, system: str) -> str:
        self._written += 1
        number = bundle.BundleKey(time=int(time.time()), writer=self._writer, number=self._written)
        key = f"{PREFIX}{system}/{number}"
        if parse_key(key) is None:
            raise RecordsUnavailable(f"records of the system {system!r} can't be in a cache entry")
        return key

    def _before(self, system: str, deadline: Deadline) -> Content:
        """What is carried on; nothing when that can't be read and never will be."""
        if system not in self._known:
            try:
                self._known[system] = self._read(system, deadline)[0]
            except RecordsUnavailable as error:
                if error.transient:
                    raise
                self._known[system] = Content()
        return self._known[system]

    def _read(self, system: str, deadline: Deadline) -> tuple[Content, tuple[str, ...]]:
        """The records of the bundles that count, those of every system for ""; and warnings."""
        prefix = f"{PREFIX}{system}/" if system else PREFIX
        if self._list is None:
            found = [self._newest(prefix, deadline)]
        else:
            keys = newest_of_each_session(self._list.rows(prefix, deadline, _LISTED).rows)
            found = side_by_side(lambda key: self._open(key, deadline), keys)
        together = Content()
        for content, _ in found:
            together.take_all(content)
        reasons = [why for _, why in found if why]
        return together, ((f"{len(reasons)} bundles in {self._store} were ignored: {reasons[0]}",) if reasons else ())

    def _open(self, key: str, deadline: Deadline) -> tuple[Content, str]:
        """The content of a bundle, and why it could not be read."""
        assert self._service is not None
        try:
            entry = self._service.find(key, VERSION, deadline)
            if entry is None or entry.key != key:
                return Content(), ""  # forgotten since it was listed
            return self._content(entry, deadline)
        except RecordsUnavailable as error:
            return Content(), error.message

    def _newest(self, prefix: str, deadline: Deadline) -> tuple[Content, str]:
        """The bundle that the service finds itself, of the own ref if there is one."""
        assert self._service is not None
        entry = self._service.find(prefix, VERSION, deadline, (prefix,))
        if entry is None or not entry.key.startswith(prefix) or parse_key(entry.key) is None:
            return Content(), ""
        return self._content(entry, deadline)

    def _content(self, entry: Entry, deadline: Deadline) -> tuple[Content, str]:
        assert self._service is not None
        content, key = Content(), parse_key(entry.key)
        data = bundle.parse(self._service.download(entry, deadline, bundle.MAX_BYTES))
        if data is None or key is None:
            return content, "their content is damaged"
        records = [(sealed.unseal(part, self._kit.trusted), part) for part in data]
        for record, part in records:
            if record is not None and record.verdict.system == key[0]:
                content.take(record, part)
        damaged = sum(1 for record, _ in records if record is None)
        return content, f"{damaged} of their records are damaged" if damaged else ""

    def _unreadable(self, system: str, deadline: Deadline) -> tuple[str, ...]:
        """A warning when there are bundles, which can't be read here."""
        rows = self._list.rows(f"{PREFIX}{system}/", deadline, 1).rows if self._list else ()
        return (
            (f"bundles in {self._store} can only be read in a run: write with ?bundle=no for others",) if rows else ()
        )


def parse_key(key: str) -> tuple[str, bundle.BundleKey] | None:
    """The system and the rest that the key of an entry says; None for what is no bundle's."""
    system, slash, rest = key.removeprefix(PREFIX).partition("/")
    parsed = bundle.parse_key(rest)
    whole = key.startswith(PREFIX) and slash and SYSTEM.fullmatch(system)
    return (system, parsed) if whole and parsed else None


def newest_of_each_session(rows: Iterable[Row]) -> list[str]:
    """The keys of the last bundle of each of the last sessions, by system and ref."""
    last: dict[tuple[str, str], dict[str, tuple[int, Row]]] = {}
    for row in rows:
        parsed = parse_key(row.key)
        if parsed is not None:
            system, key = parsed
            sessions = last.setdefault((system, row.ref), {})
            if sessions.get(key.writer, (-1, row))[0] < key.number:
                sessions[key.writer] = key.number, row
    newest = (sorted(sessions.values(), key=lambda entry: -entry[1].created_at) for sessions in last.values())
    return list(dict.fromkeys(row.key for entries in newest for _, row in entries[:_SESSIONS]))


def _number(text: str) -> str:
    return text if text.isascii() and text.isdigit() and len(text) <= 18 else "0"
