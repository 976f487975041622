"""`nixos_boot` where there is nothing to boot: one clear error each. tests/test_vms.py boots real machines."""

import pytest

from tests.conftest import SmallFlake
from tests.plugin.conftest import FAKE

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
        ("flake#none", "flake#none does not build: error: "),
        ("flake#checks.x86_64-linux.plain", "has no bin/run-NAME-vm, so it is no VM: /"),
        ("nowhere#vm", "there is no flake.nix in "),
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


def test_any_package_of_vms_can_be_booted(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    small_flake.write(
        f"""vms = sh "vms" "busybox mkdir -p $out/bin; echo '#!/bin/sh
        exec {FAKE}' > $out/bin/run-host-vm; busybox chmod +x $out/bin/run-host-vm";"""
    )
    pytester.makepyfile("""
        def test_it(nixos_boot):
            with nixos_boot("flake#checks.x86_64-linux.vms") as driver:
                [host] = driver.machines
                assert (host.name, host.succeed("echo hi")) == ("host", "hi\\n")
    """)
    result = pytester.runpytest("-o", "nixos_flake=flake", "test_any_package_of_vms_can_be_booted.py")
    result.assert_outcomes(passed=1)


def test_without_a_flake_such_a_test_is_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(nixos_boot): pass")
    pytester.runpytest().assert_outcomes(skipped=1)
