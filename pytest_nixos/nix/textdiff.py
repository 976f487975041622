"""What differs in two texts, short enough for a terminal and safe to print on one. Pure."""

import difflib
import re
from collections.abc import Iterator, Sequence

_LONGEST = 400  # lines on either side that are compared one by one
_FIRST = 4  # lines of each side of what is longer
_WIDTH = 72  # characters of a value
_BEFORE = 24  # characters of a long value that are shown before the first one that differs
_STORE_HASH = re.compile(r"(?<=/)([0-9a-df-np-sv-z]{4})[0-9a-df-np-sv-z]{28}(?=-)")


def text_difference(old: str, new: str) -> Iterator[str]:
    """The lines that have gone and come, with `- ` and `+ `; of long texts, all between the first and last of them."""
    before, after = _middles(old.split("\n"), new.split("\n"))
    if max(len(before), len(after)) > _LONGEST:
        yield from (f"- {line}" for line in before[:_FIRST])
        yield from (f"+ {line}" for line in after[:_FIRST])
        yield f"... {max(len(before), len(after))} lines in all"
        return
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from (f"- {line}" for line in before[i:i_end])
            yield from (f"+ {line}" for line in after[j:j_end])


def _middles(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Both without the lines that they begin and end with alike."""
    start = _common(old, new)
    end = min(_common(old[::-1], new[::-1]), len(old) - start, len(new) - start)
    return old[start : len(old) - end], new[start : len(new) - end]


def _common(old: Sequence[str], new: Sequence[str]) -> int:
    """How many items two sequences begin with alike."""
    shorter = min(len(old), len(new))
    return next((at for at in range(shorter) if old[at] != new[at]), shorter)


def values(old: str, new: str) -> tuple[str, str]:
    """Two texts of one line in quotes; of long ones, the place where they begin to differ."""
    old, new = printable(old), printable(new)
    if max(len(old), len(new)) <= _WIDTH:
        return f'"{old}"', f'"{new}"'
    start = max(0, _common(old, new) - _BEFORE)
    return f'"{_cut(old, start)}"', f'"{_cut(new, start)}"'


def beginning(text: str) -> str:
    """As much of a text as a line has room for."""
    return _cut(printable(text), 0)


def _cut(text: str, start: int) -> str:
    before, after = "…" if start else "", "…" if start + _WIDTH < len(text) else ""
    return f"{before}{text[start : start + _WIDTH]}{after}"


def printable(text: str) -> str:
    """A text without anything that a terminal acts upon; hashes of store paths are cut to four characters."""
    return _STORE_HASH.sub(r"\1…", escaped(text))


def escaped(text: str) -> str:
    """A text without anything that a terminal acts upon."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
