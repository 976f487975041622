"""The Nix function that describes checks (describe.nix): how it is called, and what its answers mean. Pure.

It answers on stderr by `builtins.trace`, which every version of Nix prints as `trace: TEXT` at once. So a check's
answer is there before the next check is looked at, and an evaluator that dies has said which check it died of.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pytest_nixos.model import Check, Derivation, EvalFailed, Kind, Node
from pytest_nixos.nix.attrs import nix_string

Answer = dict[str, Any]  # one line of describe.nix, see there


@dataclass(frozen=True, slots=True)
class Names:
    """The names of all checks, in the order of their positions."""

    names: list[str]


@dataclass(frozen=True, slots=True)
class Described:
    """One check's answer, and its position."""

    position: int
    answer: Answer


def new_mark() -> str:
    """What begins the answers of one evaluation; a flake that traces texts of its own can't guess it."""
    return f"@pytest-nixos-{secrets.token_hex(8)}@"


@cache
def source() -> str:
    """The text of describe.nix."""
    return resources.files(__package__).joinpath("describe.nix").read_text()


def one() -> str:
    """The Nix function (source text) from a check that is a derivation to its answer."""
    return f"({source()}).one"


def function(mark: str, positions: Sequence[int] | None) -> str:
    """The Nix function (source text) from an attribute set to answers on stderr; None for all positions."""
    ranges = "null" if positions is None else f"[ {' '.join(map(_range, as_ranges(positions)))} ]"
    return f"({source()}).answers {{ mark = {nix_string(mark)}; ranges = {ranges}; }}"


def _range(positions: range) -> str:
    # A negative literal needs its parentheses nowhere but in lists and calls: give them always.
    return f"{{ from = {positions.start}; step = ({positions.step}); count = {len(positions)}; }}"


def as_ranges(positions: Sequence[int]) -> list[range]:
    """Any sequence of positions as few ranges: a command line has no room for ten thousand numbers."""
    ranges: list[range] = []
    for position in positions:
        last = ranges[-1] if ranges else None
        step = position - last[-1] if last else 0
        if last is not None and abs(step) == 1 and (len(last) == 1 or step == last.step):
            ranges[-1] = range(last.start, position + step, step)
        else:
            ranges.append(range(position, position + 1))
    return ranges


def parse_line(line: bytes, mark: str) -> Names | Described | None:
    """A line of stderr: an answer, or None for anything else."""
    begin = line.find(mark.encode())
    if begin < 0:
        return None
    try:
        answer = json.loads(line[begin + len(mark) :])
        return Names(answer["names"]) if "names" in answer else Described(answer["position"], answer)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # half a line, of an evaluator that was ended


def parse_check(answer: Answer) -> Check | EvalFailed:
    """One description of describe.nix as a Check, or as EvalFailed when it is no derivation."""
    if "error" in answer:
        return EvalFailed(attr=answer["attr"], message=answer["error"])
    driver = answer["driver"]
    timeout = answer["timeout"]
    return Check(
        attr=answer["attr"],
        kind=Kind.VM if driver else Kind.BUILD,
        derivation=_derivation(answer["derivation"]),
        driver=_derivation(driver) if driver else None,
        nodes=tuple(Node(**node) for node in answer["nodes"]),
        timeout=timeout if isinstance(timeout, int) and timeout > 0 else None,
        recorded=answer["recorded"],
    )


def _derivation(answer: Answer) -> Derivation:
    return Derivation(
        drv_path=answer["drv_path"],
        outputs=answer["outputs"],
        features=tuple(answer["features"]),
        fixed=answer["fixed"],
    )
