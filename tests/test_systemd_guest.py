"""The driver's methods on a real machine with systemd, a screen and a keyboard: one guest for all tests."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nixos.nix.command import Nix
from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.errors import CommandError, MachineDied, MachineError, MachineTimeout
from pytest_nixos.vm.machine import Machine
from pytest_nixos.vm.polling import PollingConditionError
from tests.conftest import need
from tests.machines import driver_of

pytestmark = [pytest.mark.vm, pytest.mark.nix]


@pytest.fixture(scope="module")
def driver(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver with the machine of the example's check `login`."""
    with driver_of(nix, "checks.x86_64-linux.login", ["gate"], tmp_path_factory.mktemp("gate")) as driver:
        yield driver


@pytest.fixture(scope="module")
def gate(driver: Driver) -> Machine:
    """The machine, booted."""
    gate = driver.machines[0]
    gate.wait_for_unit("multi-user.target", timeout=300)
    return gate


def test_units(gate: Machine) -> None:
    gate.require_unit_state("nginx.service")
    info = gate.get_unit_info("nginx.service")
    assert (info["Id"], info["ActiveState"], info["SubState"]) == ("nginx.service", "active", "running")
    assert gate.stop_job("nginx.service") == (0, "")
    assert gate.get_unit_property("nginx.service", "ActiveState") == "inactive"
    with pytest.raises(MachineError, match="is inactive, and there are no pending jobs") as caught:
        gate.wait_for_unit("nginx.service")
    assert "nginx" in caught.value.detail  # its journal
    gate.start_job("nginx.service")
    gate.wait_for_unit("nginx.service")
    assert gate.systemctl("is-enabled no-such.service")[0] != 0
    with pytest.raises(MachineError, match=r"inactive, and there"):
        gate.wait_for_unit("no-such.service")


@pytest.fixture(scope="module")
def alice(gate: Machine) -> str:
    """A user whose own systemd runs."""
    gate.succeed("loginctl enable-linger alice")
    gate.wait_until_succeeds("test -S /run/user/1000/systemd/private", timeout=60)
    gate.wait_for_unit("default.target", user="alice", timeout=60)
    return "alice"


def test_a_users_own_units(gate: Machine, alice: str) -> None:
    gate.systemctl("stop dbus.service dbus.socket", user=alice)
    assert gate.get_unit_property("dbus.socket", "ActiveState", user=alice) == "inactive"
    gate.start_job("dbus.socket", user=alice)
    assert gate.get_unit_info("dbus.socket", user=alice)["ActiveState"] == "active"


def test_the_journal_of_a_unit_that_fails(gate: Machine) -> None:
    gate.succeed("systemd-run --unit=breaks sh -c 'echo I break; exit 4'")
    with pytest.raises(MachineError, match=r"unit breaks\.service has failed") as caught:
        gate.wait_for_unit("breaks.service", timeout=60)
    assert "I break" in caught.value.detail


def test_ports_and_sockets(gate: Machine) -> None:
    gate.wait_for_open_port(80, timeout=60)
    gate.wait_for_open_unix_socket("/run/dbus/system_bus_socket", timeout=60)
    gate.succeed("systemd-run --unit=listens nc -l -u -U /tmp/datagrams")
    gate.wait_for_open_unix_socket("/tmp/datagrams", is_datagram=True, timeout=60)
    gate.wait_for_closed_port(81, timeout=60)
    with pytest.raises(MachineTimeout, match="nothing listens on /tmp/none"):
        gate.wait_for_open_unix_socket("/tmp/none", timeout=0)


