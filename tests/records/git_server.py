"""A real git server over HTTP: `git http-backend` behind Python's http.server, which counts what is asked."""

import contextlib
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_NO_CONFIG = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}


class GitServer(ThreadingHTTPServer):
    """Serves the repositories in `root`, and keeps method and path of each request in `requests`.

    status: answered instead, when it is not 0. authorization: the header without which nobody is served, "" for none.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, root: Path, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.status, self.authorization = root, 0, ""
        self.requests: list[str] = []
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.scheme = "https"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: GitServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            self._serve(self._chunks())
        else:
            self._serve(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def _chunks(self) -> bytes:
        body = bytearray()
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def _serve(self, body: bytes) -> None:
        server = self.server
        server.requests.append(f"{self.command} {self.path}")
        if server.status:
            self._answer(server.status, {}, b"")
        elif server.authorization and self.headers.get("Authorization") != server.authorization:
            self._answer(401, {"WWW-Authenticate": 'Basic realm="records"'}, b"")
        else:
            self._backend(body)

    def _backend(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.server.root), "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command, "PATH_INFO": path, "QUERY_STRING": query, "REMOTE_USER": "tester",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "REMOTE_ADDR": "127.0.0.1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), **_NO_CONFIG,
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self._answer(int(headers.pop("Status", "200").split()[0]), headers, content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serving(root: Path, certificate: Path | None = None) -> Iterator[GitServer]:
    """A server of the repositories in `root`, over TLS with a certificate (key and certificate in one file)."""
    server = GitServer(root, certificate)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def make_repository(folder: Path) -> Path:
    """A bare repository that takes pushes, with a commit on its main branch."""
    folder.parent.mkdir(parents=True)
    git(folder.parent, "init", "-q", "--bare", "-b", "main", str(folder))
    git(folder, "config", "http.receivepack", "true")
    tree = git(folder, "hash-object", "-w", "-t", "tree", "--stdin")
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    git(folder, "update-ref", "refs/heads/main", git(folder, *who, "commit-tree", tree, "-m", "first"))
    return folder


def git(folder: Path, *args: str, stdin: bytes = b"") -> str:
    """What a git command prints. Raises CalledProcessError."""
    argv = ["git", "-C", str(folder), *args]
    done = subprocess.run(argv, input=stdin, env={**os.environ, **_NO_CONFIG}, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode().strip()
