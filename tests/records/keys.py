"""A key for tests, as `nix key generate-secret` makes them."""

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_nixos.records.signing import parse_secret_key

_SEED = b"a seed of tests, known to all of"
_RAW = Ed25519PrivateKey.from_private_bytes(_SEED).public_key().public_bytes_raw()
SECRET = parse_secret_key(f"ci-1:{base64.b64encode(_SEED + _RAW).decode()}")
PUBLIC = f"ci-1:{base64.b64encode(_RAW).decode()}"
