"""Commands for the guest's root shell (the "backdoor"), which is a bash on a virtio console.

An answer is: a line with a token; the token, `:`, 0 when more follows, `:` and the output's first bytes, quoted by
bash; what follows as lines of base64, so that any bytes pass; the token, `=` and the status. The tokens differ, so that
what an earlier command has left unread can be told from the answer. Most output is short, and no base64 is started for
it: to start a program is what takes the time in a guest.

QEMU drops what a guest writes to a virtio console when the socket is full, and that is full after a few
thousand bytes, because each write of 16 bytes takes its own buffer. So after each full line the guest waits
until the driver has confirmed it.
"""

import base64
import binascii
import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm.console import Stream, StreamClosed, StreamTimeout
from pytest_nixos.vm.program import program
from pytest_nixos.vm.resources import listen

LINE_BYTES = 2048
HEAD_BYTES = 500  # each becomes up to four when it is quoted: together about a line
BANNER = b"Spawning backdoor root shell..."
TIMEOUT_STATUS = 124
_GRACE_SECONDS = 30.0  # for the guest to end a command, on a slow host
_SEND_SECONDS = 60.0
_LOOK_SECONDS = 1.0  # how often a command's answer is given up for an ended shell
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPES = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r", b"E": b"\x1b"}


class ShellRestarted(Exception):
    """The guest's shell has begun anew: the guest has rebooted."""


class ShellEnded(Exception):
    """The guest's shell has ended, and nothing has started it anew."""


def frame(command: str, token: str, timeout: float | None) -> bytes:
    """The line that runs a command with bash's strict options; timeout in seconds."""
    # No stdin: it would be the shell's own, and a command that reads would swallow the next one. And a subshell
    # that waits is its parent: `kill $PPID` ends that, not the shell.
    run = f"({program(command, timeout)}; exit) </dev/null 3<&-"
    # Fails at the end of the output, succeeds at a NUL (which it takes away) and after so many bytes.
    head = (
        f"LC_ALL=C IFS= TMOUT= read -rd '' -n {HEAD_BYTES} _o; _e=$?; LC_ALL=C printf '%s:%d:%q\\n' {token} $_e \"$_o\""
    )
    # Bash reads from pipes byte by byte, but for `read -N`, which asks for what it still lacks.
    confirmed = f'while read -rN {LINE_BYTES + 1} l; do printf %s "$l"; read -r l <&3; done; printf %s "$l"'
    rest = f"(TMOUT=; base64 -w {LINE_BYTES} | {{ {confirmed}; }})"
    # With lastpipe the shell itself is the reader, and not one more process.
    answer = f"{run} | {{ {head}; [ $_e != 0 ] || {rest}; }}; echo {token}=${{PIPESTATUS[0]}}"
    return f"shopt -s lastpipe; echo {token}; {{ {answer}; }} 3<&0\n".encode()


class Shell:
    """Listens before the guest starts; talks when it has booted."""

    def __init__(self, path: Path) -> None:
        self._listener = listen(path)
        self._socket: socket.socket | None = None
        self._stream: Stream | None = None
        self._numbers = itertools.count(1)
        self._unread = ""  # the token of a command whose answer nobody has read to its end
        self.ended = threading.Event()  # set by who hears of the shell's end: the guest does not close its console
        self.interrupted = False

    def accept(self, check: Callable[[], None], deadline: Deadline) -> None:
        """Wait for QEMU to connect; check may raise and is called from time to time. Raises StreamTimeout."""
        self._socket = accept(self._listener, check, deadline)
        self._socket.settimeout(_SEND_SECONDS)
        self._stream = Stream(self._socket.fileno())

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait for the shell's first words. Raises StreamClosed, StreamTimeout."""
        stream = self._connected()
        self._unread = ""
        stream.until(BANNER, deadline)
        stream.until(b"\n", deadline)
        self.ended.clear()

    def send(self, data: bytes) -> None:
        """Type into the shell. Raises StreamClosed, StreamTimeout."""
        self._connected()
        assert self._socket
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise StreamTimeout from None
        except OSError:
            raise StreamClosed from None

    def begin(self, command: str, timeout: float | None, deadline: Deadline) -> str:
        """Send a command; returns its token, for `answer`. Raises StreamClosed, StreamTimeout."""
        if self._unread:  # its lines want to be confirmed, and a command would count as that
            with contextlib.suppress(ShellRestarted):
                self.answer(self._unread, deadline)
        token = self._unread = f"@{next(self._numbers)}"  # @ is no letter of base64
        self.send(frame(command, token, timeout))
        return token

    def answer(self, token: str, deadline: Deadline) -> tuple[int, bytes]:
        """Exit status and output of the command.

        Raises StreamClosed, StreamTimeout, ShellRestarted, ShellEnded.
        """
        mark = token.encode()
        head, whole, rest = b"", False, bytearray()
        while True:
            line = self._line(deadline).rstrip(b"\r")
            if found := re.search(rb"%b:(\d+):(.*)" % mark, line):
                head, whole = unquote(found[2]), found[1] != b"0"
                if not whole and len(head) < HEAD_BYTES:
                    head += b"\0"
                continue
            if BANNER in line:
                self._unread = ""
                raise ShellRestarted
            if line.endswith(mark):  # an echo after all, or a prompt, may stand before it
                rest.clear()
                continue
            _, ended, status = line.rpartition(mark + b"=")
            if ended and status.isdigit():
                self._unread = ""
                return int(status), head if whole else head + decode(rest)
            rest += line
            if len(line) >= LINE_BYTES:
                self.send(b"\n")

    def _line(self, deadline: Deadline) -> bytes:
        while True:
            ended = self.ended.is_set()  # asked before reading: what the shell has said before its end still counts
            try:
                return self._connected().until(b"\n", Deadline(_LOOK_SECONDS, deadline))
            except StreamTimeout:
                if ended:
                    raise ShellEnded from None
                if deadline.expired:
                    raise

    def interrupt(self) -> None:
        """End what waits for the shell, now and later: it raises StreamClosed."""
        self.interrupted = True
        if self._socket:
            shut(self._socket)

    def close(self) -> None:
        """Close the sockets. Safe to call twice."""
        self.interrupt()
        self._listener.close()
        if self._socket:
            self._socket.close()

    def _connected(self) -> Stream:
        if self.interrupted or self._stream is None:
            raise StreamClosed
        return self._stream


def unquote(text: bytes) -> bytes:
    """The bytes that bash's `%q` has quoted."""
    if text == b"''":
        return b""
    if text.startswith(b"$'"):
        return _ESCAPE.sub(_unescape, text[2:-1])
    return _ESCAPE.sub(rb"\1", text)


def _unescape(found: re.Match[bytes]) -> bytes:
    if found[1].isdigit():
        return bytes([int(found[1], 8)])
    return _ESCAPES.get(found[1], found[1])


def decode(text: bytes | bytearray) -> bytes:
    """Base64 decoded; what is none as it is, for it is somebody's message then."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return bytes(text)


def answer_deadline(timeout: float | None, outer: Deadline) -> Deadline:
    """How long to wait for the answer of a command that the guest itself ends after `timeout` seconds."""
    return Deadline(None if timeout is None else timeout + _GRACE_SECONDS, outer)


def accept(listener: socket.socket, check: Callable[[], None], deadline: Deadline) -> socket.socket:
    """The first connection; check may raise and is called every tenth of a second. Raises StreamTimeout."""
    listener.settimeout(0.1)
    while not deadline.expired:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            check()
        else:
            return connection
    raise StreamTimeout


def shut(connection: socket.socket) -> None:
    """Wake up who reads from a connection, whoever that is."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
