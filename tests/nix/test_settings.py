"""Which of Nix's settings count, and where they are read from."""

import os
from pathlib import Path

import pytest

from pytest_nixos.nix import settings

Env = dict[str, str]


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Env:
    monkeypatch.setattr(settings, "_own_home", lambda: str(tmp_path / "own"))
    return {"HOME": str(tmp_path / "home"), "NIX_CONF_DIR": str(tmp_path / "etc"), "XDG_CONFIG_DIRS": "/nonexistent"}


COUNTS = [
    "system = riscv64-linux", "extra-experimental-features = ca-derivations", "allow-import-from-derivation = false",
    "store = /elsewhere", "a-setting-of-tomorrow = 1", "pure-eval = false", "max-call-depth = 5",
    "cores 4", "cores=4", "cores", "cores\x0b= 4",  # no settings, but errors
    "include /nonexistent", "system = x\x0bcores = 4",
]  # fmt: skip
DOES_NOT = [
    "", "# system = x", "cores = 4", "extra-substituters = https://a", "  sandbox\t=  true # now", "warn-dirty = false",
    "max-jobs = 4\r",
]  # fmt: skip


@pytest.mark.parametrize("line", COUNTS)
def test_a_line_counts(env: Env, line: str) -> None:
    line = line.encode().decode("unicode_escape")
    assert settings.digest({**env, "NIX_CONFIG": line}) != settings.digest(env)


@pytest.mark.parametrize("line", DOES_NOT)
def test_a_line_does_not_count(env: Env, line: str) -> None:
    line = line.encode().decode("unicode_escape")
    assert settings.digest({**env, "NIX_CONFIG": line}) == settings.digest(env)


def test_what_follows_a_form_feed_is_of_the_same_line(env: Env) -> None:
    one, other = (settings.digest({**env, "NIX_CONFIG": f"system = a\x0ccores = {value}"}) for value in "12")
    assert one != other


PLACES: list[tuple[str, Env]] = [
    ("etc/nix.conf", {}),
    ("home/.config/nix/nix.conf", {}),
    ("own/.config/nix/nix.conf", {}),  # where HOME is another user's
    ("xdg/nix/nix.conf", {"XDG_CONFIG_HOME": "{}/xdg"}),
    ("dirs/nix/nix.conf", {"XDG_CONFIG_DIRS": "/nonexistent:{}/dirs"}),
    ("new/nix.conf", {"NIX_CONFIG_HOME": "{}/new"}),
    ("xdg/nix/nix.conf", {"NIX_CONFIG_HOME": "{}/new", "XDG_CONFIG_HOME": "{}/xdg"}),  # for an old Nix
    ("given/nix.conf", {"NIX_USER_CONF_FILES": "/nonexistent:{}/given/nix.conf"}),
    ("home/.local/share/nix/trusted-settings.json", {}),
    ("data/nix/trusted-settings.json", {"XDG_DATA_HOME": "{}/data"}),
    ("data/trusted-settings.json", {"NIX_DATA_HOME": "{}/data"}),
]


@pytest.mark.parametrize(("place", "more"), PLACES)
def test_a_file_is_read(env: Env, tmp_path: Path, place: str, more: Env) -> None:
    env = env | {name: value.format(tmp_path) for name, value in more.items()}
    before = settings.digest(env)
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("system = x\n")
    assert settings.digest(env) != before


def test_the_user_files_of_the_variable_replace_the_others(env: Env, tmp_path: Path) -> None:
    (tmp_path / "home/.config/nix").mkdir(parents=True)
    (tmp_path / "home/.config/nix/nix.conf").write_text("system = x")
    assert settings.digest({**env, "NIX_USER_CONF_FILES": ""}) != settings.digest(env)


@pytest.mark.parametrize("word", ["include", "!include"])
def test_included_files_count(env: Env, tmp_path: Path, word: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nix.conf").write_text(f"{word} more.conf\n")
    more = tmp_path / "etc" / "more.conf"
    seen = {settings.digest(env)}
    for text in ("", "system = x", "include nix.conf\nsystem = y", "include more.conf"):
        more.write_text(text)
        seen.add(settings.digest(env))
    more.write_text("cores = 2")
    assert len(seen) == 4  # the empty one and the one that includes itself are alike
    assert settings.digest(env) in seen


VARIABLES = ["NIX_PATH", "NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_REMOTE", "NIX_ABORT_ON_WARN", "_NIX_FORCE_HTTP"]


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_counts(env: Env, name: str) -> None:
    assert settings.digest({**env, name: "x"}) != settings.digest(env)


def test_bytes_that_are_no_text_count(env: Env, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    seen = set()
    for byte in (b"\xff", b"\xfe", rb"\xff", rb"\udcff"):
        (tmp_path / "etc" / "nix.conf").write_bytes(b"system = " + byte)
        seen.add(settings.digest(env))
    seen |= {settings.digest({**env, "NIX_PATH": os.fsdecode(byte)}) for byte in (b"\xff", b"\xfe")}
    assert len(seen) == 6


IMPURE: list[tuple[str, bool]] = [
    ("plugin-files = /x", True),
    ("extra-plugin-files = /x", True),
    ("allow-unsafe-native-code-during-evaluation = true", True),
    ("extra-experimental-features = nix-command impure-derivations", True),
    ("extra-experimental-features = nix-command flakes", False),
    ("# plugin-files = /x", False),
    ("sandbox = true", False),
]


@pytest.mark.parametrize(("line", "impure"), IMPURE)
def test_settings_that_no_hash_covers(env: Env, line: str, impure: bool) -> None:
    assert settings.are_impure({**env, "NIX_CONFIG": line}) is impure


def test_the_environment_is_the_process_s_own(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings.digest()
    monkeypatch.setenv("NIX_CONFIG", f"{os.environ.get('NIX_CONFIG', '')}\nsystem = x")
    assert settings.digest() != before
