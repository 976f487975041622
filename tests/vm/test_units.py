"""systemd as a test script sees it, with a systemctl that says what the test wants it to say."""

from pathlib import Path

import pytest

from pytest_nixos.vm.errors import MachineError, MachineTimeout
from pytest_nixos.vm.machine import Machine
from pytest_nixos.vm.units import properties

# Each call reads the first line of `answers`, and takes it away when there are more.
SYSTEMCTL = """#!/bin/sh
echo "$XDG_RUNTIME_DIR $*" >> {folder}/asked
case "$*" in
  *list-jobs*) cat {folder}/jobs; exit 0 ;;
  *show*nothing*) echo "Failed to get properties"; exit 4 ;;
esac
head -n 1 {folder}/answers | tr ';' '\\n'
[ "$(wc -l < {folder}/answers)" -eq 1 ] || sed -i 1d {folder}/answers
"""


class Guest:
    """A machine, and what its systemctl answers."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self.folder = machine, folder

    def says(self, *answers: str, jobs: str = "No jobs running.") -> Machine:
        (self.folder / "answers").write_text("".join(f"{answer}\n" for answer in answers))
        (self.folder / "jobs").write_text(jobs)
        return self.machine

    @property
    def asked(self) -> list[str]:
        return [line.strip() for line in (self.folder / "asked").read_text().splitlines()]


@pytest.fixture
def guest(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    programs = {
        "systemctl": SYSTEMCTL.format(folder=tmp_path),
        "journalctl": '#!/bin/sh\necho "journal of" "$@"\n',
        "su": '#!/bin/sh\nshift 5\nexec sh -c "$1"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Guest(machine, tmp_path)


def test_a_unit_that_becomes_active_is_waited_for(guest: Guest) -> None:
    guest.says("ActiveState=activating", "ActiveState=activating", "ActiveState=active").wait_for_unit("web.service")
    assert guest.asked == ["--no-pager show web.service --property=ActiveState"] * 3


def test_a_unit_with_a_pending_job_is_waited_for(guest: Guest) -> None:
    machine = guest.says("ActiveState=inactive", "ActiveState=active", jobs="1 web.service start waiting")
    machine.wait_for_unit("web.service", timeout=10)


def test_a_unit_that_came_between_two_questions_is_active(guest: Guest) -> None:
    guest.says("ActiveState=inactive", "ActiveState=active").wait_for_unit("web.service", timeout=0)


@pytest.mark.parametrize(
    ("state", "words"),
    [("failed", "unit web.service has failed"), ("inactive", "is inactive, and there are no pending jobs")],
)
def test_there_is_no_waiting_without_hope(guest: Guest, state: str, words: str) -> None:
    machine = guest.says(f"ActiveState={state}")
    with pytest.raises(MachineError, match=words) as caught:
        machine.wait_for_unit("web.service")
    assert "journal of" in caught.value.detail
    assert "--unit=web.service" in caught.value.detail


def test_a_unit_that_does_not_come_is_told_in_time(guest: Guest) -> None:
    machine = guest.says("ActiveState=activating")
    with pytest.raises(MachineTimeout, match=r"web: unit web.service is still activating after 0.3 s"):
        machine.wait_for_unit("web.service", timeout=0.3)


def test_a_users_unit_is_asked_of_the_users_manager(guest: Guest) -> None:
    machine = guest.says("ActiveState=failed")
    with pytest.raises(MachineError) as caught:
        machine.wait_for_unit("sync.service", user="alice")
    assert guest.asked[0].startswith("/run/user/")
    assert guest.asked[0].endswith(" --user --no-pager show sync.service --property=ActiveState")
    assert "_SYSTEMD_USER_UNIT=sync.service" in caught.value.detail


def test_properties_of_a_unit(guest: Guest) -> None:
    machine = guest.says("Id=web.service;Environment=A=1 B=2;ActiveState=active")
    assert machine.get_unit_info("web.service")["Environment"] == "A=1 B=2"
    assert machine.get_unit_property("web.service", "Id") == "web.service"
    with pytest.raises(MachineError, match="has no property Typo"):
        machine.get_unit_property("web.service", "Typo")
    with pytest.raises(MachineError, match=r"systemctl show nothing failed \(exit status 4\)"):
        machine.get_unit_info("nothing")


def test_a_state_can_be_required(guest: Guest) -> None:
    machine = guest.says("ActiveState=inactive")
    machine.require_unit_state("web.service", "inactive")
    with pytest.raises(MachineError, match=r"unit web\.service is inactive, not active"):
        machine.require_unit_state("web.service")


def test_jobs_and_free_questions(guest: Guest) -> None:
    machine = guest.says("done")
    assert machine.start_job("a b.service") == (0, "done\n")
    assert machine.stop_job("web.service", user="alice") == (0, "done\n")
    assert machine.systemctl("is-active web.service") == (0, "done\n")
    assert guest.asked[0] == "start a b.service"


def test_an_answer_may_have_lines_of_any_kind() -> None:
    assert properties("A=1\n\nnonsense\nB=x=y\nC=\n") == {"A": "1", "B": "x=y", "C": ""}
