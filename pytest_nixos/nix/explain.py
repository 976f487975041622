"""Why a check's derivation is another one than that of its record: read from the store and compared."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from pytest_nixos.nix.derivation import DerivationFile, parse
from pytest_nixos.nix.difference import Cause, Difference, Finding, Kind, difference
from pytest_nixos.nix.suspects import Suspicion, suspicions
from pytest_nixos.nix.textdiff import text_difference

ReadFile = Callable[[str], bytes | None]

_MOST_READ = 20  # causes whose sources are read: no more of them can be shown
_MOST_FILES = 8  # of one folder
_LARGEST_TEXT = 256 << 10  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Two derivations compared; missing: those of the two that can't be read, then nothing else is known."""

    old_drv: str
    new_drv: str
    missing: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    compared: int = 0
    complete: bool = True
    suspicions: tuple[Suspicion, ...] = ()

    @property
    def same(self) -> bool:
        """It is the very same derivation: what differs is something else."""
        return self.old_drv == self.new_drv


def explain(old_drv: str, new_drv: str, read: ReadFile) -> Explanation:
    """Why `new_drv` is not `old_drv`.

    read gives the bytes of a file in the store, None for a folder and for what isn't there.
    """
    missing = tuple(path for path in (old_drv, new_drv) if read_drv(path, read) is None)
    if missing or old_drv == new_drv:
        return Explanation(old_drv=old_drv, new_drv=new_drv, missing=() if old_drv == new_drv else missing)
    found = difference(old_drv, new_drv, lambda path: read_drv(path, read))
    causes = (*(_with_texts(cause, read) for cause in found.causes[:_MOST_READ]), *found.causes[_MOST_READ:])
    return _explanation(old_drv, new_drv, replace(found, causes=causes))


def _explanation(old_drv: str, new_drv: str, found: Difference) -> Explanation:
    return Explanation(
        old_drv=old_drv,
        new_drv=new_drv,
        causes=found.causes,
        compared=found.compared,
        complete=found.complete,
        suspicions=suspicions(found.causes),
    )


def read_drv(path: str, read: ReadFile) -> DerivationFile | None:
    """A derivation of the store; None when it is not there or not readable as one."""
    data = read(path)
    try:
        return parse(data) if data is not None else None
    except ValueError:
        return None


# Sources as texts.


def _with_texts(cause: Cause, read: ReadFile) -> Cause:
    findings = tuple(
        replace(f, lines=_source_lines(f, cause, read)) if f.kind is Kind.SOURCE and f.old and f.new else f
        for f in cause.findings
    )
    return replace(cause, findings=findings)


def _source_lines(finding: Finding, cause: Cause, read: ReadFile) -> tuple[str, ...]:
    """What differs in two sources, when they are small text files; of folders, the files used of them."""
    old, new = finding.old or "", finding.new or ""
    texts = _text(read(old)), _text(read(new))
    if texts[0] is not None and texts[1] is not None:
        return tuple(text_difference(texts[0], texts[1]))
    return tuple(_of_used_files(old, new, cause, read))


def _of_used_files(old: str, new: str, cause: Cause, read: ReadFile) -> Iterator[str]:
    drv = read_drv(cause.new_drv, read)
    if drv is None:
        return
    said = " ".join((drv.builder, *drv.args, *drv.env.values()))
    used = dict.fromkeys(re.findall(re.escape(new) + r"/([^\s\"'`$;:,()<>\\]+)", said))
    for name in islice(used, _MOST_FILES):
        before, after = read(f"{old}/{name}"), read(f"{new}/{name}")
        if before is not None and after is not None:
            yield f"{name}, which is used of it, {'is the same' if before == after else 'differs'}"


def _text(data: bytes | None) -> str | None:
    if data is None or len(data) > _LARGEST_TEXT or b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
