"""Which Python files this process has opened: code that runs without being a module leaves no other trace."""

import os
import sys
from contextlib import suppress
from functools import cache
from importlib.util import source_from_cache
from types import FrameType

_SUFFIXES = (".py", ".pyc")
_OURS = f"{os.path.dirname(__file__)}/"  # noqa: PTH120 - as it stands in code objects
_NEAR = 4  # frames, from who opens to who has called, say, Path.read_bytes for that
_seen: set[str] = set()


@cache
def watch() -> None:
    """Listen from now on, to the end of the process: Python forgets no such hook."""
    sys.addaudithook(_hear)


def below(base: str) -> set[str]:
    """The Python files below a folder that were opened to be read; a compiled form stands for its source."""
    return {source for name in _seen.copy() if (source := _source(name)).startswith(f"{base}/")}


def _hear(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and isinstance(args[0], str | os.PathLike):
        name = os.fspath(args[0])
        if isinstance(name, str) and name.endswith(_SUFFIXES) and not _writes(*args[1:3]) and not _is_our_own():
            with suppress(OSError):  # without a current folder nothing is opened
                _seen.add(os.path.abspath(name))  # noqa: PTH100 - Path.absolute keeps `..`


def _is_our_own() -> bool:
    """Whether it is this plugin that opens, to hash what a flake or a test is made of."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_NEAR):
        frame = frame.f_back if frame else None
        if frame and frame.f_code.co_filename.startswith(_OURS):
            return True
    return False


def _writes(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return not mode.startswith("r")
    return isinstance(flags, int) and flags & os.O_ACCMODE == os.O_WRONLY


def _source(name: str) -> str:
    try:
        return source_from_cache(name) if name.endswith(".pyc") else name
    except ValueError:  # pytest's own compiled forms, which are of modules
        return ""
