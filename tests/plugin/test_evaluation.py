"""What a user sees of evaluations: a failure that is one check's, sessions that start no Nix, and none that stays."""

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import SmallFlake, need
from tests.leftovers import assert_none_left, processes_of, wait_until

pytestmark = pytest.mark.nix

PROGRAMS = ("nix", "nix-instantiate", "nix-store")


@dataclass
class Calls:
    """What of Nix was started; a script on PATH is asked for its version in each session, which does not count."""

    log: Path

    def taken(self) -> list[str]:
        """The command lines since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if not line.endswith(" --version")]


@pytest.fixture
def calls(pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Puts scripts before Nix on PATH that note how they are called."""
    log, folder = pytester.path / "calls.log", pytester.path / "wrapped"
    folder.mkdir()
    for name in PROGRAMS:
        real = shutil.which(name)
        # One write for each call: they may come at the same time. Of a call's lines the first is enough.
        (folder / name).write_text(
            f'#!/bin/sh\nprintf "%s %.200s\\n" {name} "$*" | head -n 1 >> {log}\nexec {real} "$@"\n'
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Calls(log)


def write(flake: SmallFlake, checks: str) -> None:
    """The checks in a git repository: into the folder of a flake without one pytest may write its own cache."""
    need("git")
    flake.write(checks)
    (flake.folder / "flake.lock").write_text('{"nodes": {"root": {}}, "root": "root", "version": 7}\n')
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    paths = ("flake.nix", "flake.lock", "tools")
    for words in (("init", "--quiet"), ("add", *paths), (*who, "commit", "--quiet", "--message", "state")):
        subprocess.run(("git", *words), cwd=flake.folder, check=True)


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest("--nixos-flake", "flake", *args)


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    words = result.outlines[-1].strip("= ").split(" in ")[0].split(", ")
    return {word.split()[1]: int(word.split()[0]) for word in words}


def kept(pytester: pytest.Pytester) -> list[Path]:
    """The evaluations in the cache."""
    return list((pytester.path / "cache" / "pytest-nixos" / "evaluations").glob("checks-*.json"))


def records(pytester: pytest.Pytester) -> list[Path]:
    return list((pytester.path / "cache" / "pytest-nixos" / "records").glob("*.json"))


@pytest.mark.parametrize("workers", ["1", "3"])
def test_one_that_does_not_evaluate_fails_alone(
    pytester: pytest.Pytester, small_flake: SmallFlake, workers: str
) -> None:
    checks = "".join(f'c{at:02} = plain "c{at:02}" "true"; ' for at in range(30) if at != 7)
    small_flake.write(f'{checks} c07 = throw "seven is not ready";')
    result = run(pytester, "--nixos-eval-workers", workers, "-k", "c06 or c07 or c08")
    result.stdout.fnmatch_lines(
        [
            "nixos: flake: 30 checks, 0 verified, 29 to run, 1 not evaluable",
            "*the check does not evaluate: error: seven is not ready*",
        ]
    )
    assert outcomes(result) == {"failed": 1, "passed": 2, "deselected": 27}


def test_a_session_in_which_all_is_known_starts_no_nix(
    pytester: pytest.Pytester, small_flake: SmallFlake, calls: Calls
) -> None:
    write(small_flake, 'a = plain "a" "true"; b = plain "b" "true";')
    assert outcomes(run(pytester)) == {"passed": 2}
    assert any(" eval " in call for call in calls.taken())
    assert outcomes(run(pytester)) == {"verified": 2}
    assert calls.taken() == []
    write(small_flake, 'a = plain "a" "true"; b = plain "b" "true"; c = plain "c" "true";')
    assert outcomes(run(pytester)) == {"passed": 1, "verified": 2}


def test_edits_of_unread_files_start_no_nix(pytester: pytest.Pytester, small_flake: SmallFlake, calls: Calls) -> None:
    readme = small_flake.folder / "README.md"
    readme.write_text("one\n")
    write(small_flake, 'a = plain "a" "true";')
    subprocess.run(("git", "add", "README.md"), cwd=small_flake.folder, check=True)
    pytester.makeini("[pytest]\nnixos_flake = flake\nnixos_unread =\n  README.md\n  docs/*\n")
    started = []
    for text in ("two\n", "three\n", "four\n", "five\n"):
        readme.write_text(text)
        outcomes(pytester.runpytest())
        started.append(sum(" eval " in call for call in calls.taken()))
    assert started == [1, 1, 0, 0]  # known for the first time; tried in a copy; and from then on believed


@pytest.mark.parametrize("workers", ["0", "-1", "x", "1.5"])
def test_a_number_of_workers_that_makes_no_sense(pytester: pytest.Pytester, workers: str) -> None:
    result = pytester.runpytest("--nixos-flake", "flake", f"--nixos-eval-workers={workers}")
    result.stderr.fnmatch_lines([f"*--nixos-eval-workers: '{workers}' is not a whole number from 1 on"])


def test_without_the_cache_it_is_evaluated_again(
    pytester: pytest.Pytester, small_flake: SmallFlake, calls: Calls
) -> None:
    write(small_flake, 'a = plain "a" "true";')
    run(pytester)
    before = {file: file.stat().st_mtime_ns for file in kept(pytester)}
    calls.taken()
    assert outcomes(run(pytester, "--nixos-no-eval-cache")) == {"verified": 1}
    assert any(" eval " in call for call in calls.taken())
    assert {file: file.stat().st_mtime_ns for file in kept(pytester)} == before


def test_what_did_not_evaluate_is_tried_each_time_and_alone(
    pytester: pytest.Pytester, small_flake: SmallFlake, calls: Calls
) -> None:
    write(small_flake, 'a = builtins.trace "a is looked at" (plain "a" "true"); b = throw "no";')
    assert outcomes(run(pytester)) == {"failed": 1, "passed": 1}
    calls.taken()
    again = run(pytester)
    assert outcomes(again) == {"failed": 1, "verified": 1}
    again.stdout.fnmatch_lines(["*the check does not evaluate: error: no*"])
    assert len([call for call in calls.taken() if " eval " in call]) == 1


def test_a_damaged_cache_is_ignored_and_said_once(
    pytester: pytest.Pytester, small_flake: SmallFlake, calls: Calls
) -> None:
    write(small_flake, 'a = plain "a" "true";')
    run(pytester)
    files = list((pytester.path / "cache" / "pytest-nixos" / "evaluations").iterdir())
    assert len(files) >= 2
    for file, damage in zip(files, itertools.cycle((b"", b"{}", b"pytest-nixos cache 1 00\n{}")), strict=False):
        file.write_bytes(damage)
    result = run(pytester)
    assert outcomes(result) == {"verified": 1}
    assert result.stdout.str().count("is damaged and is ignored") == 1
    calls.taken()
    again = run(pytester)
    assert "is damaged and is ignored" not in again.stdout.str()
    assert outcomes(again) == {"verified": 1}
    assert calls.taken() == []


def test_derivations_that_are_gone_are_made_again_for_what_runs(
    pytester: pytest.Pytester, small_flake: SmallFlake
) -> None:
    once = secrets.token_hex(8)  # no other test has these derivations
    write(small_flake, f'a = plain "a-{once}" "true"; b = plain "b-{once}" "exit 1"; c = plain "c-{once}" "exit 1";')
    assert outcomes(run(pytester)) == {"failed": 2, "passed": 1}
    drvs = {at: next(Path("/nix/store").glob(f"*-{at}-{once}.drv")) for at in "abc"}
    # What has been built would keep its derivation.
    delete = ("nix-store", "--delete", "--option", "keep-derivations", "false")
    subprocess.run((*delete, *map(str, drvs.values())), check=True, capture_output=True)
    assert not any(drv.exists() for drv in drvs.values())
    result = run(pytester, "flake/flake.nix::a", "flake/flake.nix::b")
    assert outcomes(result) == {"failed": 1, "verified": 1}
    result.stdout.fnmatch_lines(["*exit code 1*"])  # it ran
    assert {at for at, drv in drvs.items() if drv.exists()} == {"b"}


def test_a_check_that_wants_no_record_runs_every_time(
    pytester: pytest.Pytester, small_flake: SmallFlake, calls: Calls
) -> None:
    """An opinion that can't be understood is a no; it is kept with the evaluation."""
    write(
        small_flake,
        'a = plain "a" "true" // { pytestNixos.record = false; };'
        'b = plain "b" "true" // { pytestNixos.record = throw "undecided"; };'
        'c = plain "c" "exit 1" // { pytestNixos.record = false; };'
        'd = plain "d" "true";',
    )
    assert outcomes(run(pytester)) == {"failed": 1, "passed": 3}
    assert len(records(pytester)) == 2  # of `d`, and the failure of `c`, since failures always count
    calls.taken()
    assert outcomes(run(pytester)) == {"failed": 1, "passed": 2, "verified": 1}
    assert not any(" eval " in call for call in calls.taken())
    assert len(records(pytester)) == 2


def test_impure_evaluations_see_the_environment_and_are_never_kept(
    pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(small_flake, 'a = plain "a" (if builtins.getEnv "PYTEST_NIXOS_WORD" == "yes" then "true" else "exit 1");')
    monkeypatch.setenv("PYTEST_NIXOS_WORD", "yes")
    assert outcomes(run(pytester, "--nixos-impure")) == {"passed": 1}
    assert kept(pytester) == []
    assert outcomes(run(pytester)) == {"failed": 1}
    monkeypatch.setenv("PYTEST_NIXOS_WORD", "no")
    assert outcomes(run(pytester, "--nixos-impure")) == {"failed": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_session_that_ends_while_it_evaluates_leaves_no_nix(
    pytester: pytest.Pytester, small_flake: SmallFlake, number: signal.Signals
) -> None:
    forever = "builtins.foldl' (a: i: builtins.foldl' (b: j: b + j) a few) 0 (builtins.genList (i: i) 10000000)"
    checks = "".join(f'c{at} = plain (toString ({forever})) "true"; ' for at in range(1, 8))
    small_flake.write(f'c0 = plain "c0" "true"; {checks}'.replace("few", "(builtins.genList (i: i) 1000)"))
    argv = [sys.executable, "-m", "pytest", "--nixos-flake", "flake", "--nixos-eval-workers", "2"]
    process = subprocess.Popen(
        argv, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )
    try:
        wait_until(lambda: len([p for p in processes_of(pytester.path) if "eval" in p.argv]) == 2, 60)
        process.send_signal(number)
        text = process.communicate(timeout=20)[0]
    finally:
        process.kill()
        process.wait()
    assert_none_left(pytester.path, 2)
    assert "INTERNALERROR" not in text
    assert "does not evaluate" not in text
    if number != signal.SIGKILL:
        assert "Traceback" not in text
        assert list((pytester.path / "cache" / "pytest-nixos" / "pytest-nixos-sessions").iterdir()) == []
