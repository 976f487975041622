"""QEMU's machine protocol: JSON objects, one a line, over a unix socket."""

import itertools
import json
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm.console import StreamClosed, StreamTimeout
from pytest_nixos.vm.errors import MachineError
from pytest_nixos.vm.resources import listen
from pytest_nixos.vm.shell import accept, shut

COMMAND_SECONDS = 60.0


class Qmp:
    """Listens before QEMU starts; one command at a time; events are kept until somebody asks for them."""

    def __init__(self, path: Path) -> None:
        self._listener = listen(path)
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self.events: deque[dict[str, Any]] = deque(maxlen=1000)

    def accept(self, check: Callable[[], None], deadline: Deadline) -> None:
        """Wait for QEMU to connect and agree on the protocol. Raises StreamClosed, StreamTimeout."""
        self._socket = accept(self._listener, check, deadline)
        self._message(deadline)
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> Any:
        """What a command returns. Raises MachineError when QEMU refuses, StreamClosed, StreamTimeout."""
        deadline = Deadline(COMMAND_SECONDS)
        with self._lock:
            number = next(self._numbers)
            self._send({"execute": name, "arguments": arguments, "id": number})
            while True:
                message = self._message(deadline)
                if "event" not in message and message.get("id") != number:
                    continue  # the answer to a command whose caller has given up
                if "error" in message:
                    raise MachineError(f"QEMU refuses `{name}`: {message['error'].get('desc', message['error'])}")
                if "return" in message:
                    return message["return"]
                self.events.append(message)

    def human(self, command: str) -> str:
        """What a command of QEMU's monitor for humans prints."""
        return str(self.command("human-monitor-command", **{"command-line": command}))

    def wait_for_event(self, wanted: Callable[[dict[str, Any]], bool], deadline: Deadline) -> dict[str, Any]:
        """The first event that is wanted; others stay. Raises StreamClosed, StreamTimeout."""
        with self._lock:
            while True:
                for event in self.events:
                    if wanted(event):
                        self.events.remove(event)
                        return event
                self.events.append(self._message(deadline))

    def interrupt(self) -> None:
        """End what waits for QEMU: it raises StreamClosed."""
        if self._socket:
            shut(self._socket)

    def close(self) -> None:
        """Close the sockets. Safe to call twice."""
        self.interrupt()
        self._listener.close()
        if self._socket:
            self._socket.close()

    def _send(self, message: dict[str, object]) -> None:
        if self._socket is None:
            raise StreamClosed
        self._socket.settimeout(COMMAND_SECONDS)
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            raise StreamClosed from None

    def _message(self, deadline: Deadline) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._buffer += self._receive(deadline)
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _receive(self, deadline: Deadline) -> bytes:
        if self._socket is None:
            raise StreamClosed
        if deadline.expired:
            raise StreamTimeout
        self._socket.settimeout(deadline.remaining)
        try:
            data = self._socket.recv(65536)
        except (TimeoutError, BlockingIOError):  # the latter when no time at all was left
            raise StreamTimeout from None
        except OSError:
            raise StreamClosed from None
        if not data:
            raise StreamClosed
        return data
