"""From a place to its store. Each kind is loaded when it is used."""

from pathlib import Path

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.records.places import Place
from pytest_nixos.records.stores.base import Kit, RecordStore


def open_store(place: Place, kit: Kit) -> RecordStore:
    """The store at `place`. Raises PytestNixosError when it can't be used as it is named; asks no server yet."""
    try:
        return _open(place, kit)
    except (ValueError, RuntimeError) as error:  # no URL, or a home directory that nobody has
        raise PytestNixosError(
            f"{place} can't be used: {error}", "see docs/records.md for how stores are named"
        ) from None


def _open(place: Place, kit: Kit) -> RecordStore:
    match place.scheme:
        case "git":
            from pytest_nixos.records.stores.git import open_git

            return open_git(place, kit)
        case "gha":
            from pytest_nixos.records.stores.actions_cache import open_actions_cache

            return open_actions_cache(place, kit)
        case "github-runs":
            from pytest_nixos.records.stores.runs import open_runs

            return open_runs(place, kit)
        case "nix":
            from pytest_nixos.records.stores.binary_cache import open_binary_cache

            return open_binary_cache(place, kit)
    from pytest_nixos.records.stores.directory import DirectoryStore

    return DirectoryStore(kit.base / Path(place.location).expanduser(), kit.trusted, kit.keys)
