"""Which files a test in Python is made of."""

import sys
from pathlib import Path

import pytest

from pytest_nixos import sources
from pytest_nixos.errors import CheckFailed

FILES = {
    "test_it.py": "import plain, package.part\nfrom package import sibling\nimport os.path, missing, json.decoder\n",
    "plain.py": "def late():\n    from nested.deep import thing\n    if 0:\n        import unlikely\n",
    "unlikely.py": "",
    "nested/deep/thing.py": "import test_it\n",  # a folder without __init__.py; and a circle
    "package/__init__.py": "from .inner import name\n",
    "package/part.py": "from . import sibling, nothing\nfrom .. import not_here\n",
    "package/sibling.py": "from ..plain import late\ntry:\n    import none\nexcept ImportError:\n    import backport\n",
    "package/inner/__init__.py": "name = 1\nfrom .leaf import *\n",
    "package/inner/leaf.py": "import package.aside as other\n",
    "package/aside.py": "import sys, pytest\n",
    "backport.py": "",
    "stranger.py": "",
    "package/stranger.py": "",
    "nested/stranger.py": "",
    "data/a": "1",
    "data/more/b": "2",
    "data/__pycache__/c": "3",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def names(files: tuple[Path, ...], folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in files}


def test_what_is_imported_in_any_way_belongs_to_it(folder: Path) -> None:
    found = names(sources.files_of([folder / "test_it.py"], [], folder), folder)
    assert found == {name for name in FILES if "stranger" not in name and not name.startswith("data")}


def test_what_is_loaded_is_what_counts_not_what_lies_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder / "elsewhere.py"
    other.write_text("")
    module = type(sys)("plain")
    module.__file__ = str(other)
    monkeypatch.setitem(sys.modules, "plain", module)
    found = names(sources.files_of([folder / "test_it.py"], [], folder), folder)
    assert "elsewhere.py" in found
    # A relative import has nothing to do with it.
    assert "plain.py" in found


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("data", {"data/a", "data/more/b"}),
        ("data/*", {"data/a", "data/more/b"}),
        ("data/a", {"data/a"}),
        ("**/b", {"data/more/b"}),
    ],
)
def test_what_it_reads_belongs_to_it(folder: Path, pattern: str, wanted: set[str]) -> None:
    assert names(sources.files_of([], [pattern], folder), folder) == wanted


@pytest.mark.parametrize("pattern", ["none", "", "/etc/passwd", "data/*.txt"])
def test_a_pattern_without_a_match_is_an_error(folder: Path, pattern: str) -> None:
    with pytest.raises(CheckFailed, match="there is no "):
        sources.files_of([], [pattern], folder)


def test_code_that_is_none_is_an_error(folder: Path) -> None:
    (folder / "broken.py").write_text("def (:\n")
    with pytest.raises(SyntaxError):
        sources.files_of([folder / "broken.py"], [], folder)
    with pytest.raises(OSError, match="No such file"):
        sources.files_of([folder / "gone.py"], [], folder)


def test_names_and_contents_make_the_hash_and_not_the_place(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = sources.files_of([folder / "test_it.py"], ["data"], folder)
    there = tmp_path_factory.mktemp("there")
    moved = []
    for path in files:
        target = there / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        moved.append(target)
    first = sources.fingerprint(files, folder)
    assert sources.fingerprint(moved, there) == first
    moved[0].write_text("other")
    assert sources.fingerprint(moved, there) != first
    assert sources.fingerprint(files[1:], folder) != first
    files[0].rename(folder / "renamed")
    assert sources.fingerprint([folder / "renamed", *files[1:]], folder) != first


def test_python_itself_is_no_part_of_a_project(folder: Path) -> None:
    assert all(sources.is_installed(Path(str(module.__file__)).resolve()) for module in (pytest, sys.modules["json"]))
    assert not sources.is_installed(folder / "plain.py")
    assert not sources.is_installed(Path(__file__))
    assert len(sources.installation()) == 64
