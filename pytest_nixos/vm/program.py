"""What runs a command in the guest's shell as `bash -euo pipefail -c` would, as cheaply as that can be. Pure.

To start a program is what takes the time in a guest. A fork of the root shell does what a new bash would do, for a
command that asks nobody who the shell is (`$$`, `$0`), what state it has (`set`, `trap`), and has no expansion but of
quotes; and what ends by itself at once needs no `timeout`.
"""

import math
import re
import shlex
from dataclasses import dataclass

# Possessive, so that no text makes the search for what is not there long.
_WORD = r"""(?:[\w./:@+,%^=-]++|'[^']*+'|"[^"$`\\!]*+")++"""
_REDIRECTION = rf"(?:\d?>&\d|\d?(?:>>?|<) *{_WORD})"
_SIMPLE = re.compile(
    rf" *(?P<name>\[|[\w./:@+,][\w./:@+,-]*+)(?P<rest>(?: +(?:{_REDIRECTION}|{_WORD}|\]))*) *(?P<then>&&|\|\||[|;]|\Z)",
    re.ASCII,
)
_KEYWORDS = "case coproc do done elif else esac fi for function if in select then time until while"
_SHELLS_OWN = (  # builtins that show or change the shell
    ". alias bg bind break builtin caller command compgen complete compopt continue declare dirs disown enable "
    "eval exec export fc fg getopts hash help history jobs let local logout mapfile popd pushd read readarray readonly "
    "return set shift shopt source suspend times trap type typeset unalias unset wait"
)
_AT_ONCE = ": [ echo false printf pwd test true"
_OTHER_BUILTINS = "cd exit kill ulimit umask"
_STRICT = "set -euo pipefail"


@dataclass(frozen=True, slots=True)
class _Simple:
    """A simple command: its name, its words and redirections as they are written, and the operator behind it."""

    name: str
    rest: str
    then: str


def program(command: str, timeout: float | None) -> str:
    """A shell's line that runs a command; timeout in seconds, at which the command is ended with status 124."""
    parts = simple_commands(command)
    if parts and (timeout is None or all(map(_ends_at_once, parts))):
        return _in_a_fork(parts)
    if timeout is None:
        # By its path, under its name: a search along PATH would be done anew each time, by a process that forgets it.
        return f'(exec -a bash "$BASH" -c {_strict(command)})'
    seconds = max(1, math.ceil(timeout))
    if len(parts) == 1 and parts[0].name not in f"{_AT_ONCE} {_OTHER_BUILTINS}".split():
        return f"timeout {seconds} {parts[0].name}{parts[0].rest}"
    return f"timeout {seconds} bash -c {_strict(command)}"


def simple_commands(command: str) -> list[_Simple]:
    """The simple commands that a command is a list of; none when there is more to it, or it is no whole sentence."""
    parts: list[_Simple] = []
    command, at = command.strip(" "), 0
    while at < len(command) or not parts or parts[-1].then not in ("", ";"):
        found = _SIMPLE.match(command, at)
        if found is None or found["name"] in f"{_KEYWORDS} {_SHELLS_OWN}".split():
            return []
        parts.append(_Simple(found["name"], found["rest"], found["then"]))
        at = found.end()
    return parts


def _ends_at_once(part: _Simple) -> bool:
    return part.name in _AT_ONCE.split() and not {"<", ">"} & set(part.rest)  # a file may be a pipe that nobody reads


def _in_a_fork(parts: list[_Simple]) -> str:
    # `command`: a new bash would not know the functions of this one.
    said = " ".join(f"command {part.name}{part.rest} {part.then}" for part in parts)
    return f"{_STRICT}; shopt -u lastpipe; BASH_ARGV0=bash; {said.rstrip(' ;')}"


def _strict(command: str) -> str:
    return shlex.quote(f"{_STRICT}; {command}")
