"""The session's shared folder: write-once JSON behind a lock, so that N workers do a thing once.

Every session has a folder below the plugin's cache, kept by a lock for as long as the session lives; the
next session removes those whose lock is free, so that even a killed session leaves nothing for long.
"""

import contextlib
import dataclasses
import json
import secrets
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from filelock import BaseFileLock, FileLock, Timeout

from pytest_nixos import model
from pytest_nixos.errors import PytestNixosError, SharedStepFailed, StoreError

T = TypeVar("T")
_TAG = "$"
_LOCKS = f"{'[0-9a-f]' * 8}.lock"


class RunDir:
    """The session's folder. The process that creates it owns it; workers open it by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._alive: BaseFileLock | None = None
        self._own: dict[str, Any] | None = None  # the values, where nobody shares them

    @classmethod
    def create(cls, base: Path, *, shared: bool = True) -> "RunDir":
        """A new folder below `base`, for one process alone when not shared. Raises StoreError when it can't be made."""
        run_dir = cls(base / secrets.token_hex(4))
        run_dir._own = None if shared else {}
        try:
            base.mkdir(parents=True, exist_ok=True)
            run_dir._alive = FileLock(base / f"{run_dir.path.name}.lock")
            run_dir._alive.acquire()
            run_dir.path.mkdir(mode=0o700)
        except OSError as error:
            raise StoreError(
                f"{base} can't be written: {error.strerror}", "name another folder with --nixos-dir"
            ) from None
        return run_dir

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """What `compute` returns, computed by the first process that asks and read by all others.

        A failure is shared too: the process that failed gets the error itself, the others SharedStepFailed.
        Raises StoreError when the result can't be written.
        """
        if self._own is not None:
            return self._once_alone(self._own, name, compute)
        place = self.path / f"{name}.json"
        with FileLock(self.path / f"{name}.lock"):
            if place.exists():
                return _read(place)  # type: ignore[no-any-return]
            try:
                value = compute()
            except PytestNixosError as error:
                with contextlib.suppress(StoreError):  # then the others fail by themselves
                    _write(place, {"error": error.message, "hint": error.hint})
                raise
            _write(place, {"value": to_json(value)})
            return value

    def _once_alone(self, own: dict[str, Any], name: str, compute: Callable[[], T]) -> T:
        if name not in own:
            try:
                own[name] = compute()
            except PytestNixosError as error:
                own[name] = SharedStepFailed(error.message, error.hint)
                raise
        if isinstance(own[name], SharedStepFailed):
            raise own[name]
        return own[name]  # type: ignore[no-any-return]

    def close(self, remove: Callable[[Path], None]) -> None:
        """Remove the folder, if this process owns it; safe to call twice."""
        if self._alive is None:
            return
        remove(self.path)
        lock, self._alive = self._alive, None
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def abandoned(base: Path) -> Iterator[Path]:
    """The folders below `base` whose session is gone, each with its lock held while it is yielded."""
    for lock_file in base.glob(_LOCKS):
        lock = FileLock(lock_file)
        with contextlib.suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            yield lock_file.with_suffix("")
            lock_file.unlink(missing_ok=True)
            lock.release()


def _read(place: Path) -> Any:
    entry = json.loads(place.read_bytes())
    if "error" in entry:
        raise SharedStepFailed(entry["error"], entry["hint"])
    return from_json(entry["value"])


def _write(place: Path, entry: dict[str, Any]) -> None:
    scratch = place.with_suffix(".new")
    try:
        scratch.write_text(json.dumps(entry))
        scratch.replace(place)
    except OSError as error:
        raise StoreError(
            f"{place} can't be written: {error.strerror}", "free some space, or name another folder with --nixos-dir"
        ) from None


def to_json(value: Any) -> Any:
    """A value made of model classes, enums, tuples, dicts and plain values, as JSON with the classes' names."""
    if isinstance(value, StrEnum):
        return {_TAG: type(value).__name__, "value": value.value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {_TAG: type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(entry: Any) -> Any:
    """The inverse of `to_json`; every list comes back as a tuple."""
    if isinstance(entry, list):
        return tuple(from_json(item) for item in entry)
    if isinstance(entry, dict):
        fields = {key: from_json(item) for key, item in entry.items() if key != _TAG}
        if _TAG not in entry:
            return fields
        cls = getattr(model, entry[_TAG])
        return cls(fields["value"]) if issubclass(cls, StrEnum) else cls(**fields)
    return entry
