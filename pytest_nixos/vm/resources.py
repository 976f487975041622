"""What a run of the driver owns on the host: private folders and listening sockets."""

import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.vm.qemu import MachineDirs

SOCKET_PATH_BYTES = 108  # what Linux allows, the final zero included
_LONGEST_TAIL = 40  # "/nt-xxxxxxxx/", then the longest: a VLAN's "v99/" with a client's ".ppppppp-ccccc"


class SocketPathTooLong(PytestNixosError):
    """A unix socket's path would not fit into the kernel's address structure."""


class RunDirs:
    """The private folders of one run, removed at its end.

    With keep, the machines' state is in a folder that the next run of the same machines finds again.
    """

    def __init__(self, names: Iterable[str], *, keep: bool = False, env: Mapping[str, str] = os.environ) -> None:
        tmp = Path(env.get("TMPDIR") or tempfile.gettempdir()).absolute()
        self.keep = keep
        self.root = _kept(tmp, names) if keep else Path(tempfile.mkdtemp(prefix="nt-", dir=tmp))
        self._lock = _lock(self.root)
        self._sockets = Path(tempfile.mkdtemp(prefix="nt-", dir=short_base(tmp, env)))
        self.shared = self.root / "shared-xchg"
        self.shared.mkdir(mode=0o700, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def machine(self, name: str) -> MachineDirs:
        """The folders of one machine; they exist afterwards."""
        dirs = MachineDirs(
            state=self.root / f"vm-state-{name}", shared=self.shared, sockets=self._sockets / _short(name)
        )
        for path in (dirs.state, dirs.sockets):
            path.mkdir(mode=0o700, exist_ok=True)
        return dirs

    def vlan(self, number: int) -> Path:
        """The folder that a VLAN's switch makes its sockets in; it does not exist yet."""
        return self._sockets / f"v{number}"

    def remove(self) -> None:
        """Remove what need not be kept, and let others have what is. Safe to call twice."""
        self._lock.close()
        shutil.rmtree(self._sockets, ignore_errors=True)
        if not self.keep:
            shutil.rmtree(self.root, ignore_errors=True)


def short_base(tmp: Path, env: Mapping[str, str]) -> Path:
    """A folder for sockets: TMPDIR, or when that is long XDG_RUNTIME_DIR or /tmp."""
    candidates = [tmp, *(Path(env[key]) for key in ("XDG_RUNTIME_DIR",) if env.get(key)), Path("/tmp")]
    for path in candidates:
        fits = len(os.fsencode(path)) + _LONGEST_TAIL < SOCKET_PATH_BYTES
        if fits and os.access(path, os.W_OK | os.X_OK):
            return path
    raise SocketPathTooLong(f"no folder is short enough for sockets: {tmp}", hint="set TMPDIR to a shorter one")


def listen(path: Path) -> socket.socket:
    """A listening unix socket at path, whatever was there before."""
    if len(os.fsencode(path)) >= SOCKET_PATH_BYTES:
        raise SocketPathTooLong(f"a socket's path is longer than {SOCKET_PATH_BYTES - 1} bytes: {path}")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def _kept(tmp: Path, names: Iterable[str]) -> Path:
    """The folder of runs that keep their state: the same for the same machines and the same user."""
    path = tmp / f"nixos-test-{os.getuid()}-{_short(' '.join(sorted(names)))}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.lstat().st_uid != os.getuid() or path.is_symlink():
        raise PytestNixosError(f"{path} belongs to somebody else")
    return path


def _lock(path: Path) -> BinaryIO:
    """Keep other runs off a folder until the file is closed, or this process has ended."""
    file = (path / ".lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        hint = "wait for that run, give this one another TMPDIR, or do not keep the machines' state"
        raise PytestNixosError(f"another run uses the kept state of these machines: {path}", hint=hint) from None
    return file


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
