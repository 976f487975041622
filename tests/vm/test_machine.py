"""Machines whose QEMU is tests/vm/run-fake-vm: real processes, sockets and terminals, no VM."""

import base64
import os
import random
import signal
import time
from pathlib import Path

import pytest

from pytest_nixos.vm import process, shell
from pytest_nixos.vm.errors import CommandError, GlobalTimeout, MachineDied, MachineError, MachineTimeout
from pytest_nixos.vm.machine import Machine
from tests.vm.conftest import MakeDriver

PANIC = "echo '[    1.0] Kernel panic - not syncing: no root'"


def test_commands_give_status_and_output(machine: Machine) -> None:
    assert machine.succeed("echo a; echo b >&2", "printf 'c d'") == "a\nc d"
    assert machine.execute("printf x; exit 7") == (7, "x")
    assert machine.execute("printf x; exit 7", check_return=False) == (-1, "x")
    assert machine.execute("seq 10000; exit 3", check_output=False) == (-2, "")  # and nobody reads it
    assert machine.fail("echo no; false") == "no\n"
    assert machine.is_up()


@pytest.mark.parametrize("command", ["false | true", "echo $unset", "false; true", "echo 'unbalanced"])
def test_bash_is_strict_and_a_broken_command_only_fails(machine: Machine, command: str) -> None:
    machine.fail(command)
    assert machine.succeed("echo 'still \"there\"'") == 'still "there"\n'


def test_a_command_that_reads_does_not_swallow_the_next_one(machine: Machine) -> None:
    assert machine.succeed("cat", "echo next") == "next\n"


