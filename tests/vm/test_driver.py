"""Whole test scripts, in process."""

from pathlib import Path

import pytest

from pytest_nixos.vm.driver import CONSOLES_VARIABLE, retry, transcript
from pytest_nixos.vm.errors import CommandError, MachineTimeout
from tests.vm.conftest import MakeDriver


def test_a_script_finds_its_names(make_driver: MakeDriver) -> None:
    script = """
start_all()
assert machine is web_1 is machines[0] is driver.machines[0]
with subtest("a step"):
    t.assertIn("hi", machine.succeed("echo hi"))
log.info(os.sep)
retry(lambda last: True)
serial_stdout_off(); serial_stdout_on()
machine.shutdown(); join_all()
"""
    driver = make_driver("web-1", script=script)
    driver.run_tests()
    assert [(step.name, step.error) for step in driver.subtests] == [("a step", "")]


def test_the_first_failure_is_kept_and_its_subtest_named(
    make_driver: MakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    script = 'with subtest("bad step"):\n    web.succeed("exit 4")\nweb.succeed("exit 5")\n'
    driver = make_driver("web", "db", script=script)
    with pytest.raises(CommandError, match="exit status 4"):
        driver.run_tests()
    assert "exit status 4" in driver.subtests[0].error
    out = capsys.readouterr().out
    assert "subtest: bad step" in out
    assert 'Test "bad step" failed with error' in out


def test_two_machines_share_a_folder_and_nothing_else(make_driver: MakeDriver) -> None:
    web, db = make_driver("web", "db").machines[::-1]
    assert (web.name, db.name) == ("web", "db")
    assert web.succeed("echo $SHARED_DIR") == db.succeed("echo $SHARED_DIR")
    assert web.succeed("echo $TMPDIR") != db.succeed("echo $TMPDIR")


def test_leaving_stops_and_removes_everything(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("web")
    driver.machines[0].connect()
    process = driver.machines[0]._running.process
    state = driver.machines[0].dirs.state
    driver.release()
    driver.release()
    assert process.status() is not None
    assert not state.exists()
    assert (tmp_path / "out" / "web.console.log").read_bytes().startswith(b"\x1b[2J[    0.1]")


def test_a_machine_can_be_made_on_the_way(make_driver: MakeDriver) -> None:
    driver = make_driver("web")
    extra = driver.create_machine(driver.machines[0].spec.command[0], name="extra")
    assert extra.succeed("echo $TMPDIR").strip().endswith("vm-state-extra")
    driver.release()
    assert not extra.booted


def test_a_console_never_gets_into_a_builds_output(tmp_path: Path) -> None:
    build = Path("/nix/store/abc-vm-test-run-x")
    assert transcript("web", build, {}) is None
    assert transcript("web", tmp_path, {}) == tmp_path / "web.console.log"
    env = {CONSOLES_VARIABLE: str(tmp_path / "c")}
    assert transcript("web", build, env) == tmp_path / "c" / "web.log"


def test_retry_tells_the_last_call() -> None:
    calls: list[bool] = []

    def never(last: bool) -> bool:
        calls.append(last)
        return False

    with pytest.raises(MachineTimeout, match=r"0\.05 s"):
        retry(never, timeout_seconds=0.05)
    assert calls == [False, True]
