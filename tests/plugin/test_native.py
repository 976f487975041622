"""`--nixos-mode native`: a check's test script in pytest's process, on machines without a VM."""

import os
import sys

import pexpect
import pytest

from tests.leftovers import assert_none_left
from tests.plugin.conftest import Checks
from tests.plugin.test_checks import outcomes, records, run

pytestmark = pytest.mark.nix


@pytest.mark.parametrize("workers", [(), pytest.param(("-n2",), marks=pytest.mark.xdist)])
def test_scripts_run_and_their_subtests_are_results(
    pytester: pytest.Pytester, checks: Checks, workers: tuple[str, ...]
) -> None:
    checks.add("good", 'with subtest("greets"):\n    assert web.succeed("echo hi") == "hi\\n"\n')
    bad = checks.add(
        "bad", 'web.succeed("true")\nwith subtest("breaks"):\n    web.succeed("echo why; exit 7")\nprint(1)\n'
    )
    result = run(pytester, "--nixos-mode=native", "-v", *workers)
    text = result.stdout.str()
    assert "SUBPASSED[greets]" in text
    assert "SUBFAILED[breaks]" in text
    assert "error: web: command `echo why; exit 7` failed (exit status 7)" in text
    assert f'{bad}, line 3: web.succeed("echo why; exit 7")' in text
    assert "| why" in text
    result.stdout.fnmatch_lines(["*2 failed, 1 passed, 1 subtests passed*"])
    [transcript] = pytester.path.glob("cache/pytest-nixos/artifacts/*/*/transcript.log")
    assert "web: must succeed: echo why; exit 7" in transcript.read_text()
    assert_none_left(pytester.path)


def test_nothing_is_recorded_but_failures(pytester: pytest.Pytester, checks: Checks) -> None:
    checks.add("good", "web.start()")
    for _ in range(2):
        assert outcomes(run(pytester, "--nixos-mode=native")) == {"passed": 1}
    assert records(pytester) == []


def test_it_can_go_on_behind_a_failed_subtest(pytester: pytest.Pytester, checks: Checks) -> None:
    steps = "".join(f'with subtest("step {n}"):\n    assert {n} != 1\n' for n in range(3))
    checks.add("steps", steps)
    stops = run(pytester, "--nixos-mode=native", "-v").stdout.str()
    assert "step 1" in stops
    assert "step 2" not in stops
    goes_on = run(pytester, "--nixos-mode=native", "--nixos-keep-going", "-v")
    text = goes_on.stdout.str()
    assert "SUBFAILED[step 1]" in text
    assert "SUBPASSED[step 2]" in text
    assert "1 of 3 subtests have failed: step 1" in text
    goes_on.stdout.fnmatch_lines(
        ["subtest `step 1`: assertion failed: assert 1 != 1", "*steps-script, line 4: assert 1 != 1"]
    )
    assert goes_on.ret == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit(3)", "error: SystemExit: 3"),
        ("1 +", "error: SyntaxError: *"),
        ("raise OSError('no such luck')", "error: OSError: no such luck"),
        ("web.succeed('sleep 60', timeout=1)", "error: web: command `sleep 60` did not end within 1 s"),
        ("web.succeed('kill -9 $FAKE_PID; sleep 9')", "error: web: QEMU ended with signal 9 while command *"),
    ],
)
def test_every_end_of_a_script_is_a_result(pytester: pytest.Pytester, checks: Checks, script: str, words: str) -> None:
    checks.add("ends", script)
    result = run(pytester, "--nixos-mode=native")
    assert outcomes(result) == {"failed": 1}
    result.stdout.fnmatch_lines([words])
    assert_none_left(pytester.path)


def test_a_script_that_ends_itself_well_has_passed(pytester: pytest.Pytester, checks: Checks) -> None:
    checks.add("ends", "import sys; sys.exit(0)")
    assert outcomes(run(pytester, "--nixos-mode=native")) == {"passed": 1}


def debug(pytester: pytest.Pytester, *args: str) -> "pexpect.spawn[str]":
    argv = ["-m", "pytest", "--pdb", *args]
    env = dict(os.environ, PYTHON_COLORS="0")
    return pexpect.spawn(sys.executable, argv, cwd=str(pytester.path), env=env, encoding="utf-8", timeout=60)


def test_a_debugger_finds_the_machines_up(pytester: pytest.Pytester, checks: Checks) -> None:
    script = checks.add("bad", 'word = "why"\nweb.succeed(f"echo {word}; exit 7")\n')
    prompt = debug(pytester, "--nixos-flake", "flake")
    prompt.expect(r"nixos: up until you leave the prompt: web \(QEMU's pid \d+\)")
    prompt.expect_exact("web.shell_interact() for a shell")
    prompt.expect_exact(f"{script}, line 2: web.succeed")
    prompt.expect_exact("(Pdb) ")
    prompt.sendline("web.succeed(f'echo {word}-$((6*7))')")
    prompt.expect_exact("why-42")
    prompt.expect_exact("(Pdb) ")
    prompt.sendline("web.shell_interact()")
    prompt.expect_exact("root@web# ")
    prompt.sendline("echo $((40+3))")
    prompt.expect_exact("43")
    prompt.sendeof()
    prompt.expect_exact("(Pdb) ")
    prompt.sendline("c")
    prompt.expect_exact("1 failed")
    prompt.expect(pexpect.EOF)
    prompt.close()
    assert_none_left(pytester.path)
    assert records(pytester) == []


def test_a_debugger_finds_the_machines_of_a_test_in_python(pytester: pytest.Pytester, checks: Checks) -> None:
    checks.add("good", "")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.nixos("good")
        def test_it(nixos):
            [web] = nixos.machines
            web.succeed("exit 7")
    """)
    prompt = debug(pytester, "-o", "nixos_flake=flake", "test_a_debugger_finds_the_machines_of_a_test_in_python.py")
    prompt.expect(r"nixos: up until you leave the prompt: web \(QEMU's pid \d+\)")
    prompt.expect_exact("(Pdb) ")
    prompt.sendline("q")
    prompt.expect(pexpect.EOF)
    prompt.close()
    assert_none_left(pytester.path)
