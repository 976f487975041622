import json
import random

import pytest

from pytest_nixos.nix.log import BuildLog, LogLine, Message, Other, Started, Stopped, parse

DRV = "/nix/store/0c3wy2vz9sqnf9rgf3ynx0cs0cb4rp1n-web.drv"


def line(**entry: object) -> bytes:
    return b"@nix " + json.dumps(entry).encode() + b"\n"


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (line(action="start", id=1, type=105, fields=[DRV, "", 1, 1]), Started(1, DRV)),
        (line(action="stop", id=1), Stopped(1)),
        (line(action="result", id=1, type=101, fields=["hello"]), LogLine(1, "hello")),
        (line(action="msg", level=0, msg="\x1b[31;1merror:\x1b[0m bad"), Message(0, "error: bad")),
    ],
)
def test_what_is_understood(data: bytes, event: object) -> None:
    assert parse(data) == event


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain text\n",
        b"@nix ",
        b"@nix {",
        b"@nix []\n",
        b"@nix 1\n",
        b"@nix {}\n",
        b'@nix {"action":"start"}',
        line(action="start", id=1, type=105, fields=[]),
        line(action="start", id="x", type=105, fields=[DRV]),
        line(action="start", id=1, type=105, fields=None),
        line(action="msg", level=None, msg="x"),
        line(action=[], id=1),
        b"@nix " + b"[" * 100_000,
    ],
)
def test_what_is_not_understood_is_other(data: bytes) -> None:
    assert parse(data) == Other(data)


def test_no_input_raises() -> None:
    source = random.Random(7)
    good = line(action="result", id=1, type=101, fields=["hello"])
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(source.randint(1, 5)):
            data[source.randrange(len(data))] = source.randrange(256)
        BuildLog().feed(bytes(data))


def test_a_build_log_knows_who_failed_and_why() -> None:
    log = BuildLog()
    for data in (
        line(action="start", id=1, type=105, fields=[DRV]),
        line(action="result", id=1, type=101, fields=["one"]),
        line(action="result", id=2, type=101, fields=["nobody's"]),
        line(action="stop", id=1),
        line(action="msg", level=0, msg=f"error: builder for '{DRV}' failed with exit code 1"),
        line(action="msg", level=0, msg=f"error: build of '{DRV}' failed"),
    ):
        log.feed(data)
    assert log.failed == {DRV}
    assert list(log.tails[DRV]) == ["one"]
    assert log.errors == [f"error: builder for '{DRV}' failed with exit code 1"]
    assert log.running == {}
