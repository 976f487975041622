"""A prompt in the terminal whose lines are run by a guest."""

import shlex

from pytest_nixos.vm.errors import MachineError
from pytest_nixos.vm.guest import Guest
from pytest_nixos.vm.interact import show


def command_prompt(guest: Guest, address: str | None) -> None:
    """Read lines and run each as a command of the guest; its output, and a status other than 0, are shown.

    The folder and the variables of one line are the next one's, too. Raises MachineError for an address.
    """
    if address is not None:
        raise MachineError(f"{guest.name}: the shell is offered in this terminal only", hint="call shell_interact()")
    guest.log_to.info(f"{guest.name}: each line runs in the guest's root shell; ctrl-d ends this")
    state = guest.succeed("mktemp").strip()
    while (line := _line(f"root@{guest.name}# ")) is not None:
        if line.strip():
            status, output = guest.execute(f"{_restored(state)}\n{line}\n", timeout=None)
            show(output.encode())
            print(f"[exit status {status}]" if status else "", end="\n" if status else "", flush=True)
    guest.execute(f"rm -f {state}")


def _restored(state: str) -> str:
    """Shell that takes over folder and variables from the last line, and keeps them for the next one."""
    keep = f'{{ declare -p | grep -v "^declare -[a-z]*r"; printf "cd %q" "$PWD"; }} > {state} 2>/dev/null'
    return f". {state} 2>/dev/null || true; trap {shlex.quote(keep)} EXIT; set +euo pipefail; exec 2>&1"


def _line(prompt: str) -> str | None:
    try:
        return input(prompt)
    except EOFError:
        return None
