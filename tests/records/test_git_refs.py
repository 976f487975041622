"""Names of refs, and what git prints of them: pure, so tried with any input."""

import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.model import Outcome, Verdict
from pytest_nixos.records.naming import name_of
from pytest_nixos.records.stores import git_refs

LAYOUTS = [git_refs.layout_of(prefix) for prefix in ("refs/nixos-verified/v2", "refs/tags/verified-", "refs/tags/a")]
ODD_NAMES = ("", "a..b", "x.lock", "@", "@{", ".x", "a b", "ä~^:?*[\\", "a/b", "-x", "a" * 300, "\udc80", "%2E", "-")


def verdict(check: str, system: str = "x86_64-linux", flags: tuple[str, ...] = ()) -> Verdict:
    paths = [f"/nix/store/{letter * 32}-x" for letter in "abc"]
    return Verdict(
        drv_path=paths[0] + ".drv", out_path=paths[1], driver=paths[2], outcome=Outcome.PASSED,
        finished_at=1.0, seconds=1.0, by="x", check=check, system=system, flags=flags,
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.root)
@given(check=st.text(), system=st.text(max_size=8))
def test_a_ref_gives_back_the_name_of_its_record(layout: git_refs.Layout, check: str, system: str) -> None:
    made = verdict(check, system, ("retried", "tcg"))
    assert layout.name_in(layout.ref_of(made)) == name_of(made)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.root)
def test_git_takes_refs_of_any_check(layout: git_refs.Layout) -> None:
    refs = [layout.ref_of(verdict(name, name)) for name in ODD_NAMES]
    assert len(set(refs)) == len(refs) - 1  # "" is written as "-"
    for ref in refs:
        subprocess.run(["git", "check-ref-format", ref], check=True)
        assert all(len(part) <= 250 for part in ref.split("/"))  # a file, with ".lock"


@pytest.mark.parametrize(
    "prefix",
    [
        "", "refs", "refs/", "-x", "x/y", "refs//x", "refs/x/", "refs/*", "refs/x y", "refs/heads", "refs/heads/x",
        "refs/x..y", "refs/x.lock", "refs/.x", "refs/x.", "refs/a.lock/x", "refs/x\n", "refs/replace", "refs/ä",
    ],
)  # fmt: skip
def test_a_prefix_that_holds_no_records_is_refused(prefix: str) -> None:
    with pytest.raises(PytestNixosError, match="no place for records"):
        git_refs.layout_of(prefix)


def test_what_became_of_a_push() -> None:
    output = (
        b"To file:///x\n*\tabc:refs/v/a\t[new reference]\n=\tabc:refs/v/b\t[up to date]\n-\t:refs/v/c\t[deleted]\n"
        b"!\tabc:refs/v/d\t[rejected] (stale info)\n!\tabc:refs/v/e\t[remote rejected] (cannot lock 'x' (y))\nDone\n"
    )
    results = git_refs.parse_pushed(output)
    assert list(results) == [f"refs/v/{letter}" for letter in "abcde"]
    assert list(results.values()) == ["", "", "", "stale info", "cannot lock 'x' (y)"]


@given(st.binary())
@example(b"!\ta:b\t[rejected]\n")
def test_a_refusal_is_never_taken_for_success(noise: bytes) -> None:
    results = git_refs.parse_pushed(noise + b"\n!\ta:refs/v/d\t[rejected] (stale info)\n")
    assert results["refs/v/d"] == "stale info"
    assert all(git_refs.parse_pushed(b"!\ta:b\t[rejected]\n").values())


@given(st.dictionaries(st.text("0123456789abcdef", min_size=40, max_size=40), st.binary(), max_size=4))
def test_blobs_are_read_whole_or_not_at_all(blobs: dict[str, bytes]) -> None:
    output = b"".join(b"%s blob %d\n%s\n" % (oid.encode(), len(data), data) for oid, data in blobs.items())
    assert git_refs.parse_objects(output) == blobs
    if blobs:
        with pytest.raises(ValueError, match=r"."):
            git_refs.parse_objects(output[:-1])


@settings(max_examples=50)
@given(st.lists(st.text(max_size=9), max_size=30), st.integers(1, 20))
def test_batches_hold_every_ref_once(refs: list[str], longest: int) -> None:
    parts = list(git_refs.batches(refs, longest))
    assert [ref for part in parts for ref in part] == refs
    assert all(len(part) == 1 or sum(map(len, part)) <= longest for part in parts)


@pytest.mark.parametrize(
    ("stderr", "reason", "transient"),
    [
        ("fatal: unable to access 'http://u:p@x/': The requested URL returned error: 503", "The requested URL", True),
        ("fatal: unable to access 'https://x/': Could not resolve host: x", "Could not resolve host: x", True),
        ("Warning: Permanently added 'x'\ngit@x: Permission denied (publickey).\r\nfatal: Could", "git@x: Perm", False),
        ("hint: be careful\nremote: Repository not found.\nfatal: repository 'https://t@x/' not", "Repository", False),
        ("fatal: repository 'https://me:secret@x/r.git/' not found", "repository 'https://x/r.git/' not found", False),
        ("ssh: connect to host x port 22: Connection refused", "ssh: connect to host x port 22: Conn", True),
        ("", "git has failed without a word", False),
    ],
)
def test_git_s_words_as_a_sentence(stderr: str, reason: str, transient: bool) -> None:
    assert git_refs.sentence(stderr).startswith(reason)
    assert "secret" not in git_refs.sentence(stderr)
    assert git_refs.is_transient(stderr) is transient
