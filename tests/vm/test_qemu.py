import shlex
from pathlib import Path

from pytest_nixos.vm import qemu

DIRS = qemu.MachineDirs(state=Path("/t/vm-state-web"), shared=Path("/t/shared"), sockets=Path("/t/a b,c"))


def test_the_callers_options_come_last_and_win() -> None:
    env = qemu.environment({"QEMU_OPTS": "-accel tcg"}, "web", DIRS, {}, allow_reboot=False)
    assert env["QEMU_OPTS"].endswith(" -nographic -accel tcg")


def test_paths_survive_the_shell_and_qemus_commas() -> None:
    words = shlex.split(qemu.environment({}, "web", DIRS, {}, allow_reboot=False)["QEMU_OPTS"])
    assert "socket,id=shell,path=/t/a b,,c/sh" in words
    assert "unix:/t/a b,,c/qmp" in words


def test_reboot_and_display_are_options() -> None:
    plain = qemu.options(DIRS, allow_reboot=False, display=False)
    other = qemu.options(DIRS, allow_reboot=True, display=True)
    assert set(plain) - set(other) == {"-no-reboot", "-nographic"}


def test_the_start_script_is_told_where_everything_is() -> None:
    env = qemu.environment({"HOME": "/h"}, "web", DIRS, {3: Path("/t/v3")}, allow_reboot=False)
    assert env["HOME"] == "/h"
    assert env["NIX_DISK_IMAGE"] == "/t/vm-state-web/web.qcow2"
    assert (env["TMPDIR"], env["USE_TMPDIR"], env["SHARED_DIR"]) == ("/t/vm-state-web", "1", "/t/shared")
    assert env["QEMU_VDE_SOCKET_3"] == "/t/v3"


def test_cards_on_vlans_are_told_from_user_networking() -> None:
    assert qemu.vlan_cards(
        "virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\r\n"
        " \\ user.0: index=0,type=user,net=10.0.2.0,restrict=off\r\n"
        "virtio-net-pci.1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:01:01\r\n"
        " \\ vlan1: index=0,type=vde,sock=/tmp/v1,fd=10\r\n"
    ) == ["virtio-net-pci.1"]
