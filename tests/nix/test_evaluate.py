import pytest

from pytest_nixos.model import Check, Derivation, EvalFailed, Kind, Node
from pytest_nixos.nix.evaluate import describe_function, nix_message, parse_check

OLD = "warning: dirty\n\x1b[31;1merror:\x1b[0m attribute 'foo' missing\n\n       at /flake.nix:1:2:\n"
NEW = "error:\n       … while calling\n         at /f.nix:3:4:\n\n       error: attribute 'foo' missing\n"


@pytest.mark.parametrize(
    ("stderr", "first", "also"),
    [
        (OLD, "error: attribute 'foo' missing", "at /flake.nix:1:2:"),
        (NEW, "error: attribute 'foo' missing", "at /f.nix:3:4:"),
        ("Killed\n", "Killed", "Killed"),
        ("", "", ""),
    ],
)
def test_the_cause_comes_first(stderr: str, first: str, also: str) -> None:
    message = nix_message(stderr)
    assert message.split("\n")[0] == first
    assert also in message
    assert "warning" not in message


def test_parse_check() -> None:
    derivation = {
        "drv_path": "/nix/store/a.drv",
        "outputs": {"out": "/nix/store/a"},
        "features": ["kvm"],
        "fixed": False,
    }
    node = {"name": "web", "memory_mib": 512, "cores": 2}
    answer = {"attr": "web", "derivation": derivation, "driver": derivation, "nodes": [node], "timeout": 60}
    made = Derivation(drv_path="/nix/store/a.drv", outputs={"out": "/nix/store/a"}, features=("kvm",))
    expected = Check(
        attr="web", kind=Kind.VM, derivation=made, driver=made,
        nodes=(Node(name="web", memory_mib=512, cores=2),), timeout=60,
    )  # fmt: skip
    assert parse_check(answer) == expected
    assert parse_check({**answer, "driver": None, "nodes": [], "timeout": None}) == Check(
        attr="web", kind=Kind.BUILD, derivation=made
    )
    for wrong in (0, -1, "60", 1.5):
        check = parse_check({**answer, "timeout": wrong})
        assert isinstance(check, Check)
        assert check.timeout is None
    assert parse_check({"attr": "x", "error": "no"}) == EvalFailed(attr="x", message="no")


def test_describe_function_quotes_names() -> None:
    assert describe_function(['a"b', "${c}"]).endswith('[ "a\\"b" "\\${c}" ]')
