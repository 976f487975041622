"""`python -m pytest_nixos.vm` as the plugin starts it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """The drivers' TMPDIR: short enough that their sockets are in it, too."""
    with tempfile.TemporaryDirectory(prefix="pnx-") as folder:
        yield Path(folder)


@pytest.fixture
def start(tmp_path: Path, scratch: Path, start_script: Callable[[str], str]) -> Start:
    """Starts the driver with one machine and a test script."""

    def run(script: str, *options: str, before: str = "", seconds: float = 60, **env: str) -> "subprocess.Popen[str]":
        (tmp_path / "script.py").write_text(script)
        defaults = {
            "startScripts": start_script("web"),
            "testScript": str(tmp_path / "script.py"),
            "globalTimeout": str(seconds),
            "TMPDIR": str(scratch),
            "FAKE_BEFORE": before,
        }
        argv = [sys.executable, "-m", "pytest_nixos.vm", "-o", str(tmp_path / "out"), *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=os.environ | defaults | env, stdout=pipe, stderr=pipe, text=True)

    return run


def left_behind(scratch: Path) -> list[str]:
    """Processes of this test that still run (TMPDIR of each is there), and its temporary files."""
    needle = f"TMPDIR={scratch}".encode()
    found = [str(path) for path in scratch.iterdir()]
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (proc / "environ").read_bytes():
                found.append((proc / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_test_that_passes(start: Start, scratch: Path) -> None:
    with start('web.succeed("true")') as driver:
        out, err = driver.communicate(timeout=20)
    assert (driver.returncode, err) == (0, "")
    assert "web: must succeed: true\n" in out
    assert re.search(r"^\(finished: must succeed: true, in \d+\.\d\d seconds\)$", out, re.MULTILINE)
    assert left_behind(scratch) == []


def test_a_test_that_fails_says_where(start: Start, tmp_path: Path, scratch: Path) -> None:
    with start('def check():\n    web.succeed("exit 3")\n\ncheck()\n') as driver:
        _, err = driver.communicate(timeout=20)
    assert driver.returncode == 1
    script = tmp_path / "script.py"
    assert err.startswith("error: web: command `exit 3` failed (exit status 3)\n")
    assert err.endswith(f'  {script}, line 4: check()\n  {script}, line 2: web.succeed("exit 3")\n')
    assert left_behind(scratch) == []


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("assert 1 == 2", "error: assertion failed: assert 1 == 2"),
        ("x = (", "line 1: x = ("),
        ("nonsense", "error: NameError: name 'nonsense' is not defined"),
        ("raise SystemExit(3)", "error: SystemExit: 3"),
    ],
)
def test_errors_of_the_script_itself(start: Start, script: str, words: str) -> None:
    with start(script) as driver:
        _, err = driver.communicate(timeout=20)
    assert words in err
    assert driver.returncode == (3 if "SystemExit" in script else 1)


@pytest.mark.parametrize("script", ['web.succeed("sleep 60")', "import time\nweb.connect()\ntime.sleep(60)"])
def test_the_global_timeout_ends_everything(start: Start, scratch: Path, script: str) -> None:
    with start(script, seconds=1, before="echo a clue") as driver:
        _, err = driver.communicate(timeout=20)
    assert driver.returncode == 124
    assert "error: the time for the whole test, 1 s, is over" in err
    assert "  | a clue" in err
    assert left_behind(scratch) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_everything_even_when_the_script_catches_all(
    start: Start, scratch: Path, number: signal.Signals, status: int
) -> None:
    script = "while True:\n    try: web.succeed('echo up >&2; sleep 60')\n    except Exception: pass\n"
    with start(script) as driver:
        wait_for(driver, "web # up")
        driver.send_signal(number)
        _, err = driver.communicate(timeout=20)
    assert driver.returncode == status
    assert f"stopped by {number.name}" in err
    assert left_behind(scratch) == []


