"""nix-eval-jobs as evaluator. Debian lacks it: where it is not on PATH, what version 2.33.1 printed is replayed."""

import json
import shutil
from pathlib import Path

import pytest

from pytest_nixos.model import Check, EvalFailed
from pytest_nixos.nix import eval_jobs
from pytest_nixos.nix.attrs import resolve
from pytest_nixos.nix.cache import Cache
from pytest_nixos.nix.checks import Evaluator
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.fingerprint import fingerprint
from pytest_nixos.nix.target import Target

pytestmark = pytest.mark.nix

FLAKE = """{
  outputs = { self }:
    let sh = name: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; };
    in { checks.x86_64-linux = {
      a = sh "a";
      "b.c" = sh "b";
      "d\\"e" = sh "d";
      set = { };
      throws = throw "no";
      vm = sh "vm" // { driver = sh "driver"; };
    }; };
}
"""


@pytest.fixture
def target(tmp_path: Path, nix: Nix) -> Target:
    """A flake with all that nix-eval-jobs passes over or fails."""
    folder = tmp_path / "flake"
    folder.mkdir()
    (folder / "flake.nix").write_text(FLAKE)
    return Target(nix=nix, ref=resolve(str(folder), tmp_path), attr="checks.x86_64-linux")


def own(target: Target) -> tuple[Check | EvalFailed, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_jobs, "is_there", lambda: False)
        return Evaluator(cache=None).checks(target)


def replay(folder: Path, lines: list[str], status: int = 0) -> None:
    """A program of that name that prints lines, and notes that it has run and with what."""
    folder.mkdir(exist_ok=True)
    (folder / "lines").write_text("".join(lines))
    program = folder / "nix-eval-jobs"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\ncat {folder}/lines\nexit {status}\n')
    program.chmod(0o755)


def printed(checks: tuple[Check | EvalFailed, ...], names: list[str]) -> list[str]:
    """The lines of version 2.33.1 for these checks: what it prints of each, and the answer of our own function."""
    lines = []
    for check in checks:
        if isinstance(check, Check) and check.attr in names:
            drv = check.derivation
            answer: dict[str, object] = {
                "derivation": {"drv_path": drv.drv_path, "outputs": drv.outputs, "features": [], "fixed": False},
                "driver": None, "nodes": [], "timeout": None, "recorded": True,
            }  # fmt: skip
            entry = {"attr": check.attr, "attrPath": [check.attr], "drvPath": drv.drv_path, "extraValue": answer}
            lines.append(json.dumps(entry) + "\n")
    return lines


ERROR = '{"attr":"throws","attrPath":["throws"],"error":"error: no"}\n'
NAMELESS = '{"attr":"","attrPath":[],"drvPath":"/nix/store/x.drv","extraValue":{}}\n'
SHAPELESS = '{"attr":"a","attrPath":["a"],"extraValue":{}}\n{"attr":"a","attrPath":["a"],"extraValue":{"driver":[]}}\n'
DEEP = "[" * 100_000 + "\n"
STRANGER = '{"attr":"z","attrPath":["z"],"drvPath":"/nix/store/x.drv","extraValue":{}}\n'


@pytest.mark.parametrize(
    ("names", "more", "status"),
    [
        (["a", "b.c"], [ERROR], 0),
        (["a"], [], 1),  # a worker was killed: it says nothing of the rest
        ([], [], 1),
        ([], [SHAPELESS, DEEP], 0),
        (["a"], [NAMELESS, STRANGER, "[]\n", "null\n", "{}\n", "\xff\n", '{"attr":"b.c","attrPa'], 0),
    ],
)
def test_what_it_says_and_what_it_leaves(
    tmp_path: Path, target: Target, names: list[str], more: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of it is there, the checks are those of our own workers."""
    expected = own(target)
    replay(tmp_path / "bin", [*printed(expected, names), *more], status)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert Evaluator(cache=None, workers=2).checks(target) == expected
    arguments = (tmp_path / "bin" / "arguments").read_text()
    assert f"--flake {target.ref.url}#checks.x86_64-linux" in arguments
    assert "--workers 2 --max-memory-size" in arguments


def test_another_program_is_another_evaluation(tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache")
    keys = {fingerprint(target, cache)}
    replay(tmp_path / "bin", [])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    keys.add(fingerprint(target, cache))
    replay(tmp_path / "bin", [], status=1)
    keys.add(fingerprint(target, cache))
    assert len(keys) == 3
    assert None not in keys


@pytest.mark.skipif(shutil.which("nix-eval-jobs") is None, reason="nix-eval-jobs is not on PATH, nor in Debian")
def test_the_real_one(target: Target) -> None:
    assert Evaluator(cache=None, workers=2).checks(target) == own(target)
