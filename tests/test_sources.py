"""What tests in Python are made of, as files."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_nixos import sources
from pytest_nixos.errors import CheckFailed

FILES = ["tests/a.py", "tests/deep/b.py", "data/x", "data/more/y", "data/__pycache__/z", "data/.pytest_cache/v"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "data" / "empty").mkdir()
    return tmp_path


def names(taken: sources.Snapshot, folder: Path) -> set[str]:
    return {str(Path(name).relative_to(folder)) for name in taken.files}


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("data", {"data/x", "data/more/y"}),
        ("data/*", {"data/x", "data/more/y", "data/__pycache__/z", "data/.pytest_cache/v"}),
        ("data/x", {"data/x"}),
        ("**/y", {"data/more/y"}),
        (".", {"tests/a.py", "tests/deep/b.py", "data/x", "data/more/y"}),
    ],
)
def test_a_pattern_stands_for_all_below_what_it_matches(folder: Path, pattern: str, wanted: set[str]) -> None:
    assert names(sources.snapshot([pattern], [], folder), folder) == wanted


@pytest.mark.parametrize("pattern", ["none", "", "/etc/passwd", "data/*.txt", "**x"])
def test_a_pattern_without_a_match_is_an_error(folder: Path, pattern: str) -> None:
    with pytest.raises(CheckFailed, match="there is no "):
        sources.snapshot([pattern], [], folder)


EDITS: dict[str, Callable[[Path], object]] = {
    "content": lambda folder: (folder / "data/x").write_text("other"),
    "name": lambda folder: (folder / "data/x").rename(folder / "data/z"),
    "mode": lambda folder: (folder / "data/x").chmod(0o755),
    "new": lambda folder: (folder / "data/new").touch(),
    "gone": lambda folder: (folder / "data/more/y").unlink(),
    "empty folder": lambda folder: (folder / "data/empty").rmdir(),
    "link": lambda folder: (folder / "data/link").symlink_to(folder / "tests"),
    "folder for a file": lambda folder: (folder / "data/x").rename(folder / "data/empty/x"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_change_is_seen(folder: Path, edit: str) -> None:
    before = sources.snapshot(["data"], [], folder)
    began = time.time()
    EDITS[edit](folder)
    after = sources.snapshot(["data"], [], folder)
    assert after.digest != before.digest
    assert after.changed_at >= began - 0.1


def test_what_python_writes_by_the_way_is_no_change(folder: Path) -> None:
    os.utime(folder / "data")
    before = sources.snapshot(["tests"], [], folder)
    time.sleep(0.2)
    (folder / "tests" / "__pycache__").mkdir()
    assert sources.snapshot(["tests"], [], folder) == before.__class__(
        digest=before.digest, files=before.files, changed_at=sources.snapshot(["tests"], [], folder).changed_at
    )
    assert sources.snapshot(["tests"], [], folder).changed_at < (folder / "tests").stat().st_ctime


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    there = tmp_path_factory.mktemp("there")
    (there / "file").write_text("1")
    (folder / "data" / "link").symlink_to(there)
    (there / "back").symlink_to(folder / "data")
    before = sources.snapshot(["data"], [], folder)
    assert str(there / "file") in before.files
    (there / "file").write_text("2")
    assert sources.snapshot(["data"], [], folder).digest != before.digest


def test_a_link_into_the_nix_store_is_its_target(folder: Path) -> None:
    target = next((path for path in Path("/nix/store").glob("*-*") if path.is_dir()), None)
    if target is None:
        pytest.skip("there is nothing in the Nix store")
    (folder / "data" / "result").symlink_to(target)
    taken = sources.snapshot(["data"], [], folder)
    assert {name for name in taken.files if name.startswith("/nix/store")} == {str(target)}


def test_the_place_does_not_count(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    there = tmp_path_factory.mktemp("there")
    folder.rename(there / "moved")
    moved = sources.snapshot(["."], [], there / "moved")
    (there / "moved").rename(folder)
    assert sources.snapshot(["."], [], folder).digest == moved.digest


def test_python_itself_is_no_part_of_a_project(folder: Path) -> None:
    base = str(folder)
    for module in (pytest, sys.modules["json"], sys.modules["_pytest.config"]):
        assert sources.is_installed(str(module.__file__), base)
    assert not sources.is_installed(str(folder / "data/x"), base)
    assert not sources.is_installed(__file__, base)
    assert __file__ in sources.loaded(folder)
    assert str(pytest.__file__) not in sources.loaded(folder)


def test_what_lies_among_distributions_and_belongs_to_none_is_loose(folder: Path) -> None:
    place = Path(pytest.__file__).parents[1] / "nobodys_module.py"
    assert sources.is_loose(str(place))
    assert not sources.is_installed(str(place), str(folder))
    assert not sources.is_loose(__file__)


def test_a_process_knows_when_it_began() -> None:
    began = sources.process_started()
    assert 0 < time.time() - began < 24 * 3600
    assert abs(began - Path("/proc/self").stat().st_ctime) < 24 * 3600
    assert sources.installation() == sources.installation()


def test_a_file_of_a_distribution_may_be_a_link_but_not_into_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = tmp_path / "site" / "some-1.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: some\nVersion: 1\n")
    names = ["plain.py", "linked.py", "edited.py"]
    (described / "RECORD").write_text("".join(f"{name},sha256=abc,1\n" for name in names) + "unlisted.py,,\n")
    for path in ("site/plain.py", "cache/linked.py", "project/edited.py", "site/unlisted.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "site/linked.py").symlink_to(tmp_path / "cache/linked.py")
    (tmp_path / "site/edited.py").symlink_to(tmp_path / "project/edited.py")
    monkeypatch.syspath_prepend(tmp_path / "site")
    sources._distributions.cache_clear()
    try:
        files = [*names, "unlisted.py"]
        theirs = [name for name in files if sources.is_installed(f"{tmp_path}/site/{name}", f"{tmp_path}/project")]
    finally:
        sources._distributions.cache_clear()
        sources.is_installed.cache_clear()
    assert theirs == ["plain.py", "linked.py"]


def test_an_installed_file_that_is_edited_in_place_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = tmp_path / "some-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: some\nVersion: 1\n")
    (described / "RECORD").write_text("some.py,sha256=abc,1\nsome-1.dist-info/RECORD,,\n")
    monkeypatch.syspath_prepend(tmp_path)

    def installation(text: str, age: float) -> str:
        (tmp_path / "some.py").write_text(text)
        moment = time.time() - age
        os.utime(tmp_path / "some.py", (moment, moment))
        sources._distributions.cache_clear()
        return sources.installation()

    try:
        installed = installation("a", 60)
        assert installation("a", 70) == installed
        assert len({installed, installation("b", -60), installation("c", -60)}) == 3
        (tmp_path / "some.py").unlink()
        sources._distributions.cache_clear()
        assert sources.installation() == installed
    finally:
        sources._distributions.cache_clear()
        sources.is_installed.cache_clear()
