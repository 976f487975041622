"""What a test asks systemd in a guest."""

import re
import shlex

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm.errors import MachineError, MachineTimeout
from pytest_nixos.vm.guest import DEFAULT_SECONDS, Guest, tail

_PROPERTY = re.compile(r"^([^=\n]+)=(.*)$", re.MULTILINE)
_JOURNAL_LINES = 20
_PAUSE_SECONDS = 0.5


class Units(Guest):
    """A guest's systemd, seen from a test script. `user` asks that user's own manager; units are quoted by us."""

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        """Exit status and output of `systemctl Q`; `user` must have a session, or linger."""
        if user is None:
            return self.execute(f"systemctl {q}")
        # A manager of a user is found through its runtime folder, which `su` does not name.
        command = f"XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user {q}"
        return self.execute(f"su -l {shlex.quote(user)} --shell /bin/sh -c {shlex.quote(command)}")

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        """All properties that `systemctl show` knows of a unit; raises MachineError."""
        return properties(self._show(unit, "", user))

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        """One property of a unit; raises MachineError for one that does not exist."""
        found = properties(self._show(unit, f"--property={shlex.quote(property)}", user))
        if property not in found:
            raise MachineError(f"{self.name}: unit {unit} has no property {property}")
        return found[property]

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        """Raise MachineError unless the unit is in this state (ActiveState) now."""
        with self.nested(f"checking if unit {unit} has reached state '{require_state}'"):
            state = self.get_unit_property(unit, "ActiveState")
            if state != require_state:
                self._complain(unit, f"is {state}, not {require_state}", None)

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until a unit is active.

        Raises MachineError at once when it has failed, or is inactive and no job is pending that could start it;
        MachineTimeout when it does not come.
        """
        self.connect()
        deadline = Deadline(timeout, self.deadline)
        with self.nested(f"waiting for unit {unit}" + (f" of user {user}" if user else "")):
            while (state := self._state(unit, user)) != "active":
                if deadline.expired:
                    message = f"{self.name}: unit {unit} is still {state} after {timeout:g} s"
                    raise MachineTimeout(message, detail=self._journal(unit, user))
                self.pause(deadline.within(_PAUSE_SECONDS))

    def start_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """`systemctl start`: exit status and output."""
        return self.systemctl(f"start {shlex.quote(jobname)}", user)

    def stop_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """`systemctl stop`: exit status and output."""
        return self.systemctl(f"stop {shlex.quote(jobname)}", user)

    def _state(self, unit: str, user: str | None) -> str:
        """The unit's state, when there is hope that it will be active."""
        state = self.get_unit_property(unit, "ActiveState", user)
        if state == "failed":
            self._complain(unit, "has failed", user)
        if state == "inactive" and "No jobs" in self.systemctl("list-jobs --full 2>&1", user)[1]:
            # It may have become active between the two questions.
            state = self.get_unit_property(unit, "ActiveState", user)
            if state == "inactive":
                self._complain(unit, "is inactive, and there are no pending jobs", user)
        return state

    def _show(self, unit: str, option: str, user: str | None) -> str:
        status, output = self.systemctl(f"--no-pager show {shlex.quote(unit)} {option}".rstrip(), user)
        if status:
            whose = f" of user {user}" if user else ""
            raise MachineError(
                f"{self.name}: systemctl show {unit}{whose} failed (exit status {status})", detail=output
            )
        return output

    def _complain(self, unit: str, how: str, user: str | None) -> None:
        raise MachineError(f"{self.name}: unit {unit} {how}", detail=self._journal(unit, user))

    def _journal(self, unit: str, user: str | None) -> str:
        """The unit's last words; nothing where there is no journal."""
        which = f"_SYSTEMD_USER_UNIT={unit}" if user else f"--unit={unit}"
        command = f"journalctl --no-pager --output=short-monotonic --lines={_JOURNAL_LINES} {shlex.quote(which)}"
        status, output = self.execute(f"{command} 2>/dev/null", timeout=30)
        return f"its journal's last lines:\n{tail(output)}" if status == 0 else ""


def properties(text: str) -> dict[str, str]:
    """The answer of `systemctl show`: `Name=value` lines."""
    return dict(_PROPERTY.findall(text))
