"""What goes wrong on purpose: each time a clear failure, in bounded time, with nothing left running."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.vm import guest, qmp, shell
from pytest_nixos.vm.console import Console
from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.errors import CommandError, GlobalTimeout, MachineDied, MachineError, MachineTimeout
from pytest_nixos.vm.log import Log
from pytest_nixos.vm.machine import Machine
from pytest_nixos.vm.process import Process
from pytest_nixos.vm.resources import RunDirs
from pytest_nixos.vm.spec import DriverSpec, machine_specs
from tests.conftest import need
from tests.leftovers import assert_none_left
from tests.vm.conftest import MakeDriver


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Assert that the block ends within this time; a busy machine must be able to do so, too."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def shell_pid(machine: Machine) -> int:
    """The process id of the guest's root shell."""
    return int(machine.succeed("ps -o ppid= -p $PPID"))


def peak_memory(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# What commands print


def test_much_output_comes_whole_and_costs_the_guest_no_memory(machine: Machine) -> None:
    guests_shell = shell_pid(machine)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with within(30):  # 100 MB take 12 s where nothing else runs
        output = machine.succeed("seq 3000000", timeout=60)
    # The answer as base64 and decoded, and the text: 3.4 times its size.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 5 * len(output) / 1024
    assert peak_memory(guests_shell) < 10_000_000
    assert machine.succeed("seq 3000000 | sha256sum").split()[0] == hashlib.sha256(output.encode()).hexdigest()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_binary_output_is_text_with_marks(machine: Machine, locale: str) -> None:
    machine.connect()
    machine._running.shell.send(f"export LC_ALL={locale}\n".encode())
    data = b"\0\xff\xfe\xc3(\x1b[31m\r\n@1=0\n" * 1000
    command = r"for i in $(seq 1000); do printf '\0\xff\xfe\xc3(\x1b[31m\r\n@1=0\n'; done"
    assert machine.succeed(command) == data.decode(errors="replace")


def test_nobody_need_read_what_a_command_prints(machine: Machine, tmp_path: Path) -> None:
    assert machine.execute(f"seq 1000000; touch {tmp_path}/done", check_output=False) == (-2, "")
    deadline = Deadline(10)
    while not (tmp_path / "done").exists():
        assert not deadline.expired
        time.sleep(0.05)
    assert machine.succeed("echo next") == "next\n"


# Shells that are killed or hang


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("kill -9 $PPID", 137),
        ("kill -TERM $PPID; sleep 0.3", 143),
        ("kill -9 $$", 137),
        ("echo x; kill -9 $PPID; sleep 0.1", 137),
        ("exec false", 1),
        ("exec 0<&- 1>&- 2>&-; exit 5", 5),
        ("trap 'exit 9' EXIT; exit 1", 9),
        ("exit 300", 44),
        ("exit x", 2),
        ("return", 2),
        ("ulimit -f 0; seq 10000 > $TMPDIR/f", 153),
    ],
)
@pytest.mark.parametrize("timeout", [None, 20])
def test_a_command_can_end_itself_in_any_way(machine: Machine, command: str, status: int, timeout: int | None) -> None:
    with within(5):
        got, _ = machine.execute(command, timeout=timeout)
        assert got in {status, 128 + 9}  # `timeout` cannot tell it all
        assert machine.succeed("echo next") == "next\n"


def test_who_kills_the_reader_of_a_commands_output_fails(machine: Machine) -> None:
    with within(5):
        machine.fail("pkill -9 -P $(ps -o ppid= -p $PPID) base64; sleep 0.1; seq 100000")
        assert machine.succeed("echo next") == "next\n"


def test_a_shell_that_is_killed_ends_commands_in_time(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_GRACE_SECONDS", 0.2)
    pid = shell_pid(machine)
    with within(5), pytest.raises(MachineTimeout, match=r"after 1 s: command `kill"):
        machine.succeed(f"kill -9 {pid}", timeout=1)
    with within(5), pytest.raises(MachineTimeout, match="after 1 s: command `true`"):
        machine.succeed("true", timeout=1)
    assert machine.booted


def test_a_shell_whose_end_systemd_tells_of_ends_commands_without_a_timeout(machine: Machine) -> None:
    pid = shell_pid(machine)
    word = "[   22.7] systemd[1]: backdoor.service: Main process exited, code=killed, status=9/KILL"
    with within(5), pytest.raises(MachineDied, match="the guest's root shell has ended while command `echo"):
        machine.succeed(f"echo '{word}' >&2; kill -9 {pid}; sleep 60")
    with within(5), pytest.raises(MachineDied, match="the guest's root shell has ended while command `true`"):
        machine.succeed("true")


def test_what_a_shell_has_said_before_its_end_counts(machine: Machine) -> None:
    word = "systemd[1]: backdoor.service: Main process exited, code=exited, status=129/n/a"
    assert machine.succeed(f"echo '{word}' >&2; sleep 0.5; echo fine") == "fine\n"
    assert machine.succeed("echo fine") == "fine\n"


def test_a_console_is_read_from_our_own_transcript(make_driver: MakeDriver) -> None:
    one = make_driver("web").machines[0]
    one.succeed("echo mine >&2")
    other = one.transcript.with_name("other")
    other.write_text("theirs\n" * 100)
    other.rename(one.transcript)
    one.succeed("echo more >&2")
    one.wait_for_console_text("more", timeout=10)
    assert "theirs" not in one.get_console_log()


def test_a_shell_that_hangs_ends_commands_in_time_and_is_usable_when_it_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "_GRACE_SECONDS", 0.2)
    pid = shell_pid(machine)
    os.kill(pid, signal.SIGSTOP)
    for command in ("echo late", "echo later"):
        with within(5), pytest.raises(MachineTimeout, match=f"after 1 s: command `{command}`"):
            machine.succeed(command, timeout=1)
    os.kill(pid, signal.SIGCONT)
    assert machine.succeed("echo now", timeout=10) == "now\n"


