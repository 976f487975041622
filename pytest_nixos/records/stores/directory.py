"""Records in a local directory: one file per record, named by what it proves, written whole or not at all.

A file is `<derivation>.<output>.<driver>.<outcome>.json`, each the hash of a store path: one listing of the folder
tells what is recorded, and only files that matter are opened. Many sessions may share a directory: a file is
written beside its place and renamed, so a reader sees the old record, the new one, or none.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos.model import Derivation, Verdict
from pytest_nixos.records import verdict as record_format
from pytest_nixos.records.policy import speaks_of
from pytest_nixos.records.stores.base import Found

_NO_PATH = "-"


@dataclass(frozen=True, slots=True)
class DirectoryStore:
    """The records in `folder`, which is made when the first one is written."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder, with the home directory as ~."""
        return str(self.folder).replace(str(Path.home()), "~", 1)

    def lookup(self, wanted: Iterable[Derivation]) -> Found:
        """See RecordStore. One directory listing, then only the records of what is asked for."""
        by_path = _by_path(wanted)
        try:
            names = os.listdir(self.folder)  # noqa: PTH208 - names are enough, and 1,000 Paths are not free
        except FileNotFoundError:
            return Found()
        except OSError as error:
            return Found(warnings=(f"records in {self.name} can't be read: {error.strerror}",))
        verdicts: list[Verdict] = []
        warnings: list[str] = []
        for name in _matching(names, by_path):
            verdict = self._read(name)
            if verdict is None or not any(speaks_of(verdict, d) for d in _near(verdict, by_path)):
                warnings.append(f"record {name} in {self.name} is damaged and was ignored")
            else:
                verdicts.append(verdict)
        return Found(verdicts=tuple(verdicts), warnings=tuple(warnings))

    def _read(self, name: str) -> Verdict | None:
        try:
            verdict = record_format.parse(_content(f"{self.folder}/{name}"))
        except OSError:
            return None
        return verdict if verdict is not None and file_name(verdict) == name else None

    def record(self, verdict: Verdict) -> str:
        """See RecordStore. The record is on the disk when this returns ""."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(file_name(verdict), record_format.encode(verdict))
        except OSError as error:
            return f"the record of {verdict.drv_path} could not be written to {self.name}: {error.strerror}"
        return ""

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


def file_name(verdict: Verdict) -> str:
    """The name of a verdict's record. A failure never takes the place of a proof."""
    hashes = (_hash(path) if path else _NO_PATH for path in (verdict.drv_path, verdict.out_path, verdict.driver))
    return f"{'.'.join(hashes)}.{verdict.outcome.value}.json"


def _content(path: str) -> bytes:
    """The begin of a file, opened without waiting: what looks like a record may be a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(handle, record_format.MAX_BYTES + 1)
    finally:
        os.close(handle)


def _hash(store_path: str) -> str:
    return store_path.rsplit("/", 1)[-1][:32]


def _by_path(wanted: Iterable[Derivation]) -> dict[str, list[Derivation]]:
    """Derivations by their own path and by their output's."""
    by_path: dict[str, list[Derivation]] = {}
    for derivation in wanted:
        for path in filter(None, (derivation.drv_path, derivation.out_path)):
            by_path.setdefault(path, []).append(derivation)
    return by_path


def _near(verdict: Verdict, by_path: dict[str, list[Derivation]]) -> list[Derivation]:
    return by_path.get(verdict.drv_path, []) + by_path.get(verdict.out_path or "", [])


def _matching(names: list[str], paths: Iterable[str]) -> Iterator[str]:
    hashes = {_hash(path) for path in paths}
    for name in names:
        parts = name.split(".")
        if len(parts) == 5 and parts[4] == "json" and not hashes.isdisjoint(parts[:2]):
            yield name
