"""The one door to HTTP for record stores: a request is bounded in time and size, many go side by side."""

import os
import queue
import ssl
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable, ToolMissing

if TYPE_CHECKING:
    import urllib3

T = TypeVar("T")
CONNECTIONS = 16
_LIMIT_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 16
_LONGEST_SILENCE = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said: status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Http:
    """Requests with these headers on connections that are kept; safe to use from several threads."""

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self._headers = dict(headers or {})
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._pools_by_server: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._opening = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit: int = _LIMIT_BYTES,
    ) -> Answer:
        """One request; redirects are an answer like any other (so no header goes where it was not meant for).

        headers are added to those of the object. limit: bytes of the answer's body.
        Raises RecordsUnavailable (transient) when there is no whole answer in time.
        """
        host = urllib.parse.urlsplit(url).hostname or url

        def ask() -> Answer:
            return self._ask(method, url, deadline, host, {**self._headers, **(headers or {})}, body, limit)

        return bounded(ask, deadline, host)

    def _ask(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        host: str,
        headers: dict[str, str],
        body: bytes | None,
        limit: int,
    ) -> Answer:
        library = _library()
        try:
            answer = self._pool(url).request(
                method,
                url,
                headers=headers,
                body=body,
                timeout=deadline.within(_LONGEST_SILENCE) or 0.001,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                content = _read(answer, deadline, limit)
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except (library.exceptions.HTTPError, OSError, ValueError) as error:
            raise RecordsUnavailable(f"{host} does not answer: {_reason(error)}", transient=True) from None
        return Answer(status=answer.status, headers={k.lower(): v for k, v in answer.headers.items()}, body=content)

    def _pool(self, url: str) -> "urllib3.PoolManager":
        """The connections to the server of a URL; the proxy is looked for once, which is not cheap."""
        parts = urllib.parse.urlsplit(url)
        server = parts.scheme, parts.netloc
        with self._opening:
            if server not in self._pools_by_server:
                self._pools_by_server[server] = self._pool_by(_proxy(parts))
            return self._pools_by_server[server]

    def _pool_by(self, proxy: str) -> "urllib3.PoolManager":
        if proxy not in self._pools:
            certificates = _certificates(os.environ.get("NIX_SSL_CERT_FILE") or None)
            library, options = _library(), {"maxsize": CONNECTIONS, "block": True, "ssl_context": certificates}
            self._pools[proxy] = library.ProxyManager(proxy, **options) if proxy else library.PoolManager(**options)
        return self._pools[proxy]


def bounded(work: Callable[[], T], deadline: Deadline, host: str) -> T:
    """`work`, waited for until the deadline: a server that sends its headers bit by bit is never silent for long.

    Raises what `work` raises, and RecordsUnavailable (transient) at the deadline; the work then ends when it likes.
    """
    if deadline.remaining is None:
        return work()
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, name="nixos-request", daemon=True).start()
    try:
        result, error = results.get(timeout=deadline.remaining)
    except queue.Empty:
        raise RecordsUnavailable(f"{host} does not answer in time", transient=True) from None
    if error is not None:
        raise error
    return cast(T, result)


def side_by_side(work: Callable[[T], Any], items: Iterable[T], connections: int = CONNECTIONS) -> list[Any]:
    """`work` on every item, some at once, the results in order. The first error is raised when all have ended."""
    wanted: Sequence[T] = list(items)
    if len(wanted) <= 1:
        return [work(item) for item in wanted]
    with ThreadPoolExecutor(min(connections, len(wanted)), "nixos-records") as pool:
        return list(pool.map(work, wanted))


def _proxy(server: urllib.parse.SplitResult) -> str:
    """The proxy to a server, "" for none."""
    return "" if urllib.request.proxy_bypass(server.netloc) else urllib.request.getproxies().get(server.scheme, "")


def _read(answer: Any, deadline: Deadline, limit: int) -> bytes:
    body = bytearray()
    while chunk := answer.read1(_CHUNK_BYTES):  # what has come: a server that trickles must not hold us
        body += chunk
        if len(body) > limit:
            raise ValueError(f"its answer is longer than {limit} bytes")
        if deadline.expired:
            raise TimeoutError("out of time")
    return bytes(body)


def _reason(error: BaseException) -> str:
    """An error in few words, without the URL, which may hold a secret."""
    cause = getattr(error, "reason", None) or error
    text = str(cause) if isinstance(cause, ValueError | OSError) and not hasattr(cause, "pool") else ""
    return text.rsplit(": ", 1)[-1] or type(cause).__name__


@cache
def _certificates(file: str | None) -> ssl.SSLContext:
    """The system's certificates, or those that Nix is told to use; reading them takes 60 ms."""
    return ssl.create_default_context(cafile=file)


def _library() -> Any:
    """Loaded when a remote store is first used."""
    try:
        import urllib3
    except ImportError:
        hint = "pip install urllib3"
        raise ToolMissing("record stores on the network need the Python package `urllib3`", hint) from None
    return urllib3
