"""Artifacts that were downloaded once, by their digest: the content is compared with it again whenever it is read.

So nothing in the folder is believed, whoever wrote it; and what can't be read or written is as good as not there.
"""

import contextlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos.records import artifacts

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SUFFIX = ".zip"
_MOST_FILES = 512


@dataclass(frozen=True, slots=True)
class Kept:
    """At most some hundred files in `folder`; those that nobody has asked for the longest are forgotten."""

    folder: Path

    def get(self, digest: str) -> bytes | None:
        """The data of that digest, None when it is not here."""
        path = self._path(digest)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                data = file.read(artifacts.MAX_BYTES + 1)
            artifacts.check_digest(data, digest)
            os.utime(path)
        except (OSError, artifacts.ArtifactUnreadable):
            return None
        return data

    def put(self, digest: str, data: bytes) -> None:
        """Keep data whose digest was checked."""
        path = self._path(digest)
        if path is not None:
            with contextlib.suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._write(path, data)

    def forget(self) -> None:
        """Remove what is too much."""
        with contextlib.suppress(OSError):
            files = [entry for entry in os.scandir(self.folder) if entry.name.endswith(_SUFFIX)]
            for entry in sorted(files, key=lambda entry: entry.stat().st_mtime)[:-_MOST_FILES]:
                Path(entry.path).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path | None:
        match = _DIGEST.fullmatch(digest)
        return self.folder / f"{match[1]}{_SUFFIX}" if match else None

    def _write(self, path: Path, data: bytes) -> None:
        handle, scratch = tempfile.mkstemp(prefix=".new-", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(scratch).replace(path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
