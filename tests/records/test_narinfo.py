import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pytest_nixos import proc
from pytest_nixos.nix.command import Nix
from pytest_nixos.records import narinfo
from pytest_nixos.records.marker import Marker
from pytest_nixos.records.narinfo import PathInfo
from pytest_nixos.records.signing import SecretKey, Trusted, parse_secret_key
from pytest_nixos.records.stores.cache_writing import write_cache

CONTENT = b'{"check":"web"}\n'
MARKER = narinfo.text_file("/nix/store", "nixos-verified-web", CONTENT)
OTHER = narinfo.text_file("/nix/store", "other", b"other")


def key_pair(name: str = "test-1") -> tuple[str, str]:
    """A secret and its public key, as Nix writes them."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    secret = base64.b64encode(private.private_bytes_raw() + public).decode()
    return f"{name}:{secret}", f"{name}:{base64.b64encode(public).decode()}"


SECRET, PUBLIC = key_pair()
KEY: SecretKey = parse_secret_key(SECRET)
TRUSTED = Trusted([PUBLIC])
SIGNED = replace(MARKER, url="nar/x.nar", signatures=(KEY.sign(narinfo.fingerprint(MARKER)),))


def nix_json(nix: Nix, *args: str) -> Any:
    return json.loads(nix.run(nix.flake(*args), timeout=60).stdout)


# With the real Nix


def test_a_file_has_the_store_path_that_nix_gives_it(nix: Nix) -> None:
    expression = f"builtins.toFile {json.dumps('nixos-verified-web')} {json.dumps(CONTENT.decode())}"
    answer = proc.run(("nix-instantiate", "--eval", "--json", "--expr", expression), timeout=60).stdout
    path = narinfo.text_file(nix.store_dir, "nixos-verified-web", CONTENT).path
    assert json.loads(answer) == path


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 300])
def test_an_archive_is_what_nix_makes(nix: Nix, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    dumped = proc.run(("nix-store", "--dump", str(tmp_path / "file")), timeout=60).stdout
    assert narinfo.nar_of_file(b"x" * size) == dumped


def test_nix_signs_as_we_do(nix: Nix, tmp_path: Path) -> None:
    """Byte for byte; also of a path with references, one of them to itself."""
    references = tuple(sorted([MARKER.path, OTHER.path]))
    infos = [MARKER, replace(OTHER, ca=None, references=references)]
    write_cache(tmp_path / "cache", [Marker(infos[0], CONTENT), Marker(infos[1], b"other")])
    (tmp_path / "key").write_text(SECRET)
    store = f"file://{tmp_path}/cache"
    for info in infos:
        argv = nix.flake("store", "sign", "--store", store, "-k", str(tmp_path / "key"), info.path)
        nix.run(argv, timeout=60)
        file = tmp_path / "cache" / f"{narinfo.hash_part(info.path)}.narinfo"
        read = narinfo.parse(file.read_bytes())
        assert read is not None
        assert read.signatures == (KEY.sign(narinfo.fingerprint(info)),)
        assert replace(read, signatures=(), url="") == info


def test_nix_takes_what_we_write(nix: Nix, tmp_path: Path) -> None:
    """Nix's other cache gets the same narinfo, with our signature and the content address."""
    write_cache(tmp_path / "ours", [Marker(SIGNED, CONTENT)])
    target = f"file://{tmp_path}/theirs"
    nix.run(nix.flake("copy", "--from", f"file://{tmp_path}/ours", "--to", target, SIGNED.path), timeout=60)
    read = narinfo.parse((tmp_path / "theirs" / f"{narinfo.hash_part(SIGNED.path)}.narinfo").read_bytes())
    assert read is not None
    assert replace(read, url="") == replace(SIGNED, url="")
    verify = nix.flake("store", "verify", "--store", target, "--trusted-public-keys", PUBLIC, SIGNED.path)
    nix.run((*verify, "--sigs-needed", "1"), timeout=60)


