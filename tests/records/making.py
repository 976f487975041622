"""Subjects, verdicts and keys for the tests of records."""

import base64
import dataclasses
import random
import string
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_nixos.deadline import Deadline
from pytest_nixos.model import Derivation, Outcome, Subject, Verdict
from pytest_nixos.records.signing import SecretKey, parse_secret_key
from pytest_nixos.records.stores.base import Found, RecordStore

NOW = 1_800_000_000.0
_ALPHABET = "".join(c for c in string.digits + string.ascii_lowercase if c not in "eotu")


def store_path(name: str) -> str:
    """A store path whose hash follows from the name."""
    return f"/nix/store/{''.join(random.Random(name).choices(_ALPHABET, k=32))}-{name}"


def subject(name: str = "web", *, driver: bool = True, **changes: object) -> Subject:
    """A check's subject; all of its paths follow from the name."""
    derivation = Derivation(drv_path=store_path(f"{name}.drv"), outputs={"out": store_path(f"out-{name}")})
    made = Subject(
        check=name,
        system="x86_64-linux",
        derivation=derivation,
        driver=store_path(f"driver-{name}") if driver else None,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def verdict(of: Subject | str = "web", **changes: object) -> Verdict:
    """A pass of the subject, or of the one by that name."""
    of = subject(of) if isinstance(of, str) else of
    made = Verdict(
        drv_path=of.derivation.drv_path,
        out_path=of.derivation.out_path,
        driver=of.driver,
        outcome=Outcome.PASSED,
        finished_at=NOW,
        seconds=12.5,
        by="me@ci",
        check=of.check,
        system=of.system,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def secret_key(name: str = "ci-1") -> SecretKey:
    """A key that follows from its name."""
    seed = random.Random(name).randbytes(32)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return parse_secret_key(f"{name}:{base64.b64encode(seed + public).decode()}")


class EmptyStore(RecordStore):
    """A store that has nothing and takes nothing; tests give it what they need."""

    def lookup(self, wanted: Sequence[Subject], deadline: Deadline) -> Found:
        raise NotImplementedError

    def write(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        raise NotImplementedError

    def renew(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        raise NotImplementedError

    def every(self, deadline: Deadline) -> Found:
        raise NotImplementedError

    def remove(self, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
        raise NotImplementedError
