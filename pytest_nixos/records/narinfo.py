"""What Nix's binary caches say of a store path, and the store path of a small file that we make. Pure.

Sources: Nix manual, "Store Path Specification", "Nix Archive", "nix path-info"; the narinfo format and the fingerprint
that is signed are what Nix itself writes (tests/records/test_narinfo.py compares). All hashes here are SHA-256.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 64 << 10
_ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"
_HASH_BYTES, _PATH_BYTES = 32, 20
_BASE_NAME = re.compile(rf"[{_ALPHABET}]{{32}}-[0-9A-Za-z+\-._?=]{{1,211}}")
_SIZE = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_MANY = "Sig"
_METHODS = {"nar": "fixed:r", "flat": "fixed", "text": "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PathInfo:
    """A store path as a cache has it.

    nar_hash and nar_size (bytes) are of its archive, references are store paths in order; ca: what its path was
    computed from, None where it is that of a build. url: where the archive lies in the cache, "" when not known.
    """

    path: str
    nar_hash: bytes
    nar_size: int
    references: tuple[str, ...] = ()
    ca: str | None = None
    signatures: tuple[str, ...] = ()
    url: str = ""


def base32(data: bytes) -> str:
    """Bytes as Nix writes them: five bits a letter, the last bits first."""
    number = int.from_bytes(data, "little")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range((len(data) * 8 + 4) // 5)))


def fingerprint(info: PathInfo) -> bytes:
    """What a signature of a store path is over."""
    text = f"1;{info.path};sha256:{base32(info.nar_hash)};{info.nar_size};{','.join(info.references)}"
    return text.encode()


def nar_of_file(content: bytes) -> bytes:
    """The Nix archive of a file that can't be executed."""
    words = (b"nix-archive-1", b"(", b"type", b"regular", b"contents", content, b")")
    return b"".join(len(word).to_bytes(8, "little") + word + b"\0" * (-len(word) % 8) for word in words)


def text_file(store_dir: str, name: str, content: bytes) -> PathInfo:
    """The store path of a file, as `builtins.toFile` makes it; no build can make that path."""
    nar, digest = nar_of_file(content), hashlib.sha256(content).digest()
    kind = f"text:sha256:{digest.hex()}:{store_dir}:{name}"
    path = f"{store_dir}/{base32(_folded(hashlib.sha256(kind.encode()).digest()))}-{name}"
    return PathInfo(
        path=path,
        nar_hash=hashlib.sha256(nar).digest(),
        nar_size=len(nar),
        ca=f"text:sha256:{base32(digest)}",
    )


def hash_part(path: str) -> str:
    """By which a cache knows a store path."""
    return path.rsplit("/", 1)[-1][:32]


