"""Two trees of derivations: the derivations that differ by themselves, nearest to the check first. Pure.

A derivation is new as soon as anything below it is, and then its text differs all over, since it holds the store paths
of what it uses. Those are consequences. So inputs are matched, the old paths in a text are replaced by the new ones of
the same inputs, and what still differs is a cause. A pair of derivations is looked at once, equal ones never.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from pytest_nixos.nix.build import display_name
from pytest_nixos.nix.derivation import DerivationFile
from pytest_nixos.nix.matching import Matched, Pair, Read, Side, match, renames, rewritten

MOST_PAIRS = 200_000  # far beyond any system's tree; only a tree made to be slow comes near
MOST_CAUSES = 1000  # after an update of nixpkgs nearly everything is one; nobody reads on
_KEPT = 4096  # parsed derivations in memory: a parent is read shortly before its inputs


class Kind(StrEnum):
    """What of a derivation differs; the value is the word for it."""

    ENV = "env"
    ARGUMENT = "argument"
    BUILDER = "builder"
    SYSTEM = "system"
    OUTPUT = "output"
    SOURCE = "source"
    INPUT = "input"
    USED = "outputs used of"
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing in which two derivations differ by themselves; old or new is None where it is not there.

    what: the variable's name, the argument's number, the input's name. old already has the new store paths of all that
    is a consequence. lines: what differs in two sources or long texts, where it can be shown.
    """

    kind: Kind
    what: str = ""
    old: str | None = None
    new: str | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A pair of derivations that differ by themselves, and the way to it: names from the check's down to its own.

    same_outputs: what it makes is fixed by a hash and is the same; only how it is fetched has changed.
    """

    path: tuple[str, ...]
    old_drv: str
    new_drv: str
    findings: tuple[Finding, ...]
    same_outputs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All causes, nearest first, those that change nothing that is made last; how many pairs were looked at.

    complete: there was an end to it; else there may be more.
    """

    causes: tuple[Cause, ...]
    compared: int
    complete: bool = True


def difference(old: str, new: str, read: Read, most_pairs: int = MOST_PAIRS) -> Difference:
    """What makes derivation `new` another one than `old`; read gives a derivation by its path, None when it can't."""
    return _Walk(lru_cache(_KEPT)(read), most_pairs).run((old, new))


@dataclass
class _Walk:
    """One comparison: breadth first, so that the way to a cause is a shortest one."""

    read: Read
    most_pairs: int
    parents: dict[Pair, Pair | None] = field(default_factory=dict)
    causes: list[Cause] = field(default_factory=list)
    became: dict[str, str | None] = field(default_factory=dict)  # base names; None: it became more than one thing

    def run(self, root: Pair) -> Difference:
        if root[0] == root[1]:
            return Difference(causes=(), compared=0)
        queue: deque[tuple[Pair, Pair | None]] = deque([(root, None)])
        apart = self._search(queue, False)
        self._search(apart, True)
        complete = not queue and not apart
        return Difference(causes=tuple(self._final()), compared=len(self.parents), complete=complete)

    def _search(self, queue: deque[tuple[Pair, Pair | None]], same_outputs: bool) -> deque[tuple[Pair, Pair | None]]:
        """Visit the pairs of a queue and all below; those that make the same are put off, and returned."""
        apart: deque[tuple[Pair, Pair | None]] = deque()
        while queue and len(self.parents) < self.most_pairs and len(self.causes) < MOST_CAUSES:
            pair, parent = queue.popleft()
            if pair in self.parents:
                continue
            self.parents[pair] = parent
            for child in self._visit(pair, same_outputs):
                is_apart = not same_outputs and _same_outputs(child, self.read)
                (apart if is_apart else queue).append((child, pair))
        return apart

    def _visit(self, pair: Pair, same_outputs: bool) -> tuple[Pair, ...]:
        """Note what differs in a pair by itself; its inputs that differ."""
        old, new = self.read(pair[0]), self.read(pair[1])
        if old is None or new is None:
            unread = [path for path, drv in zip(pair, (old, new), strict=True) if drv is None]
            self._note(pair, [Finding(kind=Kind.UNREADABLE, what=path) for path in unread], same_outputs)
            return ()
        sides = Side(old, self.read), Side(new, self.read)
        inputs, sources = match(_drvs(old), _drvs(new), *sides), match(_srcs(old), _srcs(new), *sides)
        names = renames([pair, *inputs.pairs], sources.pairs, self.read)
        for before, after in names.values():
            self.became[before] = after if self.became.get(before, after) == after else None
        findings = [*_own(old, new, names), *_of_inputs(old, new, inputs), *_of_sources(sources)]
        if not findings and not inputs.pairs:
            findings = [Finding(kind=Kind.UNKNOWN)]
        self._note(pair, findings, same_outputs)
        return inputs.pairs

    def _note(self, pair: Pair, findings: list[Finding], same_outputs: bool) -> None:
        if findings:
            old, new = pair
            cause = Cause(path=self._way(pair), old_drv=old, new_drv=new, findings=tuple(findings))
            self.causes.append(replace(cause, same_outputs=same_outputs))

    def _way(self, pair: Pair) -> tuple[str, ...]:
        names: list[str] = []
        at: Pair | None = pair
        while at is not None:
            names.append(display_name(at[1]))
            at = self.parents[at]
        return tuple(reversed(names))

    def _final(self) -> Iterator[Cause]:
        """The causes without what mentions, unknown to Nix, a path that has changed elsewhere in the tree."""
        names = {old.split("-", 1)[0]: (old, new) for old, new in self.became.items() if new is not None}
        for cause in self.causes:
            findings = tuple(f for f in cause.findings if not _is_consequence(f, names))
            if findings:
                yield replace(cause, findings=findings)


