"""The marker of a record in a binary cache: a small file whose store path says all. Pure.

What it says has neither time nor host, so who proves a check a second time makes the same file, and whoever knows
check, derivation and driver knows the path. It is the path of a text, as `builtins.toFile` makes it: a derivation whose
output is fixed by a hash can't make it, so a builder that signs all that it builds signs no marker.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from pytest_nixos.model import Outcome, Subject, Verdict
from pytest_nixos.records import narinfo
from pytest_nixos.records.narinfo import PathInfo

_VERSION = 2
_LONGEST_NAME = 100
_NOT_IN_NAMES = re.compile(r"[^0-9A-Za-z+\-._?=]")
FLAGS = ("tcg",)  # all that there are: what `allow=all` looks for
_FEW_FLAGS = 3


@dataclass(frozen=True, slots=True)
class Marker:
    """A file: its store path without signatures, its content."""

    info: PathInfo
    content: bytes


def of_subject(subject: Subject, flags: Iterable[str] = ()) -> Marker:
    """The marker that is there when a subject has passed, with these flags."""
    return _marker(subject.check, subject.system, subject.derivation.drv_path, subject.driver, flags)


def of_verdict(verdict: Verdict) -> Marker:
    """The marker of a verdict that has passed."""
    return _marker(verdict.check, verdict.system, verdict.drv_path, verdict.driver, verdict.flags)


def is_it(info: PathInfo, marker: PathInfo) -> bool:
    """Whether what a cache has is the marker: the same content at the same path.

    Some caches (Cachix) do not keep the content address; what is signed is the path and the content's hash.
    """
    known = (info.path, info.nar_hash, info.nar_size, info.references)
    ours = (marker.path, marker.nar_hash, marker.nar_size, marker.references)
    return known == ours and info.ca in (None, marker.ca)


def flag_sets(flags: Iterable[str]) -> list[tuple[str, ...]]:
    """The sets of flags that markers are looked for with: all of a few flags; of many each alone, and all together."""
    ordered = sorted(flags)
    sizes = range(1, len(ordered) + 1) if len(ordered) <= _FEW_FLAGS else (1, len(ordered))
    return [chosen for size in sizes for chosen in combinations(ordered, size)]


def _marker(check: str, system: str, drv_path: str, driver: str | None, flags: Iterable[str]) -> Marker:
    said = {
        "check": check,
        "driver": driver,
        "drv": drv_path,
        "flags": sorted(set(flags)),
        "outcome": Outcome.PASSED.value,
        "system": system,
        "v": _VERSION,
    }
    content = json.dumps(said, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    name = "nixos-verified-" + _NOT_IN_NAMES.sub("_", check)[:_LONGEST_NAME]
    return Marker(narinfo.text_file(drv_path.rpartition("/")[0], name, content), content)
