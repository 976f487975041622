"""A server like GitHub's REST API: routes are given by the test, every request is kept.

With `rules` (see github_openapi) it refuses what GitHub's own description does not allow, and checks its own answers.
"""

import contextlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class Request:
    """What was asked: path without query, the query's parameters, headers by lower-case name, parts of the path."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer: `content` is bytes as they are, or something that becomes JSON; `cut` bytes of it are never sent.

    slow: seconds before the answer; `FakeGitHub.stop` ends the wait.
    """

    status: int = 200
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0
    slow: float = 0.0

    @property
    def body(self) -> bytes:
        """The bytes of the content."""
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


Route = Reply | Callable[[Request], Reply]


class Rules(Protocol):
    """What a request and its answer must look like."""

    def complaint(self, request: Request) -> str:
        """Why the request is not allowed; "" when it is."""

    def check(self, request: Request, reply: Reply) -> None:
        """Raises when GitHub would not answer like this."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # connections that wait; beyond it a client tries again after a second


class FakeGitHub:
    """`with FakeGitHub(routes) as github`: a server at `github.url`.

    routes: "METHOD /path/{part}" -> a reply, or what makes one of a request; may be changed while it runs.
    What has no route is 404. per_page and page are checked for all.
    """

    def __init__(self, routes: dict[str, Route] | None = None, rules: Rules | None = None) -> None:
        self.routes: dict[str, Route] = routes or {}
        self.requests: list[Request] = []
        self.wrong_answers: list[str] = []
        self._rules = rules
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        """The base of all paths, as GITHUB_API_URL has it."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and all waits; may be called twice."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._server.shutdown()
            self._server.server_close()

    def asked(self, method_and_path: str) -> list[Request]:
        """The requests of that kind, as a route is written."""
        return [r for r in self.requests if _match(method_and_path, r) is not None]

    def answer(self, request: Request) -> Reply:
        """The reply to a request."""
        self.requests.append(request)
        complaint = _paging(request.params) or (self._rules.complaint(request) if self._rules else "")
        if complaint:
            return Reply(422, {"message": complaint})
        for pattern, route in list(self.routes.items()):
            parts = _match(pattern, request)
            if parts is not None:
                reply = route if isinstance(route, Reply) else route(_with(request, parts))
                self._check(request, reply)
                return reply
        return Reply(404, {"message": "Not Found"})

    def _check(self, request: Request, reply: Reply) -> None:
        if self._rules is not None:
            try:
                self._rules.check(request, reply)
            except Exception as error:
                self.wrong_answers.append(f"{request.method} {request.path}: {error}")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                url = urllib.parse.urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                params = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = fake.answer(Request(self.command, url.path, params, headers, body))
                if reply.slow:
                    fake._stopped.wait(reply.slow)
                self._send(reply)

            def _send(self, reply: Reply) -> None:
                body = reply.body
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[: len(body) - reply.cut])
                self.close_connection = self.close_connection or bool(reply.cut)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _serve

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the client has gone
                    super().handle()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def page_of(request: Request, key: str, items: list[Any]) -> Reply:
    """The page of a listing that a request asks for, with a Link header as GitHub has it."""
    size, number = int(request.params.get("per_page", "30")), int(request.params.get("page", "1"))
    last = max(1, -(-len(items) // size))
    links = {"next": number + 1, "last": last} if number < last else {}
    link = ", ".join(f'<{request.path}?page={page}>; rel="{rel}"' for rel, page in links.items())
    content = {"total_count": len(items), key: items[(number - 1) * size : number * size]}
    return Reply(200, content, {"Link": link} if link else {})


def date_time(seconds: float) -> str:
    """A moment as GitHub writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _match(pattern: str, request: Request) -> dict[str, str] | None:
    method, _, path = pattern.partition(" ")
    regex = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
    found = re.fullmatch(regex, request.path)
    return found.groupdict() if found and method == request.method else None


def _with(request: Request, parts: dict[str, str]) -> Request:
    return Request(request.method, request.path, request.params, request.headers, request.body, parts)


def _paging(params: Mapping[str, str]) -> str:
    for name, most in (("per_page", 100), ("page", 1 << 30)):
        value = params.get(name, "1")
        if not value.isdigit() or not 1 <= int(value) <= most:
            return f"{name} must be from 1 to {most}"
    return ""
