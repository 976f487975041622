"""Evaluate by `nix-eval-jobs`, where that is on PATH: it shares checks out one by one, and outlives those that fail.

Source of its lines and flags: its README and `--help`, version 2.33. Only its word on derivations is taken. It passes
over other attributes, fails some names that Nix takes, and gives up where one of its workers is killed: whatever has no
answer is for our own workers, which find the reason.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from pytest_nixos.nix import describe
from pytest_nixos.nix import evaluate as own
from pytest_nixos.nix.evaluate import Evaluated, Progress
from pytest_nixos.nix.limits import Limits
from pytest_nixos.nix.target import Target
from pytest_nixos.proc import Stream

_PROGRAM = "nix-eval-jobs"


def is_there() -> bool:
    """Whether the program is on PATH."""
    return shutil.which(_PROGRAM) is not None


def identity() -> str:
    """A text that changes when another program of this name would evaluate; "" when there is none."""
    found = shutil.which(_PROGRAM)
    if found is None:
        return ""
    place = Path(os.path.realpath(found))
    status = place.stat()
    return f"{place} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def evaluate(target: Target, limits: Limits, progress: Progress) -> Evaluated:
    """Evaluate all checks; what is meant and raised is as in nix.evaluate."""
    result = Evaluated(own.all_names(target, limits))
    positions = {name: at for at, name in enumerate(result.names)}
    with Stream(_argv(target, limits), env=limits.env, stdout=True) as program:
        for line in program.lines():
            _take(result, positions, line)
            progress(len(result.answers), len(positions))
    left = [at for name, at in positions.items() if name not in result.answers]
    if left:
        rest = own.evaluate(target, limits, progress, left)
        result.answers.update(rest.answers)
        result.failed.update(rest.failed)
    return result


def _argv(target: Target, limits: Limits) -> tuple[str, ...]:
    overrides = [word for name, url in target.overrides for word in ("--override-input", name, url)]
    return (
        _PROGRAM, "--flake", f"{target.ref.url}#{target.attr}", "--apply", describe.one(), *overrides, *target.options,
        "--workers", str(limits.workers), "--max-memory-size", str(limits.replace_bytes >> 20),
        *(("--impure",) if target.impure else ()),
    )  # fmt: skip


def _take(result: Evaluated, positions: dict[str, int], line: bytes) -> None:
    """Take in one line, a JSON object for an attribute; an error, or half a line, is passed over."""
    try:
        entry: dict[str, Any] = json.loads(line)
        (name,) = entry["attrPath"]
        answer = {"position": positions[name], "attr": name, **entry["extraValue"]}
        describe.parse_check(answer)
        result.answers[name] = answer
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
