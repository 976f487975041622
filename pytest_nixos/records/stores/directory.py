"""Records in a local directory: one file per record, named by what it proves, written whole or not at all.

A file is `<name>.json`, see `naming`: one listing of the folder tells what is recorded, and only files that matter are
opened. Many sessions may share a directory: a file is written beside its place and renamed, so a reader sees the old
record, the new one, or none.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.model import Record, Subject, Verdict
from pytest_nixos.records import sealed
from pytest_nixos.records.naming import Wanted, name_of, parse_name
from pytest_nixos.records.signing import SecretKey, Trusted
from pytest_nixos.records.stores.base import Found

_SUFFIX = ".json"


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
        return self._open(name for name in self._names() if index.near(parse_name(name)))

    def every(self, deadline: Deadline) -> Found:
        """See RecordStore."""
        return self._open(self._names())

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        """See RecordStore. The records are on the disk when this returns."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for verdict in verdicts:
                self._write(name_of(verdict) + _SUFFIX, sealed.seal(verdict, self.keys))
        except OSError as error:
            raise RecordsUnavailable(f"{self.name} can't be written: {error.strerror}") from None

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

    def _open(self, names: Iterable[str]) -> Found:
        records = {name: self._read(name) for name in names}
        damaged = [name for name, record in records.items() if record is None]
        return Found(
            records=tuple(filter(None, records.values())),
            warnings=tuple(f"record {name} in {self.name} is damaged and was ignored" for name in damaged),
        )

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


def _content(path: str) -> bytes:
    """The begin of a file, opened without waiting: what looks like a record may be a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(handle, sealed.MAX_BYTES + 1)
    finally:
        os.close(handle)
