"""What is noted of the Python files that a process opens."""

import runpy
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from pytest_nixos import opened, sources


def by_spec(path: Path) -> None:
    spec = spec_from_file_location("some", path)
    assert spec
    assert spec.loader
    spec.loader.exec_module(module_from_spec(spec))


@pytest.mark.parametrize(
    "read",
    [
        lambda path: runpy.run_path(str(path)),
        by_spec,
        lambda path: exec(path.read_text()),
        lambda path: path.open().close(),
    ],
)
def test_whoever_reads_python_code_is_seen(read: Callable[[Path], object], tmp_path: Path) -> None:
    opened.watch()
    path = tmp_path / "some.py"
    path.write_text("WORD = 1\n")
    assert opened.below(str(tmp_path)) == set()  # to write is not to read
    for _ in range(2):  # the second time from its compiled form
        read(path)
    assert opened.below(str(tmp_path)) == {str(path)}


def test_the_plugin_itself_is_not(tmp_path: Path) -> None:
    opened.watch()
    (tmp_path / "some.py").write_text("")
    sources.snapshot(["some.py"], [], tmp_path)
    assert opened.below(str(tmp_path)) == set()
