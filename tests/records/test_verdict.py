import dataclasses
import json

import pytest

from pytest_nixos.model import Outcome, Verdict
from pytest_nixos.records.verdict import MAX_BYTES, encode, parse

HASH = "0c3wy2vz9sqnf9rgf3ynx0cs0cb4rp1n"
GOOD = Verdict(
    drv_path=f"/nix/store/{HASH}-vm-test-run-web.drv",
    out_path=f"/nix/store/{HASH}-vm-test-run-web",
    driver=f"/nix/store/{HASH}-nixos-test-driver-web",
    outcome=Outcome.PASSED,
    finished_at=1_700_000_000.5,
    seconds=12.25,
    by="root@höst",
    check="web ü",
    system="x86_64-linux",
    flags=("tcg",),
)


def altered(**changes: object) -> bytes:
    entry = json.loads(encode(GOOD))
    entry.update(changes)
    return json.dumps({key: value for key, value in entry.items() if value != "gone"}).encode() + b"\n"


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("out_path", [GOOD.out_path, None])
def test_round_trip(outcome: Outcome, out_path: str | None) -> None:
    verdict = dataclasses.replace(GOOD, out_path=out_path, driver=None, outcome=outcome, finished_at=0, by="")
    assert parse(encode(verdict)) == verdict
    assert parse(encode(GOOD)) == GOOD


def test_every_truncation_is_refused() -> None:
    data = encode(GOOD)
    assert all(parse(data[:length]) is None for length in range(len(data)))


BAD = {
    "empty": b"",
    "newline": b"\n",
    "null bytes": bytes(len(encode(GOOD))),
    "no newline": encode(GOOD).rstrip(b"\n"),
    "two records": encode(GOOD) * 2,
    "list": b"[]\n",
    "number": b"1\n",
    "not utf-8": b'{"v":2,"by":"\xff"}\n',
    "huge": b" " * MAX_BYTES + encode(GOOD),
    "deep": b"[" * 3000 + b"\n",
    "older version": altered(v=1),
    "newer version": altered(v=3),
    "version as text": altered(v="1"),
    "version as truth": altered(v=True),
    "no version": altered(v="gone"),
    "no outcome": altered(outcome="gone"),
    "unknown outcome": altered(outcome="skipped"),
    "outcome as list": altered(outcome=["passed"]),
    "no derivation": altered(drv="gone"),
    "no derivation path": altered(drv="web"),
    "derivation without .drv": altered(drv=GOOD.out_path),
    "derivation as number": altered(drv=7),
    "derivation of two lines": altered(drv=GOOD.drv_path.replace("web", "w\nb")),
    "derivation with a command": altered(drv=GOOD.drv_path.replace("web", "$(rm)")),
    "derivation outside of the store": altered(drv="/nix/store/" + "../" * 3 + f"{HASH}-x;.drv"),
    "output as number": altered(out=1),
    "output as text": altered(out="web"),
    "no driver": altered(driver="gone"),
    "driver as text": altered(driver="web"),
    "author with an escape": altered(by="\x1b[2J"),
    "author of two lines": altered(by="a\n::error::b"),
    "time as text": altered(finished_at="1700000000"),
    "time as truth": altered(finished_at=True),
    "negative time": altered(finished_at=-1),
    "infinite time": altered(finished_at=float("inf")),
    "no time": altered(finished_at="gone"),
    "time too large": altered(finished_at=10**400),
    "not a number of seconds": altered(seconds=float("nan")),
    "no author": altered(by="gone"),
    "no check": altered(check="gone"),
    "check with an escape": altered(check="\x1b[2J"),
    "no system": altered(system=None),
    "no flags": altered(flags="gone"),
    "flags as text": altered(flags="tcg"),
    "flag as number": altered(flags=[1]),
    "flag with a plus": altered(flags=["a+b"]),
    "flag of two lines": altered(flags=["tcg\n"]),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_input_is_no_verdict(data: bytes) -> None:
    assert parse(data) is None
