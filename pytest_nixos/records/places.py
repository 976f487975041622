"""Where records lie, as users name it: a URI with the terms on which the store is read and written. Pure.

    SCHEME:LOCATION?pull=no&push=no&signed=yes&allow=tcg&...

What has no scheme of ours is a folder. Parameters that are not ours are the store's own; in `nix:`, whose locations
have parameters of Nix, they stay in the location.
"""

import re
import urllib.parse
from dataclasses import dataclass
from enum import StrEnum

from pytest_nixos.errors import PytestNixosError


class Push(StrEnum):
    """When a store is written: as `rights` says for where we run, never, or wherever that can be right."""

    AUTO = "auto"
    NO = "no"
    YES = "yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which terms a store is used.

    pull: it is read. signed: only records with a trusted signature count. allow: flags that its records may have,
    both those that are read and those that are written; None for any.
    """

    pull: bool = True
    push: Push = Push.AUTO
    signed: bool = False
    allow: frozenset[str] | None = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A store as it was named: its kind, where it is, its own options, its terms."""

    scheme: str
    location: str
    options: dict[str, str]
    terms: Terms

    @property
    def is_of_outputs(self) -> bool:
        """Whether what counts there are outputs, which Nix's own keys sign and whoever builds them writes."""
        return self.options.get("evidence") == "output"

    @property
    def signs_itself(self) -> bool:
        """Whether what is written there is signed by others than us: a service, or Nix with a key of its own."""
        return "via" in self.options or (self.scheme == "nix" and "secret-key=" in self.location)

    def __str__(self) -> str:
        """For people: without user and password of a URL."""
        return without_password(f"{self.scheme}:{self.location}")

    @property
    def keeps_time(self) -> bool:
        """Whether a record has the time of its run there, however late it is written."""
        return self.scheme != "gha" or self.options.get("bundle") == "yes"


# By scheme: whether records need a signature unless said otherwise; the store's own parameters, None for any.
_KINDS: dict[str, tuple[bool, frozenset[str] | None]] = {
    "dir": (False, frozenset()),
    "git": (True, frozenset({"prefix"})),
    "gha": (False, frozenset({"bundle"})),
    "github-runs": (False, frozenset({"name", "branch", "workflow", "job", "runs"})),
    "nix": (True, frozenset({"evidence", "via"})),
}
_OWN_REPOSITORY = {"gha", "github-runs"}  # whose location may be left out
_SCHEME_LIKE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ASIDE = {"nix"}  # whose locations have parameters of their own
_CREDENTIALS = re.compile(r"(?<=://)[^\s']*@")  # up to the last @: who wrote a / into a password did not mean to
_YES_NO = {"yes": True, "no": False}


def parse_place(uri: str) -> Place:
    """Raises PytestNixosError for a parameter that is unknown or has no meaning."""
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in _KINDS:
        return _folder(uri)
    shown = without_password(uri)
    location, _, query = rest.partition("?")
    if not location and scheme not in _OWN_REPOSITORY:
        raise PytestNixosError(f"{shown} does not say where the records lie", f"write {scheme}:LOCATION")
    if not location.isprintable() or not _has_server(location):
        raise PytestNixosError(f"{shown!r} is no place for records", f"write {scheme}:LOCATION")
    given = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    signed, own = _KINDS[scheme]
    terms = Terms(
        pull=_yes_no(shown, "pull", given.pop("pull", "yes")),
        push=_push(shown, given.pop("push", "auto")),
        signed=_yes_no(shown, "signed", given.pop("signed", "yes" if signed else "no")),
        allow=_flags(given.pop("allow", ""), scheme),
    )
    foreign = {name: value for name, value in given.items() if own is not None and name not in own}
    if foreign and scheme not in _ASIDE:
        known = ", ".join(sorted({"pull", "push", "signed", "allow", *(own or ())}))
        raise PytestNixosError(f"{shown}: {', '.join(foreign)} is no parameter of {scheme}:", f"known are {known}")
    options = {name: value for name, value in given.items() if name not in foreign}
    if foreign:
        location += "?" + urllib.parse.urlencode(foreign)
    return Place(scheme=scheme, location=location, options=options, terms=terms)


def _has_server(location: str) -> bool:
    """Whether a URL names a server, as all but those of files do; what is no URL is none of our business."""
    if "://" not in location:
        return True
    try:
        parts = urllib.parse.urlsplit(location)
        return bool(parts.hostname) or parts.scheme.endswith("file")
    except ValueError:
        return False


def without_password(uri: str) -> str:
    """A URI for people: without user and password of a URL in it."""
    begin, slashes, rest = uri.partition("://")
    if not slashes:
        return uri
    authority, slash, path = rest.partition("/")
    # A `/` in a password would have to be written %2F; who has not done that must not see it printed, either.
    torn = "@" in path and ":" in authority and "@" not in authority and not authority.rpartition(":")[2].isdigit()
    shown = rest.rpartition("@")[2] if torn else f"{authority.rpartition('@')[2]}{slash}{path}"
    return f"{begin}{slashes}{shown}"


def without_credentials(text: str) -> str:
    """A program's message without what may be user and password in its URLs."""
    return _CREDENTIALS.sub("", text)


def _folder(uri: str) -> Place:
    """A folder that is named without a scheme, unless it looks as if something else were meant."""
    if not uri or uri in _KINDS or "?" in uri or _SCHEME_LIKE.match(uri):
        raise PytestNixosError(
            f"{without_password(uri)!r} is not a place for records",
            f"write {', '.join(f'{scheme}:' for scheme in _KINDS)} and where, or dir:FOLDER for a folder of that name",
        )
    return Place(scheme="dir", location=uri, options={}, terms=Terms(allow=None))


def _yes_no(uri: str, name: str, value: str) -> bool:
    if value not in _YES_NO:
        raise PytestNixosError(f"{uri}: {name}={value} makes no sense", f"write {name}=yes or {name}=no")
    return _YES_NO[value]


def _push(uri: str, value: str) -> Push:
    if value not in list(Push):
        raise PytestNixosError(f"{uri}: push={value} makes no sense", "write push=auto, push=yes or push=no")
    return Push(value)


def _flags(text: str, scheme: str) -> frozenset[str] | None:
    """A folder keeps whatever this machine has seen; what comes from elsewhere has no flags unless allowed."""
    if text:
        return None if text == "all" else frozenset(text.split(","))
    return None if scheme == "dir" else frozenset()
