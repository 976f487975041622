"""Reuse of an evaluation when only files change that no check reads: held against fresh evaluations."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_nixos.model import Check, EvalFailed
from pytest_nixos.nix.attrs import resolve
from pytest_nixos.nix.cache import Cache
from pytest_nixos.nix.checks import Evaluator
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.evaluate import Evaluated
from pytest_nixos.nix.target import Target
from pytest_nixos.nix.unread import Unread, skeleton

CLAIM = Unread(("README.md", "docs/*"))

FLAKE = """{
  outputs = { self }: {
    checks.x86_64-linux = {
      one = derivation { name = "one"; system = "x86_64-linux"; builder = "/bin/sh"; text = @TEXT@; };
      host = import ./host.nix;
    };
  };
}
"""
HOST = 'derivation { name = "host"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "0" ]; }\n'

# What a check may do with files that it is said not to read, or with what their change changes.
READS = {
    "content": "builtins.readFile ./README.md",
    "a look at the content": 'if builtins.match ".*secret.*" (builtins.readFile ./README.md) == null then "a" else "b"',
    "content if there": 'if builtins.pathExists ./README.md then builtins.readFile ./README.md else "none"',
    "hash": 'builtins.hashFile "sha256" ./docs/a.md',
    "a copy": '"${./README.md}"',
    "a copy of a folder": '"${./docs}"',
    "a copy of all": '"${./.}"',
    "a filtered copy": 'builtins.path { path = ./.; name = "s"; filter = path: type: type == "regular"; }',
    "content of what is regular": (
        'if (builtins.readDir ./docs)."a.md" == "regular" then builtins.readFile ./docs/a.md else "none"'
    ),
    "the flake itself": '"${self}"',
    "the flake's path": "toString ./.",
    "the path's hash": 'builtins.hashString "sha256" (toString ./.)',
    "the flake's hash": 'self.narHash or "none"',
    "the commit": 'self.rev or "dirty"',
    "the dirty commit": 'self.dirtyRev or "clean"',
    "the time": "toString self.lastModified",
    "the day": "builtins.substring 0 8 self.lastModifiedDate",
    "the number of commits": "toString (self.revCount or 0)",
}
READS_NOT = {
    "nothing": '"text"',
    "names": "toString (builtins.attrNames (builtins.readDir ./.))",
    "another file": '"${./data}"',
    "existence": 'if builtins.pathExists ./README.md then "yes" else "no"',
    "a copy without": 'builtins.path { path = ./.; name = "s"; filter = p: t: baseNameOf p == "data"; }',
}


@dataclass
class Repository:
    """A flake in a git repository, the cache of its evaluations, and how often it was evaluated."""

    folder: Path
    nix: Nix
    cache: Cache
    evaluations: int = 0

    @classmethod
    def make(cls, folder: Path, nix: Nix, text: str, at: str = ".") -> "Repository":
        flake = folder / "repo" / at
        (flake / "docs").mkdir(parents=True)
        (flake / "flake.nix").write_text(FLAKE.replace("@TEXT@", text))
        (flake / "flake.lock").write_text('{"nodes": {"root": {}}, "root": "root", "version": 7}\n')
        for name, content in {"host.nix": HOST, "README.md": "read me\n", "docs/a.md": "a\n", "data": "data\n"}.items():
            (flake / name).write_text(content)
        made = cls(flake, nix, Cache(folder / "cache"))
        subprocess.run(("git", "init", "--quiet", str(folder / "repo")), check=True)
        made.commit()
        return made

    def git(self, *args: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@localhost")
        subprocess.run(("git", *who, *args), cwd=self.folder, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "--all", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", "x")

    def append(self, name: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write("secret\n")

    def checks(self, cache: Cache | None) -> tuple[Check | EvalFailed, ...]:
        target = Target(nix=self.nix, ref=resolve(str(self.folder), Path("/")), attr="checks.x86_64-linux")
        return Evaluator(cache=cache, workers=1, unread=CLAIM).checks(target, self._count)

    def _count(self, done: int, total: int) -> None:
        self.evaluations += done == total

    def cached(self) -> tuple[Check | EvalFailed, ...]:
        """The checks by way of the cache, which must be those of a fresh evaluation."""
        found = self.checks(self.cache)
        before = self.evaluations
        assert found == self.checks(None)
        self.evaluations = before
        return found


@pytest.mark.nix
@pytest.mark.parametrize("text", READS.values(), ids=READS.keys())
def test_what_a_check_depends_on_is_never_passed_over(tmp_path: Path, nix: Nix, text: str) -> None:
    repository = Repository.make(tmp_path, nix, text)
    repository.cached()
    for state in ("known for the first time", "tried", "committed, and tried again"):
        repository.append("README.md")
        repository.append("docs/a.md")
        if state.startswith("committed"):
            repository.commit()
        repository.cached()


@pytest.mark.nix
@pytest.mark.parametrize("text", READS_NOT.values(), ids=READS_NOT.keys())
def test_what_no_check_depends_on_is_evaluated_once_more_and_then_no_more(
    tmp_path: Path, nix: Nix, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository.make(tmp_path, nix, text)
    repository.cached()
    repository.append("README.md")
    repository.cached()  # dirty for the first time
    repository.append("README.md")
    repository.cached()  # tried in a copy
    assert repository.evaluations == 3
    monkeypatch.setattr(Target, "metadata", None)  # nobody asks Nix from here on
    for name in ("README.md", "docs/a.md", "README.md"):
        repository.append(name)
        repository.cached()
    assert repository.evaluations == 3


@pytest.mark.nix
def test_commits_that_touch_unread_files_only(tmp_path: Path, nix: Nix) -> None:
    repository = Repository.make(tmp_path, nix, '"text"')
    for _ in range(4):
        repository.append("docs/a.md")
        repository.commit()
        repository.cached()
    assert repository.evaluations == 2  # the first, and the trial


@pytest.mark.nix
def test_a_flake_in_a_folder_of_a_repository(tmp_path: Path, nix: Nix) -> None:
    repository = Repository.make(tmp_path, nix, '"${../other}"', at="sub")
    (repository.folder.parent / "other").write_text("other\n")
    repository.git("add", "..")
    repository.commit()
    for _ in range(3):
        repository.append("README.md")
        repository.cached()
    assert repository.evaluations == 2
    (repository.folder.parent / "other").write_text("another\n")
    repository.cached()
    assert repository.evaluations == 3


@pytest.mark.nix
def test_an_import_from_a_derivation_that_may_look_at_an_unread_file(tmp_path: Path, nix: Nix, busybox: Path) -> None:
    script = "if $busybox grep -rq secret $src; then echo yes; else echo no; fi > $out"
    text = f"""builtins.readFile (derivation {{
      name = "look"; system = "x86_64-linux"; src = ./docs; busybox = "${{./tools}}/busybox";
      builder = "${{./tools}}/busybox";
      args = [ "sh" "-c" "{script}" ];
    }})"""
    repository = Repository.make(tmp_path, nix, text)
    (repository.folder / "tools").mkdir()
    shutil.copy(busybox, repository.folder / "tools" / "busybox")
    repository.git("add", "tools")
    for text in ("a", "b", "secret"):
        (repository.folder / "docs" / "a.md").write_text(text)
        assert all(isinstance(check, Check) for check in repository.cached()), repository.cached()


@pytest.mark.nix
def test_a_clone_that_becomes_shallow(tmp_path: Path, nix: Nix) -> None:
    repository = Repository.make(tmp_path, nix, 'if self ? revCount then "deep" else "shallow"')
    for _ in range(3):
        repository.append("README.md")
        repository.commit()
        repository.cached()
    repository.append("README.md")
    repository.commit()
    head = subprocess.run(("git", "rev-parse", "HEAD"), cwd=repository.folder, check=True, capture_output=True).stdout
    (repository.folder / ".git" / "shallow").write_bytes(head)
    repository.cached()


@pytest.mark.nix
def test_a_new_folder_that_is_empty(tmp_path: Path, nix: Nix) -> None:
    """Outside of a repository Nix sees it."""
    repository = Repository.make(tmp_path, nix, 'if builtins.pathExists ./new then "yes" else "no"')
    shutil.rmtree(repository.folder / ".git")
    for _ in range(3):
        repository.append("README.md")
        repository.cached()
    (repository.folder / "new").mkdir()
    repository.cached()


@pytest.mark.nix
@pytest.mark.parametrize("back", [False, True])
def test_a_tracked_folder_that_is_gone_or_empty(tmp_path: Path, nix: Nix, back: bool) -> None:
    """Nix 2.8 shows an empty folder whose files are tracked."""
    repository = Repository.make(tmp_path, nix, 'if builtins.pathExists ./docs then "yes" else "no"')
    docs = repository.folder / "docs"
    (docs / "a.md").unlink()
    if back:
        repository.cached()
        docs.rmdir()
    else:
        docs.rmdir()
        repository.cached()
        docs.mkdir()
    repository.cached()


@pytest.mark.nix
def test_an_edit_that_is_undone_while_it_is_evaluated(
    tmp_path: Path, nix: Nix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is the same before and after, but what was evaluated was something else."""
    repository = Repository.make(tmp_path, nix, '"text"')
    host = repository.folder / "host.nix"
    real = Evaluator._evaluate

    def disturbed(self: Evaluator, *args: object) -> Evaluated:
        host.write_text(HOST.replace("0", "1"))
        found = real(self, *args)  # type: ignore[arg-type]
        host.write_text(HOST)
        return found

    monkeypatch.setattr(Evaluator, "_evaluate", disturbed)
    other = repository.checks(repository.cache)
    monkeypatch.setattr(Evaluator, "_evaluate", real)
    assert repository.cached() != other


