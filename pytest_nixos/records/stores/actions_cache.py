"""Records in the cache of GitHub Actions: one entry for each, its key is the record; or many in one entry, a bundle.

The keys are read by the REST API, a handful of requests for a thousand records, of refs that count (see actions_list).
Writing, and reading content, needs the token of a run (see actions_service). An entry is never changed: a check that
passes again keeps the record it has until that is forgotten, a week after its last use.

Content is read only where the key can't answer: bundles, signatures, and where there is no token for the REST API.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.model import Outcome, Record, Subject, Verdict
from pytest_nixos.records import sealed
from pytest_nixos.records.actions_list import VERSION, CacheList, Listed, Row
from pytest_nixos.records.actions_service import MAX_KEY, CacheService, no_service, open_service
from pytest_nixos.records.github import GitHub
from pytest_nixos.records.http import side_by_side
from pytest_nixos.records.naming import Name, Wanted, name_of, parse_name, verdict_by_name
from pytest_nixos.records.places import Place
from pytest_nixos.records.stores.actions_bundles import SYSTEM, Bundles
from pytest_nixos.records.stores.base import Found, Kit

PREFIX = "nixos-verified-v2/"
_KEY = re.compile(rf"{PREFIX}(?P<system>{SYSTEM.pattern})/(?P<name>[^/]+)")
_MANY = 100  # hosts, above which a bundle pays: the service takes 200 uploads a minute
_RENEW_SECONDS = 4 * 86400.0  # of the seven days after which an entry is forgotten
_UPLOADS_AT_ONCE = 8
_BUNDLE = {"yes", "no", "auto"}


class Key(NamedTuple):
    """What the key of an entry says."""

    system: str
    name: Name


def key_of(verdict: Verdict) -> str:
    """The key of a verdict's entry. Raises RecordsUnavailable for one that can have none."""
    key = f"{PREFIX}{verdict.system}/{name_of(verdict)}"
    if parse_key(key) is None:
        raise RecordsUnavailable(f"the record of {verdict.check or verdict.drv_path} can't be the key of a cache entry")
    return key


def parse_key(key: str) -> Key | None:
    """None for what is no key of a record."""
    match = _KEY.fullmatch(key) if len(key) <= MAX_KEY else None
    name = parse_name(match["name"]) if match else None
    return Key(match["system"], name) if match and name else None


