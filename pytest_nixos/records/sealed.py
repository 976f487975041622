"""A verdict with its signatures, as bytes: the verdict's line, then a line for each signature over it. Pure.

What is signed is the line itself, byte for byte, behind a prefix that no other use of such a key has: what Nix signs
of store paths begins with "1;".
"""

import re
from collections.abc import Sequence

from pytest_nixos.model import Record, Verdict
from pytest_nixos.records import verdict as record_format
from pytest_nixos.records.signing import SecretKey, Trusted

MAX_BYTES = record_format.MAX_BYTES + 2048
_PREFIX = b"pytest-nixos-record;"
_SIGNATURE = re.compile(r"[^\s:]{1,128}:[A-Za-z0-9+/]{86}==")


def seal(verdict: Verdict, keys: Sequence[SecretKey] = ()) -> bytes:
    """The record of a verdict, signed with each key."""
    line = record_format.encode(verdict)
    return line + b"".join(f"{key.sign(_PREFIX + line)}\n".encode() for key in keys)


def unseal(data: bytes, trusted: Trusted) -> Record | None:
    """The record, with those of its signers that are trusted; None when anything at all is wrong with its form."""
    line, newline, rest = data.partition(b"\n")
    verdict = record_format.parse(line + newline)
    if verdict is None or len(data) > MAX_BYTES or (rest and not rest.endswith(b"\n")):
        return None
    try:
        signatures = rest.decode("ascii").split("\n")[:-1] if rest else []
    except UnicodeDecodeError:
        return None
    if not all(_SIGNATURE.fullmatch(text) for text in signatures):
        return None
    return Record(verdict=verdict, signers=trusted.signers(_PREFIX + line + newline, signatures))
