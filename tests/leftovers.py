"""What a session must not leave behind: processes, folders."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A running process: its id, its parent's, its words."""

    pid: int
    parent: int
    argv: tuple[str, ...]


def processes_of(folder: Path) -> list[Process]:
    """The processes whose words, environment or mounts name `folder`; a test driver's mounts name its store."""
    needle = f"{folder}/".encode()
    return [process for entry in Path("/proc").glob("[0-9]*") for process in _look(entry, needle)]


def _look(entry: Path, needle: bytes) -> Iterator[Process]:
    try:
        words = (entry / "cmdline").read_bytes()
        known = (words, (entry / "environ").read_bytes(), (entry / "mountinfo").read_bytes())
        # Of a process with any name, spaces and brackets included: state and parent follow the last bracket.
        state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return  # it has ended
    if state != "Z" and any(needle in text for text in known):
        yield Process(pid=int(entry.name), parent=int(parent), argv=tuple(words.decode(errors="replace").split("\0")))


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    """Wait for something that must come within this time; an AssertionError when it does not."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not true after {seconds:g} s"
        time.sleep(0.05)


def assert_none_left(folder: Path, seconds: float = 5) -> None:
    """Assert that within this time no process of `folder` runs any more."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


@contextlib.contextmanager
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A TMPDIR of the test's own, short since sockets lie in it; afterwards no folder of a driver may be left there."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield
        wait_until(lambda: not list(Path(folder).glob("pnx-*")), 5)