@pytest.mark.nix
@pytest.mark.parametrize(("text", "evaluations"), [('"text"', 2), ("toString self.lastModified", 4)])
def test_a_flake_that_is_in_no_repository(tmp_path: Path, nix: Nix, text: str, evaluations: int) -> None:
    """Its files' times are the flake's, so that all of this may happen within one of its seconds."""
    repository = Repository.make(tmp_path, nix, text)
    shutil.rmtree(repository.folder / ".git")
    repository.cached()
    for _ in range(2):
        repository.append("README.md")
        repository.cached()
    assert repository.evaluations == evaluations


@pytest.mark.nix
def test_a_change_that_is_staged_and_taken_back(tmp_path: Path, nix: Nix) -> None:
    """Whether that is a dirty tree depends on the version of Nix, and a flake can see it."""
    repository = Repository.make(tmp_path, nix, 'if self ? rev then "clean" else "dirty"')
    for _ in range(3):
        repository.append("README.md")
        repository.commit()
        repository.cached()
    before = (repository.folder / "README.md").read_text()
    repository.append("README.md")
    repository.git("add", "README.md")
    (repository.folder / "README.md").write_text(before)
    repository.cached()


@pytest.mark.nix
def test_a_check_that_does_not_evaluate_is_never_reused(tmp_path: Path, nix: Nix) -> None:
    repository = Repository.make(tmp_path, nix, "throw (builtins.readFile ./README.md)")
    for _ in range(3):
        repository.append("README.md")
        assert any(isinstance(check, EvalFailed) for check in repository.cached())


