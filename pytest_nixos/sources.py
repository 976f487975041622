"""The files that a test in Python is made of, and their hash: what it imports of the project, what it says it reads.

Installed distributions count by name and version, the project's own files by their content. Imports are read from the
code itself, those within functions included; what is imported by a name made at run time is not seen here.
"""

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from pytest_nixos.errors import CheckFailed

_NO_SOURCE = {"__pycache__"}
_STORE = "/nix/store/"


def files_of(roots: Iterable[Path], reads: Iterable[str], base: Path) -> tuple[Path, ...]:
    """`roots`, all that they import of the project, and the files that match `reads`, patterns seen from folder `base`.

    A folder stands for all files below it. Raises CheckFailed for a pattern that nothing matches, OSError and
    SyntaxError for a file that can't be read.
    """
    found = {path for pattern in reads for path in _matching(pattern, base)}
    waiting = [path.resolve() for path in roots]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path) if path.suffix == ".py" else []
    return tuple(sorted(found))


def fingerprint(files: Iterable[Path], base: Path) -> str:
    """A hash of these files' names, seen from `base`, and contents. Raises OSError."""
    names = sorted((os.path.relpath(path, base), path) for path in files)
    return digest([(name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in names])


def digest(value: object) -> str:
    """A hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def newest_change(files: Iterable[Path]) -> float:
    """When the last of the files was changed or moved, in seconds since the epoch, by the clock of its file system."""
    return max((path.stat().st_ctime for path in files), default=0.0)


def loaded() -> frozenset[str]:
    """The files that this process has imported, as the modules name them."""
    return frozenset(str(name) for module in list(sys.modules.values()) if (name := getattr(module, "__file__", None)))


def loaded_since(before: frozenset[str]) -> list[Path]:
    """The project's files that were imported since."""
    return [path for name in sorted(loaded() - before) if not is_installed(path := Path(name).resolve())]


def file_of(module: ModuleType | None) -> Path | None:
    """A module's file, where that is one of the project."""
    name = getattr(module, "__file__", None)
    path = Path(name).resolve() if name else None
    return path if path and not is_installed(path) else None


def module_of(thing: object) -> ModuleType | None:
    """The module that a thing's class is from."""
    return sys.modules.get(type(thing).__module__)


@cache
def installation() -> str:
    """A hash of this Python and of all distributions that are installed for it, by name and version."""
    installed = importlib.metadata.distributions()
    names = sorted({f"{dist.metadata['Name']} {dist.version}" for dist in installed})
    # A Nix store path says more than a version.
    stored = sorted({path for name in [sys.prefix, *sys.path] if (path := os.path.realpath(name)).startswith(_STORE)})
    return digest([platform.python_implementation(), platform.python_version(), sys.platform, names, stored])


@cache
def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed distribution: it is no part of a project."""
    return str(path).startswith(_STORE) or any(path.is_relative_to(folder) for folder in _installed_folders())


@cache
def _installed_folders() -> frozenset[Path]:
    paths = sysconfig.get_paths()
    names = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return frozenset(Path(name).resolve() for name in [*names, *site.getsitepackages(), site.getusersitepackages()])


def _matching(pattern: str, base: Path) -> Iterator[Path]:
    matches = sorted(base.glob(pattern)) if pattern and not Path(pattern).is_absolute() else []
    if not matches:
        raise CheckFailed(f"there is no {pattern!r} in {base}", "patterns of reads= are seen from pytest's rootdir")
    for match in matches:
        below = match.rglob("*") if match.is_dir() else [match]
        yield from (path for path in below if path.is_file() and not _NO_SOURCE & set(path.parts))


@cache
def _imported(path: Path) -> list[Path]:
    """The project's files that a module imports, by what it says, and those that make its packages."""
    found = [init for folder in path.parents if (init := folder / "__init__.py").is_file()]
    for node in ast.walk(ast.parse(path.read_bytes())):
        for name, folders in _imports(node, path):
            found += _modules(name.split("."), folders)
    return [file for file in found if not is_installed(file)]


def _imports(node: ast.AST, path: Path) -> Iterator[tuple[str, list[str] | None]]:
    """The dotted name of all that an import statement may import; for a relative one the folder it starts from."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        start = [str(path.parents[node.level - 1])] if node.level else None
        module = [node.module] if node.module else []
        yield from ((".".join([*module, alias.name]), start) for alias in node.names)


def _modules(parts: list[str], start: list[str] | None) -> Iterator[Path]:
    """The files of a module and its packages, as far as they exist: the last part may be no module."""
    folders: Sequence[str] = sys.path if start is None else start
    for number, name in enumerate(parts, 1):
        known = sys.modules.get(".".join(parts[:number])) if start is None else None
        file, folders = _loaded_module(known) if known else _module(name, folders)
        if file:
            yield file


def _loaded_module(module: ModuleType) -> tuple[Path | None, list[str]]:
    """A module's file, and the folders of its submodules."""
    name = getattr(module, "__file__", None)
    return Path(name).resolve() if name else None, list(getattr(module, "__path__", ()))


def _module(name: str, folders: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The same of one that is not loaded yet."""
    nests = []
    for folder in map(Path, folders):
        for file in (folder / name / "__init__.py", folder / f"{name}.py", *folder.glob(f"{name}.*.so")):
            if file.is_file():
                return file.resolve(), [str(file.parent)] if file.name == "__init__.py" else []
        if (folder / name).is_dir():
            nests.append(str(folder / name))
    return None, nests
