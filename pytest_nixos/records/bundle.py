"""Many records as one file, and the keys of such files. Pure.

A bundle is a line that says what it is, then for each record a line with its length in bytes, and the record. Its key
is `<time>-<run>-<attempt>-<session>-<number>`: a session that writes again writes all it has, so of each session the
highest number counts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_nixos.records import sealed

MAX_BYTES = 4 << 20
_HEAD = b"pytest-nixos-bundle;1\n"
_LENGTH = re.compile(rb"([1-9][0-9]{0,4})\n")
_KEY = re.compile(r"(?P<time>[1-9][0-9]{0,14})-(?P<writer>[0-9]{1,18}-[0-9]{1,18}-[0-9a-f]{8})-(?P<number>[0-9]{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleKey:
    """Which session wrote a bundle, when it did (seconds since the epoch), and which one of the session's it is."""

    time: int
    writer: str
    number: int

    def __str__(self) -> str:
        return f"{self.time}-{self.writer}-{self.number}"


def parse_key(text: str) -> BundleKey | None:
    """None for what is no key of a bundle."""
    match = _KEY.fullmatch(text)
    if match is None:
        return None
    return BundleKey(time=int(match["time"]), writer=match["writer"], number=int(match["number"]))


def encode(records: Iterable[bytes]) -> bytes:
    """The bundle of these records, of as many as it can hold: those that come first."""
    parts, size = [_HEAD], len(_HEAD)
    for record in records:
        part = b"%d\n" % len(record) + record
        if not record or len(record) > sealed.MAX_BYTES or size + len(part) > MAX_BYTES:
            continue
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def parse(data: bytes) -> tuple[bytes, ...] | None:
    """The records of a bundle; None when anything at all is wrong with it, such as an end that is missing."""
    if len(data) > MAX_BYTES or not data.startswith(_HEAD):
        return None
    records, position = [], len(_HEAD)
    while position < len(data):
        length = _LENGTH.match(data, position)
        if length is None:
            return None
        begin, position = length.end(), length.end() + int(length[1])
        if position > len(data):
            return None
        records.append(data[begin:position])
    return tuple(records)
