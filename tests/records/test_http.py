"""The door to HTTP: whatever a server does, a request ends in time."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.records.http import Http

PIECES = {
    "status line": [b"H", b"T"] + [b"x"] * 100,
    "headers": [b"HTTP/1.1 200 OK\r\n"] + [b"X-A: b\r\n"] * 90,
    "informational answers": [b"HTTP/1.1 100 Continue\r\n\r\n"] * 100,
    "body": [b"HTTP/1.1 200 OK\r\n\r\n"] + [b"x"] * 100,
}


@pytest.fixture
def trickle(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that says something every twentieth of a second, and never comes to an end."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                for piece in PIECES[request.param]:
                    connection.sendall(piece)
                    time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


@pytest.mark.parametrize("trickle", PIECES, indirect=True)
def test_a_server_that_trickles_is_not_waited_for(trickle: str) -> None:
    began = time.monotonic()
    with pytest.raises(RecordsUnavailable, match="does not answer") as caught:
        Http().request("GET", trickle, Deadline(0.5))
    assert caught.value.transient
    assert time.monotonic() - began < 3


def test_an_error_of_the_request_itself_comes_through() -> None:
    with pytest.raises(RecordsUnavailable, match=r"127\.0\.0\.1 does not answer: NewConn"):
        Http().request("GET", "http://127.0.0.1:1/", Deadline(5))