def test_what_nix_says_of_paths_is_understood(nix: Nix, tmp_path: Path) -> None:
    write_cache(tmp_path, [Marker(SIGNED, CONTENT)])
    argv = nix.flake("path-info", "--json", "--store", f"file://{tmp_path}", SIGNED.path, OTHER.path)
    read = narinfo.parse_path_info(nix.run(argv, timeout=60).stdout)
    url = f"nar/{narinfo.base32(SIGNED.nar_hash)}.nar"
    assert read == {SIGNED.path: replace(SIGNED, url=url), OTHER.path: None}


# Its forms in other versions

_SRI = "sha256-" + base64.b64encode(MARKER.nar_hash).decode()
_TEXT_HASH = narinfo.parse_hash((MARKER.ca or "").removeprefix("text:"))
_CA_SRI = "sha256-" + base64.b64encode(_TEXT_HASH or b"").decode()
_NAME, _OTHER_NAME = MARKER.path.removeprefix("/nix/store/"), OTHER.path.removeprefix("/nix/store/")
_PLAIN = {"narHash": _SRI, "narSize": MARKER.nar_size, "references": [], "signatures": list(SIGNED.signatures)}
_FORMS: dict[str, Any] = {
    "2.8": [
        {"path": MARKER.path, **_PLAIN, "ca": MARKER.ca},
        {"path": OTHER.path, "valid": False},
    ],
    "old hash": [
        {"path": MARKER.path, **_PLAIN, "narHash": f"sha256:{narinfo.base32(MARKER.nar_hash)}", "ca": MARKER.ca},
        {"path": OTHER.path, "valid": False},
    ],
    "2.19": {MARKER.path: {**_PLAIN, "ca": MARKER.ca}, OTHER.path: None},
    "format 2": {
        "info": {_NAME: {**_PLAIN, "ca": {"method": "text", "hash": _CA_SRI}}, _OTHER_NAME: None},
        "storeDir": "/nix/store",
        "version": 2,
    },
    "hashes in parts": {
        MARKER.path: {
            **_PLAIN,
            "narHash": {"algorithm": "sha256", "format": "base16", "hash": MARKER.nar_hash.hex()},
            "ca": MARKER.ca,
        },
        OTHER.path: None,
    },
}


@pytest.mark.parametrize("form", _FORMS)
def test_every_form_of_path_info_is_understood(form: str) -> None:
    read = narinfo.parse_path_info(json.dumps(_FORMS[form]).encode())
    assert read == {MARKER.path: replace(SIGNED, url=""), OTHER.path: None}


@pytest.mark.parametrize(
    "change",
    [
        {"narHash": "sha256-AAAA"},
        {"narHash": None},
        {"narSize": True},
        {"narSize": "264"},
        {"narSize": -1},
        {"references": None},
        {"references": ["../x"]},
        {"signatures": "all"},
    ],
)
def test_what_is_not_understood_is_left_out(change: dict[str, Any]) -> None:
    assert narinfo.parse_path_info(json.dumps({MARKER.path: {**_PLAIN, **change}}).encode()) == {}


def test_an_unknown_content_address_is_not_none() -> None:
    entry = {**_PLAIN, "ca": {"method": "git", "hash": "x"}}
    info = narinfo.parse_path_info(json.dumps({MARKER.path: entry}).encode())[MARKER.path]
    assert info is not None
    assert info.ca is not None


# Anything else


def test_what_is_written_is_read() -> None:
    assert narinfo.parse(narinfo.write(SIGNED)) == SIGNED
    many = replace(SIGNED, references=tuple(sorted([MARKER.path, OTHER.path])), ca=None)
    assert narinfo.parse(narinfo.write(many)) == many


def test_references_are_in_the_order_that_is_signed() -> None:
    paths = [narinfo.text_file("/nix/store", f"file-{n}", b"").path for n in range(8)]
    backwards = replace(SIGNED, references=tuple(sorted(paths, reverse=True)))
    read = narinfo.parse(narinfo.write(backwards))
    assert read is not None
    assert read.references == tuple(sorted(paths))


