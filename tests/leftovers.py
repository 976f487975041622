"""What a session must not leave behind: processes, folders."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


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


def abandoned_folders() -> set[Path]:
    """The private folders of test drivers that no process works in any more."""
    return {folder for folder in Path("/tmp").glob("pnx-*") if not _in_use(folder)}


def _in_use(folder: Path) -> bool:
    needle = f"TMPDIR={folder}\0".encode()
    return any(needle in _read(entry / "environ") for entry in Path("/proc").glob("[0-9]*"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended


def assert_no_new_folder(before: set[Path]) -> None:
    """Assert that all private folders that were not there before are in use, by other sessions then."""
    wait_until(lambda: abandoned_folders() <= before, 5)
