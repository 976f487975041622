"""Subtests of a check as results of pytest; only the VM is missing from these drivers."""

import pytest

from tests.conftest import SmallFlake

pytestmark = pytest.mark.nix

STEPS = r"""
good = vm "good" ''
  echo "subtest: page"; echo "(finished: subtest: page, in 1.25 seconds)"
  echo "web # subtest: a guest lies"
'';
bad = vm "bad" ''
  echo "subtest: first"; echo "(finished: subtest: first, in 0.25 seconds)"
  echo "subtest: second"; echo "Test \"second\" failed with error: \"no page\""; echo "error: no page"; exit 1
'';
dies = vm "dies" ''echo "subtest: long"; exit 9'';
caught = vm "caught" ''echo "subtest: try"; echo "Test \"try\" failed with error: \"never mind\""'' ;
"""


@pytest.mark.parametrize("workers", [(), pytest.param(("-n2",), marks=pytest.mark.xdist)])
def test_every_subtest_is_a_result(
    pytester: pytest.Pytester, small_flake: SmallFlake, workers: tuple[str, ...]
) -> None:
    small_flake.write(STEPS)
    result = pytester.runpytest("--nixos-flake", "flake", "-v", "--junitxml=junit.xml", *workers)
    lines = result.stdout.str()
    for words in ("SUBPASSED[page]", "SUBPASSED[first]", "SUBFAILED[second]", "SUBFAILED[long]"):
        assert lines.count(words) == 1 + ("SUBFAILED" in words), words  # a failure is in the short summary, too
    assert "subtest `second`: no page" in lines
    assert "subtest `long`: the test driver ended with status 9" in lines
    assert "[a guest lies]" not in lines
    assert "[try]" not in lines
    result.stdout.fnmatch_lines(["*4 failed, 2 passed, 2 subtests passed*"])
    assert "page" in (pytester.path / "junit.xml").read_text()


def test_a_subtest_is_as_long_as_the_driver_says(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write(STEPS)
    pytester.makeconftest("def pytest_runtest_logreport(report): print('lasted', report.when, report.duration)")
    result = pytester.runpytest("--nixos-flake", "flake", "-s", "-k", "good")
    result.stdout.fnmatch_lines(["lasted call 1.25"])


def test_an_expected_failure_covers_its_subtests(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write(STEPS)
    pytester.makeconftest(
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.xfail)"
    )
    result = pytester.runpytest("--nixos-flake", "flake", "-k", "bad")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*1 xfailed*"])


def test_a_failed_subtest_is_no_proof_and_lf_finds_its_check(
    pytester: pytest.Pytester, small_flake: SmallFlake
) -> None:
    small_flake.write(STEPS)
    assert pytester.runpytest("--nixos-flake", "flake").ret == 1
    again = pytester.runpytest("--nixos-flake", "flake", "--lf", "-v")
    again.stdout.fnmatch_lines_random(["*::bad FAILED*", "*::dies FAILED*"])
    again.stdout.no_fnmatch_line("*::good PASSED*")
    verified = pytester.runpytest("--nixos-flake", "flake", "-k", "good or caught")
    verified.stdout.fnmatch_lines(["*2 verified*"])