def test_what_caches_write_otherwise_is_read() -> None:
    text = narinfo.write(SIGNED).decode()
    assert narinfo.parse(text.replace("References: \n", "References:\n").encode()) == SIGNED
    assert narinfo.parse(text.replace("References: \n", "").encode()) == SIGNED
    assert narinfo.parse((text + "Deriver: unknown-deriver\nX-New: 1\n").replace("X-New", "XNew").encode()) == SIGNED
    nar_hash = f"NarHash: sha256:{MARKER.nar_hash.hex()}\n"
    lines = [nar_hash if line.startswith("NarHash") else line for line in text.splitlines(keepends=True)]
    assert narinfo.parse("".join(lines).encode()) == SIGNED


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n", "\r\n"),
        ("StorePath: /nix/store/", "StorePath: "),
        (f"NarSize: {MARKER.nar_size}", "NarSize: -2"),
        (f"NarSize: {MARKER.nar_size}", "NarSize: ٢"),
        (f"NarSize: {MARKER.nar_size}", "NarSize: 0\nX: "),
        ("NarHash: sha256:", "NarHash: sha512:"),
        ("NarHash: sha256:", "NarHash: sha256:z"),
        ("NarSize: ", "NarSize: 1\nNarSize: "),
        ("StorePath: ", f"StorePath: {OTHER.path}\nStorePath: "),
        ("References: ", "References: ../../etc"),
        ("URL: nar/x.nar\n", ""),
        ("URL", "<html>"),
    ],
)
def test_what_is_wrong_is_no_narinfo(old: str, new: str) -> None:
    damaged = narinfo.write(SIGNED).decode().replace(old, new).encode()
    assert damaged != narinfo.write(SIGNED)
    assert narinfo.parse(damaged) is None


def test_what_is_too_long_is_no_narinfo() -> None:
    assert narinfo.parse(narinfo.write(SIGNED) + b"X: y\n" * narinfo.MAX_BYTES) is None


def is_believed(info: PathInfo | None) -> bool:
    return info is not None and bool(TRUSTED.signers(narinfo.fingerprint(info), info.signatures))


def test_a_cut_narinfo_says_what_was_signed_or_nothing() -> None:
    whole = narinfo.write(SIGNED)
    for length in range(len(whole)):
        read = narinfo.parse(whole[:length])
        assert not is_believed(read) or narinfo.fingerprint(read or OTHER) == narinfo.fingerprint(MARKER)


@given(st.binary())
def test_no_bytes_are_believed(data: bytes) -> None:
    assert not is_believed(narinfo.parse(data))
    assert narinfo.parse_path_info(data) == {}


@given(st.integers(0, len(narinfo.write(SIGNED)) - 1), st.binary(max_size=4), st.integers(0, 40))
def test_a_changed_narinfo_says_what_was_signed_or_nothing(place: int, new: bytes, dropped: int) -> None:
    whole = narinfo.write(SIGNED)
    read = narinfo.parse(whole[:place] + new + whole[place + dropped :])
    assert not is_believed(read) or narinfo.fingerprint(read or OTHER) == narinfo.fingerprint(MARKER)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([MARKER.path, _SRI, _NAME]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["path", "valid", "info", "storeDir", "ca", *_PLAIN, MARKER.path, _NAME]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@given(_JSON)
def test_no_answer_of_nix_is_believed_unless_signed(answer: Any) -> None:
    infos = narinfo.parse_path_info(json.dumps(answer).encode())
    assert not any(is_believed(info) for info in infos.values())


@given(st.binary(min_size=32, max_size=32))
def test_a_hash_is_the_same_in_all_forms(digest: bytes) -> None:
    encoded = base64.b64encode(digest).decode()
    forms = (digest.hex(), narinfo.base32(digest), encoded)
    assert {narinfo.parse_hash(f"sha256:{form}") for form in forms} == {digest}
    assert narinfo.parse_hash(f"sha256-{encoded}") == digest


@given(st.text())
def test_no_text_is_a_hash(text: str) -> None:
    for kind in ("", "sha256:", "sha256-"):
        digest = narinfo.parse_hash(kind + text)
        assert digest is None or len(digest) == 32


def test_a_number_too_large_is_no_hash() -> None:
    assert narinfo.parse_hash("sha256:" + "z" * 52) is None


def test_nix_agrees_on_base_32(nix: Nix) -> None:
    assert shutil.which("nix-hash")
    argv = ("nix-hash", "--type", "sha256", "--to-base32", MARKER.nar_hash.hex())
    assert proc.run(argv, timeout=60).stdout.decode().strip() == narinfo.base32(MARKER.nar_hash)
