"""The closure of store paths by the flake's own `closureInfo`, the function of nixpkgs, where the flake has one.

It may lie in the flake's `legacyPackages.<system>`, or in the nixpkgs that is one of its locked inputs. Where there is
none, or it does not build, the store's own graph (nix.store.closure) gives the same two files' content.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_nixos.errors import CommandFailed
from pytest_nixos.model import Closure
from pytest_nixos.nix import store
from pytest_nixos.nix.attrs import nix_string
from pytest_nixos.nix.target import Target


def closure(target: Target, system: str, roots: Sequence[str]) -> Closure:
    """All store paths that `roots` need, with their registration."""
    function = f"f: (f {{ rootPaths = map builtins.storePath [ {' '.join(map(nix_string, roots))} ]; }}).drvPath"
    for argv in _candidates(target, system) if roots else ():
        try:
            drv_path = json.loads(target.nix.run((*argv, "--impure", "--json", "--apply", function)).stdout)
            built = target.nix.run(target.nix.store("--realise", drv_path)).stdout.decode().strip()
            return _read(Path(built))
        except (CommandFailed, OSError, ValueError, TypeError):
            continue  # the graph below says the same
    return store.closure(target.nix, roots)


def _candidates(target: Target, system: str) -> Iterator[tuple[str, ...]]:
    """Command lines that evaluate a closureInfo, without the function that is applied to it."""
    nix, url = target.nix, target.ref.url
    yield nix.flake("eval", *target.flags, f"{url}#legacyPackages.{system}.closureInfo")
    metadata = json.loads(nix.run(nix.flake("flake", "metadata", "--json", *target.flags, url)).stdout)
    locks = metadata["locks"]
    # Only a nixpkgs that the flake has locked: asking for any other would go to the network.
    if "nixpkgs" in locks["nodes"][locks["root"]].get("inputs", {}):
        yield nix.flake("eval", "--inputs-from", url, f"nixpkgs#legacyPackages.{system}.closureInfo")


def _read(folder: Path) -> Closure:
    registration = (folder / "registration").read_text()
    paths = tuple(sorted((folder / "store-paths").read_text().split()))
    return Closure(paths=paths, nar_bytes=store.nar_bytes(registration), registration=registration)