def write(info: PathInfo) -> bytes:
    """The narinfo of a path whose archive lies at `url` as it is, not compressed."""
    size, digest = info.nar_size, f"sha256:{base32(info.nar_hash)}"
    references = " ".join(path.rsplit("/", 1)[-1] for path in info.references)
    lines = [
        *(f"StorePath: {info.path}", f"URL: {info.url}", "Compression: none", f"FileHash: {digest}"),
        *(f"FileSize: {size}", f"NarHash: {digest}", f"NarSize: {size}", f"References: {references}"),
        *(f"Sig: {signature}" for signature in info.signatures),
        *([f"CA: {info.ca}"] if info.ca else []),
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def parse(data: bytes) -> PathInfo | None:
    """What a narinfo says; None when anything at all is wrong with it."""
    fields = _fields(data)
    if fields is None or any(len(values) > 1 for name, values in fields.items() if name != _MANY):
        return None
    one = {name: values[0] for name, values in fields.items()}
    path, nar_hash, size = one.get("StorePath", ""), parse_hash(one.get("NarHash", "")), one.get("NarSize", "")
    references = one.get("References", "").split()
    if not _is_store_path(path) or nar_hash is None or not _SIZE.fullmatch(size) or not one.get("URL"):
        return None
    if not all(_BASE_NAME.fullmatch(name) for name in references):
        return None
    return PathInfo(
        path=path,
        nar_hash=nar_hash,
        nar_size=int(size),
        references=tuple(f"{_store_dir(path)}/{name}" for name in sorted(set(references))),
        ca=one.get("CA"),
        signatures=tuple(fields.get(_MANY, ())),
        url=one["URL"],
    )


def parse_path_info(data: bytes) -> dict[str, PathInfo | None]:
    """What `nix path-info --json` says: by store path what it is, or None for one that is not there.

    What is not understood is left out. Nix up to 2.18 prints a list, later ones an object by store path, and the second
    version of that (`--json-format 2`) has names instead of paths and hashes in parts.
    """
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return {path: info for path, entry in _entries(answer) for info in _infos(path, entry)}


def parse_hash(text: str) -> bytes | None:
    """A SHA-256 in any of Nix's forms: `sha256:` with base 16, Nix's own base 32 or base 64; `sha256-` with base 64."""
    kind, encoded = text[:7], text[7:]
    raw: bytes | None = None
    if kind == "sha256:" and len(encoded) == 64:
        raw = bytes.fromhex(encoded) if re.fullmatch("[0-9a-f]{64}", encoded) else None
    elif kind == "sha256:" and len(encoded) == 52:
        raw = _from_base32(encoded)
    elif kind in ("sha256:", "sha256-") and len(encoded) == 44:
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raw = None
    return raw if raw is not None and len(raw) == _HASH_BYTES else None


def _from_base32(text: str) -> bytes | None:
    if any(letter not in _ALPHABET for letter in text):
        return None
    number = sum(_ALPHABET.index(letter) << 5 * place for place, letter in enumerate(reversed(text)))
    return number.to_bytes(_HASH_BYTES, "little") if number >> 8 * _HASH_BYTES == 0 else None


def _folded(digest: bytes) -> bytes:
    """A digest cut to the length of a store path's hash, all its bits mixed in."""
    folded = bytearray(_PATH_BYTES)
    for place, byte in enumerate(digest):
        folded[place % _PATH_BYTES] ^= byte
    return bytes(folded)


def _fields(data: bytes) -> dict[str, list[str]] | None:
    """The values of a narinfo by name; None where a line is none of `name: value`, or the last one is cut."""
    if len(data) > MAX_BYTES or not data.endswith(b"\n"):
        return None
    try:
        lines = data.decode("ascii").split("\n")[:-1]
    except UnicodeDecodeError:
        return None
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.isalnum() or (value and value[0] != " ") or not value.isprintable():
            return None
        fields.setdefault(name, []).append(value[1:])
    return fields


def _entries(answer: Any) -> Iterator[tuple[str, Any]]:
    """The store paths of an answer of `nix path-info --json`, each with what is said of it."""
    if isinstance(answer, list):
        yield from ((entry["path"], entry) for entry in answer if isinstance(entry, dict) and _is_path_in(entry))
    elif isinstance(answer, dict) and isinstance(answer.get("info"), dict):
        store = answer.get("storeDir", "/nix/store")
        yield from ((f"{store}/{name}", entry) for name, entry in answer["info"].items())
    elif isinstance(answer, dict):
        yield from answer.items()


def _is_path_in(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("path"), str)


def _infos(path: str, entry: Any) -> Iterator[PathInfo | None]:
    """What is said of a path, when it is understood."""
    if not _is_store_path(path):
        return
    if entry is None or (isinstance(entry, dict) and entry.get("valid") is False):
        yield None
    elif isinstance(entry, dict) and (info := _info(path, entry)):
        yield info


def _info(path: str, entry: dict[str, Any]) -> PathInfo | None:
    nar_hash, size, ca = _hash(entry.get("narHash")), entry.get("narSize"), entry.get("ca")
    references, signatures, url = entry.get("references"), entry.get("signatures", []), entry.get("url", "")
    if nar_hash is None or type(size) is not int or size <= 0:
        return None
    if not all(
        isinstance(texts, list) and all(isinstance(t, str) for t in texts) for texts in (references, signatures)
    ):
        return None
    names = {reference.rsplit("/", 1)[-1] for reference in references or ()}
    if not all(_BASE_NAME.fullmatch(name) for name in names):
        return None
    return PathInfo(
        path=path,
        nar_hash=nar_hash,
        nar_size=size,
        references=tuple(f"{_store_dir(path)}/{name}" for name in sorted(names)),
        ca=_content_address(ca),
        signatures=tuple(signatures),
        url=url if isinstance(url, str) else "",
    )


def _hash(value: Any) -> bytes | None:
    """A hash as text or in parts."""
    if isinstance(value, dict) and value.get("algorithm") == "sha256":
        value = f"sha256:{value.get('hash')}"
    return parse_hash(value) if isinstance(value, str) else None


def _content_address(value: Any) -> str | None:
    """As text; what has another form than those we know is still one."""
    if isinstance(value, dict) and value.get("method") in _METHODS and (digest := _hash(value.get("hash"))):
        return f"{_METHODS[value['method']]}:sha256:{base32(digest)}"
    return None if value is None else str(value)


def _store_dir(path: str) -> str:
    return path.rpartition("/")[0]


def _is_store_path(path: str) -> bool:
    directory, slash, name = path.rpartition("/")
    return bool(slash) and directory.startswith("/") and _BASE_NAME.fullmatch(name) is not None
