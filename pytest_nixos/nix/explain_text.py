"""An explanation as lines for a terminal. Pure."""

from collections.abc import Iterable, Iterator

from pytest_nixos.nix.build import display_name
from pytest_nixos.nix.difference import Cause, Finding, Kind
from pytest_nixos.nix.explain import Explanation
from pytest_nixos.nix.textdiff import beginning, escaped, printable, text_difference, values

LIMIT = 40  # lines
_MOST_FINDINGS = 6  # of one cause
_MOST_LINES = 8  # of one text
_LONGEST_WAY = 8  # names


def lines(explanation: Explanation, label: str | None = None, limit: int = LIMIT) -> list[str]:
    """What there is to say, in at most `limit` lines; label: what the check is called, else its derivation's name."""
    name = printable(label or display_name(explanation.new_drv))
    if explanation.same:
        return [f"{name}'s derivation is the very one that was verified"]
    if explanation.missing:
        return list(_missing(name, explanation))
    head = [f"{name}'s derivation differs from the one verified:"]
    tail = list(_tail(explanation))
    return [*head, *_causes(explanation.causes, limit - len(head) - len(tail)), *tail]


def _missing(name: str, explanation: Explanation) -> Iterator[str]:
    old = escaped(explanation.old_drv)
    if explanation.old_drv not in explanation.missing:
        yield f"{name}'s derivation can't be compared: {printable(explanation.new_drv)} is not in the store"
        yield "  it has been collected as garbage since it was evaluated; evaluate it again"
        return
    yield f"{name}'s derivation can't be compared: the one verified, {old}, is not in this store"
    yield "  evaluate the commit that was verified here once (nix eval with the check's drvPath: nothing is built);"
    yield f"  or, from a cache that keeps derivations too: nix copy --derivation --from CACHE {old}"


def _causes(causes: Iterable[Cause], room: int) -> list[str]:
    """One block for all causes that have the same findings; what is too much is counted."""
    groups: dict[tuple[object, ...], list[Cause]] = {}
    for cause in causes:
        key = (cause.same_outputs, *((f.kind, f.what, f.old, f.new) for f in cause.findings))
        groups.setdefault(key, []).append(cause)
    shown: list[str] = []
    for number, group in enumerate(groups.values()):
        block = [f"  {line}" for line in _block(group)]
        if len(shown) + len(block) > room - (number < len(groups) - 1):
            left = sum(map(len, list(groups.values())[number + bool(not shown) :]))
            cut = [] if shown else block[: room - 1]
            return [*shown, *cut, f"  ... and {left} more that differ by themselves" if left else "  ..."]
        shown += block
    return shown


def _block(group: list[Cause]) -> Iterator[str]:
    cause = group[0]
    others = f" (and {len(group) - 1} others in the same way)" if len(group) > 1 else ""
    fetched = " (what it makes is the same: only how it is fetched differs)" if cause.same_outputs else ""
    yield f"{_way(cause.path)}{others}{fetched}"
    for finding in cause.findings[:_MOST_FINDINGS]:
        yield from (f"  {line}" for line in _finding(finding))
    if len(cause.findings) > _MOST_FINDINGS:
        yield f"  ... and {len(cause.findings) - _MOST_FINDINGS} more differences"


def _way(path: tuple[str, ...]) -> str:
    half = _LONGEST_WAY // 2
    names = path if len(path) <= _LONGEST_WAY else (*path[:half], "...", *path[-half:])
    return " > ".join(printable(name) for name in names)


def _finding(finding: Finding) -> Iterator[str]:
    what = printable(f"{finding.kind.value} {finding.what.strip()}".strip())
    match finding.kind:
        case Kind.UNKNOWN:
            yield "differs in a way that is not understood; nix-diff may show more"
        case Kind.UNREADABLE:
            yield f"{printable(finding.what)} is not in the store, or is not readable as a derivation"
        case Kind.SOURCE | Kind.INPUT | Kind.OUTPUT if finding.old is None or finding.new is None:
            yield f"{what} is {'new' if finding.old is None else 'gone'}"
        case Kind.SOURCE:
            yield f"source {printable(finding.new or '')} has changed{':' if finding.lines else ''}"
            yield from _few(finding.lines)
        case _:
            yield from _value(what, finding.old, finding.new)


def _value(what: str, old: str | None, new: str | None) -> Iterator[str]:
    if old is None or new is None:
        state, text = ("new", new) if old is None else ("gone", old)
        yield f'{what} is {state}: "{beginning(text or "")}"'
    elif "\n" in old.strip() or "\n" in new.strip():
        yield f"{what} differs:"
        yield from _few(tuple(text_difference(old, new)))
    else:
        yield "{}: {} -> {}".format(what, *values(old, new))


def _few(found: tuple[str, ...]) -> Iterator[str]:
    for line in found[:_MOST_LINES]:
        yield f"  {beginning(line)}"
    if len(found) > _MOST_LINES:
        yield f"  ... {len(found) - _MOST_LINES} more lines"


def _tail(explanation: Explanation) -> Iterator[str]:
    if not explanation.causes:
        yield f"  no cause was found in {explanation.compared} derivations; nix-diff may show more:"
        yield escaped(f"  nix-diff {explanation.old_drv} {explanation.new_drv}")
    if not explanation.complete:
        yield f"  only {explanation.compared} derivations were compared; there may be more that differ"
    for suspicion in explanation.suspicions:
        yield f"the usual suspect: {suspicion.suspect.value}"
    if explanation.complete and explanation.suspicions and explanation.suspicions[-1].alone:
        yield "nothing else differs"
