"""GitHub's Actions cache in small: the service v2, a storage behind signed addresses, and the REST API's listing.

Judged by GitHub's own client and by GitHub's description of the REST API, see test_actions_cache_judges.
"""

import base64
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from tests.records.fake_github import FakeGitHub, Reply, Request, Rules, date_time, page_of

SERVICE = "/twirp/github.actions.results.api.v1.CacheService/"
REPOSITORY = "octo/hosts"
CACHES = f"/repos/{REPOSITORY}/actions/caches"
GITHUB_TOKEN = "ghs_" + "x" * 36
READ, WRITE = 1, 2


@dataclass
class Entry:
    """An entry of the cache; content None: it was begun and is not visible."""

    id: int
    key: str
    version: str
    ref: str
    content: bytes | None = None
    finalized: bool = False
    created_at: float = field(default_factory=time.time)
    accessed_at: float = field(default_factory=time.time)
    signature: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def size(self) -> int:
        """Bytes of content."""
        return len(self.content or b"")

    @property
    def row(self) -> dict[str, Any]:
        """How the REST API lists it."""
        return {
            "id": self.id,
            "ref": self.ref,
            "key": self.key,
            "version": self.version,
            "last_accessed_at": date_time(self.accessed_at),
            "created_at": date_time(self.created_at),
            "size_in_bytes": self.size,
        }


