"""What wrappers of test drivers would run; the texts are like those that makeWrapper writes."""

import json
from pathlib import Path

import pytest

from pytest_nixos.vm.errors import ConfigError
from pytest_nixos.vm.spec import MachineSpec
from pytest_nixos.vm.wrapper import read

OLDER = """#! /bin/bash -e
PATH=${PATH:+':'$PATH':'}
PATH=${PATH/':''/opt/vde/bin'':'/':'}
PATH='/opt/vde/bin'$PATH
PATH=${PATH#':'}
PATH=${PATH%':'}
export PATH
export startScripts=${startScripts-'/s/run-web-vm/bin/run-web-vm /s/db/bin/run-my-db-vm'}
export testScript='/s/test-script'
export globalTimeout='3600'
export vlans='1 2'
exec -a "$0" "/s/bin/.nixos-test-driver-wrapped"  "$@"
"""
NEWER = """#!/bin/bash -e
exec -a "$0" "/s/bin/.nixos-test-driver-wrapped" --config FOLDER/config.json --unheard-of 5 "$@"
"""
ENV = {"PATH": "/usr/bin:/bin"}


def wrapper(folder: Path, text: str) -> Path:
    file = folder / "nixos-test-driver"
    file.write_text(text.replace("FOLDER", str(folder)))
    return file


def test_the_older_form_sets_variables(tmp_path: Path) -> None:
    wrapped = read(wrapper(tmp_path, OLDER), ENV)
    assert [machine.name for machine in wrapped.spec.machines] == ["web", "my-db"]
    assert wrapped.spec.vlans == (1, 2)
    assert wrapped.spec.global_timeout == 3600
    assert wrapped.env["PATH"].startswith("/opt/vde/bin")


def test_the_newer_form_names_a_file(tmp_path: Path) -> None:
    vms = {"web": {"name": "web", "start_script": "/s/bin/run-web-vm"}}
    (tmp_path / "config.json").write_text(json.dumps({"vms": vms, "vlans": [3], "global_timeout": 60}))
    spec = read(wrapper(tmp_path, NEWER), ENV).spec
    assert spec.machines == (MachineSpec(name="web", command=("/s/bin/run-web-vm",)),)
    assert (spec.vlans, spec.global_timeout) == ((3,), 60)


def test_our_own_form_is_a_module_of_python(tmp_path: Path) -> None:
    text = "#!/bin/bash\nexport startScripts=/s/run-web-vm testScript=/bin/sh\nexec python3 -P -s -m some.driver -K\n"
    spec = read(wrapper(tmp_path, text), ENV).spec
    assert [machine.name for machine in spec.machines] == ["web"]
    assert spec.script == "/bin/sh"


@pytest.mark.parametrize(
    "text",
    [
        "\x7fELF",
        "#!/bin/sh\necho no exec at all\n",
        "#!/bin/sh\nexit 3\n",
        "#!/bin/sh\nexport globalTimeout=soon\nexec driver\n",
        "#!/bin/sh\nexec driver --config /nonexistent\n",
    ],
)
def test_what_is_not_understood_is_an_error_and_is_not_run(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        read(wrapper(tmp_path, text), ENV)
