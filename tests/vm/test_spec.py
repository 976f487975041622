import json

import pytest

from pytest_nixos.vm.errors import ConfigError
from pytest_nixos.vm.spec import MachineSpec, machine_spec, machine_specs, parse_config


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("/nix/store/abc-nixos-vm/bin/run-web-vm", "web"),
        ("run-a-vm-b-vm --flag", "a-vm-b"),
        ("/bin/something", "machine"),
    ],
)
def test_a_start_script_names_its_machine(script: str, name: str) -> None:
    assert machine_spec(script).name == name


@pytest.mark.parametrize(("name", "symbol"), [("web", "web"), ("web-1", "web_1"), ("1st", "_st"), ("é", "_")])
def test_a_machine_is_a_python_identifier(name: str, symbol: str) -> None:
    assert MachineSpec(name=name, command=("x",)).symbol == symbol


def test_two_machines_that_a_script_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match="`a_b`"):
        machine_specs(["run-a.b-vm", "run-a-b-vm"])


def test_the_json_configuration_says_it_all() -> None:
    config = {
        "vms": {"k": {"name": "web", "start_script": "/s/run-k-vm"}},
        "vlans": [1, 2],
        "global_timeout": 7,
        "test_script": "/t",
    }
    spec = parse_config(json.dumps(config))
    assert (spec.machines[0].name, spec.machines[0].command) == ("web", ("/s/run-k-vm",))
    assert (spec.vlans, spec.global_timeout, spec.script) == ((1, 2), 7.0, "/t")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"vms": []}', '{"vms": {"a": {}}}', '{"vlans": ["x"]}', '{"vms": 3}'])
def test_a_broken_configuration_is_one_clear_error(text: str) -> None:
    with pytest.raises(ConfigError, match="configuration"):
        parse_config(text)


def test_containers_are_refused_with_a_reason() -> None:
    with pytest.raises(ConfigError, match="containers"):
        parse_config('{"containers": {"a": {}}}')


@pytest.mark.parametrize(
    ("given", "seconds"), [(7, 7), (1.5, 1.5), ("90", 90), ("PT5M", 300), ("P1DT1H1.5S", 90001.5), (None, 604800)]
)
def test_the_global_timeout_may_be_a_duration(given: object, seconds: float) -> None:
    assert parse_config(json.dumps({"global_timeout": given})).global_timeout == seconds


@pytest.mark.parametrize("given", ["", "P", "PT", "5M", "PT5X", "-PT5M", [5]])
def test_what_is_no_duration_is_refused_or_nothing(given: object) -> None:
    if given:
        with pytest.raises(ConfigError, match="cannot be read"):
            parse_config(json.dumps({"global_timeout": given}))


def test_a_start_script_may_be_written_for_a_shell() -> None:
    assert machine_spec("exec /x/run-web-vm") == machine_spec("/x/run-web-vm")