@pytest.mark.parametrize("size", [0, 1, 499, 500, 501, 1535, 1536, 1537, 3072, 1_000_000])
def test_output_of_any_size_and_bytes_comes_whole(machine: Machine, tmp_path: Path, size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    (tmp_path / "data").write_bytes(data)
    text = machine.succeed(f"base64 -w 0 {tmp_path}/data") if size < 5000 else ""
    assert base64.b64decode(text) == data[: 5000 if size < 5000 else 0]
    assert machine.succeed(f"cat {tmp_path}/data") == data.decode(errors="replace")


@pytest.mark.parametrize(
    "text",
    ["Spawning backdoor root shell...\n", "a\0", "\0", "x" * 500 + "\0y", "x" * 499 + "\0", "@1=0\n@2:1:x\n@3\n"],
)
def test_output_that_looks_like_the_shells_own_words_is_output(machine: Machine, tmp_path: Path, text: str) -> None:
    (tmp_path / "data").write_text(text)
    assert machine.execute(f"cat {tmp_path}/data; exit 3") == (3, text)
    assert machine.succeed("echo next") == "next\n"


@pytest.mark.parametrize(
    ("command", "status"), [("false", 1), ("exit 7", 7), ("nosuchprogram", 127), ("then", 2), ("test -e /nosuch", 1)]
)
def test_a_plain_commands_status_is_its_own(machine: Machine, command: str, status: int) -> None:
    assert machine.execute(command, timeout=None) == (status, "")
    assert machine.succeed("cat", "cd /", "echo next") == "next\n"
    assert machine.succeed("pwd") != "/\n"


def test_a_failure_quotes_command_status_output_and_console(machine: Machine) -> None:
    with pytest.raises(CommandError) as caught:
        machine.succeed("echo out; echo err >&2; exit 9")
    assert caught.value.message == "web: command `echo out; echo err >&2; exit 9` failed (exit status 9)"
    assert "output:\nout" in caught.value.detail
    assert "\nerr" in caught.value.detail


def test_a_failure_that_did_not_come_is_one_too(machine: Machine) -> None:
    with pytest.raises(CommandError, match="unexpectedly succeeded"):
        machine.fail("true")


def test_a_failures_output_is_cut(machine: Machine) -> None:
    with pytest.raises(CommandError) as caught:
        machine.succeed("seq 100000; false")
    assert "\n100000" in caught.value.detail
    assert len(caught.value.detail) < 20_000


def test_the_guest_ends_a_command_that_is_late(machine: Machine) -> None:
    with pytest.raises(CommandError, match="did not end within 1 s"):
        machine.succeed("sleep 30", timeout=1)
    assert machine.succeed("echo fine") == "fine\n"


def test_a_guest_that_does_not_answer_is_no_hang(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_GRACE_SECONDS", 0.1)
    with pytest.raises(MachineTimeout, match=r"after 1 s: command `trap"):
        machine.succeed("trap '' TERM; sleep 1.4 & wait; wait", timeout=1)
    assert machine.succeed("echo fine", timeout=20) == "fine\n"


def test_waiting_ends_with_success_or_in_time(machine: Machine, tmp_path: Path) -> None:
    machine.execute(f"(sleep 0.2; touch {tmp_path}/there) >/dev/null 2>&1 &")
    machine.wait_for_file(f"{tmp_path}/there", timeout=10)
    assert machine.wait_until_fails("echo gone; false") == "gone\n"
    with pytest.raises(MachineTimeout, match=r"`false` has not succeeded after 0.5 s .* exit status 1"):
        machine.wait_until_succeeds("false", timeout=0.5)


def test_a_wait_begins_when_the_guest_is_up(make_driver: MakeDriver, tmp_path: Path) -> None:
    """As upstream has it: a script's short timeouts are not used up by the boot."""
    machine = make_driver("web", before="sleep 1.5").machines[0]
    machine.start()
    third = f"echo >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) = 3 ]"
    machine.wait_until_succeeds(third, timeout=1)
    assert repr(machine) == "<Machine 'web'>"


def test_ports_are_looked_at_from_the_guest(machine: Machine) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        machine.wait_for_open_port(port, timeout=5)
    machine.wait_for_closed_port(port, timeout=5)
    with pytest.raises(MachineTimeout, match="is not open"):
        machine.wait_for_open_port(port, timeout=0.2)


@pytest.mark.parametrize(("number", "words"), [(9, "signal 9"), (15, "exit status 0")])
def test_qemus_end_fails_what_waits_at_once(machine: Machine, number: int, words: str) -> None:
    machine.connect()
    began = time.monotonic()
    with pytest.raises(MachineDied, match=f"QEMU ended with {words} while command") as caught:
        machine.succeed(f"echo last words >&2; sleep 0.1; kill -{number} $FAKE_PID; sleep 60")
    assert time.monotonic() - began < 3
    assert "last words" in caught.value.detail
    assert not machine.is_up()


def test_qemus_end_before_the_guest_is_up_is_told(make_driver: MakeDriver) -> None:
    machine = make_driver("web", before="echo bad option; kill -9 $PPID").machines[0]
    with pytest.raises(MachineDied, match="signal 9"):
        machine.connect()
    assert "bad option" in machine.console_tail(5)


def test_a_panic_fails_what_waits_though_qemu_lives_on(make_driver: MakeDriver) -> None:
    machine = make_driver("web", before=f"{PANIC}; sleep 60").machines[0]
    began = time.monotonic()
    with pytest.raises(MachineDied, match=r"kernel panicked .*no root"):
        machine.succeed("true")
    assert time.monotonic() - began < 3


def test_a_test_may_wait_for_a_panic(make_driver: MakeDriver) -> None:
    machine = make_driver("web", before=f"{PANIC}; sleep 0.3; kill -9 $PPID").machines[0]
    machine.start()
    machine.wait_for_console_text("Kernel panic")
    with pytest.raises(MachineDied, match="signal 9"):
        machine.wait_for_shutdown()


def test_a_hung_panic_ends_the_wait_for_the_end(make_driver: MakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_nixos.vm.machine._PANIC_GRACE_SECONDS", 0.2)
    machine = make_driver("web", before=f"{PANIC}; sleep 60").machines[0]
    machine.start()
    with pytest.raises(MachineDied, match="panicked"):
        machine.wait_for_shutdown()


def test_console_text_is_found_once_over_lines_and_prompts(make_driver: MakeDriver) -> None:
    before = r"printf 'one\r\ntwo\r\nlogin: '; sleep 0.8; echo root; echo two"
    machine = make_driver("web", before=before).machines[0]
    machine.start()
    machine.wait_for_console_text("fake guest")
    machine.wait_for_console_text("^two$")
    machine.wait_for_console_text("^login: $")
    machine.wait_for_console_text("^two$")
    with pytest.raises(MachineTimeout, match="`two` on the console"):
        machine.wait_for_console_text("two", timeout=0.1)
    assert "one\r\ntwo\r\nlogin: root" in machine.get_console_log()


def test_waiting_for_text_ends_with_qemu(make_driver: MakeDriver) -> None:
    machine = make_driver("web", before="sleep 0.2; kill -9 $PPID").machines[0]
    machine.start()
    with pytest.raises(MachineDied, match="signal 9"):
        machine.wait_for_console_text("never")


def test_megabytes_on_the_console_cost_little_and_lose_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    machine.connect()
    began = time.monotonic()
    machine.succeed("seq -f '%.0f xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' 60000 >&2")
    machine.wait_for_console_text("^60000 x", timeout=20)
    assert time.monotonic() - began < 5
    assert len(machine.console_tail(10_000).splitlines()) == 200
    text = (tmp_path / "out" / "web.console.log").read_text()
    assert text.count("\n") == 60001
    assert "web # 31415 xxx" in capsys.readouterr().out


def test_a_guests_escapes_do_not_reach_stdout(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.connect()
    machine.shutdown()
    out = capsys.readouterr().out
    assert "web # [    0.1] fake guest boots" in out
    assert "\x1b" not in out


def test_shutdown_and_start_again(machine: Machine) -> None:
    machine.succeed("true")
    machine.shutdown()
    assert not machine.booted
    machine.shutdown()
    assert machine.succeed("echo again") == "again\n"
    machine.crash()
    assert not machine.is_up()
    assert machine.get_console_log().count("fake guest boots") == 1
    assert machine.transcript.read_text().count("fake guest boots") == 2


def test_shutdown_has_a_deadline(machine: Machine) -> None:
    machine.succeed("true")
    machine._running.shell.send(b"unset -f poweroff; poweroff() { :; }\n")
    with pytest.raises(MachineTimeout, match="power off"):
        machine.shutdown(timeout=0.3)


def test_boot_has_a_deadline(make_driver: MakeDriver) -> None:
    machine = make_driver("web", before="echo stuck; sleep 60").machines[0]
    with pytest.raises(MachineTimeout, match=r"after 0.5 s: booting") as caught:
        machine.connect(timeout=0.5)
    assert "stuck" in caught.value.detail


def test_the_time_for_the_whole_test_ends_every_wait(make_driver: MakeDriver) -> None:
    machine = make_driver("web", seconds=0.5).machines[0]
    with pytest.raises(GlobalTimeout, match="whole test"):
        machine.succeed("sleep 60")


def test_qmp_keeps_events_and_tells_refusals(machine: Machine) -> None:
    machine.start()
    assert machine.send_monitor_command("info version") == ""
    event = machine.wait_for_qmp_event(lambda e: bool(e["data"]["after"] == "human-monitor-command"))
    assert event["event"] == "RESUME"
    with pytest.raises(MachineTimeout, match="QMP event"):
        machine.wait_for_qmp_event(lambda e: False, timeout=0.1)
    with pytest.raises(MachineError, match=r"no screenshot: .*no display"):
        machine.screenshot("x")
    with pytest.raises(MachineError, match="no network card"):
        machine.block()


def test_files_go_both_ways(machine: Machine, tmp_path: Path) -> None:
    data = bytes(range(256)) * 600
    (tmp_path / "source").write_bytes(data)
    machine.copy_from_host_via_shell(str(tmp_path / "source"), f"{tmp_path}/deep/er/target")
    assert (tmp_path / "deep/er/target").read_bytes() == data


def test_a_machine_that_is_not_running_says_so(machine: Machine) -> None:
    with pytest.raises(MachineError, match="not running"):
        machine.send_console("x")


def test_what_is_sent_to_the_console_arrives(make_driver: MakeDriver) -> None:
    machine = make_driver("web", before="read -r line; echo got $line").machines[0]
    machine.start()
    machine.send_console("hello\n")
    machine.wait_for_console_text("^got hello$", timeout=5)


def test_signals_are_told_from_statuses() -> None:
    assert (process.describe(3), process.describe(-9)) == ("exit status 3", "signal 9")


def test_output_of_any_length_comes_whole(machine: Machine) -> None:
    """Around the limits at which an answer takes another form, with bytes that are quoted, and with none."""
    machine.connect()
    numbers = random.Random(5)
    lengths = [*range(4), *range(498, 503), 999, 1000, 1001, 2047, 2048, 2049, 5000]
    for length in lengths:
        for data in (bytes(numbers.randrange(256) for _ in range(length)), b"\0" * length, b"'\\\n$"[:length] * length):
            file = machine.state_dir / "data"
            file.write_bytes(data)
            assert machine.succeed(f"cat {file}") == data.decode(errors="replace"), length
            assert machine.succeed(f"cat < {file}", timeout=20) == data.decode(errors="replace"), length


def test_a_machine_that_has_died_stays_dead_until_somebody_crashes_it(machine: Machine) -> None:
    machine.succeed("true")
    process = machine.process
    assert process
    os.kill(process.pid, signal.SIGKILL)
    while machine.is_up():
        time.sleep(0.01)
    for _ in range(2):
        with pytest.raises(MachineDied, match="signal 9"):
            machine.succeed("true")
        machine.start()
    machine.crash()
    machine.start()
    assert machine.succeed("echo back") == "back\n"


def test_a_machine_that_has_powered_itself_off_can_be_started(machine: Machine) -> None:
    machine.execute("kill -TERM $FAKE_PID; sleep 1", check_return=False)  # to which it ends well
    while machine.is_up():
        time.sleep(0.01)
    with pytest.raises(MachineDied, match="exit status 0"):
        machine.succeed("true")
    machine.start()
    assert machine.succeed("echo back") == "back\n"


def test_a_machine_that_may_not_reboot_says_so(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.start()
    machine.reboot()
    assert "was not called with allow_reboot=True" in capsys.readouterr().out
