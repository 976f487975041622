"""Signed records: only the very bytes that a trusted key has signed have a signer."""

import base64
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nixos.errors import KeyUnusable
from pytest_nixos.model import Outcome, Record
from pytest_nixos.nix.command import Nix
from pytest_nixos.records.sealed import MAX_BYTES, seal, unseal
from pytest_nixos.records.signing import SecretKey, Trusted, parse_secret_key
from tests.records.making import secret_key, verdict

KEY, OTHER = secret_key("ci-1"), secret_key("other-1")
TRUSTED = Trusted([KEY.public])
SEALED = seal(verdict(), [KEY])


def test_round_trip() -> None:
    assert unseal(SEALED, TRUSTED) == Record(verdict=verdict(), signers=("ci-1",))
    assert unseal(seal(verdict(), [KEY, OTHER]), TRUSTED) == Record(verdict=verdict(), signers=("ci-1",))
    assert unseal(seal(verdict(), [OTHER]), TRUSTED) == Record(verdict=verdict())
    assert unseal(seal(verdict()), Trusted()) == Record(verdict=verdict())


def _swapped() -> bytes:
    """The line of one record with the signature of another."""
    return seal(verdict("db")) + SEALED.partition(b"\n")[2]


def _named_as(name: str, by: SecretKey) -> bytes:
    line, _, signature = seal(verdict(), [by]).partition(b"\n")
    return line + b"\n" + name.encode() + b":" + signature.partition(b":")[2]


FORGED = {
    "unsigned": seal(verdict()),
    "signed by a stranger": seal(verdict(), [OTHER]),
    "signed by a stranger under our name": _named_as("ci-1", OTHER),
    "our signature under another name": _named_as("ci-2", KEY),
    "signature of another record": _swapped(),
    "failure made a pass": seal(verdict(outcome=Outcome.FAILED), [KEY]).replace(b'"failed"', b'"passed"'),
    "made younger": SEALED.replace(b"1800000000.0", b"1800000001.0"),
    "flag taken off": seal(verdict(flags=("tcg",)), [KEY]).replace(b'["tcg"]', b"[]"),
    "driver taken off": SEALED.replace(verdict().driver.encode(), b"").replace(b'"driver":""', b'"driver":null'),  # type: ignore[union-attr]
    "blank added": SEALED.replace(b'"v":2', b'"v": 2'),
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED.keys())
def test_a_forged_record_has_no_signer(data: bytes) -> None:
    record = unseal(data, TRUSTED)
    assert record is not None
    assert record.signers == ()


BROKEN = {
    "empty": b"",
    "truncated signature": SEALED[:-10],
    "no last newline": SEALED[:-1],
    "no signature but text": seal(verdict()) + b"trust me\n",
    "empty line": SEALED + b"\n",
    "not ascii": seal(verdict()) + "ü:".encode() + b"A" * 86 + b"==\n",
    "huge": SEALED + SEALED.partition(b"\n")[2] * 100,
    "future schema": SEALED.replace(b'"v":2', b'"v":3'),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_record_is_none(data: bytes) -> None:
    assert unseal(data, TRUSTED) is None


@given(st.binary(max_size=200) | st.integers(0, len(SEALED) - 1).map(lambda n: SEALED[:n] + b"x" + SEALED[n + 1 :]))
def test_no_other_bytes_have_our_signature(data: bytes) -> None:
    record = unseal(data, TRUSTED)
    assert data == SEALED or record is None or not record.signers
    assert len(data) <= MAX_BYTES


def test_a_secret_is_never_shown() -> None:
    secret = base64.b64encode(bytes(range(64))).decode()
    assert "seed" not in repr(KEY)
    with pytest.raises(KeyUnusable) as error:
        parse_secret_key(f"ci-1:{secret}")
    assert secret not in str(error.value)
    assert "halves" in error.value.message


@pytest.mark.parametrize("text", ["", "ci-1", "ci-1:", ":QUJD", "ci-1:AAAA", "ci 1:" + "A" * 86 + "==", "ci-1:ü"])
def test_no_keys(text: str) -> None:
    with pytest.raises(KeyUnusable):
        parse_secret_key(text)
    with pytest.raises(KeyUnusable):
        Trusted([text])


@pytest.mark.nix
def test_keys_of_nix_sign(nix: Nix) -> None:
    secret = nix.run(nix.flake("key", "generate-secret", "--key-name", "host-1")).stdout
    public = nix.run(nix.flake("key", "convert-secret-to-public"), stdin=secret).stdout
    key = parse_secret_key(secret.decode())
    assert key.public == public.decode().strip()
    assert unseal(seal(verdict(), [key]), Trusted([public.decode()])) == Record(verdict=verdict(), signers=("host-1",))


def test_no_program_is_started_for_a_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert seal(verdict(), [KEY]) == SEALED
