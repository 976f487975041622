"""The command lines of Nix, and what differs between its versions, in one place.

What is asked of Nix is what all these versions answer alike; tests/nix/test_versions.py holds the table against those
at hand. Lix counts from 2.90 and is what Nix 2.18 was; it and 2.18 are known from their manuals only.

| | 2.8 | 2.18, Lix | 2.26 | 2.34 | so here |
|---|---|---|---|---|---|
| `nix --version` | name (Nix) | (Lix, like Nix) | (Nix) | (Nix) | parse_version |
| `nix flake metadata --json`: `fingerprint` | - | - | yes | yes | `locked` and `locks` instead |
| `locked.dirtyRev` of a dirty git tree | - | yes | yes | yes | all of `locked` counts |
| `path:DIR?dir=SUB` | refused | yes | yes | yes | a folder is a plain path |
| `nix build X.drv` | builds | nothing | nothing | nothing | `nix-store --realise` |
| `nix path-info --json` | list | list | object | object | `nix-store --query`, `--dump-db` |
| stderr of a failed evaluation | cause first | trace first | trace first | trace first | nix.message |
| `builtins.trace` on stderr, at once | yes | yes | yes | yes | nix.describe |
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.errors import ToolMissing
from pytest_nixos.nix import settings
from pytest_nixos.nix.cache import Cache

MINIMUM = (2, 8)
_FEATURES = ("--extra-experimental-features", "nix-command flakes")
_VERSION = re.compile(r"(?P<name>.*?) ?(?P<number>(?P<major>\d+)\.(?P<minor>\d+)\S*)$")
_ELF = b"\x7fELF"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nix:
    """The Nix on PATH: whose it is and its version as it says them, the system it builds for, where its store is."""

    name: str
    version: str
    system: str
    store_dir: str

    def flake(self, *args: str) -> tuple[str, ...]:
        """argv of a `nix …` command, with flakes enabled whatever the configuration says."""
        return ("nix", *_FEATURES, *args)

    def store(self, *args: str) -> tuple[str, ...]:
        """argv of a `nix-store …` command, the interface that is the same in all versions."""
        return ("nix-store", *args)

    def trusted_keys(self) -> list[str]:
        """The public keys whose signatures Nix believes. Raises CommandFailed for a broken configuration."""
        entries = json.loads(proc.run(self.flake("show-config", "--json"), timeout=60).stdout)
        return [str(key) for key in entries["trusted-public-keys"]["value"]]

    def run(
        self,
        argv: tuple[str, ...],
        *,
        timeout: float | None = None,
        stdin: bytes = b"",
        on_stderr: Callable[[bytes], None] | None = None,
        check: bool = True,
    ) -> proc.Completed:
        """Run one of the command lines above; see proc.run for what is raised."""
        return proc.run(argv, timeout=timeout, stdin=stdin, on_stderr=on_stderr, check=check)


def parse_version(text: str) -> tuple[str, str]:
    """`nix --version`'s line -> ("nix (Nix)", "2.34.8"); Lix and Determinate Nix say theirs in the same form.

    Lix counts from 2.90, and is what Nix 2.18 was. Raises ToolMissing when there is no version in the line, or it is
    below the minimum.
    """
    line = text.strip().splitlines()[0] if text.strip() else ""
    match = _VERSION.match(line)
    if match is None:
        raise ToolMissing(f"`nix --version` says {line!r}, which has no version", "put a working Nix on PATH")
    if (int(match["major"]), int(match["minor"])) < MINIMUM:
        raise ToolMissing(f"Nix {match['number']} is too old", f"use Nix {MINIMUM[0]}.{MINIMUM[1]} or later")
    return match["name"], match["number"]


def find_nix(cache: Cache | None = None) -> Nix:
    """The Nix on PATH; one that the cache knows is not started. Raises ToolMissing for none, or one too old."""
    key = _identity()
    known = cache.get("nix", key) if cache and key else None
    if known is not None:
        return Nix(**known)
    name, version = parse_version(proc.run(("nix", "--version"), timeout=60).stdout.decode())
    expression = "{ system = builtins.currentSystem; store = builtins.storeDir; }"
    argv = ("nix-instantiate", "--eval", "--strict", "--json", "--expr", expression)
    answer = json.loads(proc.run(argv, timeout=120).stdout)
    nix = Nix(name=name, version=version, system=answer["system"], store_dir=answer["store"])
    if cache and key:
        cache.put("nix", key, asdict(nix))
    return nix


def _identity() -> str | None:
    """The programs on PATH and the settings, as a text that changes with either; None where one is missing."""
    programs = [shutil.which(name) for name in ("nix", "nix-instantiate")]
    if None in programs:
        return None
    places = dict.fromkeys(os.path.realpath(str(path)) for path in programs)
    return "\n".join([*(_program(Path(place)) for place in places), settings.digest()])


def _program(place: Path) -> str:
    """A program that can't change unseen; a script, which may start anything, says its version each time."""
    with place.open("rb") as file:
        is_program = file.read(len(_ELF)) == _ELF
    if not is_program:
        return proc.run((str(place), "--version"), timeout=60, check=False).stdout.decode(errors="replace")
    status = place.stat()
    return f"{place} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
