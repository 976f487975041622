"""The command lines of Nix, and what differs between its versions, in one place."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from pytest_nixos import proc
from pytest_nixos.errors import ToolMissing

MINIMUM = (2, 8)
_FEATURES = ("--extra-experimental-features", "nix-command flakes")
_VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nix:
    """The Nix on PATH: its version for display and as numbers, and the system it builds for."""

    version: str
    numbers: tuple[int, int]
    system: str
    store_dir: str

    def flake(self, *args: str) -> tuple[str, ...]:
        """argv of a `nix …` command, with flakes enabled whatever the configuration says."""
        return ("nix", *_FEATURES, *args)

    def store(self, *args: str) -> tuple[str, ...]:
        """argv of a `nix-store …` command, the interface that is the same in all versions."""
        return ("nix-store", *args)

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


def parse_version(text: str) -> tuple[str, tuple[int, int]]:
    """`nix --version`'s line -> ("2.34.8", (2, 34)). Lix and Determinate Nix say theirs in the same form.

    Raises ToolMissing when there is no version in it, or it is below the minimum.
    """
    line = text.strip().splitlines()[0] if text.strip() else ""
    word = line.rsplit(" ", 1)[-1]
    match = _VERSION.match(word)
    if match is None:
        raise ToolMissing(f"`nix --version` says {line!r}, which has no version", "put a working Nix on PATH")
    numbers = (int(match[1]), int(match[2]))
    if numbers < MINIMUM:
        raise ToolMissing(f"Nix {word} is too old", f"use Nix {MINIMUM[0]}.{MINIMUM[1]} or later")
    return word, numbers


def find_nix() -> Nix:
    """The Nix on PATH. Raises ToolMissing when there is none or it is too old."""
    version, numbers = parse_version(proc.run(("nix", "--version"), timeout=60).stdout.decode())
    expression = "{ system = builtins.currentSystem; store = builtins.storeDir; }"
    argv = ("nix-instantiate", "--eval", "--strict", "--json", "--expr", expression)
    answer = json.loads(proc.run(argv, timeout=120).stdout)
    return Nix(version=version, numbers=numbers, system=answer["system"], store_dir=answer["store"])
