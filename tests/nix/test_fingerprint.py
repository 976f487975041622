"""A fingerprint changes with all that an evaluation can see, and Nix is not started for what was seen before."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_nixos.nix import describe
from pytest_nixos.nix.attrs import resolve
from pytest_nixos.nix.cache import Cache
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.fingerprint import fingerprint
from pytest_nixos.nix.target import Target
from pytest_nixos.nix.tree import tree_state
from tests.conftest import need

pytestmark = pytest.mark.nix

PLAIN = "{ outputs = { self }: { }; }"
OWNER = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b"}


@pytest.fixture(autouse=True, scope="module")
def ordinary_user() -> Iterator[Path]:
    """A home and a configuration of one's own; the Nix cache stays."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        patch.setenv("HOME", home)
        patch.setenv("XDG_CONFIG_HOME", f"{home}/config")
        for name, value in OWNER.items():
            patch.setenv(name, value)
        yield Path(home)


def git(folder: Path, *args: str) -> None:
    subprocess.run(("git", "-C", str(folder), *args), check=True, capture_output=True)


def flake(folder: Path, text: str = PLAIN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flake.nix").write_text(text)
    return folder


def with_input(url: str, rest: str = "flake = false;") -> str:
    return f'{{ inputs.dep = {{ url = "{url}"; {rest} }}; outputs = {{ self, dep }}: {{ }}; }}'


def commit(folder: Path) -> None:
    git(folder, "init", "-q", "-b", "main", ".")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "a commit", "--allow-empty")


