"""Records in a local directory: one file per record, named by what it proves, written whole or not at all.

A file is `<name>.json`, see `naming`: one listing of the folder tells what is recorded, and only files that matter are
opened. Many sessions may share a directory: a file is written beside its place and renamed, so a reader sees the old
record, the new one, or none.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.model import Outcome, Record, Subject, Verdict
from pytest_nixos.records import sealed
from pytest_nixos.records.naming import Wanted, failure_by_name, name_of, parse_name
from pytest_nixos.records.signing import SecretKey, Trusted
from pytest_nixos.records.stores.base import Found

_SUFFIX = ".json"
_PASSED, _FAILED = f".{Outcome.PASSED.value}", f".{Outcome.FAILED.value}"
_DAMAGED = {True: "it counts as a failure, as its name says", False: "it was ignored"}


@dataclass(frozen=True, slots=True)
class DirectoryStore:
    """The records in `folder`, which is made when the first one is written; they are signed with `keys`, if any."""

    folder: Path
    trusted: Trusted = field(default_factory=Trusted)
    keys: tuple[SecretKey, ...] = ()

    @property
    def name(self) -> str:
        """The folder, with the home directory as ~."""
        home = os.environ.get("HOME", "").rstrip("/")
        folder = str(self.folder)
        return folder.replace(home, "~", 1) if home and folder.startswith(f"{home}/") else folder

    def lookup(self, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        """See RecordStore. One directory listing, then only the records of what is asked for."""
        index = Wanted(wanted)
        found, damaged = self._open(name for name in self._names() if index.near(parse_name(name)))
        unreadable = [parse_name(name) for name in damaged]
        # A failure that can't be read is a failure: its name says so.
        failures = [failure_by_name(name, subject) for name in unreadable if name for subject in index.near(name)]
        records = (*found.records, *(Record(verdict=failure) for failure in failures if failure))
        return Found(records=records, warnings=found.warnings)

    def every(self, deadline: Deadline) -> Found:
        """See RecordStore."""
        return self._open(self._names())[0]

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. The records are on the disk when this returns.

        A failure for which there is no room is kept as an empty file of its name; where even that can't be made, what
        it refutes is removed.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for verdict in verdicts:
                self._keep(verdict)
        except OSError as error:
            raise RecordsUnavailable(f"{self.name} can't be written: {error.strerror}") from None

    def _keep(self, verdict: Verdict) -> None:
        name = name_of(verdict)
        try:
            self._write(name + _SUFFIX, sealed.seal(verdict, self.keys))
        except OSError:
            if verdict.outcome is Outcome.PASSED or not self._refute(name):
                raise
        if verdict.outcome is Outcome.PASSED:
            self._forgive(name_of(replace(verdict, outcome=Outcome.FAILED, flags=())))

    def _refute(self, name: str) -> bool:
        """Note a failure without its content, or remove the passes that it refutes; whether the first was possible."""
        try:
            (self.folder / (name + _SUFFIX)).write_bytes(b"")
        except OSError:
            for other in self._names():
                if other.startswith(name.replace(_FAILED, _PASSED)):
                    (self.folder / (other + _SUFFIX)).unlink(missing_ok=True)
            return False
        return True

    def _forgive(self, failure: str) -> None:
        """Remove a failure that can't be read, and would so refute the pass that has come after it, too."""
        if self._read(failure) is None:
            with contextlib.suppress(OSError):
                (self.folder / (failure + _SUFFIX)).unlink(missing_ok=True)

    def renew(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. Nothing is forgotten here."""

    def remove(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore."""
        try:
            for verdict in verdicts:
                (self.folder / (name_of(verdict) + _SUFFIX)).unlink(missing_ok=True)
        except OSError as error:
            raise RecordsUnavailable(f"{self.name} can't be changed: {error.strerror}") from None

    def _names(self) -> list[str]:
        """The names of all records. Raises RecordsUnavailable."""
        try:
            files = os.listdir(self.folder)  # noqa: PTH208 - names are enough, and 1,000 Paths are not free
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RecordsUnavailable(f"records in {self.name} can't be read: {error.strerror}") from None
        names = (file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX))
        return [name for name in names if parse_name(name)]

    def _open(self, names: Iterable[str]) -> tuple[Found, list[str]]:
        """The records of these names, and the names of those that can't be read."""
        records = {name: self._read(name) for name in names}
        damaged = [name for name, record in records.items() if record is None]
        warnings = tuple(f"record {name} in {self.name} is damaged: {_DAMAGED[_is_failure(name)]}" for name in damaged)
        return Found(records=tuple(filter(None, records.values())), warnings=warnings), damaged

    def _read(self, name: str) -> Record | None:
        try:
            record = sealed.unseal(_content(f"{self.folder}/{name}{_SUFFIX}"), self.trusted)
        except OSError:
            return None
        return record if record is not None and name_of(record.verdict) == name else None

    def _write(self, name: str, data: bytes) -> None:
        handle, scratch = tempfile.mkstemp(prefix=".new-", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, 0o644)  # others may read a shared folder
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(scratch).replace(self.folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(scratch).unlink()
            raise


def _is_failure(name: str) -> bool:
    return _FAILED in name


def _content(path: str) -> bytes:
    """The begin of a file, opened without waiting: what looks like a record may be a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(handle, sealed.MAX_BYTES + 1)
    finally:
        os.close(handle)