class FakeActionsCache:
    """`with FakeActionsCache() as cache`: all at `cache.url`; `cache.server` counts requests and takes other routes."""

    def __init__(self, rules: Rules | None = None, repository: dict[str, Any] | None = None) -> None:
        self.entries: list[Entry] = []
        self._tokens: dict[str, list[tuple[str, int]]] = {}
        self._lock = threading.Lock()
        self._repository = repository or {"default_branch": "main"}
        self.server = FakeGitHub(self._routes(), rules)

    @property
    def url(self) -> str:
        """ACTIONS_RESULTS_URL and GITHUB_API_URL."""
        return self.server.url

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def token(self, *scopes: tuple[str, int]) -> str:
        """A token as a run has it: its scopes (ref, READ + WRITE), the own ref first."""
        ac = json.dumps([{"Scope": scope, "Permission": permission} for scope, permission in scopes])
        parts = ({"alg": "RS256", "typ": "JWT"}, {"ac": ac, "nonce": len(self._tokens)})
        token = ".".join(_base64(json.dumps(part).encode()) for part in parts) + f".{_base64(secrets.token_bytes(32))}"
        self._tokens[token] = list(scopes)
        return token

    def add(self, key: str, version: str, ref: str, content: bytes = b"", age: float = 0.0) -> Entry:
        """An entry that was made `age` seconds ago."""
        with self._lock:
            moment = time.time() - age
            entry = Entry(len(self.entries) + 1, key, version, ref, content, True, moment, moment)
            self.entries.append(entry)
            return entry

    def uploads(self) -> list[Request]:
        """The requests that have put content."""
        return self.server.asked("PUT /storage/{id}")

    def _routes(self) -> dict[str, Reply | Callable[[Request], Reply]]:
        return {
            f"POST {SERVICE}CreateCacheEntry": self._service(self._create),
            f"POST {SERVICE}FinalizeCacheEntryUpload": self._service(self._finalize),
            f"POST {SERVICE}GetCacheEntryDownloadURL": self._service(self._find),
            "PUT /storage/{id}": self._put,
            "GET /storage/{id}": self._get,
            f"GET {CACHES}": self._rest(self._list),
            f"DELETE {CACHES}": self._rest(self._delete),
            f"GET /repos/{REPOSITORY}": self._rest(lambda _: Reply(200, self._repository)),
        }

    def _service(self, method: Callable[[dict[str, Any], list[tuple[str, int]]], Reply]) -> Callable[[Request], Reply]:
        def call(request: Request) -> Reply:
            scopes = self._tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
            if scopes is None:
                return _error(401, "unauthenticated", "no valid token")
            if request.headers.get("content-type") != "application/json":
                return _error(404, "bad_route", "unexpected Content-Type")
            message = json.loads(request.body)
            keys = [message["key"], *message.get("restore_keys", [])]
            if len(keys) > 10 or any(len(key) > 512 or "," in key for key in keys) or not message["version"]:
                return _error(400, "invalid_argument", "a key is not valid")
            with self._lock:
                return method(message, scopes)

        return call

    def _create(self, message: dict[str, Any], scopes: list[tuple[str, int]]) -> Reply:
        own = next((scope for scope, permission in scopes if permission & WRITE), None)
        if own is None:
            return Reply(200, {"ok": False, "signed_upload_url": "", "message": "cache write denied: read-only token"})
        wanted = (message["key"], message["version"], own)
        if any((entry.key, entry.version, entry.ref) == wanted for entry in self.entries):
            return _error(409, "already_exists", "cache entry with the same key, version, and scope already exists")
        entry = Entry(len(self.entries) + 1, *wanted)
        self.entries.append(entry)
        return Reply(200, {"ok": True, "signed_upload_url": self._address(entry), "message": ""})

    def _finalize(self, message: dict[str, Any], scopes: list[tuple[str, int]]) -> Reply:
        refs = [scope for scope, permission in scopes if permission & WRITE]
        for entry in self.entries:
            if (entry.key, entry.version) == (message["key"], message["version"]) and entry.ref in refs:
                if not isinstance(message["size_bytes"], str) or int(message["size_bytes"]) != len(
                    entry.content or b""
                ):
                    return _error(400, "invalid_argument", "the size is another one")
                if entry.finalized:
                    return _error(409, "already_exists", "cache entry is finalized")
                entry.finalized = True
                return Reply(200, {"ok": True, "entry_id": str(entry.id), "message": ""})
        return _error(404, "not_found", "no such upload")

    def _find(self, message: dict[str, Any], scopes: list[tuple[str, int]]) -> Reply:
        prefixes = [message["key"], *message.get("restore_keys", [])]
        for scope, permission in scopes:
            mine = [e for e in self.entries if (e.ref, e.version) == (scope, message["version"]) and e.finalized]
            if permission & READ and (entry := _match(mine, prefixes)):
                entry.accessed_at = time.time()
                content = {"ok": True, "signed_download_url": self._address(entry), "matched_key": entry.key}
                return Reply(200, content)
        return Reply(200, {"ok": False, "signed_download_url": "", "matched_key": ""})

    def _put(self, request: Request) -> Reply:
        entry = self._signed(request)
        if entry is None or "authorization" in request.headers:
            return Reply(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
        if request.headers.get("x-ms-blob-type") != "BlockBlob":
            return Reply(400, b"<Error><Code>MissingRequiredHeader</Code></Error>")
        if entry.finalized:
            return Reply(409, b"<Error><Code>BlobImmutableDueToPolicy</Code></Error>")
        entry.content = request.body
        return Reply(201, b"", {"ETag": '"1"', "Last-Modified": "Sun, 01 Nov 2026 10:00:00 GMT"})

    def _get(self, request: Request) -> Reply:
        entry = self._signed(request)
        if entry is None or "authorization" in request.headers:
            return Reply(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
        return Reply(200, entry.content or b"", {"Content-Type": "application/octet-stream"})

    def _signed(self, request: Request) -> Entry | None:
        entry = next((entry for entry in self.entries if str(entry.id) == request.parts["id"]), None)
        return entry if entry is not None and request.params.get("sig") == entry.signature else None

    def _rest(self, method: Callable[[Request], Reply]) -> Callable[[Request], Reply]:
        def call(request: Request) -> Reply:
            if request.headers.get("authorization") != f"Bearer {GITHUB_TOKEN}":
                return Reply(401, {"message": "Bad credentials", "status": "401"})
            with self._lock:
                return method(request)

        return call

    def _listed(self, request: Request) -> list[Entry]:
        ref, key = request.params.get("ref"), request.params.get("key", "")
        return [e for e in self.entries if e.finalized and e.key.startswith(key) and ref in {None, e.ref}]

    def _list(self, request: Request) -> Reply:
        sort = {"created_at": "created_at", "size_in_bytes": "size"}.get(request.params.get("sort", ""), "accessed_at")
        newest_first = request.params.get("direction", "desc") == "desc"
        entries = sorted(self._listed(request), key=lambda entry: float(getattr(entry, sort)), reverse=newest_first)
        return page_of(request, "actions_caches", [entry.row for entry in entries])

    def _delete(self, request: Request) -> Reply:
        gone = [entry for entry in self._listed(request) if entry.key == request.params["key"]]
        if not gone:
            return Reply(404, {"message": "Not Found", "status": "404"})
        for entry in gone:
            entry.key, entry.finalized = f"deleted,{entry.id}", False
        return Reply(200, {"total_count": len(gone), "actions_caches": [entry.row for entry in gone]})

    def _address(self, entry: Entry) -> str:
        return f"{self.url}/storage/{entry.id}?sig={entry.signature}"


def _match(entries: Iterable[Entry], prefixes: list[str]) -> Entry | None:
    """The entry with the first key itself, else the newest that begins with one of the keys, in their order."""
    newest_first = sorted(entries, key=lambda entry: (entry.created_at, entry.id), reverse=True)
    exact = [entry for entry in newest_first if entry.key == prefixes[0]]
    begun = [entry for prefix in prefixes for entry in newest_first if entry.key.startswith(prefix)]
    return next(iter(exact + begun), None)


def _error(status: int, code: str, message: str) -> Reply:
    return Reply(status, {"code": code, "msg": message}, {"Content-Type": "application/json"})


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