@pytest.mark.nix
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.sampled_from([*READS.values(), *READS_NOT.values()]),
    steps=st.lists(
        st.sampled_from(
            [
                "README.md",
                "README.md",
                "docs/a.md",
                "host.nix",
                "data",
                "new doc",
                "stage",
                "no doc",
                "chmod",
                "commit",
                "reset",
            ]
        ),
        min_size=3,
        max_size=6,
    ),
)
def test_any_edits(nix: Nix, text: str, steps: list[str]) -> None:
    """Whatever is done to the repository, the cache says what a fresh evaluation says."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository.make(Path(folder), nix, text)
        doc, readme, host = (repository.folder / name for name in ("docs/new.md", "README.md", "host.nix"))
        actions: dict[str, Callable[[], object]] = {
            "new doc": lambda: doc.write_text("new\n"),
            "stage": lambda: repository.git("add", "--all"),
            "no doc": lambda: doc.unlink(missing_ok=True),
            "chmod": lambda: readme.chmod(0o755),
            "commit": repository.commit,
            "reset": lambda: repository.git("reset", "--quiet", "--hard"),
            "host.nix": lambda: host.write_text(HOST.replace("0", str(len(steps)))),
        }
        for step in steps:
            if step in actions:
                actions[step]()
            else:
                repository.append(step)
            repository.cached()


def test_patterns() -> None:
    claim = Unread(("*.md", "docs/*", "flake.*"))
    assert all(map(claim.covers, ["README.md", "sub/x.md", "docs/a/b.txt"]))
    assert not any(map(claim.covers, ["flake.nix", "flake.lock", "host.nix", "README.MD", "../docs/x"]))


def test_the_skeleton_keeps_names_types_and_all_other_files(tmp_path: Path) -> None:
    for name in ("README.md", "host.nix"):
        (tmp_path / name).write_text("x")

    def bones() -> str:
        found = skeleton(tmp_path, CLAIM)
        assert found is not None
        return found

    first = bones()
    (tmp_path / "README.md").write_text("y")
    assert bones() == first
    seen = {first}
    (tmp_path / "README.md").chmod(0o755)
    seen.add(bones())
    (tmp_path / "host.nix").write_text("y")
    seen.add(bones())
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "new").write_text("")
    seen.add(bones())
    (tmp_path / "README.md").unlink()
    seen.add(bones())
    (tmp_path / "README.md").symlink_to("host.nix")
    seen.add(bones())
    assert len(seen) == 6
