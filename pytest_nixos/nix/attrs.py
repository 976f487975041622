"""Attribute paths, flake references and node-id escaping. Pure but for `resolve`, which looks for flake.nix."""

import re
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos.errors import EvaluationError

_SAFE = re.compile(r"[A-Za-z0-9_.+-]")
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlakeRef:
    """A flake reference as Nix takes it; path is its flake.nix when it was given as a folder, else None."""

    url: str
    label: str
    path: Path | None


def resolve(ref: str, base: Path) -> FlakeRef:
    """What `ref` means, seen from folder `base`: a folder that exists, or a URL in Nix's own syntax.

    A bare name is a folder, unlike in Nix, where `example` means `flake:example`: people give this plugin
    paths, and a typing error in one should not become a question to a registry.
    Raises EvaluationError when a path has no flake.nix.
    """
    folder = base / ref
    if _SCHEME.match(ref) and not folder.is_dir():
        return FlakeRef(url=ref, label=ref, path=None)
    if folder.name == "flake.nix":
        folder = folder.parent
    if (folder / "flake.nix").is_file():
        flake = (folder / "flake.nix").resolve()
        return FlakeRef(url=quote_path(flake.parent), label=str(folder), path=flake)
    raise EvaluationError(
        f"there is no flake.nix in {folder}",
        "give a folder with a flake.nix, or a flake reference such as github:owner/repo",
    )


def quote_path(path: Path) -> str:
    """An absolute path as a flake reference; characters that a reference gives a meaning are percent-encoded."""
    return "".join(c if c not in "%?# " else f"%{ord(c):02x}" for c in str(path))


def nix_string(text: str) -> str:
    """`text` as a Nix string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
    return f'"{escaped}"'


def item_name(attr: str) -> str:
    """An attribute's name as a part of a pytest node id, one to one.

    `::` separates node ids, `@` is xdist's group mark, `[` starts pytest's parameters, and blanks and control
    characters do not survive a shell: those are percent-encoded, letters of every script stay readable.
    """
    return "".join(c if _SAFE.match(c) or (c.isalnum() and not c.isascii()) else _percent(c) for c in attr)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
