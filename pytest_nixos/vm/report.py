"""A failed test script in words. Pure, but for reading the script's line."""

import linecache
import traceback
from types import TracebackType

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.vm.errors import MachineError
from pytest_nixos.vm.log import neutralise


def failure(error: BaseException, script: str) -> str:
    """`error:` and one sentence, what helps to judge it, and where in the script it came from."""
    lines = [f"error: {sentence(error, script)}"]
    if isinstance(error, MachineError) and error.detail:
        lines += [f"  | {neutralise(line)}" for line in error.detail.splitlines()]
    if isinstance(error, PytestNixosError) and error.hint:
        lines.append(f"hint: {error.hint}")
    return "\n".join([*lines, *where(error, script)])


def sentence(error: BaseException, script: str) -> str:
    """What went wrong, in one line."""
    if isinstance(error, PytestNixosError):
        return error.message
    text = str(error)
    if isinstance(error, AssertionError):
        places = _places(error, script)
        return f"assertion failed: {text or (places[-1][1] if places else 'no message')}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def where(error: BaseException, script: str) -> list[str]:
    """The script's lines that led to the error, the outermost first."""
    return [f"  {script}, line {number}: {source}" for number, source in _places(error, script)]


def within(error: BaseException, script: str) -> TracebackType | None:
    """The part of an error's traceback that begins and ends in the script, for a debugger; None where there is none."""
    frames = list(traceback.walk_tb(error.__traceback__))
    mine = [n for n, (frame, _) in enumerate(frames) if frame.f_code.co_filename == script]
    found: TracebackType | None = None
    for frame, line in reversed(frames[mine[0] : mine[-1] + 1] if mine else []):
        found = TracebackType(found, frame, frame.f_lasti, line)
    return found


def _places(error: BaseException, script: str) -> list[tuple[int, str]]:
    if isinstance(error, SyntaxError) and error.filename == script:
        return [(error.lineno or 0, (error.text or "").strip())]
    frames = traceback.extract_tb(error.__traceback__)
    numbers = [frame.lineno or 0 for frame in frames if frame.filename == script]
    return [(number, linecache.getline(script, number).strip()) for number in numbers]
