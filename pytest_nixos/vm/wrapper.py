"""What a check's `bin/nixos-test-driver` would run, read from that script without running it.

It is a shell script that sets variables and a PATH and then calls `exec`, in every version of the NixOS test driver (by
makeWrapper, as nixpkgs does) and in the example flake. So it is sourced by a bash whose `exec` prints what it is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.vm import cli
from pytest_nixos.vm.errors import ConfigError
from pytest_nixos.vm.spec import DriverSpec

_MARK = b"pytest-nixos: the environment"
_SOURCE = rf"""exec() {{ printf '%s\0' "$@" '{_MARK.decode()}'; builtin exec /usr/bin/env -0; }}; . "$0" """
_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """The test that a driver is for, and the environment that its wrapper gives it."""

    spec: DriverSpec
    env: dict[str, str]


def read(program: Path, env: Mapping[str, str]) -> Wrapped:
    """What the script would run in this environment. Raises ConfigError for one that is not understood."""
    if program.read_bytes()[:2] != b"#!":
        raise ConfigError(f"{program} is not a script, so nobody can tell which machines it starts")
    done = proc.run(["bash", "-c", _SOURCE, str(program)], env=env, timeout=_SECONDS, check=False)
    words = done.stdout.split(b"\0")
    if done.status or _MARK not in words:
        raise ConfigError(f"{program} does not start a test driver in a way that is known")
    argv, lines = words[: words.index(_MARK)], words[words.index(_MARK) + 1 :]
    inside = dict(line.decode(errors="surrogateescape").partition("=")[::2] for line in lines if line)
    try:
        args, _ = cli.parser(inside).parse_known_args([*_options(argv), "--interactive"])
    except SystemExit:
        raise ConfigError(f"{program} gives the test driver options that make no sense") from None
    return Wrapped(spec=cli.driver_spec(args), env=inside)


def _options(argv: list[bytes]) -> list[str]:
    """What follows the program in `exec [-a NAME] PROGRAM OPTION…`, or in `exec PYTHON … -m MODULE OPTION…`."""
    words = [word.decode(errors="surrogateescape") for word in argv]
    if "-m" in words:
        return words[words.index("-m") + 2 :]
    return words[3:] if words[:1] == ["-a"] else words[1:]
