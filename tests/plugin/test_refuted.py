"""A failure takes proofs away, whatever else is recorded, and whatever happens to its own record."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.model import Outcome, Verdict
from pytest_nixos.records.stores.directory import DirectoryStore
from tests.conftest import SmallFlake
from tests.plugin.test_checks import outcomes, run

pytestmark = pytest.mark.nix
FAILS = 'a = plain "a" "exit 1"; b = plain "b" "true";'


class Elsewhere:
    """Another machine's records, in a folder that is read here and not written."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.option = f"--nixos-records=dir:{pytester.path}/other?push=no"
        self.own = pytester.path / "cache" / "pytest-nixos" / "records"
        self._store = DirectoryStore(pytester.path / "other")
        run(pytester)
        self.failure = self._of("a", DirectoryStore(self.own))

    def has_a_pass(self, seconds_ago: float) -> Verdict:
        """Another machine has seen `a` pass, which fails here."""
        verdict = replace(self.failure, outcome=Outcome.PASSED, finished_at=time.time() - seconds_ago)
        self._store.write([verdict], Deadline(None))
        return verdict

    def failed_file(self) -> Path:
        return next(self.own.glob("*.failed.json"))

    @staticmethod
    def _of(name: str, store: DirectoryStore) -> Verdict:
        return next(r.verdict for r in store.every(Deadline(None)).records if r.verdict.check == name)


@pytest.fixture
def elsewhere(pytester: pytest.Pytester, small_flake: SmallFlake) -> Elsewhere:
    small_flake.write(FAILS)
    return Elsewhere(pytester)


def test_a_pass_of_a_clock_that_is_ahead_neither_counts_nor_survives_a_failure(
    pytester: pytest.Pytester, elsewhere: Elsewhere
) -> None:
    elsewhere.failed_file().unlink()
    ahead = elsewhere.has_a_pass(seconds_ago=-250)
    assert outcomes(run(pytester, elsewhere.option, "--nixos-rerun-verified")) == {"failed": 1, "passed": 1}
    failure = Elsewhere._of("a", DirectoryStore(elsewhere.own))
    assert failure.outcome is Outcome.FAILED
    assert failure.finished_at >= ahead.finished_at
    assert outcomes(run(pytester, elsewhere.option)) == {"failed": 1, "verified": 1}


@pytest.mark.parametrize("damage", ["empty", "folder", "gone"])
def test_a_failure_that_cannot_be_read_is_one(pytester: pytest.Pytester, elsewhere: Elsewhere, damage: str) -> None:
    elsewhere.has_a_pass(seconds_ago=3600)
    file = elsewhere.failed_file()
    file.unlink()
    if damage == "empty":
        file.touch()
    elif damage == "folder":
        file.mkdir()
    result = run(pytester, elsewhere.option)
    assert outcomes(result) == ({"verified": 2} if damage == "gone" else {"failed": 1, "verified": 1})
    if damage != "gone":
        result.stdout.fnmatch_lines(["*is damaged: it counts as a failure, as its name says"])


def test_where_failures_cannot_be_read_nothing_is_verified(pytester: pytest.Pytester, elsewhere: Elsewhere) -> None:
    elsewhere.has_a_pass(seconds_ago=3600)
    elsewhere.own.rename(pytester.path / "away")
    elsewhere.own.write_text("no folder")
    result = run(pytester, elsewhere.option, "-q")
    assert outcomes(result) == {"failed": 1, "passed": 1}
    result.stdout.fnmatch_lines(
        ["nixos: warning: records in * can't be read*", "nixos: warning: the record of a is lost*"]
    )


def test_forgetting_leaves_a_failure_while_a_pass_is_left(pytester: pytest.Pytester, elsewhere: Elsewhere) -> None:
    elsewhere.has_a_pass(seconds_ago=3600)
    result = run(pytester, elsewhere.option, "--nixos-records-forget")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*other: left as it is: not written here*", "failures are kept*"])
    assert outcomes(run(pytester, elsewhere.option)) == {"failed": 1, "passed": 1}