def test_a_port_of_the_host_leads_into_the_guest(gate: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gate.forward_port(port, 22)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        assert connection.recv(64).startswith(b"SSH-2.0-OpenSSH")
    with pytest.raises(MachineError, match="cannot be forwarded"):
        gate.forward_port(port, 22)


def test_files_both_ways(gate: Machine, driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data").write_bytes(bytes(range(256)) * 400)
    gate.copy_from_host(str(tmp_path / "folder"), "/root/deep/folder")
    gate.copy_from_host_via_shell(str(tmp_path / "folder" / "data"), "/root/other")
    assert len(set(re.findall("[0-9a-f]{64}", gate.succeed("sha256sum /root/deep/folder/data /root/other")))) == 1
    gate.copy_from_machine("/root/deep", "taken")
    assert (driver.out_dir / "taken/deep/folder/data").read_bytes() == bytes(range(256)) * 400
    gate.wait_for_file("/root/other", timeout=5)


def test_output_of_any_size(gate: Machine) -> None:
    assert len(gate.succeed("head -c 3000000 /dev/zero | tr '\\0' x")) == 3_000_000
    assert gate.execute("printf '\\377\\0'; exit 3") == (3, "�\0")


def test_the_console(gate: Machine) -> None:
    gate.succeed("echo 'line one' > /dev/ttyS0; echo 'line two' > /dev/ttyS0")
    gate.wait_for_console_text("line (one|two)", timeout=30)
    assert "line two" in gate.get_console_log()
    gate.succeed("systemd-run --unit=listener sh -c 'head -n 1 < /dev/ttyS0 > /root/typed'")
    gate.wait_for_unit("listener.service")
    gate.send_console("typed here\n")
    gate.wait_until_succeeds("grep 'typed here' /root/typed", timeout=30)


def test_a_person_at_the_keyboard(gate: Machine) -> None:
    """Log in on tty1 by keys; see it in the guest's own screen buffer, and on the picture."""
    need("tesseract")
    gate.wait_until_tty_matches("1", r"gate login: ", timeout=60)
    gate.wait_for_text(r"gate\s+login", timeout=60)
    gate.send_chars("alice\n")
    gate.wait_until_tty_matches("1", "Password: ", timeout=60)
    gate.send_chars("wonderland\n")
    gate.wait_until_succeeds("loginctl show-seat seat0 -p ActiveSession --value | grep .", timeout=60)
    gate.send_chars("clear; echo UPPER lower 1234567890 '!?{}' > note; cat note\n")
    gate.wait_until_tty_matches("1", re.escape("UPPER lower 1234567890 !?{}"), timeout=60)
    gate.wait_for_text("UPPER lower 1234567890", timeout=60)
    assert len(gate.get_screen_text_variants()) == 2
    assert "UPPER" in gate.get_screen_text() or "UPPER" in gate.get_screen_text_variants()[1]
    with pytest.raises(MachineTimeout, match="`never there` is not on the screen") as caught:
        gate.wait_for_text("never there", timeout=0)
    assert "UPPER" in caught.value.detail
    gate.send_key("ctrl-d")


def test_windows(gate: Machine, alice: str) -> None:
    """A window on a real X server, in what systemd takes for a user's graphical session."""
    gate.succeed("systemd-run Xvfb :0 -extension GLX")
    gate.wait_for_open_unix_socket("/tmp/.X11-unix/X0", timeout=60)
    session = "systemd-run --user -E DISPLAY=:0 -p BindsTo=graphical-session.target"
    gate.succeed(f"runuser -u {alice} -- env XDG_RUNTIME_DIR=/run/user/1000 {session} xev -name 'a fox: 1'")
    gate.wait_for_x(timeout=60)
    gate.wait_for_window("^a fox", timeout=60)
    assert gate.get_window_names() == ["a fox: 1"]
    with pytest.raises(MachineTimeout, match="no window matches `bear` after 0 s") as caught:
        gate.wait_for_window("bear", timeout=0)
    assert "a fox: 1" in caught.value.detail


def test_pictures(gate: Machine, driver: Driver) -> None:
    gate.screenshot("screen")
    assert (driver.out_dir / "screen.png").read_bytes().startswith(b"\x89PNG")
    gate.dump_tty_contents("1")


def test_qemu_itself(gate: Machine) -> None:
    assert "running" in gate.send_monitor_command("info status")
    gate.send_monitor_command("stop")
    assert gate.wait_for_qmp_event(lambda event: event["event"] == "STOP", timeout=30)["event"] == "STOP"
    gate.send_monitor_command("cont")
    assert gate.wait_for_monitor_prompt() == ""
    with pytest.raises(MachineError, match="cannot be sent"):
        gate.send_key("no-such-key")
    with pytest.raises(MachineError, match="no network card on a VLAN"):
        gate.block()


def test_a_condition_that_breaks_meanwhile(gate: Machine, driver: Driver) -> None:
    condition = driver.polling_condition(
        lambda: gate.execute("test -e /root/holds")[0] == 0, seconds_interval=0, description="the file is there"
    )
    gate.succeed("touch /root/holds")
    condition.wait(timeout=10)
    with condition:
        gate.succeed("true")
    with pytest.raises(PollingConditionError, match="the file is there"), condition:
        gate.succeed("rm /root/holds", "true")


def test_time_and_failure(gate: Machine) -> None:
    gate.sleep(0.1)
    with pytest.raises(CommandError, match=r"gate: command `exit 9` failed \(exit status 9\)"):
        gate.succeed("exit 9")
    with pytest.raises(CommandError, match="did not end within 1 s"):
        gate.succeed("sleep 60", timeout=1)


def test_it_ends_well(gate: Machine) -> None:
    """The last test, for it powers the machine off."""
    gate.shutdown()
    assert not gate.booted
    gate.cleanup_statedir()
    assert list(gate.state_dir.iterdir()) == []


def test_switch_root(nix: Nix, tmp_path: Path) -> None:
    with driver_of(nix, "legacyPackages.x86_64-linux.stages", ["stepper"], tmp_path) as driver:
        [stepper] = driver.machines
        stepper.wait_for_unit("initrd.target", timeout=300)
        stepper.succeed("test -e /etc/initrd-release -a -e /sysroot/etc/hostname")
        stepper.execute("touch /run/kept")
        stepper.switch_root()
        stepper.fail("test -e /etc/initrd-release")
        stepper.wait_for_unit("multi-user.target")
        stepper.succeed("test -e /run/kept")
        # A clock that is set makes no command late.
        assert stepper.succeed("date -s 2040-01-01 +%Y; sleep 0.1", timeout=60) == "2040\n"
        assert stepper.execute("sleep 30", timeout=1)[0] == 124
        shell = stepper.get_unit_property("backdoor.service", "MainPID")
        with pytest.raises(MachineDied, match="the guest's root shell has ended while command"):
            stepper.succeed(f"kill -9 {shell}; sleep infinity")
