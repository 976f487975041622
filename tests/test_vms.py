"""Real machines: the example flake from end to end, and a flake that fails in each way that matters."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nixos.nix.command import Nix
from tests.conftest import ROOT, example_parts, need
from tests.leftovers import assert_none_left, short_tmp

pytestmark = [pytest.mark.vm, pytest.mark.nix, pytest.mark.xdist]


@pytest.fixture(scope="module")
def debian(nix: Nix) -> Path:
    """The folder that example_flake/setup has written; needed before a test gets a home of its own."""
    folder = example_parts()
    if not (folder / "parts.json").is_file():
        if os.environ.get("CI"):
            pytest.fail("example_flake/setup has not run, and CI must not skip what needs it")
        pytest.skip("example_flake/setup has not run")
    return folder


@pytest.fixture
def tree(pytester: pytest.Pytester, debian: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the flakes that may be changed, in a repository of its own, since they reach beyond their folders.

    Afterwards nothing of what was started in pytester's folder may be left.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")  # a second for each process
    tree = pytester.path / "tree"
    for folder in ("example_flake", "pytest_nixos", "tests/flakes/failing"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run([need("git"), *words], cwd=tree, check=True)
    with short_tmp(monkeypatch):
        yield tree
        assert_none_left(pytester.path)
        assert list((pytester.path / "cache" / "pytest-nixos" / "pytest-nixos-sessions").iterdir()) == []


def run(pytester: pytest.Pytester, flake: Path, debian: Path, *args: str) -> pytest.RunResult:
    override = ("--nixos-override-input", "debian", f"path:{debian}")
    return pytester.runpytest_subprocess("--nixos-flake", str(flake), *override, "-v", *args, timeout=300)


def results(result: pytest.RunResult) -> dict[str, str]:
    """Each check's outcome, from the lines of -v, with workers or without."""
    text = result.stdout.str()
    single = re.findall(r"^\S*flake\.nix::(\S+) (PASSED|FAILED|VERIFIED)", text, re.MULTILINE)
    workers = re.findall(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|VERIFIED) \S*flake\.nix::(\S+)", text, re.MULTILINE)
    return {**dict(single), **{name: outcome for outcome, name in workers}}


def test_the_example_flake(pytester: pytest.Pytester, tree: Path, debian: Path) -> None:
    """All pass, then all are verified; an edit of one host runs that host; the Nix sandbox agrees."""
    flake, names = tree / "example_flake", {"cluster", "db", "lint", "login", "web"}
    assert results(run(pytester, flake, debian, "-n2")) == dict.fromkeys(names, "PASSED")

    again = run(pytester, flake, debian)
    assert results(again) == dict.fromkeys(names, "VERIFIED")
    assert again.duration < 15
    again.stdout.no_fnmatch_line("nixos: * on the session's store*")

    host = flake / "hosts" / "web.nix"
    host.write_text(host.read_text().replace("start_all()", f"start_all()  # {time.time()}"))
    edited = run(pytester, flake, debian)
    assert results(edited) == {**dict.fromkeys(names, "VERIFIED"), "web": "PASSED"}

    tests = (tree / "example_flake" / "tests").rename(pytester.path / "tests")  # away from our conftest.py
    time.sleep(0.02)  # what is moved at the moment when a process begins may have been edited meanwhile
    python = run(pytester, flake, debian, str(tests), "-k", "test_web.py")
    python.assert_outcomes(passed=4)
    again = run(pytester, flake, debian, str(tests), "-k", "test_web.py")
    assert "4 verified" in again.outlines[-1]

    built = run(pytester, flake, debian, "--nixos-mode", "build", "--nixos-rerun-verified", "-k", "web")
    assert results(built) == {"web": "PASSED"}

    native = run(pytester, flake, debian, "--nixos-mode", "native", "--nixos-rerun-verified", "-k", "web")
    assert results(native) == {"web": "PASSED"}
    native.stdout.fnmatch_lines_random(["*SUBPASSED?the page is served?*"])


def test_tests_in_python(pytester: pytest.Pytester, tree: Path, debian: Path) -> None:
    """The example's own, in two processes that share a build, and each boots its machine; nothing is left."""
    args = ("-o", f"nixos_flake={tree / 'example_flake'}", str(tree / "example_flake" / "tests"), "-n2")
    override = ("--nixos-override-input", "debian", f"path:{debian}")
    result = pytester.runpytest_subprocess(*args, *override, timeout=170)
    result.assert_outcomes(passed=4)


def test_every_failure_is_one_items_own(pytester: pytest.Pytester, tree: Path, debian: Path) -> None:
    """Each check ends as it must, says why, and what a guest prints is no command to anybody."""
    result = run(pytester, tree / "tests" / "flakes" / "failing", debian, "-n2", "--nixos-artifacts", "kept")
    failing = dict.fromkeys(("escapes", "hang", "nodriver", "panic", "throws"), "FAILED")
    assert results(result) == {"flood": "PASSED", **failing}
    assert result.ret == 1
    result.stdout.fnmatch_lines_random(
        [
            "error: machine: command `echo last words; exit 7` failed (exit status 7)",
            "| *::error::owned",
            "error: machine: the guest's kernel panicked (*sysrq triggered crash*",
            "error: *10 s*",
            "the test driver does not build",
            "| wrong parts",
            "the check does not evaluate: error: this host is not ready",
        ]
    )
    output = result.stdout.str() + result.stderr.str()
    assert "\x1b" not in output
    assert not [line for line in output.splitlines() if line.startswith("::")]
    assert "Traceback" not in output
    [console] = (pytester.path / "kept").glob("flood-*/machine.console.log")
    lines = console.read_text(errors="replace").splitlines()
    assert lines[lines.index("2") : lines.index("160000") + 1] == [str(number) for number in range(2, 160001)]