class ActionsCache:
    """The Actions cache of a repository, and its service when we are a run of that repository."""

    def __init__(
        self, github: GitHub, listed: CacheList, service: CacheService | None, kit: Kit, *, bundle: str, signed: bool
    ) -> None:
        """bundle: yes, no, or auto: by the number of hosts. signed: content is read, since a key has no signature."""
        self.name = f"gha:{github.repository}"
        self._github, self._list, self._service = github, listed, service
        self._trusted, self._keys, self._bundle, self._signed = kit.trusted, kit.keys, bundle, signed
        self._bundles = Bundles(self.name, listed if github.authenticated else None, service, kit)
        self._hosts = 0
        self._accessed: dict[str, float] = {}
        self._kept: set[str] = set()

    def lookup(self, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        """See RecordStore. Entries and bundles side by side; that bundles can't be read is a warning."""
        self._hosts = max(self._hosts, len(wanted))
        systems: dict[str, list[Subject]] = {}
        for subject in wanted:
            systems.setdefault(subject.system, []).append(subject)
        asked: list[tuple[Callable[[str, list[Subject], Deadline], Found], str]] = []
        for system in systems:
            if self._bundle != "yes":
                asked.append((self._entries, system))
            if self._bundle != "no":
                asked.append((self._in_bundles, system))
        return _together(side_by_side(lambda ask: ask[0](ask[1], systems[ask[1]], deadline), asked))

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. A failure ends the batch; the next try goes on there. A bundle holds only what passed."""
        service = self._writable()
        if self._bundles_pay(len(verdicts)):
            self._bundles.write(verdicts, deadline)
            return
        stopped = threading.Event()

        def put(verdict: Verdict) -> None:
            key = key_of(verdict)
            if key in self._kept or stopped.is_set():
                return
            try:
                service.put(key, VERSION, sealed.seal(verdict, self._keys), deadline)
            except RecordsUnavailable:
                stopped.set()
                raise
            self._kept.add(key)

        side_by_side(put, verdicts, _UPLOADS_AT_ONCE)

    def renew(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. Asks for the entries that nobody has asked for in four days; to list them is no use of them.

        What was not listed in a look-up has been asked for in it, or is in a bundle that was read.
        Without the token of a run nothing can be done, and nothing is.
        """
        if self._service is None or self._bundle == "yes":
            return
        service, now = self._service, time.time()
        used = {key_of(v): now if self._hosts else v.finished_at for v in verdicts}
        old = [key for key in used if self._accessed.get(key, used[key]) < now - _RENEW_SECONDS]
        side_by_side(lambda key: service.find(key, VERSION, deadline), old)
        self._accessed |= dict.fromkeys(old, now)

    def every(self, deadline: Deadline) -> Found:
        """See RecordStore. Keys do not hold whole paths, so content is read, which needs the token of a run."""
        if self._service is None:
            raise no_service(f"listing the records of {self.name}")
        rows = self._rows(PREFIX, deadline).rows
        return _together([self._fetch((row.key for row in rows), deadline), self._bundles.every(deadline)])

    def remove(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. Bundles that hold one of them go as a whole: what else is in them is run once more."""
        side_by_side(lambda verdict: self._list.delete(key_of(verdict), deadline), verdicts)
        if self._bundle != "no":
            self._bundles.remove(verdicts, deadline)

    def _bundles_pay(self, more: int) -> bool:
        hosts = max(self._hosts, len(self._kept) + more)
        return self._bundle == "yes" or (self._bundle == "auto" and hosts > _MANY)

    def _entries(self, system: str, wanted: list[Subject], deadline: Deadline) -> Found:
        """What single entries say. By the listing, which needs no content unless signatures count; else by asking."""
        if self._github.authenticated or self._service is None:
            listed = self._rows(f"{PREFIX}{system}/", deadline)
            warnings = self._foreign(listed)
            if not self._signed:
                return Found(records=tuple(_by_name(listed.rows, wanted)), warnings=warnings)
            if self._service is None:
                raise no_service(f"reading signatures in {self.name}")
            near = Wanted(wanted)
            keys = [row.key for row in listed.rows if (key := parse_key(row.key)) and near.near(key.name)]
            return _together([self._fetch(keys, deadline), Found(warnings=warnings)])
        if len(wanted) > _MANY and self._bundle != "no":
            return Found()
        return self._fetch((key_of(_passed(subject)) for subject in wanted), deadline)

    def _in_bundles(self, system: str, wanted: list[Subject], deadline: Deadline) -> Found:
        """What bundles say. Where they may or may not be, it is no error that they can't be read."""
        try:
            return self._bundles.lookup(system, wanted, deadline)
        except RecordsUnavailable as error:
            if self._bundle == "yes":
                raise
            return Found(warnings=(error.message,))

    def _rows(self, prefix: str, deadline: Deadline) -> Listed:
        listed = self._list.rows(prefix, deadline)
        for row in listed.rows:
            self._accessed[row.key] = max(row.accessed_at, self._accessed.get(row.key, 0.0))
        return listed

    def _foreign(self, listed: Listed) -> tuple[str, ...]:
        foreign = listed.foreign + sum(1 for row in listed.rows if parse_key(row.key) is None)
        return (f"{foreign} entries in {self.name} are not records of ours and were ignored",) if foreign else ()

    def _fetch(self, keys: Iterable[str], deadline: Deadline) -> Found:
        """The records in these entries, as far as they are there; one warning for all that can't be read."""
        results = side_by_side(lambda key: self._read(key, deadline), dict.fromkeys(keys))
        why = Counter(result for result in results if isinstance(result, str))
        return Found(
            records=tuple(result for result in results if isinstance(result, Record)),
            warnings=tuple(
                f"{number} records in {self.name} could not be read: {text}" for text, number in why.items()
            ),
        )

    def _read(self, key: str, deadline: Deadline) -> Record | str | None:
        """The record in an entry, None when there is none, or why it can't be read."""
        assert self._service is not None
        try:
            entry = self._service.find(key, VERSION, deadline)
            if entry is None or entry.key != key:  # the key is only the begin of that one's
                return None
            record = sealed.unseal(self._service.download(entry, deadline, sealed.MAX_BYTES), self._trusted)
        except RecordsUnavailable as error:
            return error.message
        if record is None or f"{PREFIX}{record.verdict.system}/{name_of(record.verdict)}" != key:
            return "their content is damaged"
        return record

    def _writable(self) -> CacheService:
        if self._service is None:
            raise no_service(f"writing {self.name} as a run of that repository")
        return self._service


def open_actions_cache(place: Place, kit: Kit) -> ActionsCache:
    """The store at `gha:` or `gha:OWNER/NAME`. Raises PytestNixosError when no repository is named."""
    bundle = place.options.get("bundle", "auto")
    if bundle not in _BUNDLE:
        raise PytestNixosError(f"{place}: bundle={bundle} makes no sense", "write bundle=yes, bundle=no or bundle=auto")
    github = GitHub(kit, place.location or None)
    ours = kit.env.get("GITHUB_REPOSITORY", "").lower() == github.repository.lower()
    service = open_service(kit.env, kit.secrets) if ours else None
    listed = CacheList(github, kit.env)
    return ActionsCache(github, listed, service, kit, bundle=bundle, signed=place.terms.signed)


def _by_name(rows: Iterable[Row], wanted: Sequence[Subject]) -> Iterable[Record]:
    """What keys alone say of the subjects, all being of one system."""
    index, found = Wanted(wanted), dict[Verdict, None]()
    for row in rows:
        key = parse_key(row.key)
        for subject in index.near(key.name) if key else ():
            assert key is not None
            verdict = verdict_by_name(key.name, subject, row.created_at, f"GitHub Actions, {row.ref}")
            if verdict is not None:
                found[verdict] = None
    return (Record(verdict=verdict) for verdict in found)


def _passed(subject: Subject) -> Verdict:
    """What a record says that proves a subject: enough of it for its name."""
    return Verdict.of(subject, Outcome.PASSED)


def _together(parts: Iterable[Found]) -> Found:
    found = list(parts)
    return Found(
        records=tuple(record for part in found for record in part.records),
        warnings=tuple(warning for part in found for warning in part.warnings),
    )