def test_a_shell_that_hangs_without_a_timeout_ends_with_the_whole_test(make_driver: MakeDriver) -> None:
    machine = make_driver("web", seconds=2).machines[0]
    os.kill(shell_pid(machine), signal.SIGSTOP)
    with within(5), pytest.raises(GlobalTimeout, match="while command `true` was running"):
        machine.succeed("true")


# Consoles


def test_a_flood_on_the_console_holds_up_no_command(machine: Machine) -> None:
    machine.succeed("yes flood >&2 & echo $! > $TMPDIR/pid")
    with within(10):
        assert [machine.succeed("echo here") for _ in range(20)] == ["here\n"] * 20
        machine.wait_for_console_text("^flood$")
    machine.succeed("kill $(cat $TMPDIR/pid); echo dry >&2")
    machine.wait_for_console_text("dry$", timeout=20)


def test_carriage_returns_end_no_line(machine: Machine) -> None:
    machine.succeed(r"printf '10%%\r100%%\nlogin: ' >&2")
    machine.wait_for_console_text("100%", timeout=5)
    with pytest.raises(MachineTimeout):
        machine.wait_for_console_text("0%", timeout=0.7)
    machine.wait_for_console_text("^login: $", timeout=5)


def test_text_without_line_ends_costs_little(machine: Machine) -> None:
    machine.connect()
    with within(10):
        machine.succeed(r"head -c 10000000 /dev/zero | tr '\0' '\r' >&2 & echo")
        machine.succeed("wait; echo; echo the end >&2")
        machine.wait_for_console_text("the end$", timeout=20)


def test_a_full_disk_under_the_transcript_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    console = Console("web", Path("/dev/full"), Log(), lambda line: None, ended.set)
    argv = ["seq", "100000"]
    console.follow(Process(argv, env=os.environ, cwd=Path("/"), stdin=console.stdin, stdout=console.stdout))
    assert ended.wait(10)
    console.close()
    out = capsys.readouterr().out
    assert out.count("transcript cannot be written: [Errno 28] No space left on device") == 1
    assert "web # 100000" in out


# Disks