def test_pruning_leaves_failures(pytester: pytest.Pytester, small_flake: SmallFlake, elsewhere: Elsewhere) -> None:
    elsewhere.has_a_pass(seconds_ago=3600)
    small_flake.write('b = plain "b" "true";')
    run(pytester, "--nixos-records-prune=0s").stdout.fnmatch_lines(["*: 0 records removed"])
    small_flake.write(FAILS)
    assert outcomes(run(pytester, elsewhere.option)) == {"failed": 1, "verified": 1}


def test_a_folder_that_is_not_read_does_not_replace_the_own_one(
    pytester: pytest.Pytester, elsewhere: Elsewhere
) -> None:
    elsewhere.failed_file().unlink()
    elsewhere.has_a_pass(seconds_ago=3600)
    unread = f"--nixos-records=dir:{pytester.path}/session?pull=no"
    assert outcomes(run(pytester, elsewhere.option, unread, "--nixos-rerun-verified")) == {"failed": 1, "passed": 1}
    assert outcomes(run(pytester, elsewhere.option, unread)) == {"failed": 1, "verified": 1}


def test_a_user_of_any_name_leaves_readable_records(
    pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_flake.write(FAILS)
    monkeypatch.setenv("LOGNAME", "x\ty\x1b[1m" + "z" * 5000)
    assert outcomes(run(pytester)) == {"failed": 1, "passed": 1}
    assert outcomes(run(pytester)) == {"failed": 1, "verified": 1}


def test_a_failure_counts_though_the_check_is_not_recorded_then(
    pytester: pytest.Pytester, small_flake: SmallFlake, elsewhere: Elsewhere
) -> None:
    elsewhere.failed_file().unlink()
    elsewhere.has_a_pass(seconds_ago=3600)
    small_flake.write('a = plain "a" "exit 1" // { pytestNixos.record = false; };')
    assert outcomes(run(pytester, elsewhere.option)) == {"failed": 1}
    small_flake.write(FAILS)
    assert outcomes(run(pytester, elsewhere.option)) == {"failed": 1, "verified": 1}


def test_a_vm_in_the_sandbox_is_flagged_whatever_was_asked_for(
    pytester: pytest.Pytester, small_flake: SmallFlake
) -> None:
    small_flake.write('a = vm "a" "true";')
    run(pytester, "--nixos-mode=build", "--nixos-accel=kvm")
    [file] = (pytester.path / "cache" / "pytest-nixos" / "records").iterdir()
    assert file.name.endswith(".passed+tcg.json")


def test_a_copy_speaks_of_the_selected_check_only(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    """A record that names another derivation beside this one's output is not signed as it is."""
    small_flake.write('a = plain "a" "true"; b = plain "b" "true";')
    run(pytester)
    own = DirectoryStore(pytester.path / "cache" / "pytest-nixos" / "records")
    a, b = (Elsewhere._of(name, own) for name in "ab")
    shared = DirectoryStore(pytester.path / "shared")
    shared.write([replace(b, drv_path=a.drv_path)], Deadline(None))
    for record in own.folder.iterdir():
        record.unlink()
    option = f"--nixos-records=dir:{pytester.path}/shared?push=no"
    run(pytester, option, "flake/flake.nix::b", f"--nixos-records-copy=dir:{pytester.path}/target")
    [copy] = DirectoryStore(pytester.path / "target").every(Deadline(None)).records
    assert (copy.verdict.drv_path, copy.verdict.check) == (b.drv_path, "b")


@pytest.mark.parametrize(
    "option", ["--nixos-secret-key-file=~nobody-of-that-name/k", "--nixos-dir=~nobody-of-that-name/x"]
)
def test_a_home_that_nobody_has_is_one_sentence(
    pytester: pytest.Pytester, small_flake: SmallFlake, option: str
) -> None:
    small_flake.write(FAILS)
    result = run(pytester, option)
    result.stderr.fnmatch_lines(["ERROR: Could not determine home directory*"])
    assert "Traceback" not in result.stderr.str()
