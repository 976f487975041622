"""Signatures: ed25519 with keys in Nix's own format, so that `nix key generate-secret` makes one.

A secret key is `NAME:base64(32 bytes of seed, 32 bytes of public key)`, a public one `NAME:base64(32 bytes)`, and a
signature `NAME:base64(64 bytes)`. Source: Nix manual, `nix key`; the seed's place is libsodium's crypto_sign.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

from pytest_nixos.errors import KeyUnusable, ToolMissing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_SEED_BYTES, _PUBLIC_BYTES, _SIGNATURE_BYTES = 32, 32, 64
_HINT = (
    "a key is NAME:BASE64, as `nix key generate-secret --key-name NAME` and `nix key convert-secret-to-public` print"
)


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key that signs, with its public half as text. Its repr shows no secret."""

    name: str
    public: str
    _seed: bytes = field(repr=False)

    def sign(self, data: bytes) -> str:
        """The signature, `NAME:BASE64`. The same data has always the same signature."""
        signature: bytes = _library().Ed25519PrivateKey.from_private_bytes(self._seed).sign(data)
        return f"{self.name}:{base64.b64encode(signature).decode()}"


class Trusted:
    """The public keys whose signatures count."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """keys: public keys as text. Raises KeyUnusable for one that is none, ToolMissing without `cryptography`."""
        self._keys: dict[str, list[Ed25519PublicKey]] = {}
        for text in keys:
            name, public = _split(text, _PUBLIC_BYTES, "public")
            self._keys.setdefault(name, []).append(_library().Ed25519PublicKey.from_public_bytes(public))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def signers(self, data: bytes, signatures: Iterable[str]) -> tuple[str, ...]:
        """The names of the trusted keys that have signed `data`; what is no signature is none."""
        return tuple(dict.fromkeys(s.partition(":")[0] for s in signatures if self._is_signed(data, s)))

    def _is_signed(self, data: bytes, signature: str) -> bool:
        name, _, text = signature.partition(":")
        keys = self._keys.get(name, [])
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return False
        if base64.b64encode(raw).decode() != text:  # one signature, one spelling
            return False
        return len(raw) == _SIGNATURE_BYTES and any(_verifies(key, raw, data) for key in keys)


def parse_secret_key(text: str) -> SecretKey:
    """Raises KeyUnusable; its message never quotes the text."""
    name, raw = _split(text, _SEED_BYTES + _PUBLIC_BYTES, "secret")
    try:
        public = _library().Ed25519PrivateKey.from_private_bytes(raw[:_SEED_BYTES]).public_key().public_bytes_raw()
    except ValueError:
        raise KeyUnusable(f"the secret key {name} can't be used", _HINT) from None
    if public != raw[_SEED_BYTES:]:
        raise KeyUnusable(f"the two halves of the secret key {name} do not belong together", _HINT)
    return SecretKey(name, f"{name}:{base64.b64encode(public).decode()}", raw[:_SEED_BYTES])


def _split(text: str, size: int, kind: str) -> tuple[str, bytes]:
    name, colon, encoded = text.strip().partition(":")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not name or not colon or not name.isprintable() or any(c.isspace() for c in name) or len(raw) != size:
        shown = f" {name}" if colon and kind == "public" else ""
        raise KeyUnusable(f"the {kind} key{shown} is not one of Nix", _HINT)
    return name, raw


def _verifies(key: "Ed25519PublicKey", signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _library() -> ModuleType:
    """Loaded when a key is first used: sessions without signatures need no `cryptography`."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        hint = "pip install cryptography"
        raise ToolMissing("signed records need the Python package `cryptography`", hint) from None
    return ed25519