def test_a_killed_driver_leaves_no_process(start: Start, scratch: Path) -> None:
    vlans = "1" if shutil.which("vde_switch") else ""
    with start("web.succeed('echo up >&2; sleep 60')", vlans=vlans) as driver:
        wait_for(driver, "web # up")
        assert any("run-web-vm" in line for line in left_behind(scratch))
        driver.kill()
    deadline = time.monotonic() + 5
    while (rest := [x for x in left_behind(scratch) if "run-web" in x or "vde" in x]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert rest == []


def test_the_json_configuration_instead_of_the_environment(start: Start, tmp_path: Path) -> None:
    script = shutil.copy(Path(__file__).parent / "run-fake-vm", tmp_path / "anything")
    (tmp_path / "test.py").write_text("other.succeed('true')")
    config = {"vms": {"other": {"start_script": str(script)}}, "test_script": str(tmp_path / "test.py")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with start("", "--config", str(tmp_path / "config.json"), testScript="") as driver:
        out, _ = driver.communicate(timeout=20)
    assert driver.returncode == 0
    assert "other: must succeed: true" in out


def test_the_script_may_be_given_by_name(start: Start, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("print('the other one')\n")
    out, _ = start("raise SystemExit(3)", "--test-script", str(tmp_path / "other.py")).communicate(timeout=60)
    assert "the other one" in out


def test_a_configuration_is_the_whole_test(start: Start, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("print('the other one')\n")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"test_script": str(tmp_path / "other.py"), "global_timeout": 60}))
    run = start("raise SystemExit(3)", "--config", str(config), seconds=0.001)  # as variables
    assert "the other one" in run.communicate(timeout=60)[0]


def test_subtests_are_written_as_junit_xml(start: Start, tmp_path: Path) -> None:
    script = "with subtest('good'):\n    pass\nwith subtest('bad'):\n    web.succeed('exit 2')\n"
    with start(script, "--junit-xml", str(tmp_path / "junit.xml")) as driver:
        driver.communicate(timeout=20)
    cases = ElementTree.parse(tmp_path / "junit.xml").iter("testcase")
    assert [(case.get("name"), case.find("failure") is None) for case in cases] == [
        ("good", True),
        ("bad", False),
        ("test script", False),
    ]


def test_kept_state_is_there_for_the_next_run(start: Start, tmp_path: Path) -> None:
    for command in ("touch $TMPDIR/kept", "test -e $TMPDIR/kept"):
        with start(f"web.succeed('{command}')", "-K") as driver:
            driver.communicate(timeout=20)
        assert driver.returncode == 0


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"testScript": "/no/such"}, "there is no test script /no/such"),
        ({"testScript": ""}, "no test script is given"),
        ({"vlans": "x"}, "configuration cannot be read"),
        ({"startScripts": "run-a-vm run-a-vm"}, "more than one machine is called `a`"),
        ({"startScripts": "/no/run-a-vm"}, "/no/run-a-vm cannot be started: No such file"),
    ],
)
def test_a_wrong_start_is_one_clear_error(start: Start, env: dict[str, str], words: str) -> None:
    with start("start_all()", **env) as driver:
        _, err = driver.communicate(timeout=20)
    assert driver.returncode == 1
    assert err.startswith("error: ")
    assert words in err


def wait_for(driver: "subprocess.Popen[str]", line: str) -> None:
    assert driver.stdout
    for text in driver.stdout:
        if text.rstrip() == line:
            return
    pytest.fail(f"the driver ended before it printed {line!r}")


def test_a_failure_leaves_the_journal_and_asks_no_shell_that_hangs(start: Start, tmp_path: Path) -> None:
    """The guest of these tests is a bash of the host, whose journal this stands in for."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"journalctl": "echo words of the journal", "test": "exit 0"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    failed = start("web.succeed('enable -n test; exit 7')", PATH=path, BASH_ENV=str(_without_builtin(tmp_path)))
    assert failed.wait(60) == 1
    assert (tmp_path / "out" / "web.journal.log").read_text() == "words of the journal\n"
    (tmp_path / "out" / "web.journal.log").unlink()
    began = time.monotonic()
    hung = start("web.connect(); raise driver.machines[0]._late('waiting', 1)", PATH=path)
    assert hung.wait(60) == 1
    assert time.monotonic() - began < 20
    assert not (tmp_path / "out" / "web.journal.log").exists()


def _without_builtin(folder: Path) -> Path:
    """A file that makes bash take `test` from PATH: these machines need not run systemd."""
    (folder / "bash_env").write_text("enable -n test\n")
    return folder / "bash_env"
