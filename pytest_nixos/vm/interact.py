"""A person's terminal, connected to a machine for a while."""

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ESCAPE = b"\x1d"  # ctrl-], as in telnet and virsh
_LOOK_SECONDS = 0.2  # how often the machine's end is looked for


def hand_on(send: Callable[[bytes], None], ended: Callable[[], bool], source: int | None = None) -> None:
    """Give what is typed to `send`, until ctrl-], the end of the input, or until `ended` says so.

    source is a file descriptor, standard input when None.
    """
    source = sys.stdin.fileno() if source is None else source
    while not ended():
        if not select.select([source], [], [], _LOOK_SECONDS)[0]:
            continue
        data = os.read(source, 4096)
        before, escape, _ = data.partition(ESCAPE)
        if before:
            send(before)
        if escape or not data:
            return


@contextmanager
def raw_keys(source: int | None = None) -> Iterator[None]:
    """A terminal that gives every key at once and shows none; anything else than a terminal stays as it is."""
    source = sys.stdin.fileno() if source is None else source
    if not os.isatty(source):
        yield
        return
    before = termios.tcgetattr(source)
    try:
        tty.setraw(source)
        yield
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)


def show(data: bytes) -> None:
    """Write to standard output as it is: who connects a terminal to a guest wants what the guest says to it."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
