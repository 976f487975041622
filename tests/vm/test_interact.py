"""A person's terminal on a machine; the person is a pipe or a pseudo-terminal."""

import os
import threading
import time
from collections.abc import Iterator
from io import StringIO

import pytest

from pytest_nixos.vm import interact
from pytest_nixos.vm.errors import MachineError
from pytest_nixos.vm.machine import Machine
from tests.vm.conftest import MakeDriver

Keys = tuple[int, int]


@pytest.fixture
def keys() -> Iterator[Keys]:
    """A pipe: where a person reads, where a test types."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(("typed", "sent"), [(b"ls\n\x1dmore", b"ls\n"), (b"\x1d", b"")])
def test_keys_are_handed_on_until_the_escape(keys: Keys, typed: bytes, sent: bytes) -> None:
    got: list[bytes] = []
    os.write(keys[1], typed)
    interact.hand_on(got.append, lambda: False, keys[0])
    assert b"".join(got) == sent


def test_the_machines_end_ends_it(keys: Keys) -> None:
    ended = threading.Event()
    threading.Timer(0.1, ended.set).start()
    began = time.monotonic()
    interact.hand_on(lambda data: None, ended.is_set, keys[0])
    assert time.monotonic() - began < 3


def test_a_terminal_is_as_before_afterwards() -> None:
    import termios

    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    with interact.raw_keys(theirs):
        assert not termios.tcgetattr(theirs)[3] & termios.ECHO
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_the_console_is_connected_both_ways(
    make_driver: MakeDriver, keys: Keys, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = make_driver("web", before="printf 'login: '; read -r line; printf '\\033[1mhello %s' $line").machines[0]
    machine.start()
    machine.wait_for_console_text("login: $", timeout=10)
    monkeypatch.setattr("sys.stdin", os.fdopen(os.dup(keys[0])))
    os.write(keys[1], b"alice\n")
    threading.Timer(0.7, os.write, (keys[1], b"\x1d")).start()
    machine.console.interact()
    assert "\x1b[1mhello alice" in capfd.readouterr().out


def test_lines_run_in_the_guest_one_after_the_other(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = "cd /usr\nx=7\n\nfalse\npwd; echo $x$y >&2\n'\n(exit 3)\n"
    monkeypatch.setattr("sys.stdin", StringIO(typed))
    machine.shell_interact()
    out = capfd.readouterr().out
    assert "/usr\n7\n" in out
    assert "[exit status 1]" in out
    assert "[exit status 3]" in out
    with pytest.raises(MachineError, match="this terminal only"):
        machine.shell_interact("tcp-listen:1")
