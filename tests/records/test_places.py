import pytest

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.records.places import Push, Terms, parse_place, without_credentials


def test_a_plain_folder_keeps_everything() -> None:
    place = parse_place("/var/lib/re%20cords&odd")
    assert (place.scheme, place.location, place.terms) == ("dir", "/var/lib/re%20cords&odd", Terms(allow=None))


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "gha",
        "nix",
        "/var/lib/records?push=no",
        "gti:origin",
        "https://x.org/cache",
        "git:http://[::1",
        "nix:https://",
        "dir:/a\nb",
    ],
)
def test_what_looks_like_something_else_is_no_folder(uri: str) -> None:
    with pytest.raises(PytestNixosError, match=r"is (not a|no) place for records"):
        parse_place(uri)


@pytest.mark.parametrize(
    ("uri", "location", "options", "terms"),
    [
        ("dir:/srv/records?signed=yes&push=no", "/srv/records", {}, Terms(signed=True, push=Push.NO, allow=None)),
        ("git:https://x.org/r.git", "https://x.org/r.git", {}, Terms(signed=True)),
        ("git:origin?signed=no&allow=tcg,slow", "origin", {}, Terms(allow=frozenset({"tcg", "slow"}))),
        ("git:/r?prefix=refs/a/", "/r", {"prefix": "refs/a/"}, Terms(signed=True)),
        ("gha:", "", {}, Terms()),
        ("gha:?bundle=yes&pull=no", "", {"bundle": "yes"}, Terms(pull=False)),
        ("github-runs:o/r?name=proofs", "o/r", {"name": "proofs"}, Terms()),
        ("nix:https://c.org?priority=3&push=yes", "https://c.org?priority=3", {}, Terms(signed=True, push=Push.YES)),
        ("nix:s3://b?evidence=output&region=x", "s3://b?region=x", {"evidence": "output"}, Terms(signed=True)),
        ("gha:?allow=all", "", {}, Terms(allow=None)),
    ],
)
def test_uris(uri: str, location: str, options: dict[str, str], terms: Terms) -> None:
    place = parse_place(uri)
    assert (place.location, place.options, place.terms) == (location, options, terms)


@pytest.mark.parametrize("uri", ["git:/r?sined=no", "git:/r?signed=maybe", "gha:?push=sometimes", "dir:/x?pull=1"])
def test_what_makes_no_sense_is_refused(uri: str) -> None:
    with pytest.raises(PytestNixosError, match=r"no parameter|no sense"):
        parse_place(uri)


def test_a_password_is_not_shown() -> None:
    assert str(parse_place("git:https://me:secret@x.org/r.git")) == "git:https://x.org/r.git"
    assert str(parse_place("git:git@x.org:r.git")) == "git:git@x.org:r.git"
    assert str(parse_place("git:https://me:sec/ret@x.org:8443/r.git")) == "git:https://x.org:8443/r.git"
    assert str(parse_place("git:https://x.org:8443/a@b.git")) == "git:https://x.org:8443/a@b.git"
    assert "sec" not in without_credentials("error: can't reach 'https://me:sec/ret@x.org/r.git' (https://a:sec@b)")
