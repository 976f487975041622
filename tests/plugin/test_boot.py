"""`nixos_boot` where there is nothing to boot: one clear error each. tests/test_vms.py boots real machines."""

import pytest

from tests.conftest import SmallFlake

pytestmark = pytest.mark.nix

CHECKS = """
a = vm "a" "true";
plain = plain "plain" "true";
bad = throw "not yet";
unbuilt = vm "unbuilt" "true" // { driver = plain "driver" "echo no driver today; exit 3"; };
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zebra", "there is no check 'zebra' in flake"),
        ("plain", "plain has no test driver, and so no machines"),
        ("bad", "bad does not evaluate: error: not yet"),
        ("unbuilt", "the test driver of unbuilt does not build"),
        ("a", "does not start a test driver in a way that is known"),
    ],
)
def test_what_cannot_be_booted_says_why(
    pytester: pytest.Pytester, small_flake: SmallFlake, name: str, words: str
) -> None:
    small_flake.write(CHECKS)
    pytester.makepyfile(f"def test_it(nixos_boot):\n    with nixos_boot({name!r}): pass")
    result = pytester.runpytest("-o", "nixos_flake=flake", "test_what_cannot_be_booted_says_why.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E *{words}*"])


def test_without_a_flake_such_a_test_is_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(nixos_boot): pass")
    pytester.runpytest().assert_outcomes(skipped=1)
