"""`--nixos-interactive`: a person at a terminal of its own talks to a check's driver."""

import os
import sys
from pathlib import Path

import pexpect
import pytest

from tests.conftest import SmallFlake
from tests.leftovers import assert_none_left
from tests.plugin.test_checks import records, run

pytestmark = pytest.mark.nix

# A driver that is a prompt of another kind. It waits for ctrl-C in a way that cannot miss it, as input() can.
PROMPT = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("args:", *sys.argv[1:], flush=True)
open("note", "w").write("kept")
while True:
    try:
        print("got", line := input(), flush=True)
        if line == "wait":
            signal.sigwait([signal.SIGINT])
            print("never mind", flush=True)
    except EOFError:
        sys.exit(3)
"""


def write(flake: SmallFlake, more: str = "") -> None:
    driver = flake.folder.parent / "prompt.py"
    driver.write_text(PROMPT)
    flake.write(f'a = vm "a" "exec {sys.executable} {driver} $@"; b = plain "b" "true"; {more}')


def open_prompt(pytester: pytest.Pytester, *args: str) -> "pexpect.spawn[str]":
    argv = ["-m", "pytest", "--nixos-flake", "flake", "--nixos-interactive", *args]
    return pexpect.spawn(
        sys.executable, argv, cwd=str(pytester.path), env=dict(os.environ), encoding="utf-8", timeout=60
    )


@pytest.mark.parametrize("name", ["a", "flake/flake.nix::a"])
def test_a_person_talks_to_the_driver(pytester: pytest.Pytester, small_flake: SmallFlake, name: str) -> None:
    write(small_flake)
    prompt = open_prompt(pytester, name)
    prompt.expect_exact("args: --interactive")
    prompt.sendline("hello")
    prompt.expect_exact("got hello")
    prompt.sendeof()
    prompt.expect(pexpect.EOF)
    prompt.close()
    assert prompt.exitstatus == 1
    assert records(pytester) == []
    [note] = Path(pytester.path, "cache/pytest-nixos/artifacts").glob("*/a-*/note")
    assert note.read_text() == "kept"
    assert_none_left(pytester.path)


def test_ctrl_c_is_the_drivers_own(pytester: pytest.Pytester, small_flake: SmallFlake) -> None:
    write(small_flake)
    prompt = open_prompt(pytester, "a")
    prompt.sendline("wait")
    prompt.expect_exact("got wait")
    prompt.sendintr()
    prompt.expect_exact("never mind")
    prompt.sendline("still here")
    prompt.expect_exact("got still here")
    prompt.sendeof()
    prompt.expect(pexpect.EOF)
    prompt.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [("zebra", "there is no check 'zebra'*"), ("b", "b has no test driver"), ("bad", "bad does not evaluate: *")],
)
def test_what_has_no_machines_is_one_sentence(
    pytester: pytest.Pytester, small_flake: SmallFlake, name: str, words: str
) -> None:
    write(small_flake, 'bad = throw "not yet";')
    result = run(pytester, "--nixos-interactive", name)
    result.stderr.fnmatch_lines([f"ERROR: {words}"])
    assert "Traceback" not in result.stderr.str()
