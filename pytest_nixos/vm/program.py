"""What runs a command in the guest's shell as `bash -euo pipefail -c` would, as cheaply as that can be. Pure.

To start a program is what takes the time in a guest. A fork of the root shell does what a new bash would do, for a
command that asks nobody who the shell is (`$$`, `$0`), what state it has (`set`, `trap`, variables), and has no
expansions but quotes and `$(...)`. And the shell itself looks at the time.
"""

import re
import shlex
from dataclasses import dataclass

# Possessive, so that no text makes the search for what is not there long.
_INNER = r"\$\([^()'\"$`\\!]*+\)"
_DOUBLE = rf"""\"(?:[^"$`\\!]|{_INNER})*+\""""
_WORD = rf"(?:[\w./:@+,%^=-]++|'[^']*+'|{_DOUBLE}|{_INNER})++"
_REDIRECTION = rf"(?:\d?>&\d|\d?(?:>>?|<) *{_WORD})"
_SIMPLE = re.compile(
    rf" *(?P<name>\[|[\w./:@+,][\w./:@+,-]*+)(?P<rest>(?: +(?:{_REDIRECTION}|{_WORD}|\]))*) *(?P<then>&&|\|\||[|;]|\Z)",
    re.ASCII,
)
_EXPANDED = re.compile(rf"(?P<literal>'[^']*+')|{_DOUBLE}|{_INNER}")
_KEYWORDS = "case coproc do done elif else esac fi for function if in select then time until while"
_SHELLS_OWN = (  # builtins that show or change the shell
    ". alias bg bind break builtin caller command compgen complete compopt continue declare dirs disown enable "
    "eval exec export fc fg getopts hash help history jobs let local logout mapfile popd pushd read readarray readonly "
    "return set shift shopt source suspend times trap type typeset unalias unset wait"
)
_AT_ONCE = ": [ echo false printf pwd test true"
_OF_VARIABLES = re.compile(r"(?:\[|printf|test)(?: .*)? -[voR]\b.*", re.DOTALL)  # and of the shell's options
_FOREVER = 1e9  # seconds
# `read -t` goes by the clock, which a command may set: so it is believed only when the machine's uptime agrees, in
# hundredths of a second. A line may come in pieces then.
_WATCH = """
TMOUT= _s= _u= _b= _l=SECONDS; read -r _g; read -r _b _ 2>/dev/null </proc/uptime;
until read -t $_l -r _p; do
 if [ $? -le 128 ]; then break; fi;
 _s+=$_p; read -r _u _ 2>/dev/null </proc/uptime;
 _l=SECONDS; _l=$((10#${_l/./} - 10#0${_u/./} + 10#0${_b/./}));
 if [ $_l -le 0 ] || [ -z "$_u" ]; then
  kill -TERM -- -$_g; kill -CONT -- -$_g; read -r _p; _s=; _p=124; break;
 fi 2>/dev/null;
 _l=$((_l / 100 + 1));
done;
_s+=$_p; exit ${_s:-137};
"""


@dataclass(frozen=True, slots=True)
class _Simple:
    """A simple command: its name, its words and redirections as they are written, and the operator behind it."""

    name: str
    rest: str
    then: str


def program(command: str, timeout: float | None) -> str:
    """A shell's line that runs a command; timeout in seconds, at which the command is ended with status 124."""
    if timeout is not None and timeout > _FOREVER:
        timeout = None
    parts = simple_commands(command)
    if parts:
        line = f"set -euo pipefail; shopt -u lastpipe; {_said(parts)}"
        return line if timeout is None or all(map(_ends_at_once, parts)) else _timed(line, timeout)
    # By its path, under its name: a search along PATH would be done anew each time, by a process that forgets it.
    line = f'exec -a bash "$BASH" -c {shlex.quote(f"set -euo pipefail; {command}")}'
    return f"({line})" if timeout is None else _timed(line, timeout)


def _timed(line: str, seconds: float) -> str:
    """The same, ended like by `timeout`: with all of its process group, which job control makes."""
    run = f"set -m; ({line}; exit) >&4 4>&- & exec 2>/dev/null 4>&-; set +m; echo $!; wait $!; echo $?"
    # The status comes at once when the program ends, whoever of its children still holds its output.
    watch = _WATCH.replace("SECONDS", f"{max(seconds, 0.01):.2f}").replace("\n", " ")
    return f"exec 4>&1; {{ {run}; }} | {{ {watch} }}"


def simple_commands(command: str) -> list[_Simple]:
    """The simple commands that a command is a list of; none when there is more to it, or it is no whole sentence."""
    parts: list[_Simple] = []
    command, at = command.strip(" "), 0
    while at < len(command) or not parts or parts[-1].then not in ("", ";"):
        found = _SIMPLE.match(command, at)
        if found is None or found["name"] in f"{_KEYWORDS} {_SHELLS_OWN}".split():
            return []
        if _OF_VARIABLES.fullmatch(found["name"] + found["rest"]):
            return []
        try:
            rest = _EXPANDED.sub(_inside, found["rest"])
        except ValueError:
            return []
        parts.append(_Simple(found["name"], rest, found["then"]))
        at = found.end()
    return parts


def _inside(word: re.Match[str]) -> str:
    """A piece of a word whose `$(...)` hold nothing but simple commands; raises ValueError."""
    return word[0] if word["literal"] else re.sub(_INNER, _substituted, word[0])


def _substituted(found: re.Match[str]) -> str:
    parts = simple_commands(found[0][2:-1])
    if not parts:
        raise ValueError
    return f"$({_said(parts)})"


def _said(parts: list[_Simple]) -> str:
    # `command`: a new bash would not know the functions of this one, unless they are exported.
    return " ".join(f"command {part.name}{part.rest} {part.then}" for part in parts).rstrip(" ;")


def _ends_at_once(part: _Simple) -> bool:
    # A file may be a pipe that nobody reads, and what is substituted may be anything.
    return part.name in _AT_ONCE.split() and not {"<", ">", "$"} & set(part.rest)
