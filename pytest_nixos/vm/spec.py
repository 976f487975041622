"""What a driver is asked to run: start scripts, VLANs, test script. Pure."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from pytest_nixos.vm.errors import ConfigError

DEFAULT_GLOBAL_TIMEOUT = 7 * 24 * 3600.0
_START_SCRIPT = re.compile(r"run-(.+)-vm")
_ISO_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """A machine: its name, and the command (program and arguments) that starts its QEMU."""

    name: str
    command: tuple[str, ...]

    @property
    def symbol(self) -> str:
        """The machine's name as a Python identifier, as test scripts call it."""
        return re.sub(r"^\d|\W", "_", self.name, flags=re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSpec:
    """A whole test. script is a file; global_timeout is in seconds."""

    machines: tuple[MachineSpec, ...]
    vlans: tuple[int, ...] = ()
    script: str = ""
    global_timeout: float = DEFAULT_GLOBAL_TIMEOUT


def machine_spec(start_script: str, name: str | None = None) -> MachineSpec:
    """A machine from its start script `.../run-<name>-vm`; one that is called otherwise is `machine`."""
    command = tuple(shlex.split(start_script))
    command = command[1:] if command[:1] == ("exec",) else command  # it may be written for a shell
    if not command:
        raise ConfigError("a machine's start script is empty")
    found = _START_SCRIPT.fullmatch(PurePath(command[0]).name)
    return MachineSpec(name=name or (found[1] if found else "machine"), command=command)


def machine_specs(start_scripts: Iterable[str]) -> tuple[MachineSpec, ...]:
    """The machines of several start scripts; raises ConfigError when two have the same name."""
    return distinct(machine_spec(script) for script in start_scripts)


def distinct(machines: Iterable[MachineSpec]) -> tuple[MachineSpec, ...]:
    """The same machines; raises ConfigError when the test script could not tell two of them apart."""
    result = tuple(machines)
    twice = [symbol for symbol, count in Counter(m.symbol for m in result).items() if count > 1]
    if twice:
        raise ConfigError(f"more than one machine is called `{twice[0]}`")
    return result


def parse_config(text: str) -> DriverSpec:
    """The driver's JSON configuration; raises ConfigError for anything that is not one."""
    try:
        config = json.loads(text)
        if config.get("containers"):
            raise ConfigError("the driver's configuration has containers, which are not supported")
        vms = config.get("vms", {})
        return DriverSpec(
            machines=distinct(machine_spec(vm["start_script"], vm.get("name", key)) for key, vm in vms.items()),
            vlans=tuple(int(vlan) for vlan in config.get("vlans", ())),
            script=config.get("test_script") or "",
            global_timeout=_seconds(config.get("global_timeout") or DEFAULT_GLOBAL_TIMEOUT),
        )
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"the driver's configuration cannot be read: {error!r}") from error


def _seconds(duration: object) -> float:
    """Seconds, given as a number or like `PT1H30M` (ISO 8601). Raises ValueError, TypeError."""
    found = _ISO_DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if found is None or not any(found.groups()):
        return float(duration)  # type: ignore[arg-type] # what is none raises
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
