"""The plugin on a real Nix and real derivations; only the VM is missing from these test drivers."""

import json
import os
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.conftest import SmallFlake

pytestmark = pytest.mark.nix

MIXED = """
good = vm "good" "echo hello";
bad = vm "bad" "echo ::error::boo; busybox printf \\"\\\\033[2Jcleared\\\\n\\"; echo error: it broke; exit 1";
lint = plain "lint" "true";
brokenbuild = plain "brokenbuild" "echo this is wrong; exit 3";
nodriver = vm "nodriver" "true" // { driver = plain "driver-broken" "echo driver is wrong; exit 3"; };
throws = throw "this host is not ready";
missing = { }.foo;
number = 5;
"odd name::a@b é" = plain "odd" "true";
"""
RESULTS = {
    "good": "passed",
    "lint": "passed",
    "odd%20name%3A%3Aa%40b%20é": "passed",
    "bad": "failed",
    "brokenbuild": "failed",
    "nodriver": "failed",
    "throws": "failed",
    "missing": "failed",
    "number": "failed",
}


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest("--nixos-flake", "flake", *args)


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    """The counts of the last line, verified ones included."""
    words = result.outlines[-1].strip("= ").split(" in ")[0].split(", ")
    return {word.split()[1]: int(word.split()[0]) for word in words}


def records(pytester: pytest.Pytester) -> list[Path]:
    return sorted((pytester.path / "cache" / "pytest-nixos" / "records").glob("*.passed*.json"))


def leftovers(pytester: pytest.Pytester) -> list[Path]:
    return list((pytester.path / "cache" / "pytest-nixos" / "pytest-nixos-sessions").iterdir())


@pytest.mark.parametrize("workers", [(), pytest.param(("-n2",), marks=pytest.mark.xdist)])
def test_every_kind_of_check_has_its_own_result(
    pytester: pytest.Pytester, small_flake: SmallFlake, workers: tuple[str, ...]
) -> None:
    small_flake.write(MIXED)
    result = run(pytester, "--junitxml=junit.xml", *workers)
    cases = ET.parse(pytester.path / "junit.xml").iter("testcase")
    found = {case.get("name"): "failed" if case.find("failure") is not None else "passed" for case in cases}
    assert found == RESULTS
    result.stdout.fnmatch_lines_random(
        [
            "nixos: flake: 9 checks, 0 verified, 6 to run, 3 not evaluable",
            "*the check does not evaluate: error: this host is not ready*",
            "*the check does not evaluate: error: attribute 'foo' missing*",
            "*the check does not evaluate: the attribute is not a derivation, but a int*",
            "error: it broke",
            "| ::error::boo",
            "| cleared",
            "| this is wrong",
            "the test driver does not build",
            "| driver is wrong",
        ]
    )
    assert "\x1b[2J" not in result.stdout.str()
    assert len(records(pytester)) == 3
    again = run(pytester, *workers)
    assert outcomes(again) == {"failed": 6, "verified": 3}
    assert leftovers(pytester) == []


