"""What is the same thing in two derivations: inputs matched by name, and old store paths replaced by new ones. Pure."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from pytest_nixos.nix.build import display_name
from pytest_nixos.nix.derivation import DerivationFile, own_outputs

Read = Callable[[str], DerivationFile | None]
Pair = tuple[str, str]
Key = Callable[["Side", str], object]

_ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"
_HASH = re.compile(r"(?<![0-9a-z])[0-9a-df-np-sv-z]{32}(?:[0-9a-df-np-sv-z]{20})?(?![0-9a-z])")
_VERSION = re.compile(r"-\d.*")
_COUNTING = re.compile(r"[0-9a-f]{7,}|\d+")


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Store paths that only one of two derivations uses: pairs that are the same thing, and what has no partner."""

    pairs: tuple[Pair, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Side:
    """A derivation, and how it uses its inputs; for those inputs of which there are several with one name."""

    drv: DerivationFile
    read: Read

    def made(self, path: str) -> object:
        """What an input is known to make: the same in two derivations when they fetch the same content."""
        drv = self.read(path) if path.endswith(".drv") else None
        return tuple(own_outputs(drv).values()) or path if drv else path

    def place(self, path: str) -> tuple[str, int]:
        """The first variable, or builder or argument, that mentions an input, and the number of that mention."""
        drv = self.read(path) if path.endswith(".drv") else None
        hashes = references(path, drv) if drv else {"": _base(path)}
        return min((self._mentions[_hash(b)] for b in hashes.values() if _hash(b) in self._mentions), default=("", 0))

    @cached_property
    def _mentions(self) -> dict[str, tuple[str, int]]:
        found: dict[str, tuple[str, int]] = {}
        texts = [("", " ".join((self.drv.builder, *self.drv.args))), *self.drv.env.items()]
        for key, text in texts:
            for match in _HASH.finditer(text):
                found.setdefault(match[0], (key, len(found)))
        return found


def match(olds: Iterable[str], news: Iterable[str], old_side: Side, new_side: Side) -> Matched:
    """Match the store paths that are on one side only.

    By name, then without version, then without all that counts up. Several of one name are told apart by what they make
    and by where they are used, else taken in the order in which they are used.
    """
    left, right = sorted(set(olds) - set(news)), sorted(set(news) - set(olds))
    pairs = _same(left, right, lambda side, path: display_name(path), old_side, new_side, single=True)
    for key in _KEYS:
        taken = {path for pair in pairs for path in pair}
        left = [path for path in left if path not in taken]
        right = [path for path in right if path not in taken]
        pairs += _same(left, right, key, old_side, new_side)
    taken = {path for pair in pairs for path in pair}
    removed, added = (tuple(path for path in paths if path not in taken) for paths in (left, right))
    pairs.sort(key=lambda pair: (display_name(pair[1]), pair))
    return Matched(pairs=tuple(pairs), removed=removed, added=added)


def _same(
    left: list[str], right: list[str], key: Key, old_side: Side, new_side: Side, single: bool = False
) -> list[Pair]:
    """Pairs with the same key; single: only where there is one on each side."""
    if not left or not right:
        return []
    olds, news = _groups(left, key, old_side), _groups(right, key, new_side)
    pairs: list[Pair] = []
    for value in olds.keys() & news.keys():
        group = olds[value], news[value]
        if len(group[0]) == len(group[1]) == 1:
            pairs.append((group[0][0], group[1][0]))
        elif not single:
            pairs += zip(
                sorted(group[0], key=lambda path: (old_side.place(path), path)),
                sorted(group[1], key=lambda path: (new_side.place(path), path)),
                strict=False,
            )
    return pairs


def _groups(paths: list[str], key: Key, side: Side) -> dict[object, list[str]]:
    groups = defaultdict(list)
    for path in paths:
        groups[key(side, path)].append(path)
    return groups


_KEYS: tuple[Key, ...] = (
    lambda side, path: (display_name(path), side.made(path)),
    lambda side, path: (display_name(path), side.place(path)[0]),
    lambda side, path: display_name(path),
    lambda side, path: _VERSION.sub("", display_name(path)),
    lambda side, path: _COUNTING.sub("#", display_name(path)),
)


def references(drv_path: str, drv: DerivationFile) -> dict[str, str]:
    """What a text that uses an output holds, by the output's name: the base name of its path, or its placeholder."""
    return {
        name: _base(output.path) if output.path else placeholder(drv_path, name) for name, output in drv.outputs.items()
    }


def placeholder(drv_path: str, output: str) -> str:
    """What stands for an output whose path only a build can tell, without its `/`.

    From Nix's manual, "Complete Store Path Calculation" and `DownstreamPlaceholder`: SHA-256 in Nix's base 32.
    """
    digest, name = _base(drv_path).removesuffix(".drv").split("-", 1)
    text = f"nix-upstream-output:{digest}:{name if output == 'out' else f'{name}-{output}'}"
    return base32(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest())


def base32(digest: bytes) -> str:
    """Nix's own base 32: the number that the bytes are, least significant byte first, most significant digit first."""
    number, length = int.from_bytes(digest, "little"), (len(digest) * 8 + 4) // 5
    return "".join(_ALPHABET[number >> 5 * at & 31] for at in reversed(range(length)))


def renames(drvs: Iterable[Pair], sources: Iterable[Pair], read: Read) -> dict[str, Pair]:
    """Old and new base name by the old one's hash, for derivations, what they make, and sources."""
    found = [(_base(old), _base(new)) for old, new in (*drvs, *sources)]
    for pair in drvs:
        old, new = read(pair[0]), read(pair[1])
        if old and new:
            before, after = references(pair[0], old), references(pair[1], new)
            found += [(before[name], after[name]) for name in before.keys() & after.keys()]
    return {_hash(old): (old, new) for old, new in found if old != new}


def rewritten(text: str, names: Mapping[str, Pair]) -> str:
    """A text with the new base name of everything in `names`; a hash that stands alone becomes the new hash."""
    parts, at = [], 0
    for match in _HASH.finditer(text):
        old, new = names.get(match[0], ("", ""))
        if not new or match.start() < at:
            continue
        is_whole = text.startswith(old, match.start())
        parts += [text[at : match.start()], new if is_whole else _hash(new)]
        at = match.start() + len(old) if is_whole else match.end()
    return "".join([*parts, text[at:]])


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _hash(base: str) -> str:
    return base.split("-", 1)[0]
