"""GitHub's cache service v2, which runners talk to: small JSON calls (Twirp), the content with a storage behind them.

An entry is a key and a version, both any text; it is never changed once it is there. A key that is asked for matches
every key that begins with it. Whose entries are seen, the token says: those of the run's own ref, of the base of its
pull request and of the default branch; written are those of the own ref.

Sources: the messages of actions/toolkit, packages/cache; Twirp's specification, v7, for errors; GitHub's docs,
"Dependency caching reference", for keys, scopes and limits.
"""

import base64
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import RecordsUnavailable
from pytest_nixos.records.http import Answer, Http

MAX_KEY = 512
_PATH = "/twirp/github.actions.results.api.v1.CacheService/"
_READ, _WRITE = 1, 2
_UNREADABLE_MODES, _UNWRITABLE_MODES = {"none", "write-only"}, {"none", "read"}
_HINT = (
    "GitHub gives the token to actions, not to `run:` steps: let a step with `uses: actions/github-script` hand over "
    "ACTIONS_RUNTIME_TOKEN and ACTIONS_RESULTS_URL of its `process.env` as outputs, and take them in `env:` of the "
    "step with pytest"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scopes:
    """The refs whose entries a token lets us read and write."""

    read: tuple[str, ...]
    write: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry that matched: its whole key, and the address of its content, which is as good as a password."""

    key: str
    url: str


class CacheService:
    """The service with the token of a run; safe to use from several threads.

    Every method raises RecordsUnavailable for anything but a whole answer of the promised form, transient when trying
    again may help. No error text holds the token or an address with a signature.
    """

    def __init__(self, url: str, token: str, mode: str = "") -> None:
        """url, token: ACTIONS_RESULTS_URL and ACTIONS_RUNTIME_TOKEN; mode: ACTIONS_CACHE_MODE, the runner's word."""
        self._url = urllib.parse.urljoin(url, _PATH)
        self._http = Http({"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        self._storage = Http({"User-Agent": "pytest-nixos"})
        self._token, self._mode, self._scopes = token, mode, scopes(token)
        self._begun: dict[tuple[str, str], str] = {}

    @property
    def readable(self) -> bool:
        """Whether there can be anything that we may read."""
        return self._mode not in _UNREADABLE_MODES and (self._scopes is None or bool(self._scopes.read))

    @property
    def writable(self) -> bool:
        """Whether we may write, as far as it is known beforehand."""
        return self._mode not in _UNWRITABLE_MODES and (self._scopes is None or bool(self._scopes.write))

    def put(self, key: str, version: str, content: bytes, deadline: Deadline) -> None:
        """Make an entry; one that is there already is as good. What was begun and failed is taken up again."""
        if not self.writable:
            raise RecordsUnavailable("this run may not write the Actions cache")
        url = self._begun.get((key, version)) or self.create(key, version, deadline)
        if url is not None:
            self._begun[key, version] = url
            self.upload(url, content, deadline)
            self.finalize(key, version, len(content), deadline)
            del self._begun[key, version]

    def create(self, key: str, version: str, deadline: Deadline) -> str | None:
        """Begin an entry: where its content is to be put; None when there is one with that key already."""
        answer = self._call("CreateCacheEntry", {"key": key, "version": version}, deadline, ("already_exists", 409))
        return None if answer is None else _address(answer, "signed_upload_url", self._url)

    def upload(self, url: str, content: bytes, deadline: Deadline) -> None:
        """Put the content of an entry that was begun."""
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
        answer = self._storage.request("PUT", url, deadline, headers=headers, body=content)
        if answer.status not in {200, 201}:
            raise _refused("the storage of the Actions cache", answer)

    def finalize(self, key: str, version: str, size: int, deadline: Deadline) -> None:
        """Make an entry visible, with `size` bytes of content. That another has done it is as good."""
        message = {"key": key, "size_bytes": str(size), "version": version}
        self._call("FinalizeCacheEntryUpload", message, deadline, ("already_exists", 409))

    def find(self, key: str, version: str, deadline: Deadline, prefixes: tuple[str, ...] = ()) -> Entry | None:
        """The newest entry whose key begins with `key`, else with one of `prefixes`: compare its whole key.

        To ask for an entry counts as a use of it. Own entries come before those of the base and the default branch.
        """
        if not self.readable:
            return None
        message = {"key": key, "restore_keys": list(prefixes), "version": version}
        answer = self._call("GetCacheEntryDownloadURL", message, deadline, ("not_found", 404))
        if answer is None or not answer["ok"]:
            return None
        matched = answer.get("matched_key")
        if not isinstance(matched, str):
            raise RecordsUnavailable("the Actions cache's answer names no key")
        return Entry(key=matched, url=_address(answer, "signed_download_url", self._url))

    def download(self, entry: Entry, deadline: Deadline, limit: int) -> bytes:
        """The content of an entry, of at most `limit` bytes."""
        answer = self._storage.request("GET", entry.url, deadline, limit=limit)
        if answer.status != 200:
            raise _refused("the storage of the Actions cache", answer)
        return answer.body

    def _call(
        self, method: str, message: Mapping[str, Any], deadline: Deadline, none: tuple[str, int]
    ) -> dict[str, Any] | None:
        """The answer to a call; None for an error of that code and status."""
        answer = self._http.request("POST", self._url + method, deadline, body=json.dumps(message).encode())
        reply = _object(answer.body)
        if answer.status != 200:
            if ((reply or {}).get("code"), answer.status) == none:
                return None
            raise _refused("the Actions cache", answer)
        if reply is None or not isinstance(reply.get("ok"), bool):
            raise RecordsUnavailable("the Actions cache's answer has an unknown form")
        if not reply["ok"] and method != "GetCacheEntryDownloadURL":
            raise RecordsUnavailable(f"the Actions cache refuses{self._said(reply)}")
        return reply

    def _said(self, reply: Mapping[str, Any]) -> str:
        """The service's own word, if it is short and printable: such as "cache write denied: …"."""
        said = reply.get("message")
        shown = isinstance(said, str) and said.isprintable() and 0 < len(said) <= 200
        return f": {said}" if shown and self._token not in str(said) else ""


def open_service(env: Mapping[str, str], secrets: Mapping[str, str]) -> CacheService | None:
    """The service of this run; None where there is none, or where nothing of it was handed to us."""
    url, token = env.get("ACTIONS_RESULTS_URL", ""), secrets.get("ACTIONS_RUNTIME_TOKEN", "").strip()
    if not token or urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        return None
    return CacheService(url, token, env.get("ACTIONS_CACHE_MODE", "").strip().lower())


def no_service(what: str) -> RecordsUnavailable:
    """The error of what can't be done without the service."""
    return RecordsUnavailable(f"{what} needs ACTIONS_RUNTIME_TOKEN and ACTIONS_RESULTS_URL", _HINT)


def scopes(token: str) -> Scopes | None:
    """What a token says of the refs it is for, which the service checks, not we; None when it does not say it.

    It is a JSON Web Token, whose claim `ac` is text: a JSON list of {"Scope": ref, "Permission": 1 read + 2 write}.
    """
    try:
        claims = _claims(token.split(".")[1])
        listed = [(entry["Scope"], entry["Permission"]) for entry in json.loads(claims["ac"])]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError):
        return None
    if not all(isinstance(scope, str) and type(permission) is int for scope, permission in listed):
        return None
    return Scopes(
        read=tuple(scope for scope, permission in listed if permission & _READ),
        write=tuple(scope for scope, permission in listed if permission & _WRITE),
    )


def _claims(part: str) -> Any:
    return json.loads(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))


def _refused(who: str, answer: Answer) -> RecordsUnavailable:
    status, wait = answer.status, answer.headers.get("retry-after", "")
    if status == 429:
        after = f", in {wait} s it may be asked again" if wait.isascii() and wait.isdigit() and len(wait) < 9 else ""
        return RecordsUnavailable(f"{who} has had too many requests{after}", transient=True)
    hint = "the token of a run ends with its job" if status == 401 else ""
    return RecordsUnavailable(f"{who} answers with status {status}", hint, transient=status >= 500)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _address(answer: Mapping[str, Any], name: str, base: str) -> str:
    """An address in the storage; never an unprotected one from a service that is protected."""
    url = answer.get(name)
    allowed = {"https"} if base.startswith("https:") else {"https", "http"}
    if not isinstance(url, str) or urllib.parse.urlsplit(url).scheme not in allowed:
        raise RecordsUnavailable("the Actions cache gives no usable address")
    return url
