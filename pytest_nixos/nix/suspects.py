"""The usual reasons why a derivation is new at every commit, told by what has taken the place of what. Pure."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pytest_nixos.nix.difference import Cause, Finding, Kind

_MANY = 100  # causes; one update of nixpkgs gives hundreds, a change of one's own few

# Longest first. The words around a token decide nothing, but it must not be a part of a longer word or hash.
_TOKEN = re.compile(
    r"""(?<![0-9A-Za-z])(?:
        (?P<tree>[0-9a-df-np-sv-z]{32}-source)
      | (?P<revision>[0-9a-f]{40}(?:-dirty)?)
      | (?P<version>\d\d\.\d\d(?:\.|pre|beta)\d{8}\.(?:[0-9a-f]{7,12}|dirty)|\d{8}\.(?:[0-9a-f]{7,12}|dirty))
      | (?P<time>\d{14}|1\d{9}|\d{8})
      | (?P<short>[0-9a-f]{7,12}(?:-dirty)?)
      | (?P<dirty>dirty)
    )(?![0-9A-Za-z])""",
    re.VERBOSE,
)
_REVISIONS = {"revision", "short", "dirty"}
_NOTHING = ("", "null", None)
_FORMATS = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}


class Suspect(StrEnum):
    """What it is, in the order in which people should hear of it; the value is one sentence that says what to do."""

    REVISION = (
        "the flake's own revision (self.rev, self.shortRev) is spliced into the system, so that every commit is new; "
        "leave it out in tests: system.configurationRevision = lib.mkForce null"
    )
    TREE = (
        "the whole flake, or a whole input of it, is used as a source, so that every edit of any file is new; "
        "use a filtered source (lib.fileset.toSource) or the one file itself"
    )
    VERSION = (
        "the system's version holds a date and a revision, so that every update of nixpkgs is new (every commit, if "
        "they are the flake's own); set system.nixos.version and system.nixos.label to fixed texts in tests"
    )
    TIME = (
        "a date or time (self.lastModified, builtins.currentTime) is spliced in, so that every commit, or even every "
        "evaluation, is new; leave it out in tests"
    )
    UPDATE = (
        "so much differs that an input such as nixpkgs has been updated, or the stdenv is another one; "
        "then there is nothing to repair: the check has to run"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A usual suspect, and how many causes have a mark of it; alone: they have no other difference at all."""

    suspect: Suspect
    causes: int
    alone: bool


def suspicions(causes: Iterable[Cause]) -> tuple[Suspicion, ...]:
    """The usual suspects among the causes."""
    all_ = list(causes)
    marks = [[suspect_of(finding) for finding in cause.findings] if _may_be(cause) else [None] for cause in all_]
    counts = Counter(suspect for found in marks for suspect in set(found) if suspect)
    alone = all(suspect is not None for found in marks for suspect in found)
    if len(all_) >= _MANY:
        counts[Suspect.UPDATE] = len(all_)
    return tuple(
        Suspicion(suspect=suspect, causes=counts[suspect], alone=alone) for suspect in Suspect if counts[suspect]
    )


def _may_be(cause: Cause) -> bool:
    """A source that is fetched by a hash names its own revision and date: that is an update, and no accident."""
    return not cause.same_outputs and not any(f.kind is Kind.OUTPUT or f.what == "outputHash" for f in cause.findings)


def suspect_of(finding: Finding) -> Suspect | None:
    """The suspect that explains all of a finding, else None."""
    if finding.kind is Kind.SOURCE:
        return Suspect.TREE if finding.what == "source" and finding.old and finding.new else None
    if finding.kind not in (Kind.ENV, Kind.ARGUMENT):
        return None
    if finding.old in _NOTHING or finding.new in _NOTHING:
        return _from_nothing(finding)
    old, new = finding.old or "", finding.new or ""
    before, after = list(_TOKEN.finditer(old)), list(_TOKEN.finditer(new))
    if old == new or len(before) != len(after) or _TOKEN.sub("\0", old) != _TOKEN.sub("\0", new):
        return None
    found = {_replaced(was, now, old) for was, now in zip(before, after, strict=True) if was[0] != now[0]}
    if None in found:
        return None
    return next(suspect for suspect in Suspect if suspect in found)


def _from_nothing(finding: Finding) -> Suspect | None:
    """A revision where there was none, as when a tree with changes (that has no self.rev) is committed."""
    there = [text for text in (finding.old, finding.new) if text not in _NOTHING]
    match = _TOKEN.fullmatch(there[0] or "") if there else None
    is_revision = bool(match and match.lastgroup in _REVISIONS and "rev" in finding.what.lower())
    return Suspect.REVISION if is_revision else None


def _replaced(was: re.Match[str], now: re.Match[str], text: str) -> Suspect | None:
    """What one token in place of another one means."""
    groups = {was.lastgroup, now.lastgroup}
    if groups == {"tree"}:
        return Suspect.TREE
    if groups == {"version"}:
        return Suspect.VERSION
    if groups == {"time"} and _is_time(was[0]) and _is_time(now[0]):
        return Suspect.TIME
    if groups <= _REVISIONS | {"time"} and _looks_random(was[0] + now[0]):
        is_nixpkgs = "nixpkgs" in text[max(0, was.start() - 40) : was.start()].lower()
        return Suspect.VERSION if is_nixpkgs else Suspect.REVISION
    return None


def _looks_random(text: str) -> bool:
    """Letters and digits: a number that counts up, or a word, is no revision."""
    return any(c.isdigit() for c in text) and any(c in "abcdef" for c in text)


def _is_time(text: str) -> bool:
    """Seconds since 1970 in this century, YYYYMMDD or YYYYMMDDHHMMSS."""
    if len(text) == 10:
        return True
    try:
        return 1970 <= datetime.strptime(text, _FORMATS[len(text)]).year < 2100
    except ValueError:
        return False