def test_the_second_run_skips_and_says_why(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "true"; b = plain "b" "true";')
    first = run(pytester)
    assert outcomes(first) == {"passed": 2}
    assert "VERIFIED" not in run(pytester).stdout.str()
    run(pytester, "-rs").stdout.fnmatch_lines(["VERIFIED flake/flake.nix::a - verified by *"])
    second = run(pytester, "-v")
    assert outcomes(second) == {"verified": 2}
    second.stdout.fnmatch_lines(
        [
            "nixos: flake: 2 checks, 2 verified, 0 to run",
            "VERIFIED flake/flake.nix::a - verified by *, 20*, /nix/store/*-a.drv*",
        ]
    )
    assert second.ret == 0
    assert outcomes(run(pytester, "--nixos-rerun-verified")) == {"passed": 2}


def test_an_edit_of_one_check_runs_that_one_only(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "true"; b = vm "b" "true";')
    run(pytester)
    small_flake.write('a = vm "a" "true"; b = vm "b" "exit 1";')
    result = run(pytester)
    assert outcomes(result) == {"failed": 1, "verified": 1}
    small_flake.write('a = vm "a" "true"; b = vm "b" "true";  # and back')
    assert outcomes(run(pytester)) == {"verified": 2}


def test_last_failed_reruns_what_failed(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "true"; b = vm "b" "exit 1"; c = vm "c" "true";')
    run(pytester, "-k", "a or b")
    result = run(pytester, "--lf", "-v")
    result.stdout.fnmatch_lines(["*flake.nix::b FAILED*"])
    assert outcomes(result)["failed"] == 1
    assert "flake.nix::c" not in result.stdout.str()


@pytest.mark.parametrize("workers", [(), pytest.param(("-n2",), marks=pytest.mark.xdist)])
def test_only_what_is_selected_is_built(
    pytester: pytest.Pytester, small_flake: SmallFlake, workers: tuple[str, ...]
) -> None:
    small_flake.write('alpha = vm "a" "true"; beta = vm "b" "true"; gamma = plain "c" "true";')
    result = run(pytester, "-k", "alpha", *workers)
    result.stdout.fnmatch_lines(["nixos: 1 driver on *"])
    assert outcomes(run(pytester, "flake/flake.nix::beta", *workers))["passed"] == 1
    assert outcomes(run(pytester, "-m", "nixos_build", *workers))["passed"] == 1


def test_collect_only_builds_nothing(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "exit 1";')
    result = run(pytester, "--collect-only", "-q")
    assert "flake/flake.nix::a" in result.stdout.str()
    assert "driver" not in result.stdout.str()


def test_a_check_sees_its_closure_and_no_network(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    """The only store path a driver of this flake needs is busybox, and of the network only lo is there."""
    small_flake.write(
        'a = vm "a" "busybox ls /nix/store > seen; busybox ls /sys/class/net >> net; '
        'busybox cat /proc/net/dev > dev; busybox env > env";'
    )
    result = run(pytester, "--nixos-artifacts", "kept")
    assert outcomes(result) == {"passed": 1}
    [kept] = (pytester.path / "kept").iterdir()
    names = {line.split("-", 1)[1] for line in (kept / "seen").read_text().split()}
    assert names == {"tools", "nixos-test-driver-a"}
    devices = [line.split(":")[0].strip() for line in (kept / "dev").read_text().splitlines()[2:]]
    assert devices == ["lo"]
    environment = (kept / "env").read_text()
    assert "QEMU_OPTS=-machine accel=" in environment
    assert "NIX_CONFIG" not in environment


def test_runs_with_network_are_not_recorded(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "true";')
    assert outcomes(run(pytester, "--nixos-network")) == {"passed": 1}
    assert outcomes(run(pytester)) == {"passed": 1}
    assert outcomes(run(pytester)) == {"verified": 1}


@pytest.mark.parametrize("damage", ["empty", "half", "failed", "future", "other", "folder"])
def test_a_doubtful_record_means_run(pytester: pytest.Pytester, small_flake: SmallFlake, damage: str) -> None:
    small_flake.write('a = vm "a" "true"; b = plain "b" "true";')
    run(pytester)
    [first, second] = records(pytester)
    entry = json.loads(first.read_text())
    match damage:
        case "empty":
            first.write_text("")
        case "half":
            first.write_bytes(first.read_bytes()[:50])
        case "failed":
            first.write_text(json.dumps({**entry, "outcome": "failed"}) + "\n")
        case "future":
            first.write_text(json.dumps({**entry, "finished_at": time.time() + 1e6}) + "\n")
        case "other":
            first.write_bytes(second.read_bytes())
        case "folder":
            first.unlink()
            first.mkdir()
    result = run(pytester)
    assert outcomes(result) == {"passed": 1, "verified": 1}


def test_records_expire(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "true";')
    run(pytester)
    assert outcomes(run(pytester, "--nixos-max-age", "1h")) == {"verified": 1}
    time.sleep(1.1)
    assert outcomes(run(pytester, "--nixos-max-age", "1s")) == {"passed": 1}


def test_a_pass_that_others_spoil_is_no_record(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    """An expected failure that passes, and a failing teardown, prove nothing."""
    small_flake.write('a = vm "a" "true"; b = vm "b" "true"; c = vm "c" "exit 1"; d = vm "d" "true";')
    pytester.makeconftest(
        """
        import pytest
        def pytest_collection_modifyitems(items):
            for item in items:
                if item.name == "a":
                    item.add_marker(pytest.mark.xfail)
                if item.name == "c":
                    item.add_marker(pytest.mark.xfail)
                if item.name == "d":
                    item.add_marker(pytest.mark.skip)
        def pytest_runtest_teardown(item):
            assert item.name != "b"
        """
    )
    result = run(pytester)
    result.assert_outcomes(xpassed=1, passed=1, errors=1, xfailed=1, skipped=1)
    assert records(pytester) == []


def test_a_plugin_that_replaces_the_run_makes_no_record(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "exit 1";')
    pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_call(item):
            item.runtest = lambda: None
        """
    )
    assert outcomes(run(pytester)) == {"passed": 1}
    assert records(pytester) == []


def test_a_failure_that_a_hook_calls_passed_makes_no_record(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "exit 1";')
    pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            report.outcome = "passed"
            return report
        """
    )
    assert outcomes(run(pytester)) == {"passed": 1}
    assert records(pytester) == []


def test_a_record_is_of_the_driver_that_ran(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    """One derivation, two drivers; and a check that passes by its driver and fails to build."""
    small_flake.write(
        'a = vm "a" "true"; b = vm "a" "true" // { driver = driver "b" "exit 1"; };'
        'c = sh "vm-test-run-c" "exit 1" // { driver = driver "c" "true"; };'
    )
    assert outcomes(run(pytester)) == {"failed": 1, "passed": 2}
    assert outcomes(run(pytester)) == {"failed": 1, "verified": 2}
    assert outcomes(run(pytester, "--nixos-mode", "build", "flake/flake.nix::c")) == {"failed": 1}


def test_a_newer_failure_takes_the_proof_away(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "true";')
    assert outcomes(run(pytester)) == {"passed": 1}
    assert outcomes(run(pytester, "--nixos-rerun-verified", "--nixos-timeout", "0")) == {"failed": 1}
    assert outcomes(run(pytester)) == {"passed": 1}
    assert outcomes(run(pytester)) == {"verified": 1}


def test_a_second_try_is_no_record(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "true";')
    pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_call(item):
            item.runtest()
        """
    )
    assert outcomes(run(pytester)) == {"passed": 1}
    assert len(records(pytester)) == 1  # of the first of the two runs
    pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_call(item):
            runtest = item.runtest
            item.role.run, run = lambda check: 1 / 0, item.role.run
            with pytest.raises(ZeroDivisionError):
                runtest()
            item.role.run = run
        """
    )
    assert outcomes(run(pytester, "--nixos-records", "other")) == {"passed": 1}
    assert not (pytester.path / "other").exists()


def test_without_namespaces_nothing_is_recorded(
    pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver could have used the host's network; a plain build could not."""
    monkeypatch.setattr("pytest_nixos.vm.isolate.isolation_works", lambda: False)
    small_flake.write('a = vm "a" "true"; b = plain "b" "true";')
    result = run(pytester)
    result.stdout.fnmatch_lines(["*the kernel refuses namespaces: nothing is recorded*"])
    assert outcomes(result) == {"passed": 2}
    assert outcomes(run(pytester)) == {"passed": 1, "verified": 1}


def test_a_users_folder_keeps_what_is_the_users(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "true";')
    (pytester.path / "flake.lock").touch()
    (pytester.path / "0123abcd.lock").touch()
    (pytester.path / "0123abcd").mkdir()
    assert outcomes(run(pytester, "--nixos-dir=.")) == {"passed": 1}
    left = {path.name for path in pytester.path.iterdir()}
    assert {"flake", "flake.lock", "0123abcd", "0123abcd.lock"} <= left


def test_an_attribute_that_packages_shadow_is_refused(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    """`nix eval flake#tests` would find `packages.<system>.tests` first."""
    small_flake.write('a = plain "a" "true"; }; packages.x86_64-linux.tests = { }; tests = { b = plain "b" "true";')
    result = run(pytester, "--nixos-attr", "tests")
    result.stdout.fnmatch_lines(["*'tests' may mean `packages.x86_64-linux.tests`, too*"])
    assert outcomes(result) == {"error": 1}


def test_an_output_that_is_not_the_derivations_is_not_believed(
    pytester: pytest.Pytester, small_flake: SmallFlake
) -> None:
    small_flake.write('a = plain "a" "true"; b = plain "b" "exit 1" // { out = plain "a" "true"; };')
    assert outcomes(run(pytester)) == {"failed": 1, "passed": 1}


def test_a_timeout_ends_the_driver_and_shows_its_last_lines(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "echo booting; busybox sleep 600"; b = vm "b" "true";')
    started = time.monotonic()
    result = run(pytester, "--nixos-timeout", "1s", "-k", "a")
    assert time.monotonic() - started < 30
    result.stdout.fnmatch_lines(["a was still running after 1 s and was stopped", "| booting"])


def test_a_driver_that_prints_megabytes(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "busybox yes 0123456789 | busybox head -c 20000000; exit 1";')
    started = time.monotonic()
    result = run(pytester)
    assert time.monotonic() - started < 60
    assert len(result.stdout.str()) < 10_000
    transcripts = list((pytester.path / "cache" / "pytest-nixos" / "artifacts").rglob("transcript.log"))
    assert transcripts[0].stat().st_size > 20_000_000


def test_files_that_a_test_wrote_are_kept_when_it_fails(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "echo picture > shot.png; exit 1"; b = vm "b" "echo x > y";')
    result = run(pytester)
    result.stdout.fnmatch_lines(["hint: artifacts: *"])
    kept = list((pytester.path / "cache" / "pytest-nixos" / "artifacts").rglob("shot.png"))
    assert [path.read_text() for path in kept] == ["picture\n"]


def test_what_streams_with_s(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "echo hello";')
    run(pytester, "-s").stdout.fnmatch_lines(["*a | hello"])


@pytest.mark.parametrize("workers", [(), pytest.param(("-n2",), marks=pytest.mark.xdist)])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{ outputs = { self }: { checks.x86_64-linux = throw "no"; }; }', "*does not evaluate: error: no*"),
        ("{ outputs = ", "*does not evaluate: error: syntax error*"),
        ("{ outputs = { self }: { }; }", "*has no checks in `checks.x86_64-linux`*"),
        ("{ outputs = { self }: { checks.x86_64-linux = { }; }; }", "*has no checks in `checks.x86_64-linux`*"),
    ],
)
def test_a_broken_flake_is_one_collection_error(
    pytester: pytest.Pytester, small_flake: SmallFlake, content: str, message: str, workers: tuple[str, ...]
) -> None:
    (small_flake.folder / "flake.nix").write_text(content)
    pytester.makepyfile("def test_nothing(): pass")
    result = run(pytester, *workers)
    result.stdout.fnmatch_lines(["*ERROR collecting flake/flake.nix*", message])
    assert outcomes(result) == {"error": 1}
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize("workers", [(), pytest.param(("-n2",), marks=pytest.mark.xdist)])
def test_mistakes_are_one_sentence(pytester: pytest.Pytester, nix: object, workers: tuple[str, ...]) -> None:
    result = pytester.runpytest("--nixos-flake", "nowhere", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "there is no flake.nix in" in result.stderr.str() + result.stdout.str()
    result = pytester.runpytest("--nixos-flake", ".", "--nixos-dir=/dev/full/x", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: /dev/full/x/* can't be written: Not a directory"])
    result = pytester.runpytest("--nixos-flake", ".", "--nixos-timeout", "soon", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: 'soon' is not a duration*"])
    result = pytester.runpytest("--nixos-flake", ".", "--nixos-keep-going", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --nixos-keep-going is for native runs*", "*--nixos-mode native"])


def test_without_nix(pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch) -> None:
    small_flake.write('a = plain "a" "true";')
    monkeypatch.setenv("PATH", str(pytester.path))
    result = run(pytester)
    result.stderr.fnmatch_lines(["ERROR: `nix` was not found on PATH"])
    assert leftovers(pytester) == []


def test_the_ini_file_names_flakes_for_plain_pytest(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "true";')
    pytester.makeini("[pytest]\nnixos_flake = flake\n")
    pytester.makepyfile(
        """
        def test_python(nixos_prebuilt, nixos_plan):
            assert nixos_plan.flakes[0].checks[0].check.attr == "a"
        """
    )
    assert outcomes(pytester.runpytest()) == {"passed": 2}
    assert outcomes(pytester.runpytest()) == {"passed": 1, "verified": 1}
    python_only = pytester.runpytest("test_the_ini_file_names_flakes_for_plain_pytest.py")
    assert outcomes(python_only) == {"passed": 1}


def test_fixtures_skip_without_a_flake(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_python(nixos_prebuilt): pass")
    pytester.runpytest().assert_outcomes(skipped=1)


def test_a_flake_by_reference(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "true"; b = plain "b" "true";')
    ref = f"path:{small_flake.folder}"
    assert outcomes(pytester.runpytest("--nixos-flake", ref, f"{ref}::b", "-v")) == {"passed": 1}
    result = pytester.runpytest("--nixos-flake", ref, "-v")
    result.stdout.fnmatch_lines([f"{ref}::a PASSED*", f"{ref}::b VERIFIED*"])


def test_two_flakes_and_an_overridden_input(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = plain "a" "true";')
    other = pytester.path / "other"
    other.mkdir()
    (other / "flake.nix").write_text(
        '{ inputs.small.url = "path:/nowhere"; outputs = { self, small }: {'
        " checks.x86_64-linux.z = small.checks.x86_64-linux.a; }; }"
    )
    result = run(
        pytester, "--nixos-flake", "other", "--nixos-override-input", "small", f"path:{small_flake.folder}", "-v"
    )
    result.stdout.fnmatch_lines(["*flake/flake.nix::a PASSED*", "*other/flake.nix::z PASSED*"])


def test_a_full_disk_loses_no_result(
    pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that can't be written is a warning; the result stands, and the next run runs it again."""
    small_flake.write('a = plain "a" "true";')
    result = run(pytester, "--nixos-records", "/dev/full/records")
    assert outcomes(result) == {"passed": 1}
    result.stdout.fnmatch_lines(["*warning: */dev/full/records can't be written*"])


def test_mode_build_runs_the_check_in_the_sandbox(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write('a = vm "a" "exit 1";')
    assert outcomes(run(pytester, "--nixos-mode", "build")) == {"passed": 1}
    assert os.environ["XDG_CACHE_HOME"].startswith(str(pytester.path))