class Keys:
    """Fingerprints with one cache, and how often each asked Nix."""

    def __init__(self, nix: Nix, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nix, self.cache, self.asked = nix, Cache(folder), 0
        ask = Target.metadata

        def metadata(target: Target) -> dict[str, Any]:
            self.asked += 1
            return ask(target)

        monkeypatch.setattr(Target, "metadata", metadata)

    def target(self, folder: Path, *overrides: tuple[str, str]) -> Target:
        return Target(nix=self.nix, ref=resolve(str(folder), folder), attr="checks", overrides=overrides)

    def of(self, folder: Path, *overrides: tuple[str, str]) -> str | None:
        return fingerprint(self.target(folder, *overrides), self.cache)

    def kept(self, folder: Path, *overrides: tuple[str, str]) -> str:
        """The key, which is there and the second time needs no Nix."""
        key = self.of(folder, *overrides)
        assert key is not None
        asked = self.asked
        assert self.of(folder, *overrides) == key
        assert self.asked == asked, "Nix was started for what is known"
        return key


@pytest.fixture
def keys(nix: Nix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    need("git")
    return Keys(nix, tmp_path / "cache", monkeypatch)


def test_a_folder(keys: Keys, tmp_path: Path) -> None:
    folder = flake(tmp_path / "flake")
    before = keys.kept(folder)
    (folder / "file").write_text("x")
    assert keys.kept(folder) != before


def test_a_git_tree_clean_dirty_and_committed(keys: Keys, tmp_path: Path) -> None:
    folder = flake(tmp_path / "flake")
    commit(folder)
    seen = [keys.kept(folder)]
    (folder / "notes").write_text("untracked")
    assert keys.kept(folder) == seen[0]
    (folder / "flake.nix").write_text(PLAIN + "\n")
    seen.append(keys.kept(folder))
    for _ in range(2):  # the second commit changes nothing but the revision
        commit(folder)
        seen.append(keys.kept(folder))
    assert len(set(seen)) == 4


def test_a_flake_below_the_top_sees_the_whole_repository(keys: Keys, tmp_path: Path) -> None:
    folder = flake(tmp_path / "repo" / "sub")
    (tmp_path / "repo" / "above").write_text("x")
    commit(tmp_path / "repo")
    before = keys.kept(folder)
    (tmp_path / "repo" / "above").write_text("y")
    assert keys.kept(folder) != before


def locked(nix: Nix, folder: Path) -> None:
    nix.run(nix.flake("flake", "lock", f"path:{folder}"))


def test_a_locked_folder(keys: Keys, tmp_path: Path) -> None:
    dep = flake(tmp_path / "dep")
    folder = flake(tmp_path / "flake", with_input(f"path:{dep}"))
    locked(keys.nix, folder)
    before = keys.kept(folder)
    (dep / "file").write_text("x")
    assert keys.kept(folder) != before


def test_the_lock_file(keys: Keys, tmp_path: Path) -> None:
    dep, other = flake(tmp_path / "dep"), flake(tmp_path / "other")
    folder = flake(tmp_path / "flake", with_input(f"path:{dep}"))
    seen = [keys.kept(folder)]
    locked(keys.nix, folder)
    seen.append(keys.kept(folder))
    lock = folder / "flake.lock"
    lock.write_text(lock.read_text().replace(str(dep), str(other)))
    seen.append(keys.kept(folder))
    lock.write_text("{")
    assert keys.of(folder) is None
    assert len(set(seen)) == 3


@pytest.mark.parametrize("scheme", ["path:", ""])
def test_an_overriding_folder(keys: Keys, tmp_path: Path, scheme: str) -> None:
    folder, dep = flake(tmp_path / "flake", with_input("path:/nonexistent")), flake(tmp_path / "dep")
    other = flake(tmp_path / "other")
    before = keys.kept(folder, ("dep", f"{scheme}{dep}"))
    assert keys.kept(folder, ("dep", f"{scheme}{other}")) != before
    (dep / "file").write_text("x")
    assert keys.kept(folder, ("dep", f"{scheme}{dep}")) != before


def test_an_overriding_folder_may_get_inputs_of_its_own(keys: Keys, tmp_path: Path) -> None:
    far, dep = flake(tmp_path / "far"), flake(tmp_path / "dep")
    folder = flake(tmp_path / "flake", with_input("path:/nonexistent", ""))
    override = ("dep", f"path:{dep}")
    keys.kept(folder, override)
    flake(dep, with_input(f"path:{far}"))
    before = keys.kept(folder, override)
    (far / "file").write_text("x")
    assert keys.kept(folder, override) != before


def test_an_overriding_folder_behind_a_link_that_is_turned(keys: Keys, tmp_path: Path) -> None:
    folder = flake(tmp_path / "flake", with_input("path:/nonexistent"))
    link = tmp_path / "link"
    seen = set()
    for text in ("x", "y"):
        (flake(tmp_path / text / "dep") / "file").write_text(text)
        link.unlink(missing_ok=True)
        link.symlink_to(text)
        seen.add(keys.of(folder, ("dep", f"{link}/dep")) or text)  # Nix 2.26 refuses links
    assert len(seen) == 2


def test_an_overriding_folder_that_becomes_a_part_of_a_repository(keys: Keys, tmp_path: Path) -> None:
    folder = flake(tmp_path / "flake", with_input("path:/nonexistent"))
    dep = flake(tmp_path / "repo" / "dep")
    (tmp_path / "repo" / "above").write_text("x")
    before = keys.kept(folder, ("dep", str(dep)))
    commit(tmp_path / "repo")
    assert before is not None
    assert keys.of(folder, ("dep", str(dep))) is None  # what is edited there, and put back, nobody would notice


def test_inputs_of_a_registry_are_asked_for_each_time(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, registry = flake(tmp_path / "flake", with_input("dep")), tmp_path / "registry.json"
    monkeypatch.setenv("NIX_CONFIG", f"{os.environ.get('NIX_CONFIG', '')}\nflake-registry = {registry}")
    seen = set()
    for name in ("one", "two"):
        to = {"type": "path", "path": str(flake(tmp_path / name, f"{PLAIN} # {name}"))}
        entry = {"from": {"type": "indirect", "id": "dep"}, "to": to}
        registry.write_text(json.dumps({"version": 2, "flakes": [entry]}))
        seen.add(keys.of(folder))
    assert len(seen) == 2
    assert None not in seen


def test_an_input_inside_the_flake(keys: Keys, tmp_path: Path) -> None:
    folder = flake(tmp_path / "flake", with_input("path:./inner"))
    flake(folder / "inner")
    before = keys.kept(folder)
    flake(folder / "inner", PLAIN + "\n")
    assert keys.kept(folder) != before


def test_an_edit_while_nix_looks_is_not_kept_for_the_tree_before(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = flake(tmp_path / "flake")
    commit(folder)
    ask = Target.metadata

    def edit_then_ask(target: Target) -> dict[str, Any]:
        (folder / "flake.nix").write_text(PLAIN + "# edited")
        return ask(target)

    with monkeypatch.context() as patch:
        patch.setattr(Target, "metadata", edit_then_ask)
        edited = keys.of(folder)
    git(folder, "checkout", "flake.nix")
    assert keys.kept(folder) != edited


def test_an_edit_of_an_overriding_folder_while_nix_looks(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, dep = flake(tmp_path / "flake", with_input("path:/nonexistent", "")), flake(tmp_path / "dep")
    far = flake(tmp_path / "far")
    override = ("dep", f"path:{dep}")
    ask = Target.metadata

    def ask_then_edit(target: Target) -> dict[str, Any]:
        answer = ask(target)
        flake(dep, with_input(f"path:{far}"))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Target, "metadata", ask_then_edit)
        keys.of(folder, override)
    before = keys.of(folder, override)
    (far / "file").write_text("x")
    assert keys.of(folder, override) != before


def test_settings_and_what_is_asked_for(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = flake(tmp_path / "flake")
    target = keys.target(folder)
    seen = {keys.kept(folder)}
    seen.add(fingerprint(replace(target, attr="other"), keys.cache) or "")
    seen.add(fingerprint(replace(target, nix=replace(keys.nix, version="2.99")), keys.cache) or "")
    assert fingerprint(replace(target, impure=True), keys.cache) is None
    config = os.environ.get("NIX_CONFIG", "")
    monkeypatch.setenv("NIX_CONFIG", f"{config}\nsystem = riscv64-linux")
    seen.add(keys.kept(folder))
    monkeypatch.setenv("NIX_CONFIG", f"{config}\nextra-experimental-features = impure-derivations")
    assert keys.of(folder) is None
    monkeypatch.setenv("NIX_CONFIG", config)
    monkeypatch.setattr(describe, "source", lambda: "another text")
    seen.add(keys.kept(folder))
    assert len(seen - {""}) == 5


def test_a_flake_that_nix_refuses_has_no_key(keys: Keys, tmp_path: Path) -> None:
    assert keys.of(flake(tmp_path / "flake", "{")) is None


# --- any edits at all: equal states, equal words of Nix

FILES = ("flake.nix", "a", "b/c", "link")
Move = tuple[str, str, str]
_file = st.sampled_from(FILES[1:])
_text = st.sampled_from(("x", "y", "xx"))
moves: st.SearchStrategy[Move] = st.one_of(
    st.tuples(st.sampled_from(("write", "append", "link")), _file, _text),
    st.tuples(st.sampled_from(("delete", "chmod", "touch", "add", "intend", "forget", "checkout")), _file, st.just("")),
    st.tuples(st.sampled_from(("commit", "reset", "hard", "stash", "pop", "back", "gc")), st.just(""), st.just("")),
)
GIT_MOVES = {
    "add": ("add", "--"), "intend": ("add", "-N", "--"), "forget": ("rm", "-q", "--cached", "--"),
    "checkout": ("checkout", "HEAD", "--"), "commit": ("commit", "-qam", "x"), "reset": ("reset", "-q"),
    "hard": ("reset", "-q", "--hard"), "stash": ("stash",), "pop": ("stash", "pop"), "gc": ("pack-refs", "--all"),
    "back": ("reset", "-q", "--soft", "HEAD~"),
}  # fmt: skip


def make(folder: Path, move: Move) -> None:
    """One edit; one that is impossible at this moment is none."""
    what, name, text = move
    place = folder / name
    if what in GIT_MOVES:
        argv = ("git", "-C", str(folder), *GIT_MOVES[what], *([name] if name else []))
        subprocess.run(argv, capture_output=True, check=False, env={**os.environ, **DATES})
        return
    place.parent.mkdir(exist_ok=True)
    if what in ("write", "link", "delete"):
        place.unlink(missing_ok=True)
    if what == "link":
        place.symlink_to(text)
    elif what in ("write", "append"):
        target = place if not place.is_symlink() else folder / "behind"
        with target.open("a") as file:
            file.write(text)
    elif what == "chmod" and place.is_file():
        place.chmod(place.stat().st_mode ^ 0o111)
    elif what == "touch" and place.is_file():
        os.utime(place, (1, 1))


DATES = {"GIT_AUTHOR_DATE": "@1000000000 +0000", "GIT_COMMITTER_DATE": "@1000000000 +0000"}


def said(nix: Nix, folder: Path) -> Any:
    """What Nix says of the tree, without the branch's name, which no flake can read."""
    done = nix.run(nix.flake("flake", "metadata", "--json", str(folder)), check=False)
    return {k: v for k, v in json.loads(done.stdout)["locked"].items() if k != "ref"} if not done.status else "error"


@settings(
    max_examples=int(os.environ.get("PYTEST_NIXOS_EXAMPLES", "8")),
    deadline=None,
    derandomize=not os.environ.get("PYTEST_NIXOS_EXAMPLES"),
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(st.lists(moves, min_size=5, max_size=7))
def test_equal_states_are_equal_to_nix(nix: Nix, steps: list[Move]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        flake(folder)
        (folder / "a").write_text("x")
        git(folder, "init", "-q", ".")
        git(folder, "add", ".")
        make(folder, ("commit", "", ""))
        seen: dict[str, Any] = {}
        for step in [("touch", "a", ""), *steps, ("hard", "", "")]:
            make(folder, step)
            state = tree_state(folder)
            if state is not None:
                word = said(nix, folder)
                assert seen.setdefault(state, word) == word
        assert seen, "no state at all"
    finally:
        shutil.rmtree(folder)
