"""Refs that point to records: their names, and what git prints of them. Pure.

`<prefix>/<system>/<check>/<record name>`, or, in a prefix `refs/tags/...-`, `<prefix><check>-<record name>`, since tags
are flat. The record's name alone says what a ref is of; check and system stand there for people who look at the
repository, so a record counts under any of them, and a payload that names others is not refused.
"""

import hashlib
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.model import Verdict
from pytest_nixos.records.naming import name_of
from pytest_nixos.records.places import without_credentials

DEFAULT_PREFIX = "refs/nixos-verified/v2"
REF_FORMAT = "%(objectname) %(objecttype) %(objectsize) %(refname)"
_COMPONENT = r"(?!\.)(?:(?!\.\.)[A-Za-z0-9._+-])+(?<!\.)(?<!\.lock)"  # stricter than git check-ref-format(1)
_PREFIX = re.compile(rf"refs(?:/{_COMPONENT})+")
_FOREIGN = ("refs/heads", "refs/replace", "refs/pull")  # a branch is of commits; git and GitHub own the others
_LONGEST_COMPONENT = 100  # a server that keeps refs as files has 255 bytes for a record's name and this
_HASH_LENGTH = 32
_USELESS = re.compile(r"(?:warning|hint|from|to|please make sure|and the repository exists)\b|\W*$", re.IGNORECASE)
_SPEAKER = re.compile(r"(?:(?:remote|fatal|error): *|unable to access '[^']*': *)+", re.IGNORECASE)
_LONGEST_REASON = 300
_TRANSIENT = re.compile(
    r"could ?n.t resolve|could not resolve|temporary failure|timed? ?out|connection (?:refused|reset|closed|was)"
    r"|(?:failed|could ?n.t|unable) to connect|couldn't connect|unreachable|no route|empty reply|early eof|hung up"
    r"|disconnect|rpc failed|handshake|returned error: (?:408|429|5\d\d)",
    re.IGNORECASE,
)
_FINAL = re.compile(r"declin|denied|deny|prohibit|refus|not allowed|permission|protected|rule|funny", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the refs of a store are. root: what all of them begin with; flat: nothing but a name follows."""

    root: str
    flat: bool

    @property
    def refspec(self) -> str:
        """What makes `git fetch` ask for our refs only: protocol v2 sends the part before the star to the server."""
        return f"+{self.root}*:{self.root}*"

    def ref_of(self, verdict: Verdict) -> str:
        """The ref of a verdict's record."""
        check = component(verdict.check)
        return self.root + (f"{check}-" if self.flat else f"{component(verdict.system)}/{check}/") + name_of(verdict)

    def name_in(self, ref: str) -> str:
        """The record's name in a ref; what it is, if it is any, `naming.parse_name` says."""
        if not self.flat:
            return ref.rpartition("/")[2]
        tail = ref.removeprefix(self.root)
        return tail[max(0, tail.find(".") - _HASH_LENGTH) :]  # a component has no dot, see there


@dataclass(frozen=True, slots=True)
class Ref:
    """A ref and what it points to: kind is git's word, size is in bytes."""

    name: str
    oid: str
    kind: str
    size: int


def layout_of(prefix: str) -> Layout:
    """Raises PytestNixosError for a prefix that git or its servers can't take."""
    flat = prefix.startswith("refs/tags/") and prefix.endswith("-")
    foreign = any(prefix == taken or prefix.startswith(f"{taken}/") for taken in _FOREIGN)
    if not _PREFIX.fullmatch(prefix) or foreign:
        raise PytestNixosError(
            f"prefix={prefix} is no place for records in a git repository",
            f"write prefix={DEFAULT_PREFIX}, or prefix=refs/tags/verified- for tags",
        )
    return Layout(root=prefix if flat else f"{prefix}/", flat=flat)


def component(text: str) -> str:
    """Any text as one part of a ref, without a dot: git check-ref-format(1) has its reasons against many."""
    encoded = urllib.parse.quote(text, safe="", errors="replace").replace(".", "%2E").replace("~", "%7E") or "-"
    if len(encoded) <= _LONGEST_COMPONENT:
        return encoded
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:_HASH_LENGTH]
    return f"{encoded[: _LONGEST_COMPONENT - _HASH_LENGTH - 1]}-{digest}"


def parse_refs(output: bytes) -> Iterator[Ref]:
    """The lines of `git for-each-ref --format=REF_FORMAT`."""
    for line in _lines(output):
        oid, kind, size, name = line.split(" ", 3)
        yield Ref(name=name, oid=oid, kind=kind, size=int(size))


def parse_objects(output: bytes) -> dict[str, bytes]:
    """The blobs that `git cat-file --batch` has printed, by object id. Raises ValueError when they are cut off."""
    blobs: dict[str, bytes] = {}
    at = 0
    while at < len(output):
        end = output.index(b"\n", at)
        oid, kind, size = output[at:end].decode().split(" ")  # else "<id> missing"
        at = end + 1 + int(size)
        if kind != "blob" or output[at : at + 1] != b"\n":
            raise ValueError(f"{oid} is no whole blob")
        blobs[oid] = output[end + 1 : at]
        at += 1
    return blobs


def parse_pushed(output: bytes) -> dict[str, str]:
    """What became of each ref, from `git push --porcelain`: "" when it is as wished, else why it is not."""
    results: dict[str, str] = {}
    for line in _lines(output):
        flag, *rest = line.split("\t")
        if len(rest) == 2 and ":" in rest[0]:
            reason = rest[1].partition(" (")[2].removesuffix(")") or rest[1] or "refused"
            results[rest[0].rpartition(":")[2]] = reason if flag == "!" else ""
    return results


def blobs_to_import(blobs: Iterable[bytes]) -> bytes:
    """The blobs for `git fast-import`, marked 1, 2, ..."""
    return b"".join(b"blob\nmark :%d\ndata %d\n%s\n" % (n, len(data), data) for n, data in enumerate(blobs, 1))


def parse_marks(text: str) -> list[str]:
    """The object ids of `git fast-import --export-marks`, in the order of their marks."""
    pairs = (line.split() for line in text.splitlines())
    return [oid for _, oid in sorted((int(mark[1:]), oid) for mark, oid in pairs)]


def batches(refs: Iterable[str], longest: int) -> Iterator[list[str]]:
    """The refs in parts of at most `longest` bytes, but at least one ref."""
    part: list[str] = []
    size = 0
    for ref in refs:
        if part and size + len(ref) > longest:
            yield part
            part, size = [], 0
        part.append(ref)
        size += len(ref)
    if part:
        yield part


def _lines(output: bytes) -> list[str]:
    """Lines as git writes them; str.splitlines knows other ends, which a ref may hold."""
    return [line.decode(errors="replace") for line in output.split(b"\n") if line]


def sentence(stderr: str) -> str:
    """Git's first useful line, without credentials."""
    lines = (
        _SPEAKER.sub("", line.strip(), count=1) for line in stderr.splitlines() if not _USELESS.match(line.strip())
    )
    first = next((line for line in lines if line), "git has failed without a word")
    return without_credentials(first)[:_LONGEST_REASON]


def is_transient(stderr: str) -> bool:
    """Whether trying again may help: the network, or a server that is not well."""
    return _TRANSIENT.search(stderr) is not None


def is_final(reason: str) -> bool:
    """Whether a server has refused a ref by its rules; else another writer was at it."""
    return _FINAL.search(reason) is not None
