"""Tests in Python with the marker and the fixture `nixos`: their machines, and when they are verified."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.leftovers import assert_none_left
from tests.plugin.conftest import Checks
from tests.plugin.test_checks import outcomes, records

pytestmark = pytest.mark.nix

ONE = """
import pytest
from helper import hello

@pytest.mark.nixos("web", record=True, reads=["data"])
def test_one(nixos, request):
    [web] = nixos.machines
    assert web.succeed(f"echo {hello()}") == "hi\\n"
"""
SHARED = """
import pytest
pytestmark = pytest.mark.nixos("web", scope="module", record=True)

@pytest.mark.parametrize("number", [1, 2, 3])
def test_counts(nixos, number):
    [web] = nixos.machines
    assert int(web.succeed("echo x >> $TMPDIR/count; wc -l < $TMPDIR/count")) == number
"""


@pytest.fixture
def project(pytester: pytest.Pytester, checks: Checks, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose one test in Python passes."""
    for name in ("QEMU_OPTS", "QEMU_NET_OPTS"):
        monkeypatch.delenv(name, raising=False)
    checks.add("web")
    pytester.makeini("[pytest]\nnixos_flake = flake\n")
    folder = pytester.path
    for name, text in {
        "tests/conftest.py": "",
        "tests/test_one.py": ONE,
        "tests/helper.py": "def hello():\n    import deep.deeper\n    return deep.deeper.WORD\n",
        "tests/deep/__init__.py": "",
        "tests/deep/deeper.py": "from . import word\nWORD = word.WORD\n",
        "tests/deep/word.py": "WORD = 'hi'\n",
        "data/a.txt": "a",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


Run = Callable[..., dict[str, int]]


@pytest.fixture
def run(pytester: pytest.Pytester, project: Path) -> Run:
    """Runs the project's tests in a process of their own: what a test imports stays imported."""

    def run(*args: str, of: str = "tests") -> dict[str, int]:
        result = pytester.runpytest_subprocess(of, "-rs", *args)
        assert_none_left(project)
        return outcomes(result)

    return run


PASSED, VERIFIED = {"passed": 1}, {"verified": 1}


def edit(path: Path, text: str = "\n# nothing\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def test_a_pass_is_recorded_and_verifies_the_next_run(run: Run, pytester: pytest.Pytester) -> None:
    assert run() == PASSED
    [record] = records(pytester)
    assert re.search(r'"check":"tests/test_one.py::test_one"', record.read_text())
    assert re.search(r'"flags":\["python","tcg"\]', record.read_text())
    assert run() == VERIFIED
    assert run("-v", "--tb=short", "-k", "one", "--lf") == VERIFIED
    assert run("--nixos-rerun-verified") == PASSED
    assert run("--nixos-max-age=0s") == PASSED


@pytest.mark.xdist
def test_alone_and_by_workers_is_the_same(run: Run) -> None:
    assert run("-n2") == PASSED
    assert run() == VERIFIED
    assert run("-n2") == VERIFIED


EDITS = [
    *("tests/test_one.py", "tests/conftest.py", "tests/helper.py", "tests/deep/deeper.py", "tests/deep/word.py"),
    *("tests/deep/__init__.py", "data/a.txt", "data/deep/new.txt", "tox.ini"),
]


def test_whatever_it_is_made_of_counts(run: Run, project: Path) -> None:
    assert run() == PASSED
    for name in EDITS:
        edit(project / name)
        assert run() == PASSED, name
    assert run() == VERIFIED


def test_what_it_is_not_made_of_does_not(run: Run, project: Path) -> None:
    assert run() == PASSED
    edit(project / "tests" / "other.py")
    edit(project / "elsewhere" / "conftest.py")
    edit(project / "README")
    assert run() == VERIFIED


def test_another_plugin_of_the_project_counts(run: Run, project: Path) -> None:
    edit(project / "tests/conftest.py", "pytest_plugins = ['house']\n")
    edit(project / "tests/house.py", "import rooms\n")
    edit(project / "tests/rooms.py")
    assert run("-p", "no:cacheprovider") == PASSED
    edit(project / "tests/rooms.py")
    assert run("-p", "no:cacheprovider") == PASSED
    assert run() == PASSED  # other options
    assert run() == VERIFIED


def test_the_machines_count(run: Run, checks: Checks, project: Path) -> None:
    assert run() == PASSED
    (project / "more").mkdir()
    shutil.copy(project / "run-web-vm", project / "more")
    checks.move("web", project / "more" / "run-web-vm")
    assert run() == PASSED
    assert run() == VERIFIED


@pytest.mark.parametrize(("args", "variable"), [(("--nixos-network",), None), ((), "QEMU_OPTS"), ((), "QEMU_NET_OPTS")])
def test_what_a_machine_gets_beside_its_derivation_is_no_proof(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv(variable, "")
    assert run(*args) == PASSED
    assert records(pytester) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("record=True, ", ""),
        ("nixos, request", "nixos, nixos_boot"),
        ("[web] =", "import importlib; importlib.import_module('dynamic')\n    [web] ="),
        ("[web] =", "import pathlib; pathlib.Path('data/b.txt').write_text('')\n    [web] ="),
        ("[web] =", "import pathlib; pathlib.Path('data/a.txt').write_text('a')\n    [web] ="),
        ("[web] =", "import pathlib; pathlib.Path('tests/helper.py').touch()\n    [web] ="),
    ],
)
def test_what_is_not_sure_is_not_recorded(
    run: Run, project: Path, pytester: pytest.Pytester, old: str, new: str
) -> None:
    edit(project / "tests/dynamic.py")
    (project / "tests/test_one.py").write_text(ONE.replace(old, new))
    assert run()["passed"] == 1
    assert records(pytester) == []


def test_a_check_that_opts_out_has_tests_that_run_every_time(
    run: Run, checks: Checks, pytester: pytest.Pytester
) -> None:
    checks.extend("web", "{ pytestNixos.record = false; }")
    assert run() == PASSED
    assert records(pytester) == []


FAIL = "import os\n    assert not os.path.exists('broken')\n    "


@pytest.mark.parametrize("how", [FAIL, FAIL.replace("assert not ", "").replace("')\n", "') and os._exit(3)\n")])
@pytest.mark.xdist
def test_a_newer_failure_takes_the_proof_away(run: Run, project: Path, how: str) -> None:
    (project / "tests/test_one.py").write_text(ONE.replace("[web] =", f"{how}[web] ="))
    assert run("-n1") == PASSED
    (project / "broken").touch()
    assert run("-n1", "--nixos-rerun-verified")["failed"] == 1
    (project / "broken").unlink()
    assert run("-n1") == PASSED
    assert run("-n1") == VERIFIED


@pytest.mark.parametrize("phase", ["setup", "teardown"])
def test_a_failure_around_it_is_one(run: Run, project: Path, phase: str, pytester: pytest.Pytester) -> None:
    body = "assert 0; yield" if phase == "setup" else "yield; assert 0"
    edit(project / "tests/conftest.py", f"import pytest\n@pytest.fixture(autouse=True)\ndef around():\n    {body}\n")
    run()
    assert records(pytester) == []


def test_tests_that_share_machines_are_verified_together(run: Run, project: Path) -> None:
    shared = "tests/test_shared.py"
    (project / shared).write_text(SHARED)
    assert run(of=shared) == {"passed": 3}
    assert run(of=shared) == {"verified": 3}
    # Alone it has machines that nobody has used before: another thing, which has not been tried, and fails.
    assert run("-k", "counts[2]", of=shared)["failed"] == 1
    # That does not count for the one that comes second.
    assert run(of=shared) == {"verified": 3}
    edit(project / shared)
    assert run("-k", "counts[1]", of=shared)["passed"] == 1
    assert run(of=shared) == {"passed": 3}


def test_machines_last_as_long_as_their_scope(run: Run, project: Path) -> None:
    (project / "tests/test_one.py").write_text("""
import pytest
pids = set()

class TestIt:
    pytestmark = pytest.mark.nixos("web", scope="class")

    def test_a(self, nixos):
        nixos.start_all()
        pids.add(nixos.machines[0].pid)

    test_b = test_a

@pytest.mark.nixos("web", scope="session")
def test_c(nixos):
    nixos.start_all()
    assert len(pids) == 1 and nixos.machines[0].pid not in pids

@pytest.mark.nixos("web")
@pytest.mark.usefixtures("nixos")
def test_d(request):
    nixos = request.getfixturevalue("nixos")
    nixos.start_all()
    pids.add(nixos.machines[0].pid)
    assert len(pids) == 2
""")
    assert run() == {"passed": 4}


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ('"zebra"', "there is no check 'zebra'"),
        ("", "the marker nixos of test_it can't be used: missing 1 required positional argument: 'name'"),
        ('"web", foo=1', "the marker nixos of test_it can't be used: got an unexpected keyword argument 'foo'"),
        ('"web", reads="data"', "the check's name is text, and reads= a list of patterns"),
        ('"web", scope="week"', "has an unknown scope: 'week'"),
        ('"web", record=True, reads=["none"]', "there is no 'none' in "),
    ],
)
def test_a_marker_that_makes_no_sense_is_one_sentence(
    pytester: pytest.Pytester, project: Path, marker: str, words: str
) -> None:
    (project / "tests/test_one.py").write_text(
        f"import pytest\n@pytest.mark.nixos({marker})\ndef test_it(nixos): pass\ndef test_bare(nixos): pass\n"
    )
    result = pytester.runpytest_subprocess("tests", "--tb=short")
    result.assert_outcomes(errors=2)
    text = result.stdout.str()
    assert words in text
    assert "test_bare does not say whose machines it wants" in text
    assert 'hint: mark it: @pytest.mark.nixos("CHECK")' in text


def test_what_the_machines_of_a_failed_test_say_is_shown(pytester: pytest.Pytester, project: Path) -> None:
    (project / "tests/test_one.py").write_text(ONE.replace("hello()", "'nothing'"))
    result = pytester.runpytest_subprocess("tests")
    result.stdout.fnmatch_lines(["*the console's last lines of web*", "*fake guest boots*", "*artifacts*"])
    [transcript] = (project / "cache").rglob("web.console.log")
    assert "fake guest boots" in transcript.read_text()


def test_a_test_of_its_own_needs_a_flake(pytester: pytest.Pytester, project: Path) -> None:
    (project / "tox.ini").unlink()
    result = pytester.runpytest_subprocess("tests")
    result.assert_outcomes(skipped=1)
