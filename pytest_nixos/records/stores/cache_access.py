"""What a binary cache has: by HTTP ourselves, from a folder, and for all other kinds of stores by Nix.

Nix itself remembers for an hour what was not in a cache, and nearly for ever what was; here nothing is remembered, and
where Nix is asked, it has a memory of its own that ends with the call.
"""

import base64
import json
import netrc
import os
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_nixos import proc
from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import CommandFailed, CommandTimedOut, PytestNixosError, RecordsUnavailable
from pytest_nixos.records import narinfo
from pytest_nixos.records.http import CONNECTIONS, Answer, Http, side_by_side
from pytest_nixos.records.narinfo import PathInfo
from pytest_nixos.records.places import without_credentials
from pytest_nixos.records.stores.base import Kit

_PATHS_A_CALL = 1000  # 100 KB of arguments
_FRESH = {"Cache-Control": "no-cache"}  # what lies between us and the cache must not say that nothing is there yet
_LARGEST_NAR = 1 << 20
# Other caches have no say in this. Nix tries once: we try again ourselves, and Nix 2.8 hangs when it uploads again.
NIX_OPTIONS = (
    "--option",
    "substituters",
    "",
    "--option",
    "download-attempts",
    "1",
    "--option",
    "connect-timeout",
    "10",
)
_NO_MEMORY = ("--option", "narinfo-cache-negative-ttl", "0", "--option", "narinfo-cache-positive-ttl", "0")
_SURROUNDINGS = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "NO_PROXY", "ALL_PROXY"}
)
_KINDS_OF_SURROUNDINGS = ("NIX_", "CACHIX_", "XDG_", "SSH_", "AWS_", "HTTP_", "HTTPS_", "LC_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A cache did not say whether it has a path, and why.

    transient: trying again may help. for_all: it says the same of any path.
    """

    why: str
    transient: bool = False
    for_all: bool = False


Reply = PathInfo | Unknown | None  # None: it is not there


class CacheAccess(Protocol):
    """How a cache is read."""

    def infos(self, paths: Sequence[str], deadline: Deadline) -> dict[str, Reply]:
        """What the cache says of each of these store paths. Raises RecordsUnavailable when it says nothing at all."""

    def touch(self, paths: Sequence[str], deadline: Deadline) -> None:
        """Download these, where that keeps them from being forgotten."""


def open_access(location: str, kit: Kit) -> CacheAccess:
    """The way to read the store with this URL of Nix."""
    parts = urllib.parse.urlsplit(location)
    match parts.scheme:
        case "http" | "https":
            return HttpCache(urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), kit)
        case "file":
            return FolderCache(Path(urllib.parse.unquote(parts.path)))
    return NixCache(location, kit)


class HttpCache:
    """A cache on HTTP, read by many requests at once on connections that are kept."""

    def __init__(self, url: str, kit: Kit) -> None:
        self._url, self._kit = url, kit
        self._host = urllib.parse.urlsplit(url).hostname or ""
        self._http = Http(_FRESH)
        self._login = _login(_default_netrc(kit.env), self._host)
        self._nix_was_asked = False

    def infos(self, paths: Sequence[str], deadline: Deadline) -> dict[str, Reply]:
        """See CacheAccess. The first alone: it makes the connection, and shows whether a password is needed."""
        if not paths:
            return {}
        calls = _Calls(self, deadline)
        replies: list[Reply] = [calls.ask(paths[0])]
        replies += side_by_side(calls.ask, paths[1:])
        return dict(zip(paths, replies, strict=True))

    def touch(self, paths: Sequence[str], deadline: Deadline) -> None:
        """See CacheAccess. Caches that drop what nobody wants count downloads of the archive."""
        found = [info for info in self.infos(paths, deadline).values() if isinstance(info, PathInfo)]
        side_by_side(lambda info: self._download(info.url, deadline), found)

    def info(self, path: str, deadline: Deadline) -> Reply:
        """What the cache says of one path; a broken connection is tried once more."""
        url = f"{self._url}/{narinfo.hash_part(path)}.narinfo"
        for last in (False, True):
            try:
                return _reply(self._get(url, deadline))
            except RecordsUnavailable as error:
                if last or deadline.expired:
                    return Unknown(why=error.message, transient=True)
        raise AssertionError

    def _get(self, url: str, deadline: Deadline, limit: int = narinfo.MAX_BYTES) -> Answer:
        answer = self._http.request("GET", url, deadline, headers=self._login, limit=limit)
        if answer.status in (401, 403) and not self._login and not self._nix_was_asked:
            self._nix_was_asked = True
            self._login = _login(_netrc_of_nix(self._kit, deadline), self._host)
            if self._login:
                answer = self._http.request("GET", url, deadline, headers=self._login, limit=limit)
        return answer

    def _download(self, url: str, deadline: Deadline) -> None:
        place = urllib.parse.urljoin(f"{self._url}/", url)
        answer = self._get(place, deadline, _LARGEST_NAR) if place.startswith(f"{self._url}/") else None
        target = urllib.parse.urljoin(place, answer.headers.get("location", "")) if answer else ""
        if answer and answer.status in (301, 302, 303, 307, 308) and target.startswith("https://"):
            self._http.request("GET", target, deadline, limit=_LARGEST_NAR)  # without our password


class _Calls:
    """One look-up. When as many calls as run at once have failed in a row, no more are made."""

    def __init__(self, cache: HttpCache, deadline: Deadline) -> None:
        self._cache, self._deadline = cache, deadline
        self._failures = 0
        self._last = Unknown(why="")

    def ask(self, path: str) -> Reply:
        if self._failures >= CONNECTIONS:
            return self._last
        if self._deadline.expired:
            return Unknown(why="there was no answer in time", transient=True)
        reply = self._cache.info(path, self._deadline)
        if isinstance(reply, Unknown) and (reply.transient or reply.for_all):
            self._last = reply
            self._failures += CONNECTIONS if reply.for_all else 1
        else:
            self._failures = 0
        return reply


def _reply(answer: Answer) -> Reply:
    if answer.status == 200:
        return narinfo.parse(answer.body) or Unknown(why="its answer is no narinfo")
    if answer.status == 404:
        return None
    if 300 <= answer.status < 400:
        return Unknown(why=f"it sends us elsewhere (HTTP {answer.status})")
    if answer.status == 401:
        return Unknown(why="it wants a password (HTTP 401), and none of netrc-file is good", for_all=True)
    return Unknown(why=f"it says HTTP {answer.status}", transient=answer.status >= 500 or answer.status in (408, 429))


@dataclass(frozen=True, slots=True)
class FolderCache:
    """A cache in a folder; one that is not there yet is empty."""

    folder: Path

    def infos(self, paths: Sequence[str], deadline: Deadline) -> dict[str, Reply]:
        """See CacheAccess."""
        return {path: self._info(path) for path in paths}

    def touch(self, paths: Sequence[str], deadline: Deadline) -> None:
        """See CacheAccess. A folder forgets nothing."""

    def _info(self, path: str) -> Reply:
        try:
            content = _content(f"{self.folder}/{narinfo.hash_part(path)}.narinfo")
        except FileNotFoundError:
            return None
        except OSError as error:
            return Unknown(why=f"it can't be read: {error.strerror}")
        return narinfo.parse(content) or Unknown(why="a file in it is no narinfo")


@dataclass(frozen=True, slots=True)
class NixCache:
    """Any other store: `nix path-info` reads it."""

    location: str
    kit: Kit

    def infos(self, paths: Sequence[str], deadline: Deadline) -> dict[str, Reply]:
        """See CacheAccess."""
        found: dict[str, PathInfo | None] = {}
        for start in range(0, len(paths), _PATHS_A_CALL):
            found |= self._ask(paths[start : start + _PATHS_A_CALL], deadline)
        return {path: found.get(path, Unknown(why="Nix says nothing of it that we understand")) for path in paths}

    def touch(self, paths: Sequence[str], deadline: Deadline) -> None:
        """See CacheAccess. What such stores forget, they forget by age."""

    def _ask(self, paths: Sequence[str], deadline: Deadline) -> dict[str, PathInfo | None]:
        command = ("path-info", "--json", "--store", self.location, *NIX_OPTIONS, *_NO_MEMORY)
        with tempfile.TemporaryDirectory(prefix="pytest-nixos-") as scratch:
            env = environment(self.kit, Path(scratch))
            try:
                try:
                    answer = run((*self.kit.nix(*command), *paths), env, deadline)
                except CommandFailed as error:
                    if "--json-format" not in error.output:
                        raise
                    answer = run((*self.kit.nix(*command, "--json-format", "1"), *paths), env, deadline)
            except CommandFailed as error:
                raise RecordsUnavailable(why_failed(error), transient=True) from None
        return narinfo.parse_path_info(answer)


def environment(kit: Kit, scratch: Path, also: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a program that reads or writes a cache, with what it needs of the secrets (`also`: names).

    Nix's memory of caches is a folder below scratch.
    """
    env = {name: value for name, value in kit.env.items() if _is_needed(name)}
    names = [*(name for name in kit.secrets if name.startswith("AWS_")), *also]
    memory = str(scratch / "memory")
    return {**env, **{n: kit.secrets[n] for n in names if n in kit.secrets}, "XDG_CACHE_HOME": memory, **_new(memory)}


def run(argv: Sequence[str], env: Mapping[str, str], deadline: Deadline, stdin: bytes = b"") -> bytes:
    """The stdout of a program. Raises CommandFailed, RecordsUnavailable at the deadline, ToolMissing."""
    try:
        return proc.run(argv, timeout=deadline.remaining, env=env, stdin=stdin).stdout
    except CommandTimedOut:
        raise RecordsUnavailable(f"`{argv[0]}` did not answer in time", transient=True) from None


def why_failed(error: CommandFailed) -> str:
    """The first error that a program has printed."""
    lines = [line.strip() for line in error.output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    said = errors or lines[-1:] or [f"`{error.argv[0]}` ended with status {error.status}"]
    return without_credentials(said[0])[:300]


def _new(memory: str) -> dict[str, str]:
    return {"NIX_CACHE_HOME": memory}  # since 2.25 of Nix, and stronger than XDG_CACHE_HOME


def _is_needed(name: str) -> bool:
    upper = name.upper()
    return upper in _SURROUNDINGS or upper.startswith(_KINDS_OF_SURROUNDINGS)


def _default_netrc(env: Mapping[str, str]) -> Path:
    return Path(env.get("NETRC") or f"{env.get('NIX_CONF_DIR') or '/etc/nix'}/netrc")


def _netrc_of_nix(kit: Kit, deadline: Deadline) -> Path | None:
    """What Nix is set to; its command had another name up to 2.19."""
    for command in (("config", "show"), ("show-config",)):
        try:
            answer = json.loads(run(kit.nix(*command, "--json"), dict(kit.env), deadline))
            return Path(answer["netrc-file"]["value"])
        except (PytestNixosError, ValueError, LookupError, TypeError):
            continue
    return None


def _login(file: Path | None, host: str) -> dict[str, str]:
    """The header with user and password of a host, as the file says; nothing when it says none, or can't be read."""
    try:
        entry = netrc.netrc(str(file)).authenticators(host) if file else None
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        entry = None
    if entry is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{entry[0]}:{entry[2]}".encode()).decode()}


def _content(path: str) -> bytes:
    """The begin of a file, opened without waiting: what looks like a narinfo may be a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(handle, narinfo.MAX_BYTES + 1)
    finally:
        os.close(handle)
