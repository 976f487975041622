"""From the user's options and the environment to the session's record stores."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_nixos.errors import KeyUnusable
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.reading import is_own_output
from pytest_nixos.options import Options, cache_home
from pytest_nixos.records import credentials, rights
from pytest_nixos.records.keeper import Keeper
from pytest_nixos.records.places import Place, Push, Terms, parse_place
from pytest_nixos.records.signing import SecretKey, Trusted, parse_secret_key
from pytest_nixos.records.stores.base import Kit

_LARGEST_EVENT = 4 << 20
_MENTIONED = "PYTEST_NIXOS_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The environment without its secrets, the secrets that were taken from it, and the event of GitHub, if any."""

    env: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    event: bytes


def take_secrets(options: Options) -> Surroundings:
    """Take what is secret from the environment, before any child starts: our own key, and what the stores need."""
    named = [*places(options), *map(parse_place, filter(None, [options.copy_to]))]
    schemes = {place.scheme for place in named}
    names = [credentials.SECRET_KEY, *(name for scheme in schemes for name in credentials.OF_SCHEME.get(scheme, ()))]
    secrets = credentials.take(names)
    return Surroundings(env=dict(os.environ), secrets=secrets, event=_event(os.environ.get("GITHUB_EVENT_PATH", "")))


def places(options: Options) -> tuple[Place, ...]:
    """The stores as they are named; where no folder is read, and written whatever happens, with the user's own first.

    Raises PytestNixosError for a name that makes no sense.
    """
    named = tuple(map(parse_place, options.records))
    if any(p.scheme == "dir" and _keeps_everything(p.terms) for p in named):
        return named
    own = Place(scheme="dir", location=str(cache_home() / "records"), options={}, terms=Terms(allow=None))
    return (own, *named)


def _keeps_everything(terms: Terms) -> bool:
    """Whether a folder on these terms is written whatever happens, and read: failures, too."""
    return terms.pull and terms.push is not Push.NO and not terms.signed


def needs_commit(stores: Sequence[Place]) -> bool:
    """Whether one of the stores wants to know of which commit the flake is."""
    return any(place.scheme == "github-runs" and "job" in place.options for place in stores)


def open_keeper(
    options: Options, around: Surroundings, nix: Nix, stores: Sequence[Place], commit: str | None = None
) -> Keeper:
    """These stores, for this session; commit: the flake's, when it is nothing but that.

    Raises PytestNixosError when one can't be used as it is named.
    """
    more = {"DEFAULT_BRANCH": rights.default_branch(around.event), "COMMIT": commit or ""}
    keys = _keys(options, around.secrets)
    kit = Kit(
        trusted=Trusted([*options.trusted_keys, *(key.public for key in keys)]),
        keys=keys,
        base=options.records_base,
        cache=cache_home() / "stores",
        env={**around.env, **{f"{_MENTIONED}{name}": value for name, value in more.items()}},
        secrets=around.secrets,
        nix=nix.flake,
        is_own_output=is_own_output,
        output_keys=lambda: Trusted([*options.trusted_keys, *nix.trusted_keys()]),
    )
    where = rights.where_are_we(around.env, around.event, options.tier)
    return Keeper(stores, kit, where, options.records_seconds)


def _keys(options: Options, secrets: Mapping[str, str]) -> tuple[SecretKey, ...]:
    if options.secret_key_file is not None:
        return (parse_secret_key(_content(options.secret_key_file)),)
    return (parse_secret_key(secrets[credentials.SECRET_KEY]),) if credentials.SECRET_KEY in secrets else ()


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        # The name is not shown: it may be the key itself, by mistake.
        raise KeyUnusable(f"the file that is named for the secret key can't be read: {reason}") from None


def _event(path: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would be waited for
        with os.fdopen(handle, "rb") as file:
            return file.read(_LARGEST_EVENT)
    except OSError:
        return b""