def _is_consequence(finding: Finding, names: Mapping[str, Pair]) -> bool:
    if finding.kind not in (Kind.ENV, Kind.ARGUMENT, Kind.BUILDER) or finding.old is None:
        return False
    return rewritten(finding.old, names) == finding.new


def _same_outputs(pair: Pair, read: Read) -> bool:
    old, new = read(pair[0]), read(pair[1])
    return bool(old and new and old.outputs == new.outputs and all(output.path for output in old.outputs.values()))


# What a derivation uses: a derivation that is used as a file is a source to Nix, but differs as a derivation does.


def _drvs(drv: DerivationFile) -> list[str]:
    return [*drv.input_drvs, *(path for path in drv.input_srcs if path.endswith(".drv"))]


def _srcs(drv: DerivationFile) -> list[str]:
    return [path for path in drv.input_srcs if not path.endswith(".drv")]


def _of_inputs(old: DerivationFile, new: DerivationFile, inputs: Matched) -> Iterator[Finding]:
    for path in inputs.removed:
        yield Finding(kind=Kind.INPUT, what=display_name(path), old=path)
    for path in inputs.added:
        yield Finding(kind=Kind.INPUT, what=display_name(path), new=path)
    same = [(path, path) for path in old.input_drvs.keys() & new.input_drvs.keys()]
    for before, after in (*inputs.pairs, *sorted(same)):
        used = [" ".join(drv.input_drvs.get(path, ())) for drv, path in ((old, before), (new, after))]
        if used[0] != used[1]:
            yield Finding(kind=Kind.USED, what=display_name(after), old=used[0], new=used[1])


def _of_sources(sources: Matched) -> Iterator[Finding]:
    pairs = [*sources.pairs, *((path, None) for path in sources.removed), *((None, path) for path in sources.added)]
    for old, new in pairs:
        yield Finding(kind=Kind.SOURCE, what=display_name(new or old or ""), old=old, new=new)


# What a derivation says of itself.


def _own(old: DerivationFile, new: DerivationFile, names: Mapping[str, Pair]) -> Iterator[Finding]:
    numbered = len(old.args) == len(new.args)
    before, after = _attributes(old, numbered), _attributes(new, numbered)
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was != now and was is not None:
            was = rewritten(was, names)
        if was != now:
            yield Finding(kind=key[0], what=key[1], old=was, new=now)


def _attributes(drv: DerivationFile, numbered: bool) -> dict[tuple[Kind, str], str]:
    """Everything but inputs as text, what Nix repeats in the environment once; numbered: arguments one by one."""
    env = _variables(drv.env)
    found = {(Kind.ENV, key): value for key, value in env.items()}
    for kind, value in ((Kind.BUILDER, drv.builder), (Kind.SYSTEM, drv.system)):
        if env.get(kind.value) == value:
            del found[Kind.ENV, kind.value]
        found[kind, ""] = value
    args = drv.args if numbered else [json.dumps(drv.args, ensure_ascii=False)]
    found.update({(Kind.ARGUMENT, f"{at:2}" if numbered else ""): text for at, text in enumerate(args, 1)})
    for name, output in drv.outputs.items():
        found[Kind.OUTPUT, name] = "" if env.get("outputHash") else f"{output.algorithm}:{output.hash}"
    return found


def _variables(env: Mapping[str, str]) -> dict[str, str]:
    """The environment; attributes that Nix has written as one JSON text (`__structuredAttrs`) one by one."""
    try:
        attrs = dict(_flat(json.loads(env["__json"])))
    except (KeyError, ValueError, RecursionError):
        return dict(env)
    plain = {key: value for key, value in env.items() if key != "__json"}
    return {**{f"__json.{key}" if key in plain else key: value for key, value in attrs.items()}, **plain}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested attributes; a list is one leaf."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _flat(below, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
