"""A small store of JSON by key, for what Nix need not be asked twice.

It is only ever a shortcut: an entry that is missing, damaged or of another schema is as good as none, and a folder that
can't be written costs time, not results. Any number of sessions may use it at once: an entry appears whole, by rename.
"""

import contextlib
import hashlib
import json
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any

LIMIT_BYTES = 64 << 20
_LIMIT_ENTRIES = 1000
_MAGIC = b"pytest-nixos cache 1 "
_SCRATCH_SECONDS = 3600.0


class Cache:
    """JSON values in a folder, the least recently used removed when they grow beyond `limit` bytes."""

    def __init__(self, folder: Path, limit: int = LIMIT_BYTES) -> None:
        self._folder, self._limit = folder, limit
        self.warnings: list[str] = []

    def get(self, kind: str, key: str) -> Any:
        """The value, or None when there is none that is whole."""
        place = self._place(kind, key)
        try:
            head, body = self._read(place).split(b"\n", 1)
            if head != _head(key, body):
                raise ValueError
            value = json.loads(body)
        except (FileNotFoundError, NotADirectoryError):  # the latter is for `put` to warn of
            return None
        except (OSError, ValueError, RecursionError):
            self._warn(f"{place} is damaged and is ignored")
            return None
        with contextlib.suppress(OSError):
            os.utime(place)
        return value

    def put(self, kind: str, key: str, value: Any) -> None:
        """Keep a value; one that can't be written is not kept."""
        place = self._place(kind, key)
        scratch = place.with_name(f"{secrets.token_hex(6)}.new")
        body = json.dumps(value, separators=(",", ":")).encode()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(_head(key, body) + b"\n" + body)
            scratch.replace(place)
            self._shrink()
        except OSError as error:
            self._warn(f"{self._folder} can't be written ({error.strerror}): evaluations are not kept")
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)

    def drop(self, kind: str, key: str) -> None:
        """Forget a value."""
        with contextlib.suppress(OSError):
            self._place(kind, key).unlink(missing_ok=True)

    def _place(self, kind: str, key: str) -> Path:
        return self._folder / f"{kind}-{hashlib.sha256(_bytes(key)).hexdigest()[:40]}.json"

    def _read(self, place: Path) -> bytes:
        """An entry's bytes. Raises ValueError for what is no file, or has a size that no entry should have."""
        status = place.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > max(self._limit, LIMIT_BYTES):
            raise ValueError
        return place.read_bytes()

    def _warn(self, text: str) -> None:
        if not self.warnings:
            self.warnings.append(text)

    def _shrink(self) -> None:
        for used_at, _, place in self._files(".new"):  # of a session that was killed; the young are being written
            if time.time() - used_at > _SCRATCH_SECONDS:
                place.unlink(missing_ok=True)
        size = 0
        for number, (_, bytes_, place) in enumerate(sorted(self._files(".json"), reverse=True)):
            size += bytes_
            if number and (size > self._limit or number >= _LIMIT_ENTRIES):
                place.unlink(missing_ok=True)

    def _files(self, suffix: str) -> list[tuple[float, int, Path]]:
        found = []
        for place in self._folder.glob(f"*{suffix}"):
            with contextlib.suppress(OSError):  # another session has removed it
                status = place.stat()
                found.append((status.st_mtime, status.st_size, place))
        return found


def _head(key: str, body: bytes) -> bytes:
    """The first line of an entry: what it is, and a digest that covers key and value."""
    return _MAGIC + hashlib.sha256(_bytes(key) + b"\0" + body).hexdigest().encode()


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")  # a path need not be Unicode
