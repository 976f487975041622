"""A binary cache on HTTP for tests: GET, HEAD and PUT of a folder's files, with failures on demand."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Reply:
    """An answer instead of the folder's: status, body, headers.

    hang: say nothing until the server ends. cut: end the connection after the body. trickle: seconds between its bytes.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False
    trickle: float = 0.0


@dataclass
class CacheServer:
    """What the server does and has seen. `answer` gets method and path and says what to reply, None for the file."""

    folder: Path
    url: str = ""
    answer: Callable[[str, str], Reply | None] = lambda method, path: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    ended: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def cache_server(folder: Path) -> Iterator[CacheServer]:
    """Serve `folder` on a free port of this machine."""
    state = CacheServer(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as server:
        server.daemon_threads = True
        server.block_on_close = False  # clients keep their connections
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            state.ended.set()
            server.shutdown()
            thread.join()


def _handler(state: CacheServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def setup(self) -> None:
            state.connections += 1
            super().setup()

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle_expect_100(self) -> bool:
            super().handle_expect_100()
            self.wfile.flush()  # curl waits a second for it
            return True

        def do_GET(self) -> None:
            state.requests.append((self.command, self.path))
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.say(state.answer(self.command, self.path) or self.file(body))

        do_HEAD = do_PUT = do_GET

        def file(self, body: bytes) -> Reply:
            place = state.folder / self.path.lstrip("/")
            if self.command == "PUT":
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(body)
                return Reply(201)
            return Reply(200, place.read_bytes()) if place.is_file() else Reply(404, b"not here")

        def say(self, reply: Reply) -> None:
            if reply.hang:
                state.ended.wait()
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.send_body(reply)
            self.close_connection = self.close_connection or reply.cut

        def send_body(self, reply: Reply) -> None:
            size = 1 if reply.trickle else max(1, len(reply.body))
            with contextlib.suppress(OSError):  # who waits no longer has gone
                for start in range(0, len(reply.body), size):
                    self.wfile.write(reply.body[start : start + size])
                    self.wfile.flush()
                    if reply.trickle and state.ended.wait(reply.trickle):
                        return

    return Handler
