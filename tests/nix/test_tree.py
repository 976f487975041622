"""The state of a tree changes with all that a flake in it can see, and is refused where git looks less closely."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pytest_nixos.nix import tree
from pytest_nixos.nix.tree import git_root, tree_state
from tests.conftest import need

Edit = Callable[[Path], object]
PAST = 1_000_000_000


@pytest.fixture(autouse=True)
def ordinary_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own, with what is in many a user's git configuration."""
    need("git")
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("GIT_") and name != "GIT_SSL_CAINFO"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (home / ".gitconfig").write_text(
        "[user]\nname = A\nemail = a@b\n[init]\ndefaultBranch = main\n[pull]\nrebase = true\n[core]\neditor = vim\n"
        "excludesfile = ~/.ignored\npager = less\n[alias]\nst = status\n[diff]\nalgorithm = histogram\n"
        '[filter "lfs"]\nclean = git-lfs clean -- %f\nsmudge = git-lfs smudge -- %f\nrequired = true\n'
    )
    return home


def git(folder: Path, *args: str) -> None:
    subprocess.run(("git", "-C", str(folder), *args), check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    git(folder, "init", "-q")
    for name in ("flake.nix", "a", "sub/b", "README.md"):
        (folder / name).write_text(f"{name}\n")
    (folder / "link").symlink_to("a")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def do(*args: str) -> Edit:
    return lambda folder: git(folder, *args)


def write(name: str, text: str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)

    return edit


def remove(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def retarget(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("b")


def edit_unseen(folder: Path) -> None:
    """Another text of the same size, under the old time."""
    before = (folder / "a").stat()
    (folder / "a").write_text("A\n")
    os.utime(folder / "a", ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_link(folder: Path) -> None:
    shutil.rmtree(folder / "sub")
    (folder / "sub").symlink_to("elsewhere")
    write("elsewhere/b", "x")(folder)


def replace_by_folder(folder: Path) -> None:
    (folder / "a").unlink()
    write("a/x", "untracked, and Nix 2.26 shows it")(folder)


def all_of(*edits: Edit) -> Edit:
    def edit(folder: Path) -> None:
        for one in edits:
            one(folder)

    return edit


CHANGES: Sequence[tuple[str, Edit]] = [
    ("write", write("a", "longer")),
    ("write, same size and time", edit_unseen),
    ("write below", write("sub/b", "x")),
    ("delete", remove("a")),
    ("delete, staged", do("rm", "-q", "a")),
    ("delete, staged, the file stays", do("rm", "-q", "--cached", "a")),
    ("rename", do("mv", "a", "c")),
    ("chmod", lambda folder: (folder / "a").chmod(0o755)),
    ("chmod, staged only", do("update-index", "--chmod=+x", "a")),
    ("retarget", retarget),
    ("link becomes file", all_of(remove("link"), write("link", "a"))),
    ("new file, staged", all_of(write("new", "x"), do("add", "new"))),
    ("new file, intended", all_of(write("new", "x"), do("add", "-N", "new"))),
    ("staged and taken back", all_of(write("a", "x"), do("add", "a"), write("a", "a\n"))),
    ("commit", all_of(write("a", "x"), do("commit", "-qam", "second"))),
    ("commit of nothing", do("commit", "-qm", "second", "--allow-empty")),
    ("amend", do("commit", "-qm", "other words", "--amend")),
    ("configuration", do("config", "pull.ff", "only")),
    ("shallow", lambda folder: subprocess.run(
        "git rev-parse HEAD > .git/shallow", shell=True, cwd=folder, check=True)),
]  # fmt: skip


@pytest.mark.parametrize("edit", [edit for _, edit in CHANGES], ids=[name for name, _ in CHANGES])
def test_a_change_that_a_flake_can_see_is_another_state(repo: Path, edit: Edit) -> None:
    before = tree_state(repo)
    assert before is not None
    edit(repo)
    after = tree_state(repo)
    assert after is not None
    assert after != before


DIRTIER: Sequence[tuple[str, Edit]] = [
    ("changed file", write("a", "y")),
    ("intended file", write("intended", "y")),
    ("staged file", write("staged", "y")),
    ("retarget", retarget),
    ("mode", lambda folder: (folder / "a").chmod(0o755)),
]


@pytest.mark.parametrize("edit", [edit for _, edit in DIRTIER], ids=[name for name, _ in DIRTIER])
def test_a_changed_file_may_change_again(repo: Path, edit: Edit) -> None:
    all_of(write("a", "x"), write("intended", "x"), do("add", "-N", "intended"), write("staged", "x"))(repo)
    git(repo, "add", "staged")
    (repo / "link").unlink()
    (repo / "link").symlink_to("c")
    before = tree_state(repo)
    assert before is not None
    edit(repo)
    assert tree_state(repo) not in (None, before)


NO_CHANGES: Sequence[tuple[str, Edit]] = [
    ("nothing", lambda folder: None),
    ("untracked file", write("notes.md", "x")),
    ("touched", lambda folder: os.utime(folder / "a", (PAST, PAST))),
    ("there and back", all_of(write("a", "x"), write("a", "a\n"))),
    ("refreshed", do("status")),
    ("packed", do("gc", "-q")),
    ("a tag", do("tag", "v1")),
]


@pytest.mark.parametrize("edit", [edit for _, edit in NO_CHANGES], ids=[name for name, _ in NO_CHANGES])
def test_what_no_flake_can_see_is_no_other_state(repo: Path, edit: Edit) -> None:
    before = tree_state(repo)
    assert before is not None
    edit(repo)
    assert tree_state(repo) == before


def submodule(folder: Path) -> None:
    git(folder, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(folder), "module")
    git(folder, "commit", "-qm", "a module")


def conflict(folder: Path) -> None:
    all_of(do("checkout", "-qb", "other"), write("a", "x"), do("commit", "-qam", "x"), do("checkout", "-q", "main"))(
        folder
    )
    all_of(write("a", "y"), do("commit", "-qam", "y"))(folder)
    subprocess.run(("git", "-C", str(folder), "merge", "other"), capture_output=True, check=False)


def empty_git(folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    (folder / ".git").mkdir()


def moved_git(folder: Path) -> None:
    shutil.move(folder / ".git", folder.parent / "moved")
    (folder / ".git").write_text(f"gitdir: {folder.parent}/moved\n")


def dangling_git(folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    (folder / ".git").symlink_to("nowhere")


REFUSED: Sequence[tuple[str, Edit]] = [
    ("assume-unchanged", do("update-index", "--assume-unchanged", "a")),
    ("skip-worktree", do("update-index", "--skip-worktree", "a")),
    ("attributes", all_of(write(".gitattributes", "*.txt text"), do("add", "."))),
    ("attributes below", all_of(write("sub/.gitattributes", "* text"), do("add", "."))),
    ("attributes, untracked", write(".gitattributes", "* text eol=crlf")),
    ("attributes, untracked, below", write("sub/.gitattributes", "* text eol=crlf")),
    ("attributes, deleted", all_of(write(".gitattributes", "a text"), do("add", "."), remove(".gitattributes"))),
    ("attributes of the clone", write(".git/info/attributes", "* text")),
    ("grafts", write(".git/info/grafts", "")),
    ("replaced object", do("replace", "--edit", "HEAD")),
    ("replaced object, packed", all_of(do("replace", "--edit", "HEAD"), do("pack-refs", "--all"),
                                       lambda folder: shutil.rmtree(folder / ".git/refs/replace", ignore_errors=True))),
    ("submodule", submodule),
    ("conflict", conflict),
    ("folder in a file's place", replace_by_folder),
    ("link in a folder's place", replace_by_link),
    ("no repository", empty_git), ("worktree", moved_git), ("dangling .git", dangling_git),
    *((f"config {name}", do("config", name, value)) for name, value in (
        ("core.autocrlf", "input"), ("core.autocrlf", "true"), ("core.eol", "crlf"), ("core.fileMode", "false"),
        ("core.ignoreStat", "true"), ("core.trustctime", "false"), ("core.checkStat", "minimal"),
        ("core.fsmonitor", "true"), ("core.attributesFile", "/x"), ("core.symlinks", "false"), ("core.worktree", "sub"),
        ("core.splitIndex", ""), ("attr.tree", "HEAD"), ("tar.umask", "0111"), ("diff.autoRefreshIndex", "false"),
    )),
    ("config without a value", lambda folder: (folder / ".git/config").open("a").write("[core]\nignorestat\n")),
]  # fmt: skip


@pytest.mark.parametrize("edit", [edit for _, edit in REFUSED], ids=[name for name, _ in REFUSED])
def test_a_repository_that_hides_changes_has_no_state(repo: Path, edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_EDITOR", "sed -i s/first/other/")
    assert tree_state(repo) is not None
    edit(repo)
    assert tree_state(repo) is None


def test_an_empty_git_folder_does_not_lead_to_the_repository_above(repo: Path) -> None:
    (repo / "sub" / ".git").mkdir()
    assert git_root(repo / "sub") == repo / "sub"
    assert tree_state(repo / "sub") is None


def test_attributes_of_the_user_are_refused(repo: Path, ordinary_user: Path) -> None:
    (ordinary_user / ".config" / "git").mkdir(parents=True)
    (ordinary_user / ".config" / "git" / "attributes").write_text("* text")
    assert tree_state(repo) is None


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_COUNT", "GIT_ATTR_SOURCE"]
)
def test_variables_that_lead_git_elsewhere_are_refused(repo: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    assert tree_state(repo) is None


def test_ordinary_variables_are_not(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_EDITOR", "GIT_AUTHOR_NAME", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_TERMINAL_PROMPT"):
        monkeypatch.setenv(name, "x")
    assert tree_state(repo) is not None


def test_a_folder_in_a_repository_has_the_state_of_the_repository(repo: Path) -> None:
    assert tree_state(repo / "sub") == tree_state(repo)


def test_a_repository_without_a_commit_has_a_state(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "young")
    (tmp_path / "young" / "flake.nix").write_text("x")
    git(tmp_path / "young", "add", "flake.nix")
    before = tree_state(tmp_path / "young")
    (tmp_path / "young" / "flake.nix").write_text("y")
    assert before is not None
    assert tree_state(tmp_path / "young") not in (None, before)


def test_no_git_means_no_state(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert tree_state(repo) is None


def test_odd_names_are_names(repo: Path) -> None:
    name = os.fsdecode(b'odd \xff\n\t"name')
    (repo / name).write_text("x")
    git(repo, "add", ".")
    before = tree_state(repo)
    (repo / name).write_text("y")
    assert before is not None
    assert tree_state(repo) not in (None, before)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    (folder / "sub").mkdir(parents=True)
    for name in ("flake.nix", "a", "sub/b"):
        (folder / name).write_text(f"{name}\n")
        os.utime(folder / name, (PAST, PAST))
    (folder / "link").symlink_to("a")
    return folder


PLAIN: Sequence[tuple[str, Edit]] = [
    ("write", write("a", "x")),
    ("write, same size and time", edit_unseen),
    ("write below", write("sub/b", "x")),
    ("new file", write("new", "x")),
    ("empty folder", lambda folder: (folder / "empty").mkdir()),
    ("delete", remove("a")),
    ("rename", lambda folder: (folder / "a").rename(folder / "c")),
    ("chmod", lambda folder: (folder / "a").chmod(0o755)),
    ("retarget", retarget),
    ("time alone", lambda folder: os.utime(folder / "a", (PAST + 1, PAST + 1))),
    ("repository above", lambda folder: (folder.parent / ".git").mkdir()),
]


@pytest.mark.parametrize("edit", [edit for _, edit in PLAIN], ids=[name for name, _ in PLAIN])
def test_a_folder_without_git_counts_whole(plain: Path, edit: Edit) -> None:
    before = tree_state(plain)
    assert before is not None
    assert tree_state(plain) == before
    edit(plain)
    assert tree_state(plain) != before


def test_times_of_the_folders_above_do_not_count(plain: Path) -> None:
    before = tree_state(plain)
    (plain.parent / "other").write_text("x")
    assert tree_state(plain) == before


def test_a_socket_is_refused(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plain)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert tree_state(plain) is None


def test_a_link_to_a_folder_is_its_folder_and_its_place(plain: Path) -> None:
    shutil.copytree(plain, plain.parent / "copy", symlinks=True)
    link = plain.parent / "to"
    link.symlink_to("plain")
    before = tree.folder_state(link)
    (plain / "a").write_text("x")
    changed = tree.folder_state(link)
    assert changed != before
    link.unlink()
    link.symlink_to("copy")
    assert tree.folder_state(link) not in (before, changed)


def test_a_link_inside_is_not_followed(plain: Path) -> None:
    outside = plain.parent / "outside"
    outside.mkdir()
    (plain / "out").symlink_to("../outside")
    (plain / "round").symlink_to(".")
    before = tree_state(plain)
    (outside / "x").write_text("x")
    assert tree_state(plain) == before
