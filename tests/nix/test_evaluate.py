import pytest

from pytest_nixos.model import Check, Derivation, EvalFailed, Kind, Node
from pytest_nixos.nix.describe import Described, Names, as_ranges, function, parse_check, parse_line
from pytest_nixos.nix.message import nix_message

OLD = "warning: dirty\n\x1b[31;1merror:\x1b[0m attribute 'foo' missing\n\n       at /flake.nix:1:2:\n"
NEW = "error:\n       … while calling\n         at /f.nix:3:4:\n\n       error: attribute 'foo' missing\n"


EXCERPT = "error: attribute 'a' missing\n  at /f.nix:1:2:\n\n   1| b = trace \"error: only said\" {}.a\n      |\n"
OLD_TRACE = (
    "error: thrown\n\n       … while evaluating 'a'\n\n       at /f.nix:3:4:\n\n            2|\n\n"
    "       … while evaluating 'say'\n\n       at «string»:62:13:\n\n           61|\n"
)
OWN = (
    "error:\n       … while calling 'seq'\n         at «string»:7:4:\n            6| in\n\n"
    "       … from call site\n         at /f.nix:3:4:\n\n"
    "       (stack trace truncated; use '--show-trace' to show the full, detailed trace)\n\n       error: thrown\n"
)


@pytest.mark.parametrize(
    ("stderr", "first", "also"),
    [
        (OLD, "error: attribute 'foo' missing", "at /flake.nix:1:2:"),
        (NEW, "error: attribute 'foo' missing", "at /f.nix:3:4:"),
        (EXCERPT, "error: attribute 'a' missing", "only said"),
        (OWN, "error: thrown", "at /f.nix:3:4:"),
        (OLD_TRACE, "error: thrown", "at /f.nix:3:4:"),
        ("Killed\n", "Killed", "Killed"),
        ("", "", ""),
    ],
)
def test_the_cause_comes_first(stderr: str, first: str, also: str) -> None:
    message = nix_message(stderr)
    assert message.split("\n")[0] == first
    assert also in message
    assert "warning" not in message
    assert "«string»" not in message
    assert "--show-trace" not in message


def test_parse_check() -> None:
    derivation = {
        "drv_path": "/nix/store/a.drv",
        "outputs": {"out": "/nix/store/a"},
        "features": ["kvm"],
        "fixed": False,
    }
    node = {"name": "web", "memory_mib": 512, "cores": 2}
    answer = {
        "attr": "web",
        "derivation": derivation,
        "driver": derivation,
        "nodes": [node],
        "timeout": 60,
        "recorded": True,
    }
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


@pytest.mark.parametrize(
    ("positions", "ranges"),
    [
        ([], []),
        ([4], [range(4, 5)]),
        (range(10000), [range(10000)]),
        (range(9, 3, -1), [range(9, 3, -1)]),
        ([0, 1, 2, 7, 6, 5, 5, 0], [range(3), range(7, 4, -1), range(5, 6), range(1)]),
    ],
)
def test_positions_are_few_ranges(positions: list[int], ranges: list[range]) -> None:
    assert as_ranges(positions) == ranges
    assert [at for part in as_ranges(positions) for at in part] == list(positions)


def test_function_text() -> None:
    assert function("@m@", None).endswith('{ mark = "@m@"; ranges = null; }')
    assert "[ { from = 3; step = (-1); count = 2; } ]" in function("@m@", [3, 2])


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (b'trace: @m@{"names":["a"]}\n', Names(["a"])),
        (b'trace: @m@{"position":3,"attr":"d"}\n', Described(3, {"position": 3, "attr": "d"})),
        (b'trace: {"names":["a"]}\n', None),
        (b'trace: @m@{"names":["a"', None),
        (b"trace: @m@[1]\n", None),
        (b"trace: @m@{}\n", None),
        (b"warning: @m@\n", None),
        (b"\xff\xfe\n", None),
    ],
)
def test_a_line_is_an_answer_or_nothing(line: bytes, meaning: object) -> None:
    assert parse_line(line, "@m@") == meaning
