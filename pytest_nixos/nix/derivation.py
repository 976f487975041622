"""What a derivation's file says: the text of a .drv in Nix's ATerm format, parsed. Pure.

    Derive(outputs, input derivations, input sources, system, builder, arguments, environment)
    DrvWithVersion("xp-dyn-drv", the same)   with inputs that are outputs of a derivation that is itself an output

From Nix's manual, "Derivation ATerm format". Bytes that are not UTF-8 are kept as surrogates (`surrogateescape`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

_T = TypeVar("_T")

_VERSION = '"xp-dyn-drv",'
_DEEPEST = 16  # how deep an output of an output of an output may be named: two is what people use
_QUOTED = r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_TEXT = re.compile(_QUOTED, re.DOTALL)
_PAIR = re.compile(rf"\({_QUOTED},{_QUOTED}\)", re.DOTALL)
_INPUT = re.compile(rf"\({_QUOTED},\[{_QUOTED}\]\)", re.DOTALL)  # the usual one, of which one output is used
_OUTPUT = re.compile(rf"\({_QUOTED},{_QUOTED},{_QUOTED},{_QUOTED}\)", re.DOTALL)
_CONTROL = {r"\n": "\n", r"\r": "\r", r"\t": "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output: its store path, and what its content must hash to.

    path is empty when it depends on what is built; algorithm has a prefix such as `r:`; hash is hexadecimal, `impure`,
    or empty when the content is not fixed beforehand.
    """

    path: str
    algorithm: str = ""
    hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivationFile:
    """All that a .drv file says. input_drvs: a derivation's path -> names of the outputs that are used of it.

    An output of an output is named as Nix writes it on a command line: `out^lib`.
    """

    outputs: dict[str, Output]
    input_drvs: dict[str, tuple[str, ...]]
    input_srcs: tuple[str, ...]
    system: str
    builder: str
    args: tuple[str, ...]
    env: dict[str, str]


def parse(data: bytes) -> DerivationFile:
    """The derivation in a file's bytes. Raises ValueError for anything that Nix would not have written."""
    return _Reader(data.decode("utf-8", "surrogateescape")).derivation()


def own_outputs(drv: DerivationFile) -> dict[str, str]:
    """The outputs that the file itself states, name -> store path; those that only a build can tell are left out."""
    return {name: output.path for name, output in drv.outputs.items() if output.path}


class _Reader:
    """A place in a text, and what is read from there."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def derivation(self) -> DerivationFile:
        dynamic = self._text.startswith("DrvWithVersion(")
        self._take(f"DrvWithVersion({_VERSION}" if dynamic else "Derive(")
        drv = DerivationFile(
            outputs=self._outputs(),
            input_drvs=_unique(self._field(lambda: self._list(self._input))),
            input_srcs=tuple(self._field(self._texts)),
            system=self._field(self._string),
            builder=self._field(self._string),
            args=tuple(self._field(self._texts)),
            env=self._field(self._env),
        )
        self._take(")")
        if self._at != len(self._text):
            self._fail("nothing more")
        return drv

    def _field(self, read: Callable[[], _T]) -> _T:
        self._take(",")
        return read()

    def _outputs(self) -> dict[str, Output]:
        rows = self._rows(_OUTPUT)
        return _unique([(name, Output(path=path, algorithm=how, hash=hash_)) for name, path, how, hash_ in rows])

    def _env(self) -> dict[str, str]:
        return _unique([(key, value) for key, value in self._rows(_PAIR)])

    def _input(self) -> tuple[str, tuple[str, ...]]:
        if usual := _INPUT.match(self._text, self._at):
            self._at = usual.end()
            return _plain(usual[1]), (_plain(usual[2]),)
        self._take("(")
        path = self._string()
        names = self._field(lambda: self._used(_DEEPEST))
        self._take(")")
        return path, tuple(names)

    def _used(self, depth: int) -> list[str]:
        """Names of outputs: a list, or a list with what is used of the derivations that some outputs are."""
        if not self._text.startswith("(", self._at):
            return self._texts()
        if not depth:
            self._fail("an end of outputs of outputs")
        self._take("(")
        names = self._texts()
        inner = self._field(lambda: self._list(lambda: self._used_of(depth - 1)))
        self._take(")")
        return names + [f"{name}^{below}" for name, used in inner for below in used]

    def _used_of(self, depth: int) -> tuple[str, list[str]]:
        self._take("(")
        name = self._string()
        used = self._field(lambda: self._used(depth))
        self._take(")")
        return name, used

    def _list(self, read: Callable[[], _T]) -> list[_T]:
        found: list[_T] = []
        self._take("[")
        if not self._text.startswith("]", self._at):
            found.append(read())
            while self._text.startswith(",", self._at):
                self._at += 1
                found.append(read())
        self._take("]")
        return found

    def _rows(self, pattern: re.Pattern[str]) -> list[list[str]]:
        """A list of what the pattern matches: the strings in its groups."""
        return self._list(lambda: self._groups(pattern))

    def _texts(self) -> list[str]:
        return self._list(self._string)

    def _string(self) -> str:
        return self._groups(_TEXT)[0]

    def _groups(self, pattern: re.Pattern[str]) -> list[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            self._fail("a string" if pattern is _TEXT else "a group of strings")
        self._at = match.end()
        return [_plain(text) for text in match.groups()]

    def _take(self, wanted: str) -> None:
        if not self._text.startswith(wanted, self._at):
            self._fail(f"`{wanted}`")
        self._at += len(wanted)

    def _fail(self, wanted: str) -> NoReturn:
        raise ValueError(f"not a derivation: {wanted} was expected at character {self._at}")


def _plain(quoted: str) -> str:
    """A string without its escapes. Pairs of backslashes first: what then follows a backslash is escaped by it."""
    if "\\" not in quoted:
        return quoted
    parts = quoted.split(r"\\")
    for escape, control in _CONTROL.items():
        parts = [part.replace(escape, control) for part in parts]
    return "\\".join(part.replace("\\", "") for part in parts)


def _unique(rows: list[tuple[str, _T]]) -> dict[str, _T]:
    """The rows by name. Raises ValueError when one is there twice: of two words, neither is to be believed."""
    found = dict(rows)
    if len(found) != len(rows):
        raise ValueError("not a derivation: a name is there twice")
    return found