def test_a_full_disk_in_the_guest_fails_what_writes(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No space left on device"):
        machine.succeed("echo x > /dev/full")
    (tmp_path / "source").write_bytes(b"x" * 100_000)
    with pytest.raises(CommandError, match="No space left on device"):
        machine.copy_from_host_via_shell(str(tmp_path / "source"), "/dev/full")


def test_a_machine_that_dies_while_a_file_is_copied(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "_GUEST_SHARED", str(machine.shared_dir))
    (tmp_path / "source").write_text("x")
    machine.copy_from_host(str(tmp_path / "source"), str(tmp_path / "deep" / "target"))
    assert (tmp_path / "deep" / "target").read_text() == "x"
    os.mkfifo(tmp_path / "nobody reads")
    threading.Timer(0.5, machine.terminate).start()
    with within(5), pytest.raises(MachineDied, match="QEMU ended with exit status 0 while command `cp -r"):
        machine.copy_from_host(str(tmp_path / "source"), str(tmp_path / "nobody reads"))
    assert list(machine.shared_dir.iterdir()) == []
    machine.release()
    assert_none_left(machine.state_dir)


# QEMU that hangs


def stop(machine: Machine) -> None:
    """Have QEMU hang: a process that is just starting another takes a moment to stop."""
    machine.connect()
    assert machine.pid
    os.kill(machine.pid, signal.SIGSTOP)
    deadline = Deadline(10)
    while "State:\tT" not in Path(f"/proc/{machine.pid}/status").read_text():
        assert not deadline.expired
        time.sleep(0.01)


def test_a_qemu_that_hangs_ends_what_asks_it_in_time(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    stop(machine)
    monkeypatch.setattr(qmp, "COMMAND_SECONDS", 0.5)
    with within(5), pytest.raises(MachineError, match=r"no screenshot: .*timed out after 0.5 s"):
        machine.screenshot("x")
    with within(5), pytest.raises(MachineTimeout, match=r"after 0.5 s: monitor command `info status` was running"):
        machine.send_monitor_command("info status")
    assert machine.pid
    os.kill(machine.pid, signal.SIGCONT)
    monkeypatch.setattr(qmp, "COMMAND_SECONDS", 10)
    # The answers that come late, a refusal among them, are nobody's.
    assert machine.send_monitor_command("info version") == ""
    machine.crash()


def test_a_qemu_that_hangs_is_crashed_and_left_all_the_same(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "COMMAND_SECONDS", 0.5)
    stop(machine)
    with within(10):
        machine.crash()
    assert not machine.booted
    assert_none_left(machine.state_dir)
    assert machine.succeed("echo again") == "again\n"


def test_a_qemu_that_promises_to_quit_and_hangs_is_crashed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    stop(machine)
    monkeypatch.setattr(qmp.Qmp, "command", lambda *_: {})
    with within(15):
        machine.crash()
    assert_none_left(machine.state_dir)


# Networks


def test_a_switch_that_dies_fails_the_next_command(make_driver: MakeDriver) -> None:
    need("vde_switch")
    driver = make_driver("web", vlans=(1, 2))
    (web,) = driver.machines
    web.succeed("true")
    os.kill(driver.vlans[1]._process.pid, signal.SIGKILL)
    with within(5), pytest.raises(PytestNixosError, match=r"VLAN 2 is gone: its vde_switch ended with signal 9"):
        web.wait_until_fails("sleep 0.1")


def test_a_script_without_its_switch_has_not_passed(make_driver: MakeDriver) -> None:
    need("vde_switch")
    driver = make_driver("web", vlans=(1,), script="os.kill(vlan1._process.pid, 9); __import__('time').sleep(0.3)")
    with pytest.raises(PytestNixosError, match="VLAN 1 is gone"):
        driver.run_tests()


# Two at once


def test_two_drivers_of_one_user_do_not_meet(start_script: Callable[[str], str], tmp_path: Path) -> None:
    spec = DriverSpec(machines=machine_specs([start_script("web")]), script="")
    env = os.environ | {"TMPDIR": str(tmp_path), "FAKE_BEFORE": ""}
    with Driver(spec, out_dir=tmp_path / "1", env=env) as one, Driver(spec, out_dir=tmp_path / "2", env=env) as two:
        pairs = [(driver.machines[0], str(number)) for number, driver in enumerate((one, two))]
        for machine, name in pairs:
            machine.succeed(f"echo {name} > $NIX_DISK_IMAGE; echo I am {name} >&2")
        for machine, name in pairs:
            assert machine.succeed("cat $NIX_DISK_IMAGE") == f"{name}\n"
            machine.wait_for_console_text(f"I am {name}", timeout=5)
        one.release()
        assert pairs[1][0].succeed("cat $NIX_DISK_IMAGE") == "1\n"


def test_kept_state_is_one_runs_at_a_time(tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path)}
    with RunDirs(["web"], keep=True, env=env) as first:
        with pytest.raises(PytestNixosError, match="another run uses the kept state of these machines") as caught:
            RunDirs(["web"], keep=True, env=env)
        assert "TMPDIR" in caught.value.hint
        RunDirs(["web", "db"], keep=True, env=env).remove()
        RunDirs(["web"], env=env).remove()
        assert first.root.is_dir()
    RunDirs(["web"], keep=True, env=env).remove()


def test_the_kept_state_of_a_run_that_was_killed_is_free(tmp_path: Path) -> None:
    program = (
        "import time; from pytest_nixos.vm.resources import RunDirs\n"
        "dirs = RunDirs(['web'], keep=True); print(dirs.root, flush=True); time.sleep(60)"
    )
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        root = other.stdout.readline().strip()
        with pytest.raises(PytestNixosError, match=root):
            RunDirs(["web"], keep=True, env=env)
        other.kill()
    with RunDirs(["web"], keep=True, env=env) as dirs:
        assert str(dirs.root) == root


# The driver's own end


def test_a_driver_that_nobody_listens_to_ends_all_the_same(start_script: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("web.succeed('yes flood >&2')")
    program = (
        "import sys; from pytest_nixos.vm import cli\n"
        "cli._LAST_SECONDS = cli._LAST_WORDS_SECONDS = 0.5; sys.exit(cli.main())"
    )
    argv = [sys.executable, "-c", program, "-o", str(tmp_path), "--global-timeout", "3", "--start-scripts"]
    argv += [start_script("web"), "--", str(tmp_path / "script.py")]
    env = os.environ | {"TMPDIR": str(tmp_path), "FAKE_BEFORE": ""}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as driver:
        try:
            assert driver.wait(timeout=15) == 124
        finally:
            driver.kill()
    assert_none_left(tmp_path)
